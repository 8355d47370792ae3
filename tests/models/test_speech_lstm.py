"""The recurrent model of speech: its parts in numpy, and that padding changes nothing."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, parameters
from numpy.lib.stride_tricks import sliding_window_view

from bigjax.models.recurrent import Recurrent
from bigjax.models.speech_lstm import SpeechLSTM

SMALL = {"vocab_size": 7, "num_mels": 5, "channels": 4, "d_hidden": 6, "num_layers": 2, "subsampling": 4}
LENGTHS = np.array([14, 9, 4], np.int32)


def build(**kwargs):
    return made(lambda rngs: SpeechLSTM(**(SMALL | kwargs), rngs=rngs))


def speech(length=14):
    return np.random.default_rng(0).normal(size=(3, length, 5)).astype(np.float32)


@pytest.mark.parametrize("subsampling", [2, 4])
def test_its_parts(subsampling):
    model, x = build(subsampling=subsampling), speech()
    logits, lengths = apply(model, x, LENGTHS)
    np.testing.assert_array_equal(lengths, -(-LENGTHS // subsampling))
    seen, kernels = x[..., None].astype(np.float64), parameters(model.subsampling)
    for name, stride in (("conv1", 2), ("conv2", subsampling // 2)):
        ends = -(-LENGTHS // (1 if name == "conv1" else 2))
        seen = np.where((np.arange(seen.shape[1]) < ends[:, None])[..., None, None], seen, 0)
        seen = np.pad(seen, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = sliding_window_view(seen, (3, 3), (1, 2))[:, ::stride, ::2]  # [B, T, F, C, 3, 3]
        seen = np.einsum("btfcij,ijcd->btfd", windows, kernels[f"{name}/kernel"]) + kernels[f"{name}/bias"]
        seen = np.maximum(seen, 0)
    seen = seen.reshape(*seen.shape[:2], -1) @ kernels["out/kernel"] + kernels["out/bias"]
    layers = jax.jit(lambda layers, x, lengths: Recurrent.__call__(layers, x, lengths=lengths)[0])
    hidden = layers(model.layers, seen.astype(np.float32), lengths)
    head = parameters(model.head)
    np.testing.assert_allclose(logits, hidden @ head["kernel"] + head["bias"], atol=1e-5)


@pytest.mark.parametrize("garbage", [1e6, np.nan])
def test_padding_changes_nothing(garbage):
    model, x = build(), speech()
    padding = np.arange(14) >= LENGTHS[:, None]
    logits, lengths = apply(model, x, LENGTHS)
    again, _ = apply(model, np.where(padding[..., None], np.float32(garbage), x), LENGTHS)
    np.testing.assert_array_equal(logits, again)
    for i in range(3):
        alone, _ = apply(model, x[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1])
        np.testing.assert_allclose(alone[0], logits[i, : lengths[i]], atol=1e-5)


def test_every_frame_is_heard_everywhere():
    model, x = build(), speech()[:1]
    before, _ = apply(model, x, LENGTHS[:1])
    for i in range(14):
        changed = x.copy()
        changed[:, i] += 3
        assert (np.abs(apply(model, changed, LENGTHS[:1])[0] - before).max(-1) > 1e-6).all()


def test_dropout_acts_only_in_training():
    @jax.jit
    def train(model, seed):
        return model(speech(), LENGTHS, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0]

    model = build(dropout=0.3)
    np.testing.assert_array_equal(apply(model, speech(), LENGTHS)[0], apply(build(dropout=0.0), speech(), LENGTHS)[0])
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-3


def test_parameter_count_by_formula():
    front = (9 * 1 + 1) * 4 + (9 * 4 + 1) * 4 + (2 * 4 + 1) * 4  # 5 mels are 3, and then 2
    first, second = (4 * 6 * (width + 6 + 1) for width in (4, 2 * 6))
    found = sum(array.size for array in parameters(build()).values())
    assert found == front + 2 * (first + second) + (2 * 6 + 1) * 7


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"subsampling": 3}, "subsampling must be one of 2, 4, not 3"),
        ({"channels": 0}, "channels must be positive"),
        ({"num_mels": 0}, "num_mels must be positive"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)
