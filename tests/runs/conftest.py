"""Small versions of the shipped experiments, run as a user runs them: by the `bigjax` command, in its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bigjax.training.checkpoint import recorded_hashes, saved_steps
from bigjax.training.reproduce import figures
from bigjax.training.workdir import Workdir

ROOT = Path(__file__).resolve().parents[2]
INTERVALS = ("--config.train.log_every=5", "--config.train.eval_every=20", "--config.train.checkpoint_every=10")
SMALL = {
    "cnn": ("experiments/digits_cnn.py", "data.image_size=8", "data.crop=none", "data.padding=1"),
    "rnn": ("experiments/pydoc_lstm.py", "model.d_model=32", "data.context=16", "task.sample_tokens=8"),
    "gpt": (
        "experiments/pydoc_gpt.py",
        "model.d_model=32",
        "model.num_layers=2",
        "data.context=32",
        "task.sample_tokens=8",
        "optimizer.warmup_steps=10",
    ),
}


def words(name, *overrides):
    """The arguments of `bigjax train` for a small experiment."""
    experiment, *own = SMALL[name]
    own = [*own, "train.batch_size=16", "train.eval_batch_size=64"]
    if name != "cnn":
        own.append("optimizer.warmup_steps=10")
    return [f"--config={experiment}", *INTERVALS, *(f"--config.{key}" for key in (*own, *overrides))]


def start(*arguments, devices=1):
    """Starts `bigjax ARGUMENTS` from the repository's root."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "bigjax", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def bigjax(*arguments, devices=1, code=0):
    """Runs `bigjax ARGUMENTS`, expects the exit code, and returns its stdout or, if it should fail, its stderr."""
    process = start(*arguments, devices=devices)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return err if code else out


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


def same_run(workdir, other):
    """Asserts that two runs have the same parameters and the same figures, but for those of speed."""
    assert result(workdir)["params_sha256"] == result(other)["params_sha256"]
    one, two = ([figures(row) for row in Workdir(folder).rows()] for folder in (workdir, other))
    assert one == two and one


def same_checkpoints(workdir, other):
    """Asserts that two runs have kept the same checkpoints, to the bit."""
    one, two = (
        {step: recorded_hashes(folder / "checkpoints", step) for step in saved_steps(folder / "checkpoints")}
        for folder in (workdir, other)
    )
    assert one == two and all(one.values()) and one


def losses(workdir, split="train"):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if row["split"] == split]


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished 40-step run of each small experiment, by name."""
    folder = tmp_path_factory.mktemp("finished")
    cache = {}

    def run(name):
        if name not in cache:
            bigjax("train", *words(name, "train.steps=40"), f"--workdir={folder / name}")
            cache[name] = folder / name
        return cache[name]

    return run
