"""The Conformer: a peer's block, its subsampling in float64, and that padding changes nothing."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, filled, made, parameters

from bigjax.models.conformer import Block, Conformer, FeedForward, Subsampling, shifted
from bigjax.models.rotary import rotary_frequencies
from bigjax.models.sinusoids import sinusoids

FIXTURE = Path(__file__).parents[1] / "fixtures" / "conformer.npz"
SIZES = {"d_model": 12, "num_layers": 2, "num_heads": 3, "d_ff": 20, "kernel_size": 5}
SMALL = {"vocab_size": 9, "num_mels": 10, "subsampling": 4} | SIZES


@cache
def build(**kwargs):
    """A small model with random parameters, biases too."""
    model = made(lambda rngs: Conformer(**(SMALL | kwargs), rngs=rngs))
    rng = np.random.default_rng(0)
    return filled(model, {k: a + rng.normal(0, 0.2, a.shape).astype(a.dtype) for k, a in parameters(model).items()})


def speech(batch=3, length=27, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, length, 10)).astype(np.float32)


LENGTHS = np.array([27, 13, 6], np.int32)


def test_a_block_is_that_of_wav2vec2_conformer():
    arrays = dict(np.load(FIXTURE))
    x, expected = arrays.pop("x"), arrays.pop("y")
    block = filled(made(lambda rngs: Block(12, 3, 20, 5, 0.1, dtype=jnp.float32, rngs=rngs)), arrays)
    positions = sinusoids(jnp.arange(8, -9, -1), rotary_frequencies(12, 10000.0))
    actual = apply(block, x, positions, np.ones((2, 9), bool))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_subsampling_equals_a_float64_reference():
    model = made(lambda rngs: Subsampling(10, 4, 4, dtype=jnp.float32, rngs=rngs))
    p = {name: array.astype(np.float64) for name, array in parameters(model).items()}
    x = speech(1, 7)
    expected = x[0, ..., None].astype(np.float64)
    for name in ("conv1", "conv2"):
        padded = np.pad(expected, ((1, 1), (1, 1), (0, 0)))
        rows, columns = ((n + 1) // 2 for n in expected.shape[:2])
        expected = np.array(
            [
                [
                    np.einsum("abc,abcd->d", padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3], p[f"{name}/kernel"])
                    for j in range(columns)
                ]
                for i in range(rows)
            ]
        )
        expected = np.maximum(expected + p[f"{name}/bias"], 0)
    expected = expected.reshape(2, -1) @ p["out/kernel"] + p["out/bias"]
    actual, lengths = apply(model, x, np.array([7]))
    np.testing.assert_allclose(actual[0], expected, atol=1e-5)
    np.testing.assert_array_equal(lengths, [2])


def test_scores_by_distance_become_scores_by_key():
    scores = np.random.default_rng(0).normal(size=(2, 3, 5, 9))
    found = shifted(jnp.asarray(scores))
    for i in range(5):
        for j in range(5):
            np.testing.assert_array_equal(found[:, :, i, j], scores[:, :, i, 4 - (i - j)].astype(np.float32))


def test_parameter_count_by_formula():
    v, m, d, n, f, k = 9, 10, 12, 2, 20, 5
    subsampling = 9 * d + d + 9 * d * d + d + -(-m // 4) * d * d + d
    attention = 4 * (d * d + d) + d * d + 2 * d
    convolution = 2 * d * d + k * d + 2 * d + d * d
    block = 2 * (2 * d * f + f + d) + attention + convolution + 5 * 2 * d
    found = sum(array.size for array in parameters(build()).values())
    assert found == subsampling + n * block + d * v + v


@pytest.mark.parametrize(("sizes", "millions"), [((144, 16, 4), 10.3), ((256, 16, 4), 30.7), ((512, 17, 8), 118.8)])
def test_sizes_are_about_those_published(sizes, millions):
    """Table 1 of the paper, which counts a decoder of recurrent layers too."""
    d_model, num_layers, num_heads = sizes
    model = nnx.eval_shape(lambda: Conformer(1000, 80, d_model, num_layers, num_heads, subsampling=4, rngs=nnx.Rngs(0)))
    found = sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))
    assert found == pytest.approx(millions * 1e6, rel=0.15)


@pytest.mark.parametrize(("garbage", "subsampling"), [(1e6, 4), (np.nan, 4), (np.nan, 2)])
def test_padding_changes_nothing(garbage, subsampling):
    x, model = speech(), build(subsampling=subsampling)
    padding = np.arange(27) >= LENGTHS[:, None]
    logits, lengths = apply(model, x, LENGTHS)
    np.testing.assert_array_equal(lengths, -(-LENGTHS // subsampling))
    assert logits.shape[1] == lengths[0]
    again, _ = apply(model, np.where(padding[..., None], np.float32(garbage), x), LENGTHS)
    np.testing.assert_array_equal(logits, again)
    for i in (1, 2):
        alone, _ = apply(model, x[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i, : lengths[i]], atol=1e-5)


def test_every_frame_is_heard_everywhere():
    x, lengths = speech(1), LENGTHS[:1]
    before = apply(build(), x, lengths)[0]
    for i in range(27):
        changed = x.copy()
        changed[:, i] += 3
        assert (np.abs(apply(build(), changed, lengths)[0] - before).max(-1) > 1e-5).all()


def test_dropout_acts_only_in_training():
    model = build(num_layers=1, dropout=0.3)

    @jax.jit
    def train(model, seed):
        return model(speech(), LENGTHS, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0]

    expected = apply(build(num_layers=1, dropout=0.0), speech(), LENGTHS)[0]
    np.testing.assert_array_equal(apply(model, speech(), LENGTHS)[0], expected)
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-3


def test_the_gradient_drops_what_was_dropped():
    module = FeedForward(12, 20, 0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))
    x, along, weights = np.random.default_rng(0).normal(size=(3, 2, 30, 12)).astype(np.float32)

    def through(x):
        return module(x, nnx.Rngs(dropout=1))

    y, forward = jax.jvp(through, (x,), (along,))
    same, pull = jax.vjp(through, x)
    np.testing.assert_array_equal(y, same)
    assert not np.allclose(y, module(x, None))
    np.testing.assert_allclose((weights * forward).sum(), (pull(weights)[0] * along).sum(), rtol=1e-4)


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    model = build(dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    logits, expected = (apply(m, speech(), LENGTHS)[0] for m in (model, build()))
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits.astype(np.float32), expected, atol=0.2)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_mels": 0}, "num_mels must be positive, not 0"),
        ({"d_model": 9}, "d_model must be even for sines and cosines, not 9"),
        ({"num_heads": 5}, "5 does not divide 12"),
        ({"subsampling": 8}, "subsampling must be one of 2, 4, not 8"),
        ({"kernel_size": 32}, "kernel_size must be odd"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)
