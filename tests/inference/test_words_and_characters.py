"""Runs whose tokens are words or characters: their losses against numpy, what they predict and how they go on."""

from itertools import pairwise

import jax
import numpy as np
import pytest
from helpers import apply, made, parameters

import bigjax
from bigjax.data.text_files import text_file
from bigjax.errors import UserError
from bigjax.inference.text import Options, generate_text
from bigjax.models.gpt import GPT
from bigjax.tasks.language_modelling import LanguageModelling

SENTENCES = ("the cat sat on the mat \n", "a dog <unk> the cat \n", "the mat sat \n")
TASK = LanguageModelling()
NAMES = ("0/input/kernel", "0/input/bias", "0/recurrent/kernel")


def config(data, **model):
    return {
        "seed": 0,
        "model": {"name": "rnn", "d_model": 12, "num_layers": 1, **model},
        "task": {"name": "language_modelling", "sample_tokens": 4},
        "data": data,
        "optimizer": {"name": "adam", "learning_rate": 0.02},
        "train": {"steps": 30, "batch_size": 4},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ptb")
    rng = np.random.default_rng(0)
    for name, size in (("train", 60), ("valid", 7), ("test", 9)):
        (folder / f"ptb.{name}.txt").write_text("".join(SENTENCES[i] for i in rng.integers(0, 3, size)))
    return folder


@pytest.fixture(scope="module")
def words(folder, tmp_path_factory):
    data = {"name": "word_files", "folder": str(folder), "context": 5}
    return bigjax.train(config(data), workdir=tmp_path_factory.mktemp("words") / "run", quiet=True)


@pytest.fixture(scope="module")
def chars(folder, tmp_path_factory):
    data = {"name": "text_file", "train": str(folder / "ptb.train.txt"), "tokenizer": "chars", "context": 8}
    return bigjax.train(config(data), workdir=tmp_path_factory.mktemp("chars") / "run", quiet=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_losses(run, tokens):
    """-log p of each of `tokens` but the first, one after the other, the state carried: float64 numpy.

    The kernels are [D, 4 D], of the gates i, f, g, o.
    """
    arrays = {name: array.astype(np.float64) for name, array in parameters(run.model).items()}
    table = arrays["embedding/embedding"]
    into, bias, again = (arrays[f"layers/{name}"] for name in NAMES)
    h = c = np.zeros(table.shape[1])
    losses = []
    for token, target in pairwise(tokens):
        i, f, g, o = np.split(table[token] @ into + h @ again + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        logits = table @ h
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])
    return np.array(losses)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_perplexity_is_that_of_every_token_one_by_one(words, folder, split):
    file = folder / f"ptb.{'valid' if split == 'validation' else 'test'}.txt"
    vocabulary = words.tokenizer.get_vocab()
    tokens = [0]
    for line in file.read_text().splitlines():
        tokens += [vocabulary[word] for word in line.split()] + [vocabulary["<eos>"]]
    losses = lstm_losses(words, tokens)
    metrics = words.result["metrics"][split]
    assert metrics["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert metrics["perplexity"] == pytest.approx(np.exp(losses.mean()), rel=1e-5)


def test_words_are_predicted_and_go_on(words):
    ((_, answer),) = bigjax.predict(words.workdir, "the cat sat on")
    assert {other["answer"] for other in [answer, *answer["alternatives"]]} <= {
        *(f" {word}" for word in ["the", "cat", "sat", "on", "mat", "a", "dog", "<unk>"]),
        "\n",
    }
    assert answer["perplexity"] > 1
    (text,) = generate_text(words, ["the cat"], Options(num_tokens=6))
    assert text.startswith((" ", "\n")) and len(text.replace("\n", " \n ").split(" ")) > 3
    ((_, unknown),) = bigjax.predict(words.workdir, "the zebra")
    ((_, same),) = bigjax.predict(words.workdir, "the <unk>")
    assert unknown == same


def test_characters_are_predicted_and_go_on(chars):
    ((_, answer),) = bigjax.predict(chars.workdir, "the ca")
    assert len(answer["answer"]) == 1
    (text,) = generate_text(chars, ["the cat"], Options(num_tokens=6))
    assert len(text) == 6
    with pytest.raises(UserError, match="'the Z' has a word or character that the model's vocabulary lacks"):
        list(bigjax.predict(chars.workdir, "the Z"))


def test_losses_of_packed_documents_are_those_of_each_alone(tmp_path):
    for number, text in enumerate(("first", "the second", "no 3", "at last")):
        (tmp_path / f"{number}.txt").write_text(text)
    data = text_file(str(tmp_path), str(tmp_path), context=29, packing="within")
    model = jax.tree.map(lambda leaf: 4 * leaf, made(lambda rngs: GPT(256, 32, 16, 2, 2, rngs=rngs)))
    loss = jax.jit(lambda model, batch: TASK.loss(model, batch, None, train=False, rngs=None)[0])
    sums = loss(model, data.splits["validation"].eval_batch(0, 1, slice(0, 1)))
    assert sums["weight"] == 29
    total = 0.0
    for text in ("first", "the second", "no 3", "at last"):
        tokens = np.array([[0, *text.encode(), 0]])
        logits = jax.nn.log_softmax(apply(model, tokens[:, :-1])[0])
        total -= float(np.take_along_axis(np.asarray(logits), tokens[:, 1:, None], 2).sum())
    # The row ends before the last document's end: 29 of 30 targets.
    end = -float(jax.nn.log_softmax(apply(model, np.array([[0, *b"at last"]]))[0])[0, -1, 0])
    assert float(sums["loss"]) == pytest.approx(total - end, abs=1e-3)


def test_packing_is_for_models_with_attention(tmp_path):
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("some text")
    data = {"name": "text_file", "train": str(tmp_path), "packing": "within", "context": 8}
    with pytest.raises(UserError, match="packing='within' is for models with attention, and not a RNN"):
        bigjax.train(config(data), workdir=tmp_path / "run", quiet=True)
