"""Numbers that go wrong: the run halts and says where, skips the batch, or goes back; and only that."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import same_bits, start_training

import bigjax
from bigjax.data import SOURCES
from bigjax.data.images import Augment, image_dataset, in_memory
from bigjax.errors import UserError
from bigjax.models import MODELS
from bigjax.models.gpt import GPT
from bigjax.tasks.language_modelling import LanguageModelling
from bigjax.training import loop
from bigjax.training.checkpoint import flatten, newest_weights, saved_steps
from bigjax.training.interrupt import Stopped
from bigjax.training.loop import batch_fetcher
from bigjax.training.nonfinite import diagnose
from bigjax.training.setup import resolve, set_up

BAD = 37  # the example that no model can bear


class Fragile(nnx.Module):
    """A linear layer whose scale is the root of what is below zero for one image."""

    def __init__(self, num_classes: int, image_shape: tuple[int, int, int], *, rngs: nnx.Rngs):
        self.scale = Root()
        self.head = nnx.Linear(4, num_classes, rngs=rngs)

    def __call__(self, x, *, train=False, rngs=None):
        return self.head(x.reshape(x.shape[0], -1) * self.scale(x[:, :1, 0, 0]))


class Root(nnx.Module):
    def __call__(self, x):
        return jnp.sqrt(1.0 - jnp.where(x > 0.99, 2.0, 0.0))


def images():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 200, (64, 2, 2, 1)).astype(np.uint8)
    pixels[BAD, 0, 0] = 255
    labels = rng.integers(0, 3, 64)
    splits = {"train": in_memory(pixels, labels), "validation": in_memory(pixels[:8], labels[:8])}
    return image_dataset(splits, ["a", "b", "c"], Augment(), "images")


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(MODELS, "fragile", Fragile)
    monkeypatch.setitem(SOURCES, "poisoned", images)


def config(**train):
    return {
        "model": {"name": "fragile"},
        "task": {"name": "image_classification"},
        "data": {"name": "poisoned"},
        "optimizer": {"name": "adam", "learning_rate": 0.1},
        "train": {"steps": 14, "batch_size": 8, "log_every": 3, "eval_every": 0, "checkpoint_every": 2} | train,
    }


def bad_steps(experiment):
    """The steps, from 1 on, whose batch has the bad image; one of every eight."""
    fetch = batch_fetcher(experiment)
    return [step + 1 for step in range(14) if (np.asarray(fetch(step)["image"])[:, 0, 0, 0] == 255).any()]


@pytest.fixture
def expected():
    """The bad steps, and a function from the steps that are trained to the parameters after them."""
    experiment = set_up(resolve(config()))
    fetch = batch_fetcher(experiment)

    def after(pairs):
        state = experiment.initial_state()
        for step in pairs:
            state = state._replace(step=jnp.int32(step - 1))
            state, _ = experiment.train_step(state, fetch(step - 1))
        return flatten(state.params)

    return bad_steps(experiment), after


def test_halts_and_says_where(expected, tmp_path):
    (first, *_), _ = expected
    with pytest.raises(UserError) as told:
        bigjax.train(config(), workdir=tmp_path, quiet=True)
    sentence = str(told.value)
    assert f"The loss or gradient of step {first} is not finite. The first nan is from sqrt of scale" in sentence
    assert "test_nonfinite.py:" in sentence and "\n" not in sentence
    found = json.loads((tmp_path / "nonfinite.json").read_text())
    assert found["step"] == first and found["seed"] == 0 and BAD in found["examples"]
    assert found["first"]["operation"] == "sqrt" and found["first"]["layer"] == "scale"
    assert found["parameters"] == found["batch"] == []
    assert max(saved_steps(tmp_path / "checkpoints"), default=0) < first
    assert not (tmp_path / "result.json").exists()


def test_skips_the_batch_and_nothing_else(expected, tmp_path, capsys):
    bad, after = expected
    run = bigjax.train(config(on_nonfinite="skip"), workdir=tmp_path)
    out = capsys.readouterr().out
    assert len(bad) == 2 and all(f"step {step} is not finite and was skipped" in out for step in bad)
    same_bits(newest_weights(run.workdir)[0], after([step for step in range(1, 15) if step not in bad]))
    rows = [row for row in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())]
    assert sum(row.get("skipped_steps", 0) for row in rows) == 2
    assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
    assert run.result["step"] == 14
    with pytest.raises(UserError, match=f"step {bad[1]} is not finite"):
        bigjax.train(config(on_nonfinite="skip", max_nonfinite=1), workdir=tmp_path / "limited", quiet=True)


def test_goes_back_and_leaves_the_data_since_out(expected, tmp_path, capsys):
    bad, after = expected
    bigjax.train(config(on_nonfinite="rollback"), workdir=tmp_path)
    out, trained, saved, step = capsys.readouterr().out, [], [], 0
    for step in range(1, 15):  # a bad step is seen when figures are logged, every 2 or 3 steps
        trained.append(step)
        if (step % 2 == 0 or step % 3 == 0) and set(bad) & set(trained[len(saved) :]):
            trained = list(saved)
        if step % 2 == 0:
            saved = list(trained)
    assert out.count("is not finite: back to step") == 2
    same_bits(newest_weights(tmp_path)[0], after(trained))


def test_a_signal_between_a_bad_step_and_its_notice_saves_no_frozen_state(tmp_path, monkeypatch, expected):
    """All after it would be frozen, too, and nothing would tell."""
    (bad, *_), after = expected
    every = next(n for n in (5, 4, 3, 2) if bad % n and bad > n)
    options = config(on_nonfinite="rollback", log_every=0, checkpoint_every=every, steps=bad + 1)
    real = loop.prefetched

    def prefetched(fetch, start, *rest):
        for step, batch in enumerate(real(fetch, start, *rest), start + 1):
            if step == bad:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch, pytest.raises(Stopped, match=f"after step {bad}"):
        patch.setattr(loop, "prefetched", prefetched)
        bigjax.train(options, workdir=tmp_path, quiet=True)
    assert bigjax.train(options, workdir=tmp_path, quiet=True).result["step"] == bad + 1
    same_bits(newest_weights(tmp_path)[0], after([*range(1, (bad - 1) // every * every + 1), bad + 1]))


def test_what_went_back_is_reproduced(tmp_path, expected):
    bigjax.train(config(on_nonfinite="rollback"), workdir=tmp_path, quiet=True)
    verdict = bigjax.reproduce(tmp_path, quiet=True)
    assert verdict.differences == [] and verdict.compared.endswith("2 checkpoints")


def test_that_the_search_fails_does_not_hide_what_happened(tmp_path, monkeypatch):
    monkeypatch.setattr("bigjax.training.watch.diagnose", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="is not finite"):
        bigjax.train(config(), workdir=tmp_path, quiet=True)
    assert "division by zero" in json.loads((tmp_path / "nonfinite.json").read_text())["diagnosis"]


def test_finds_the_layer_in_forward_and_backward():
    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.integers(0, 11, (4, 6)).astype(np.int32),
        "targets": rng.integers(0, 11, (4, 6)).astype(np.int32),
        "mask": np.ones((4, 6), np.float32),
        "bytes": np.full(4, 6, np.float32),
        "start": np.ones(4, bool),
    }

    def found(change):
        model = jax.jit(lambda: GPT(11, 6, 8, 3, 2, rngs=nnx.Rngs(0)))()
        change(model)
        program, state = start_training(model, LanguageModelling(), optax.sgd(0.1), batch)
        return diagnose(program, *jax.tree.map(jnp.asarray, (state, batch)))

    def scale(kernel, factor):
        kernel.set_value(kernel[...] * factor)

    first = found(lambda model: scale(model.blocks[1].mlp.up.kernel, 1e38))["first"]
    assert first["layer"] == "blocks/1/mlp" and "blocks.py:" in first["line"]
    assert found(lambda model: scale(model.embedding.embedding, np.nan))["parameters"] == ["embedding/embedding"]
    assert "first" not in found(lambda model: None)
    assert GPT.__call__.__qualname__ == "GPT.__call__"  # classes are as they were
