"""The convolution against JAX's own, differentiated in every way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.models.convolution import Conv


def derivatives(conv, x):
    """Of a function of a convolution: value, gradients, forward mode, second derivatives both ways, per example."""
    graphdef, params = nnx.split(conv)
    direction = jax.tree.map(jnp.cos, params)

    def loss(params, x):
        return jnp.sin(nnx.merge(graphdef, params)(x)).sum()

    gradient = jax.grad(loss)
    return [
        loss(params, x),
        jax.grad(loss, (0, 1))(params, x),
        jax.jvp(lambda p: loss(p, x), (params,), (direction,)),
        jax.jvp(lambda p: gradient(p, x), (params,), (direction,)),
        jax.grad(lambda p: sum((leaf**2).sum() for leaf in jax.tree.leaves(gradient(p, x))))(params),
        jax.vmap(lambda x: gradient(params, x[None]))(x),
    ]


@pytest.mark.parametrize("padding", ["SAME", "VALID", 1, ((0, 2), (1, 0))], ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (4, 3)])
def test_a_convolution_that_widens_is_differentiated_as_any(padding, kernel):
    x = jax.random.normal(jax.random.key(0), (2, 7, 6, 3))
    ours, theirs = (conv(3, 8, kernel, padding=padding, rngs=nnx.Rngs(0)) for conv in (Conv, nnx.Conv))
    ours, theirs = (jax.tree.leaves(jax.jit(derivatives)(conv, x)) for conv in (ours, theirs))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


def test_only_a_plain_convolution_that_widens_is_special():
    x = jnp.ones((2, 8, 8, 4))

    def special(out_features, **options):
        conv = Conv(4, out_features, (3, 3), rngs=nnx.Rngs(0), **options)
        return "custom_jvp_call" in str(jax.make_jaxpr(lambda x: conv(x))(x))

    assert special(8)
    others = ({"strides": 2}, {"feature_group_count": 2}, {"kernel_dilation": 2}, {"precision": "highest"})
    assert not special(4) and not any(special(8, **options) for options in others)
