"""What a profile says of a run, and that the run does not notice."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
from helpers import run_python

import bigjax
from bigjax.errors import UserError
from bigjax.training.profile import WARM_UP, Event, Profile, covered, handed_on, kinds_of

SMALL = {"train.steps": 12, "train.batch_size": 16, "train.eval_every": 0, "train.checkpoint_every": 0}


def test_kinds_of_a_compiled_program():
    def program(x, kernel, order):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sort(y.ravel()), (y.reshape(8, -1) @ y.reshape(8, -1).T), jnp.exp(y)[order], y.swapaxes(0, 3)

    arguments = jnp.ones((8, 6, 6, 3)), jnp.ones((3, 3, 3, 4)), jnp.arange(8)
    found = set(kinds_of(jax.jit(program).lower(*arguments).compile().as_text()).values())
    assert {"convolutions", "products", "gather, scatter, sort", "elementwise", "copies"} <= found


def test_a_loop_counts_as_what_is_in_it():
    lowered = jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda _, x: jnp.sin(x @ x), x)).lower(jnp.ones((64, 64)))
    text = lowered.compile().as_text()
    kinds = kinds_of(text)
    assert "products" in kinds.values()
    assert [kind for name, kind in kinds.items() if f"%{name} = (s32[]" in text and "while" in name] == [""]


def test_a_profiled_run(tmp_path):
    config = "experiments/digits_cnn.py"
    plain = bigjax.train(config, SMALL, tmp_path / "plain", quiet=True)
    traced = bigjax.train(config, SMALL, tmp_path / "traced", quiet=True, profile=4)
    assert traced.result["params_sha256"] == plain.result["params_sha256"]
    profile = json.loads((traced.workdir / "profile.json").read_text())
    assert profile["steps"] == 4
    parts = sum(profile["device_ms"].values()) + profile["input_ms"] + profile["host_ms"]
    assert profile["step_ms"] == pytest.approx(parts)
    assert profile["device_ms"]["convolutions"] > 0
    assert profile["device_ms"].get("other programs", 0) < profile["step_ms"] / 2
    assert list((traced.workdir / "profile").glob("plugins/profile/*/perfetto_trace.json.gz"))
    page = (traced.workdir / "report.html").read_text()
    assert "Where a step" in page and "convolutions" in page
    assert "Where a step" not in (plain.workdir / "report.html").read_text()


@pytest.mark.parametrize(("wait", "work"), [(0.03, 0.0), (0.0, 0.03), (0.02, 0.04)])
def test_what_a_device_is_idle_for(tmp_path, wait, work):
    def batches():
        while True:
            time.sleep(wait)
            yield jnp.ones((64, 64))

    step, steps = jax.jit(lambda x: x @ x), 5
    profile = Profile(tmp_path, steps)
    for _, batch in zip(range(WARM_UP + steps + 1), profile.over(batches()), strict=False):
        jax.block_until_ready(step(batch))
        time.sleep(work)
    table = profile.tabulated(step.lower(jnp.ones((64, 64))).compile().as_text())
    assert table["input_ms"] >= 1e3 * wait and table["host_ms"] >= 1e3 * work
    assert (table["input_ms"] > table["host_ms"]) == (wait > work)


PRODUCTS = """
import sys, tempfile
from pathlib import Path
import jax, jax.numpy as jnp
from bigjax.process import prepare_process
from bigjax.training.profile import Profile

prepare_process()
step = jax.jit(lambda x: jnp.tanh(x @ x) @ x)
x = jnp.ones((1200, 1200))
profile = Profile(Path(tempfile.mkdtemp()), 4)
for _, batch in zip(range(10), profile.over(x for _ in range(100))):
    jax.block_until_ready(step(batch))
table = profile.tabulated(step.lower(x).compile().as_text())
print(table["device_ms"]["products"] / table["step_ms"])
"""


def test_a_product_lasts_until_the_other_threads_are_done_with_it():
    assert float(run_python(PRODUCTS)) > 0.6  # by its own event, which hands it to them, a twentieth


def test_what_other_threads_do_is_of_the_operation_that_handed_it_on():
    def event(start, stop, name="", operation="", gives=None, takes=None):
        return Event(start, stop, name, operation, gives, takes)

    def notes(start, **numbers):
        name = "Record" if "gives" in numbers else "StartRegion" if numbers else "StopRegion"
        return event(start, start, f"ThreadpoolListener::{name}", **numbers)

    one = [  # a product hands on two pieces of work and is over; its thread takes the second, and computes a copy in it
        event(0, 5, operation="dot"),
        notes(2, gives=1),
        notes(3, gives=2),
        notes(6, takes=2),
        event(10, 14, operation="copy"),
        notes(20),
        notes(22, gives=9),  # of no operation
    ]
    other = [
        notes(4, takes=1),
        notes(7, gives=3),
        notes(9),
        notes(9, takes=3),
        notes(15),
        notes(30, takes=9),
        notes(31),
    ]
    found = handed_on([one, other], {"dot": "products", "copy": "copies"})
    assert {(start, stop) for start, stop, _ in found} == {(6, 10), (14, 20), (4, 9), (9, 15)}
    assert {operation.kind for operation in found} == {"products"}


def test_time_that_several_spans_cover():
    assert covered([(3e9, 4e9), (0, 2e9), (1e9, 1.5e9), (1e9, 2.5e9)]) == 3.5


def test_a_run_that_a_signal_ends_at_once_has_no_table(tmp_path):
    profile = Profile(tmp_path, 4)
    assert list(profile.over(iter(()))) == [] and profile.table is None


@pytest.mark.parametrize(("steps", "words"), [(-1, "at least 1, not -1"), (12 - WARM_UP + 1, "has 12 to go")])
def test_profiles_that_cannot_be(tmp_path, steps, words):
    with pytest.raises(UserError, match=words):
        bigjax.train("experiments/digits_cnn.py", SMALL, tmp_path / "run", quiet=True, profile=steps)
