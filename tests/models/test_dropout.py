"""Dropout: how often, how much, addressed by its key, and one for all along some axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import run_python, same_bits

from bigjax.models.dropout import Dropout, random_parts


def dropped(x, rate, seed=0, **options):
    return Dropout(rate, **options)(x, deterministic=False, rngs=nnx.Rngs(dropout=seed))


@pytest.mark.parametrize("shape", [(1000, 768), (4, 250, 4, 191), (3001,), (100_003, 1)])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.97])
def test_the_rate_and_the_mean_are_kept(shape, rate):
    y = np.asarray(dropped(jnp.ones(shape), rate))
    deviation = np.sqrt(rate * (1 - rate) / y.size)
    assert abs((y == 0).mean() - rate) < 4 * deviation + 1e-5
    assert np.unique(y).tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-6)


def test_numbers_are_uniform_and_independent_wherever_they_stand():
    parts = np.asarray(random_parts(jax.random.key(3), [1000, 1030]), np.int64)
    assert parts.min() >= 0 and parts.max() < 2**16
    counts = np.bincount(parts.ravel() // 64, minlength=1024)
    expected = parts.size / 1024
    assert ((counts - expected) ** 2 / expected).sum() < 1023 + 5 * np.sqrt(2 * 1023)  # chi squared
    centred = parts / 2**15 - 1
    for apart in ((0, 1), (1, 0), (0, 2), (0, 4), (1, 1)):  # within the same 64 bits and without
        later = centred[apart[0] :, apart[1] :]
        correlation = 3 * (centred[: later.shape[0], : later.shape[1]] * later).mean()
        assert abs(correlation) < 5 / np.sqrt(later.size)


def test_it_is_addressed_by_its_key():
    x = jnp.ones((64, 96))
    same_bits(dropped(x, 0.3), dropped(x, 0.3))
    other = dropped(x, 0.3, seed=1)
    assert abs(float((dropped(x, 0.3) != other).mean()) - 2 * 0.3 * 0.7) < 0.03
    calls = nnx.Rngs(dropout=0)
    first, second = (Dropout(0.3)(x, deterministic=False, rngs=calls) for _ in range(2))
    assert (first != second).any()


def test_axes_that_share_a_mask():
    y = np.asarray(dropped(jnp.ones((50, 7, 40)), 0.5, broadcast_dims=(1,)))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:, :1], y.shape))
    assert 0.4 < (y[:, 0] == 0).mean() < 0.6


@pytest.mark.parametrize(("rate", "deterministic"), [(0.0, False), (0.5, True)])
def test_nothing_is_dropped(rate, deterministic):
    x = jnp.arange(12.0).reshape(3, 4)
    assert Dropout(rate)(x, deterministic=deterministic, rngs=None) is x


def test_it_computes_in_what_it_is_given_and_its_gradient_is_its_mask():
    x = jnp.linspace(-1, 1, 4000, dtype=jnp.bfloat16).reshape(40, 100)
    gradient = jax.grad(lambda x: dropped(x, 0.25).astype(jnp.float32).sum())(x)
    assert dropped(x, 0.25).dtype == jnp.bfloat16
    mask = dropped(jnp.ones_like(x), 0.25)
    np.testing.assert_array_equal(gradient, mask)


MESH = """
import jax, jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec as P
from bigjax.models.dropout import Dropout

mesh = jax.sharding.Mesh(jax.devices(), "tensor")
x = jax.device_put(jnp.ones((6, 64)), NamedSharding(mesh, P(None, "tensor")))
drop = jax.jit(lambda x: Dropout(0.3)(x, deterministic=False, rngs=nnx.Rngs(dropout=0)))
text = drop.lower(x).compile().as_text()
print(any(word in text for word in ("all-to-all", "all-gather", "all-reduce", "collective-permute")))
print((drop(x) == drop(jnp.ones((6, 64)))).all())
"""


def test_features_that_are_cut_over_devices_need_nothing_of_each_other():
    assert run_python(MESH, devices=4).split() == ["False", "True"]
