"""The convolution against JAX's own, differentiated in every way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.models.convolution import Conv


def derivatives(conv, x):
    """Of a function of a convolution: value, gradients, second derivatives both ways, per example."""
    graphdef, params = nnx.split(conv)
    direction = jax.tree.map(jnp.cos, params)

    def loss(params, x):
        return jnp.sin(nnx.merge(graphdef, params)(x)).sum()

    gradient = jax.grad(loss)
    return [
        loss(params, x),
        jax.grad(loss, (0, 1))(params, x),
        jax.jvp(lambda p: gradient(p, x), (params,), (direction,)),
        jax.grad(lambda p: sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient(p, x))))(params),
        jax.vmap(lambda x: gradient(params, x[None]))(x),
    ]


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((0, 2), (1, 0))], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (4, 3)])
def test_a_convolution_is_differentiated_as_any(padding, kernel):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    ours, theirs = (conv(3, 8, kernel, padding=padding, rngs=nnx.Rngs(0)) for conv in (Conv, nnx.Conv))
    ours, theirs = (jax.tree.leaves(jax.jit(derivatives)(conv, x)) for conv in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(
    ("shape", "features", "options"),
    [
        ((2, 7, 6, 8), 16, {"kernel_size": (1, 1), "strides": 2}),
        ((2, 7, 6, 3), 2, {"kernel_size": (3, 3), "strides": (2, 1)}),
        ((2, 2, 2, 128), 256, {"kernel_size": (3, 3), "padding": 1}),
        ((2, 9, 8, 64), 8, {"kernel_size": (3, 2), "strides": (2, 3)}),
        ((2, 4, 5, 4), 96, {"kernel_size": (3, 3)}),
        ((2, 6, 8), 8, {"kernel_size": (3,), "feature_group_count": 8, "padding": ((2, 1),)}),
        ((2, 9, 8), 8, {"kernel_size": (3,), "feature_group_count": 8, "padding": ((4, 0),)}),
        ((2, 7, 8), 8, {"kernel_size": (4,), "feature_group_count": 8, "strides": 2}),
    ],
    ids=[
        "1x1",
        "few",
        "2x2",
        "strides",
        "many channels",
        "depthwise",
        "depthwise, padded far",
        "depthwise with strides",
    ],
)
def test_every_form_is_differentiated_as_any(shape, features, options):
    x = jax.random.normal(jax.random.key(0), shape)
    ours, theirs = (conv(shape[-1], features, rngs=nnx.Rngs(0), **options) for conv in (Conv, nnx.Conv))
    ours, theirs = (jax.tree.leaves(jax.jit(derivatives)(conv, x)) for conv in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * float(jnp.abs(b).max()))


def test_each_size_has_its_form():
    def form(shape, features, side=3, **options):
        conv = Conv(shape[-1], features, (side,) * (len(shape) - 2), rngs=nnx.Rngs(0), **options)
        jaxpr = str(jax.make_jaxpr(lambda x: conv(x))(jnp.ones(shape)))
        return next(name for name in ("custom_vjp_call", "conv_general_dilated", "dot_general") if name in jaxpr)

    plain, product = "conv_general_dilated", "dot_general"
    assert form((2, 8, 8, 4), 8) == form((2, 3, 3, 256), 256) == form((2, 6, 6, 8), 8, strides=2) == plain
    assert form((2, 8, 8, 4), 4, side=1) == form((2, 2, 2, 256), 256) == form((2, 4, 4, 8), 8, strides=2) == product
    for options in ({"feature_group_count": 2}, {"kernel_dilation": 2}, {"precision": "highest"}):
        assert form((2, 2, 2, 4), 8, **options) == plain
    assert form((2, 9, 8), 8, feature_group_count=8) == "custom_vjp_call"
    assert form((2, 9, 8), 8, feature_group_count=8, strides=2) == form((2, 9, 8), 16, feature_group_count=8) == plain
