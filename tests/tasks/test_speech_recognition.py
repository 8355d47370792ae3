"""Speech recognition: the loss against closed forms, rates as jiwer's, and that masks and padding cost nothing."""

from string import ascii_lowercase

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.data.labels import Characters
from bigjax.data.speech import Transcripts
from bigjax.inference.ctc import BLANK, log_probability
from bigjax.models.cnn import CNN
from bigjax.models.speech_lstm import SpeechLSTM
from bigjax.tasks.speech_recognition import SpeechRecognition

CODER = Characters("ab ")


class Read(nnx.Module):
    """Its features are its logits."""

    def __call__(self, features, lengths, *, train=False, rngs=None):
        return features, lengths


def one_hot(ids, width):
    """Logits that are sure of each label."""
    return np.eye(4, dtype=np.float32)[np.pad(ids, (0, width - len(ids)))] * 50


def batch(features, lengths, texts, mask=None):
    labels = [CODER.encode(text) for text in texts]
    width = max(map(len, labels))
    return {
        "features": jnp.asarray(features, jnp.float32),
        "lengths": jnp.array(lengths, jnp.int32),
        "labels": jnp.array([np.pad(some, (0, width - len(some))) for some in labels], jnp.int32),
        "label_lengths": jnp.array([len(some) for some in labels], jnp.int32),
        "mask": jnp.ones(len(texts)) if mask is None else jnp.array(mask, jnp.float32),
        "index": jnp.arange(len(texts), dtype=jnp.int32),
    }


def loss(batch, task=SpeechRecognition()):  # noqa: B008
    sums, carry = jax.jit(lambda b: task.loss(Read(), b, None, train=False, rngs=None))(batch)
    assert carry is None
    return {name: float(value) for name, value in sums.items()}


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_loss_is_minus_the_log_probability_and_weight_the_labels():
    features, lengths, texts = noise(3, 8, 4), [8, 5, 3], ["ab a", "bb", "a"]
    sums = loss(batch(features, lengths, texts))
    log_probs = np.asarray(jax.nn.log_softmax(features))
    expected = [-log_probability(x[:n], CODER.encode(t)) for x, n, t in zip(log_probs, lengths, texts, strict=True)]
    assert sums["loss"] == pytest.approx(sum(expected), rel=1e-4)
    assert sums["weight"] == 7
    assert SpeechRecognition().metrics(sums)["loss"] == pytest.approx(sum(expected) / 7, rel=1e-4)


def test_masked_rows_and_padding_add_nothing():
    features, lengths, texts = noise(3, 8, 4), [8, 5, 3], ["ab a", "bb", "a"]
    whole = loss(batch(features, lengths, texts, mask=[1, 1, 0]))
    some = loss(batch(features[:2], lengths[:2], texts[:2]))
    assert whole == pytest.approx(some, rel=1e-6)
    features[1, 5:] = 1e3
    assert loss(batch(features, lengths, texts, mask=[1, 1, 0])) == whole


@pytest.mark.parametrize("beams", [1, 4])
def test_rates_are_those_of_a_worked_example(beams):
    task = SpeechRecognition(beams=beams)
    heard = [[1, 0, 2], [1, 1, 3, 2, 2], [0, 0, 0, 0, 0]]  # "ab", "a b", ""
    said = ["ab", "a a", "b b"]
    features = np.stack([one_hot(ids, 6) for ids in heard])
    features[0, 3:] = one_hot([1, 2, 1], 3)  # beyond its end
    given = batch(features, [3, 5, 5], said)
    _, _, outputs = jax.jit(lambda b: task.evaluate(Read(), b, None))(given)
    rows = {i: {key: np.asarray(leaf[i]) for key, leaf in outputs.items()} for i in range(3)}
    figures = task.score(rows, Transcripts(said, CODER.decode))
    # Words: one of "a a" is another, both of "b b" are missing, of 5; characters: 1 and 3 of 8.
    assert figures == {"word_error_rate": pytest.approx(3 / 5), "character_error_rate": pytest.approx(4 / 8)}


@pytest.mark.parametrize(
    ("said", "heard", "rate", "expected"),
    [
        (["hello world"], ["hello duck"], "word", 1 / 2),
        (["hello world", "i like monthy python"], ["hello duck", "i like python"], "word", 2 / 6),
        (["i can spell", "i hope"], ["i kan cpell", "i hop"], "character", 3 / 17),
        (
            ["short one here", "quite a bit of longer sentence"],
            ["shoe order one", "quite bit of an even longest sentence here"],
            "word",
            8 / 9,
        ),
        ([""], [""], "word", 0),
        ([""], [""], "character", 0),
        ([""], ["silence"], "word", 1),
        ([""], ["peaceful silence"], "word", 2),
        ([""], ["a"], "character", 1),
        ([""], ["abcde"], "character", 5),
    ],
)
def test_rates_are_those_of_the_examples_in_the_manual_of_jiwer(said, heard, rate, expected):
    coder = Characters(ascii_lowercase + " ")
    paths = [np.array([label for letter in coder.encode(text) for label in (letter, BLANK)], int) for text in heard]
    outputs = {example: {"ids": path} for example, path in enumerate(paths)}
    figures = SpeechRecognition().score(outputs, Transcripts(said, coder.decode))
    assert figures[f"{rate}_error_rate"] == pytest.approx(expected)


def test_examples_show_mistakes_first():
    features = np.stack([one_hot([1], 4), one_hot([2], 4), one_hot([2], 4)])
    given = batch(features, [4, 4, 4], ["a", "a", "a"], mask=[1, 1, 0])
    shown = SpeechRecognition().examples(Read(), [given], {"decode": CODER.decode})
    assert shown["kind"] == "table" and shown["rows"] == [("a", "b"), ("a", "a")] and shown["right"] == [False, True]
    assert shown["note"].startswith("1 of 2 utterances")


def test_a_model_of_images_is_refused():
    model = nnx.eval_shape(lambda: CNN(10, (24, 24, 3), rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="a CNN is no model of speech"):
        SpeechRecognition().check_model(model)
    SpeechRecognition().check_model(nnx.eval_shape(lambda: SpeechLSTM(4, 8, 4, subsampling=2, rngs=nnx.Rngs(0))))


def test_beams_must_be_positive():
    with pytest.raises(ValueError, match="beams must be positive, not 0"):
        SpeechRecognition(beams=0)
