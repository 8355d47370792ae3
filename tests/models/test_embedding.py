"""The embedding: its rows, its gradient, and when that takes memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.models.embedding import Embed, look_up

SIZE, WIDTH = 11, 5
INDICES = np.array([[3, 0, 3], [10, 3, 7]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_are_those_of_flax(dtype):
    mine, other = (kind(SIZE, WIDTH, dtype=dtype, rngs=nnx.Rngs(0)) for kind in (Embed, nnx.Embed))
    assert mine(INDICES).dtype == dtype
    np.testing.assert_array_equal(mine(INDICES), other(INDICES))
    assert np.isnan(mine(jnp.array([SIZE]))).all()


def test_a_row_s_gradient_is_the_sum_of_those_of_its_positions():
    rng = np.random.default_rng(0)
    table, grad = rng.normal(size=(SIZE, WIDTH)), rng.normal(size=(*INDICES.shape, WIDTH))
    expected = np.zeros_like(table)
    np.add.at(expected, INDICES, grad)
    _, pull = jax.vjp(lambda table: look_up(SIZE, table, INDICES), jnp.float32(table))
    np.testing.assert_allclose(pull(jnp.float32(grad))[0], expected, rtol=1e-5, atol=1e-6)
    expected = np.zeros_like(table)
    np.add.at(expected, INDICES, 2 * table[INDICES])
    direction = jax.jvp(jax.grad(lambda t: (look_up(SIZE, t, INDICES) ** 2).sum()), *[(jnp.float32(table),)] * 2)[1]
    np.testing.assert_allclose(direction, expected, rtol=1e-5)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA's CPU undid it")
def test_its_gradient_takes_no_memory_while_the_layers_after_it_hold_theirs():
    rows, width, layers = 64, 256, 4
    table, kernels = jnp.ones((layers * rows, width)), jnp.ones((layers, width, width))
    indices = jnp.arange(rows) % 7

    def temporaries(rows_of):
        def loss(table, kernels):
            x = rows_of(table)
            for kernel in kernels:
                x = jnp.sin(x @ kernel)
            return x.sum()

        return jax.jit(jax.grad(loss)).lower(table, kernels).compile().memory_analysis().temp_size_in_bytes

    ours = temporaries(lambda table: look_up(len(table), table, indices))
    assert ours <= temporaries(lambda table: table[indices]) - table.nbytes
