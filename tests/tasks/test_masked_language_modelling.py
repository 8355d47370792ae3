"""Masked language modelling: loss over hidden tokens alone, against numpy; and that a small BERT learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made

import bigjax
from bigjax.errors import UserError
from bigjax.models.bert import BERT
from bigjax.tasks.masked_language_modelling import MaskedLanguageModelling

TASK = MaskedLanguageModelling()


class Table(nnx.Module):
    kind = "masked_lm"

    def __init__(self, table):
        self.table = nnx.Param(jnp.float32(table))

    def __call__(self, tokens, mask=None, *, train=False, rngs=None):
        return self.table[...][tokens]


@jax.jit
def loss(model, batch):
    return TASK.loss(model, batch, None, train=False, rngs=None)


def test_the_loss_is_over_hidden_tokens_alone():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 7))
    inputs, targets = rng.integers(0, 7, (2, 3, 5))
    mask = rng.integers(0, 2, (3, 5))
    batch = {"inputs": inputs, "targets": targets, "mask": np.float32(mask), "real": np.ones((3, 5), bool)}
    sums, carry = loss(Table(table), batch)
    assert carry is None
    log_chances = table - np.log(np.exp(table).sum(1, keepdims=True))
    expected = -(log_chances[inputs, targets] * mask).sum() / mask.sum()
    metrics = TASK.metrics({key: float(value) for key, value in sums.items()})
    assert metrics["loss"] == pytest.approx(expected, abs=1e-6)
    assert metrics["perplexity"] == pytest.approx(np.exp(expected), rel=1e-5)
    assert metrics["accuracy"] == ((table.argmax(1)[inputs] == targets) * mask).sum() / mask.sum()


def test_a_batch_that_hides_nothing_does_not_end_the_run(tmp_path):
    (tmp_path / "text.txt").write_text("one two three four\n" * 50)
    config = {
        "model": {"name": "bert", "head": "masked_lm", "d_model": 4, "num_layers": 1, "num_heads": 1},
        "task": {"name": "masked_language_modelling"},
        "data": {"name": "text_masked", "train": str(tmp_path / "text.txt"), "context": 4, "vocab_size": 30},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"steps": 8, "batch_size": 1, "log_every": 1, "eval_every": 0},
    }
    run = bigjax.train(config, workdir=tmp_path / "run", quiet=True)
    losses = [row["loss"] for _, row in run.metrics.iterrows() if row["split"] == "train"]
    assert len(losses) == 8 and np.isnan(losses).any() and np.isfinite(losses).any()  # one without a figure is NaN here


def test_padding_changes_nothing():
    model = made(lambda rngs: BERT(11, 8, 16, 2, 2, head="masked_lm", rngs=rngs))
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.integers(0, 11, (2, 8)),
        "targets": rng.integers(0, 11, (2, 8)),
        "mask": np.float32(np.arange(8) % 3 == 1) * (np.arange(8) < 5) * np.ones((2, 1), np.float32),
        "real": np.arange(8) < np.full((2, 1), 5),
    }
    other = batch | {key: np.where(batch["real"], batch[key], 3) for key in ("inputs", "targets")}
    sums = [loss(model, b)[0]["loss"] for b in (batch, other)]
    assert float(sums[0]) == pytest.approx(float(sums[1]), abs=1e-5)


def test_other_models_are_refused():
    for head in ("pooler", "question_answering"):
        with pytest.raises(ValueError, match="head='masked_lm'"):
            TASK.check_model(nnx.eval_shape(lambda head=head: BERT(11, 8, 16, 2, 2, head=head, rngs=nnx.Rngs(0))))
    config = {"model.head": "pooler"}
    with pytest.raises(UserError, match="masked_lm"):
        bigjax.train("experiments/bert_pretraining.py", config, quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small BERT that has seen a very regular text."""
    folder = tmp_path_factory.mktemp("bert")
    sentences = ["the capital of france is paris .", "the capital of spain is madrid .", "cats eat fish ."]
    rng = np.random.default_rng(0)
    (folder / "text.txt").write_text("\n".join(sentences[i] for i in rng.integers(0, 3, 600)))
    config = {
        "seed": 0,
        "model": {"name": "bert", "head": "masked_lm", "d_model": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.0},
        "task": {"name": "masked_language_modelling"},
        "data": {"name": "text_masked", "train": str(folder / "text.txt"), "context": 18, "vocab_size": 90},
        "optimizer": {"name": "adam", "learning_rate": 3e-3, "schedule": "cosine", "warmup_steps": 50},
        "train": {"steps": 900, "batch_size": 32},
    }
    return bigjax.train(config, workdir=folder / "run", quiet=True)


def test_a_small_bert_learns(run):
    assert run.result["metrics"]["validation"]["accuracy"] > 0.5
    report = (run.workdir / "report.html").read_text()
    assert "hidden" in report and "predicted" in report


def test_masks_are_filled(run):
    ((example, answer),) = bigjax.predict(run.workdir, "The capital of France [MASK] Paris.")
    assert example == {"text": "The capital of France [MASK] Paris."}
    assert answer["answer"] == "is"
    assert answer["probability"] > max(other["probability"] for other in answer["alternatives"])
    assert len(answer["alternatives"]) == 4
    ((_, several),) = bigjax.predict(run.workdir, "The [MASK] of france [MASK] paris.")
    assert several["answer"] == "capital, is"
    assert [mask["answer"] for mask in several["masks"]] == ["capital", "is"]
    assert several["probability"] == pytest.approx(np.prod([mask["probability"] for mask in several["masks"]]))
    assert several["alternatives"][0]["answer"].startswith("1: ")
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        list(bigjax.predict(run.workdir, "Nothing here"))
    with pytest.raises(UserError, match="context is 18"):
        list(bigjax.predict(run.workdir, "[MASK] " * 20))


def test_probabilities_are_the_models(run):
    text = "cats eat [MASK] ."
    ids = run.tokenizer.encode(text).ids
    logits = jax.nn.softmax(apply(run.model, np.array([ids]))[0, ids.index(run.tokenizer.token_to_id("[MASK]"))])
    ((_, answer),) = bigjax.predict(run.workdir, text)
    expected = float(logits[run.tokenizer.token_to_id(answer["answer"])])
    assert answer["probability"] == pytest.approx(expected, abs=1e-5)
