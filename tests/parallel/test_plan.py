"""`bigjax plan`: what a step takes on devices that are not here."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import jax
import pytest

from bigjax.parallel.chips import Chip
from bigjax.parallel.plan import roofline, written
from bigjax.run import read_config
from bigjax.training.flops import count_flops
from bigjax.training.setup import set_up

DIGITS = ["--config=experiments/digits_cnn.py", "--config.train.batch_size=64", "--config.model.hidden=1024"]


def planned(*words):
    command = [sys.executable, "-c", "from bigjax.cli import script; script()", "plan", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)


def test_a_step_for_fake_devices(tmp_path):
    file = tmp_path / "plan.json"
    mesh = ["--config.mesh.data=1", "--config.mesh.fsdp=8"]
    done = planned("--topology=cpu:8", *DIGITS, *mesh, "--budget=1000000", f"--output={file}")
    assert done.returncode == 0, done.stderr
    assert "8 devices of cpu:8" in done.stdout and "1,000,000 images take at least" in done.stdout
    found = json.loads(file.read_text())
    overrides = {"train.batch_size": 64, "model.hidden": 1024}
    experiment = set_up(read_config("experiments/digits_cnn.py", overrides))
    leaves = jax.tree.leaves(experiment.abstract.params)
    whole = 4 * sum(leaf.size for leaf in leaves)
    # Nearly all is one kernel, which divides; what is small stays whole on each device.
    assert whole / 8 < found["memory"]["parameters"] < whole / 8 + 4 * 4096 * len(leaves)
    assert found["memory"]["batch"] == 64 / 8 * (24 * 24 + 4 + 4)
    assert found["flops"] == count_flops(
        experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch).jaxpr
    )
    assert found["mesh"] == {"data": 1, "fsdp": 8, "expert": 1, "sequence": 1, "tensor": 1} and found["fits"] is None
    assert any(name.startswith("all-gather over fsdp") for name in found["sent"])
    assert found["step_seconds"] == max(found["seconds"].values()) > 0


def test_a_roofline_by_hand():
    found = {"flops": 8e12, "memory": {"all": 1e9}, "sent": {"all-reduce over data": 3e9}}
    chip = Chip(flops=1e12, memory=2e9, bandwidth=1e10, links=1e9)
    assert roofline(found, chip, 4) == {
        "seconds": {"compute": 2.0, "memory": 0.2, "network": 3.0},
        "bound": "network",
        "step_seconds": 3.0,
        "mfu": pytest.approx(2 / 3),
    }


def test_what_fits_is_said_with_what_is_left():
    found = {"devices": 4, "topology": "v5e:2x2", "mesh": {"data": 4}, "flops": 1e12, "whole": []}
    text = written(found | {"fits": True, "room": 4 * 2**30, "memory": {"all": 2**30}})
    assert text.splitlines()[1] == "fits: 1.000 of 4.000 GiB per device, 3.000 are left"


def test_what_does_not_fit_is_said_in_the_compilers_words():
    found = {
        "devices": 4,
        "topology": "v5e:2x2",
        "mesh": {"data": 4},
        "fits": False,
        "flops": 1e12,
        "whole": ["up/kernel [514, 2056]"],
    }
    text = written(found | {"memory": {"parameters": 2**30}, "compiler": "Used 23.08G of 15.75G hbm."})
    assert "DOES NOT FIT. Used 23.08G of 15.75G hbm." in text and "1.000 GiB per device" in text
    assert "whole on each device, as no axis divides: up/kernel [514, 2056]" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology=v9:2x2"], "There is no topology 'v9:2x2': choose from cpu, v5e, v5p, v6e."),
        (["--topology=cpu:8", "--config.mesh.data=3"], "is not the number of devices, 8"),
        (["--topology=cpu:eight"], "There is no topology 'cpu:eight'"),
        (["--topology=cpu:8", "--output=no/such/plan.json"], "--output=no/such/plan.json cannot be written"),
    ],
)
def test_topologies_that_cannot_be_are_refused(words, sentence):
    done = planned(*DIGITS, *words)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(find_spec("libtpu") is not None, reason="libtpu is here")
def test_without_the_tpu_compiler_its_installation_is_named():
    done = planned("--topology=v5p:2x2x1", *DIGITS)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == ("bigjax: Plans for TPUs need the TPU compiler: pip install 'bigjax[plan]'.")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("libtpu") is None, reason="needs libtpu")
def test_a_step_for_a_tpu_slice(tmp_path):
    done = planned("--topology=v5e:2x2", *DIGITS, f"--output={tmp_path / 'plan.json'}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] is True and found["devices"] == 4 and 0 < found["mfu"] < 1
