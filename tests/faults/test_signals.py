"""SIGTERM, Ctrl-C, a full disk and steps that hang, in processes of their own as users have them."""

import signal
import subprocess
import sys
import time

import pytest

from tests.runs.conftest import ROOT, bigjax, same_run, start, words
from tests.runs.test_same_bits import wait_for_step

STEPS = ("train.steps=40", "train.eval_every=7")


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("twin") / "run"
    bigjax("train", *words("rnn", *STEPS), f"--workdir={workdir}")
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on_with_the_same_figures(number, code, twin, tmp_path):
    workdir, stops = tmp_path / "run", 0
    command = ["train", *words("rnn", *STEPS), f"--workdir={workdir}"]
    for step in (1, 13, 29):  # wherever that falls: in a step, a save, an evaluation
        process = start(*command)
        wait_for_step(process, workdir, step)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        if process.returncode == 0:
            break  # it was quicker
        stops += 1
        assert process.returncode == code, out + err
        assert "which is saved; the same command with the same --workdir goes on" in err and "Traceback" not in err
    assert stops
    bigjax(*command)
    same_run(workdir, twin)


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_saved(twin, tmp_path):
    workdir = tmp_path / "run"
    command = ["train", *words("rnn", *STEPS), f"--workdir={workdir}"]
    process = start(*command)
    wait_for_step(process, workdir, 21)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    before = {path: path.read_bytes() for path in (workdir / "checkpoints").rglob("*") if path.is_file()}
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 60; exec "$@"', "", sys.executable, "-m", "bigjax", *command],  # in KiB
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert limited.returncode == 2, limited.stdout + limited.stderr
    assert "could not be written" in limited.stdout and "Training goes on" in limited.stdout
    told = limited.stderr.splitlines()  # after which one of Orbax's threads may speak, seldom
    assert any(line.startswith("bigjax: Checkpoint 40 could not be written") for line in told)
    assert {path: path.read_bytes() for path in before} == before
    bigjax(*command)
    same_run(workdir, twin)


@pytest.mark.slow
def test_a_second_process_is_refused(tmp_path):
    command = ["train", *words("rnn", *STEPS), f"--workdir={tmp_path / 'run'}"]
    process = start(*command)
    wait_for_step(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGSTOP)
    try:
        assert "Another process trains in" in bigjax(*command, code=2)
    finally:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    bigjax(*command)  # the lock died with its owner


SCRIPT = """
import os, signal, time
from bigjax.training.interrupt import Interrupts
with Interrupts({seconds}) as interrupts:
    assert interrupts.goes_on()
    {then}
print("over")
"""


def python(seconds, then):
    code = SCRIPT.format(seconds=seconds, then=then)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)


def test_a_step_that_hangs_ends_with_the_stacks():
    begun = time.monotonic()
    done = python(0.5, "time.sleep(20)")
    assert done.returncode == 1 and "Timeout" in done.stderr and "line 6" in done.stderr
    assert time.monotonic() - begun < 15
    assert python(0, "time.sleep(0.3)").stdout == "over\n"
    alive = python(0.6, "[(time.sleep(0.2), interrupts.goes_on()) for _ in range(8)]")
    assert alive.stdout == "over\n", alive.stderr


def test_the_second_ctrl_c_ends_at_once():
    first = "os.kill(os.getpid(), signal.SIGINT); assert not interrupts.goes_on()"
    assert python(0, first).returncode == 0  # noted, and obeyed by the loop
    done = python(0, f"{first}; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)")
    assert done.returncode == 130 and "over" not in done.stdout
