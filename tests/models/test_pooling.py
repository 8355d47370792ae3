"""Pooling: values and gradients against Flax's windowed maximum, adaptive windows against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import made

from bigjax.models.pooling import adaptive_average_pool, global_max, max_pool_2x2, max_pool_3x3
from bigjax.models.resnet import ConvNorm

POOLS = {
    "2x2": (max_pool_2x2, lambda x: nnx.max_pool(x, (2, 2), (2, 2))),
    "3x3": (max_pool_3x3, lambda x: nnx.max_pool(x, (3, 3), (2, 2))),
    "padded 3x3": (
        lambda x: max_pool_3x3(x, padding=1),
        lambda x: nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
    ),
    "all": (global_max, lambda x: x.max((1, 2))),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("height, width", [(6, 4), (7, 5), (3, 8)])
def test_max_pooling_equals_flax_in_values_and_gradients(name, height, width):
    size = 2 * height * width * 3
    values = jnp.arange(size, dtype=jnp.float32) - size  # no ties, all below zero
    x = jax.random.permutation(jax.random.key(0), values).reshape(2, height, width, 3)
    shape = jax.eval_shape(POOLS[name][1], x).shape
    weight = jax.random.randint(jax.random.key(1), shape, 1, 9).astype(jnp.float32)  # sums of integers are exact
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, pool=pool: (pool(x) * weight).sum()))(x) for pool in POOLS[name]
    )
    np.testing.assert_array_equal(jax.jit(POOLS[name][0])(x), POOLS[name][1](x))
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert ours[1].sum() == weight.sum()


@pytest.mark.parametrize("name", POOLS)
def test_no_gradient_is_lost_where_the_pixels_are_computed_again(name):
    """XLA fuses a BatchNorm into what reads it, with other roundings in each; 3x3 pixels of 160 channels showed it."""
    x, pool = jax.random.normal(jax.random.key(0), (16, 3, 3, 160)), POOLS[name][0]

    def pooled(params):
        model = ConvNorm(160, 160, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
        nnx.update(model, params)
        return pool(nnx.relu(model(x, train=True)))

    params = nnx.state(made(lambda rngs: ConvNorm(160, 160, 3, dtype=jnp.float32, rngs=rngs)), nnx.Param)
    values = jax.jit(pooled)(params)
    weight = jax.random.normal(jax.random.key(1), values.shape)
    gradient = jax.jit(jax.grad(lambda params: (pooled(params) * weight).sum()))(params)
    expected = jnp.where(values > 0, weight, 0).reshape(-1, 160).sum(0)  # each maximum has one pixel
    np.testing.assert_allclose(gradient["norm"]["bias"][...], expected, atol=1e-5)


@pytest.mark.parametrize("pool", [global_max, max_pool_2x2, max_pool_3x3, lambda x: max_pool_3x3(x, padding=1)])
def test_no_gradient_is_a_scatter(pool):
    """Select-and-scatter has no deterministic form on a GPU."""
    text = str(jax.make_jaxpr(jax.grad(lambda x: pool(x).sum()))(jnp.ones((1, 8, 8, 2))))
    assert "scatter" not in text
    assert "reduce_window" not in text


@pytest.mark.parametrize("height, width, size", [(6, 6, 6), (12, 18, 6), (13, 7, 6), (1, 2, 7), (5, 11, 3)])
def test_adaptive_pooling_averages_its_windows(height, width, size):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype(np.float32)
    expected = np.empty((2, size, size, 3))
    for i in range(size):
        for j in range(size):
            top, bottom = int(np.floor(i * height / size)), int(np.ceil((i + 1) * height / size))
            left, right = int(np.floor(j * width / size)), int(np.ceil((j + 1) * width / size))
            expected[:, i, j] = x[:, top:bottom, left:right].astype(np.float64).mean((1, 2))
    pooled = jax.jit(adaptive_average_pool, static_argnums=1)(x, size)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
