"""Attention against float64, and the one property that rotary positions are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, parameters

from bigjax.models.attention import Attention, rotary

normal = nnx.initializers.normal(0.5)


def build(d_model=12, num_heads=6, num_kv_heads=2, rope_theta=None, use_bias=True):
    def make(rngs):
        return Attention(
            d_model,
            num_heads,
            num_kv_heads,
            rope_theta,
            use_bias,
            kernel_init=normal,
            out_init=normal,
            dtype=jnp.float32,
            rngs=rngs,
        )

    return made(make)


def turned(x, theta):
    """Rotary positions in float64, as complex numbers: pair (i, i + H / 2) times exp(i * position * frequency)."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    angle = np.arange(x.shape[1])[:, None] / theta ** (np.arange(half) / half)
    pairs = pairs * np.exp(1j * angle)[:, None, :]
    return np.concatenate([pairs.real, pairs.imag], -1)


def reference(p, x, num_heads, num_kv_heads, rope_theta):
    """Causal attention in float64, head by head; query head n uses key head n // (N / K)."""

    def project(name):
        return x @ p[f"{name}/kernel"].astype(np.float64) + p.get(f"{name}/bias", 0)

    batch, length, width = x.shape
    size = width // num_heads
    query = project("query").reshape(batch, length, num_heads, size)
    key, value = (project(name).reshape(batch, length, num_kv_heads, size) for name in ("key", "value"))
    if rope_theta:
        query, key = turned(query, rope_theta), turned(key, rope_theta)
    heads = []
    for n in range(num_heads):
        k = n // (num_heads // num_kv_heads)
        scores = np.einsum("bth,bsh->bts", query[:, :, n], key[:, :, k]) / np.sqrt(size)
        scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads.append(np.einsum("bts,bsh->bth", weights, value[:, :, k]))
    x = np.concatenate(heads, -1)
    return x @ p["out/kernel"].astype(np.float64) + p.get("out/bias", 0)


@pytest.mark.parametrize(
    ("num_kv_heads", "rope_theta", "use_bias"),
    [(6, None, True), (2, None, False), (1, 100.0, True), (3, 10000.0, False)],
)
def test_attention_equals_a_float64_reference(num_kv_heads, rope_theta, use_bias):
    model = build(num_kv_heads=num_kv_heads, rope_theta=rope_theta, use_bias=use_bias)
    rng = np.random.default_rng(0)
    for linear in (model.query, model.key, model.value, model.out):
        if use_bias:
            linear.bias[...] = jnp.float32(rng.normal(size=linear.bias.shape))
    x = rng.normal(size=(2, 7, 12))
    expected = reference(parameters(model), x, 6, num_kv_heads, rope_theta)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(apply(model, jnp.float32(x)), expected, atol=5e-6)


def test_grouped_queries_have_fewer_keys_and_values():
    shapes = {name: array.shape for name, array in parameters(build(use_bias=False)).items()}
    assert shapes == {
        "query/kernel": (12, 12),
        "key/kernel": (12, 4),
        "value/kernel": (12, 4),
        "out/kernel": (12, 12),
    }


@pytest.mark.parametrize("rope_theta", [None, 100.0])
def test_a_later_input_changes_nothing_before_it(rope_theta):
    model = build(rope_theta=rope_theta)
    x = jax.random.normal(jax.random.key(0), (2, 8, 12))
    before, after = apply(model, x), apply(model, x.at[:, 5].add(3))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (np.abs(before[:, 5:] - after[:, 5:]).max((0, 2)) > 1e-3).all()


def test_rotary_equals_complex_rotation():
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 8))
    np.testing.assert_allclose(rotary(jnp.float32(x), 50.0), turned(x, 50.0), atol=2e-6)


def test_rotary_scores_depend_only_on_distance():
    query, key = jax.random.normal(jax.random.key(0), (2, 8))
    length = 20
    queries, keys = (rotary(jnp.broadcast_to(v, (1, length, 1, 8)), 100.0)[0, :, 0] for v in (query, key))
    scores = np.asarray(queries @ keys.T)
    for distance in range(-10, 11):
        diagonal = np.diagonal(scores, distance)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    assert np.ptp(scores[0]) > 0.5  # and they do depend on it
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), np.linalg.norm(query), rtol=1e-6)


def test_rotary_leaves_position_zero_alone_and_keeps_the_dtype():
    x = jax.random.normal(jax.random.key(0), (1, 2, 1, 4), jnp.bfloat16)
    out = rotary(x, 10.0)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out[:, 0], x[:, 0])
    assert (out[:, 1] != x[:, 1]).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 5, "num_kv_heads": 5}, "5 does not divide 12"),
        ({"num_heads": 6, "num_kv_heads": 4}, "4 does not divide 6"),
        ({"num_heads": 4, "num_kv_heads": 4, "rope_theta": 10.0}, "even head width, not 3"),
    ],
)
def test_heads_that_do_not_divide_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        build(**arguments)
