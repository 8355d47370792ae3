"""The same seed gives the same bits: run again, killed and resumed; and many devices learn what one learns."""

import json
import random
import signal
import time

import pytest

from tests.runs.conftest import bigjax, losses, result, same_checkpoints, same_run, start, words

MODELS = ("cnn", "rnn", "gpt")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_run_again(name, finished, tmp_path):
    first = finished(name)
    bigjax("train", *words(name, "train.steps=40", "train.loader_workers=3"), f"--workdir={tmp_path / 'again'}")
    same_run(tmp_path / "again", first)
    same_checkpoints(tmp_path / "again", first)
    bigjax("train", *words(name, "train.steps=40", "seed=1"), f"--workdir={tmp_path / 'other'}")
    assert result(tmp_path / "other")["params_sha256"] != result(first)["params_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_killed_and_resumed(name, finished, tmp_path):
    """SIGKILL at a random moment after a random step, twice; the end is that of the run left alone.

    The first may come before a checkpoint is whole; by step 25 that of step 10 is, since the next one waits for it.
    """
    untouched, workdir = finished(name), tmp_path / "killed"
    command = ["train", *words(name, "train.steps=40"), f"--workdir={workdir}"]
    for first, last in ((5, 15), (25, 30)):
        process = start(*command)
        wait_for_step(process, workdir, random.randint(first, last))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (workdir / "result.json").exists()
    assert "resuming at step" in bigjax(*command)
    same_run(workdir, untouched)
    same_checkpoints(workdir, untouched)


def wait_for_step(process, workdir, step):
    """Waits until the run has logged `step`, or a later one."""
    file = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if lines and lines[-1].endswith("}") and json.loads(lines[-1])["step"] >= step:
            return
        time.sleep(0.001)
    raise AssertionError(f"step {step} never came: {process.communicate()}")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_eight_devices_learn_as_one(name, tmp_path):
    """Losses of 50 steps agree to 1e-5 relative."""
    arguments = words(name, "train.steps=50", "train.log_every=1")
    for devices in (1, 8):
        bigjax("train", *arguments, f"--workdir={tmp_path / str(devices)}", devices=devices)
    one, eight = losses(tmp_path / "1"), losses(tmp_path / "8")
    assert len(one) == 50
    assert eight == pytest.approx(one, rel=1e-5)
    for split in ("validation", "test"):
        assert losses(tmp_path / "8", split) == pytest.approx(losses(tmp_path / "1", split), rel=1e-5)
