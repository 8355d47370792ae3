"""The notebook's door: the verbs as functions."""

import json

import jax.numpy as jnp
import pytest

import bigjax
from bigjax.cli import main
from bigjax.config import TrainOptions
from bigjax.training.sinks import make_sinks

CONFIG = {
    "model": {"name": "cnn", "channels": (4, 8), "hidden": 16},
    "task": {"name": "image_classification"},
    "data": {"name": "digits"},
    "optimizer": {"name": "adam", "learning_rate": 0.003, "ema_decay": 0.9},
    "train": {"steps": 20, "batch_size": 32, "log_every": 5},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return bigjax.train(CONFIG, {"seed": 3}, tmp_path_factory.mktemp("door") / "run", quiet=True)


def test_metrics_are_a_table(run):
    train = run.metrics[run.metrics.split == "train"]
    assert list(train.step) == [5, 10, 15, 20]
    assert train.loss.iloc[-1] < train.loss.iloc[0]


def test_plot_has_a_panel_for_each_metric(run):
    titles = {axes.get_title(loc="left") for axes in run.plot().axes}
    assert {"loss", "accuracy", "grad_norm", "learning_rate"} <= titles


def test_model_is_live_and_is_the_one_that_was_evaluated(run):
    """Its accuracy, computed here from its own logits, is the logged one; so it holds the moving average."""
    from bigjax.data.digits import digits

    test = digits().splits["test"].eval_batch(0, 360, slice(0, 360))
    logits = run.model((jnp.asarray(test["image"]) / 255 - 0.5) / 0.5)
    accuracy = (logits.argmax(-1) == test["label"]).mean()
    assert accuracy == pytest.approx(run.result["metrics"]["test"]["accuracy"], abs=1e-6)


def test_load_finds_the_same_run(run):
    again = bigjax.load(run.workdir)
    assert again.config == run.config and again.result == run.result


def test_evaluate_gives_the_logged_figures(run):
    assert bigjax.evaluate(run.workdir, "validation") == pytest.approx(run.result["metrics"]["validation"], rel=1e-6)


def test_sweep_runs_each_member_and_prints_a_table(tmp_path, capsys):
    file = tmp_path / "tiny.py"
    file.write_text(
        f"def get_config(arg=None):\n    return {CONFIG!r}\n"
        "def sweep():\n    yield {'seed': 1, 'train.steps': 3}\n    yield {'seed': 2, 'train.steps': 3}\n"
    )
    assert main(["sweep", f"--config={file}", f"--workdir={tmp_path / 'sweep'}"]) == 0
    configs = [json.loads((tmp_path / "sweep" / str(i) / "config.json").read_text()) for i in (0, 1)]
    assert [config["seed"] for config in configs] == [1, 2]
    table = capsys.readouterr().out
    assert "seed=1 train.steps=3" in table and "seed=2 train.steps=3" in table


def test_sweep_checks_all_members_before_the_first_runs(tmp_path):
    file = tmp_path / "tiny.py"
    file.write_text(
        f"def get_config(arg=None):\n    return {CONFIG!r}\n"
        "def sweep():\n    yield {'seed': 1}\n    yield {'optimizer.lr': 2}\n"
    )
    with pytest.raises(bigjax.UserError, match=r"optimizer\.lr"):
        list(bigjax.sweep(str(file), workdir=tmp_path / "sweep"))
    assert not (tmp_path / "sweep").exists()


def test_tensorboard_gets_the_figures(tmp_path):
    pytest.importorskip("tensorboardX")
    make_sinks(TrainOptions(steps=1, tensorboard=True), tmp_path, {})
    assert not list(tmp_path.iterdir())  # or a run that is killed before its config.json is there could not begin again
    bigjax.train(CONFIG, {"train.steps": 3, "train.tensorboard": True}, tmp_path / "run", quiet=True)
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"validation/accuracy" in events.read_bytes()
