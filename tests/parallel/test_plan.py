"""`bigjax plan`: what a step takes on devices that are not here."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest
from helpers import count_parameters
from jax.sharding import AbstractMesh

from bigjax.errors import UserError
from bigjax.models import MODELS
from bigjax.models.presets import PRESETS
from bigjax.models.stages import num_microbatches
from bigjax.parallel.chips import Chip
from bigjax.parallel.mesh import AXES
from bigjax.parallel.plan import idle_share, model_flops, plan, roofline, written
from bigjax.parallel.topology import Topology, read_topology
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
    parts = {**found["memory"]}
    assert (
        0 <= parts.pop("all") - sum(parts.values()) <= 64
    )  # numbers such as the step's; the compiler counted the rest
    assert (
        found["flops"]
        == found["model_flops"]
        == count_flops(experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch).jaxpr)
    )
    assert found["mesh"] == dict.fromkeys(AXES, 1) | {"fsdp": 8} and found["fits"] is None
    assert found["compiled"] and "all-gather over fsdp" in found["sent"]["links"] and not found["sent"]["network"]
    assert found["step_seconds"] == max(found["seconds"].values()) > 0


def test_a_roofline_by_hand():
    found = {"flops": 8e12, "model_flops": 6e12, "devices": 4, "units": 600, "memory": {"all": 1e9}, "idle": 0.2}
    found["sent"] = {"links": {"all-gather over fsdp": 1e9}, "network": {"all-reduce over data": 3e9}}
    chip = Chip(flops=1e12, memory=2e9, bandwidth=1e10, links=2e9, network=1e9)
    assert roofline(found, chip) == {
        "seconds": {"compute": 2.5, "memory": 0.2, "links": 0.5, "network": 3.0},
        "bound": "network",
        "step_seconds": 3.0,
        "serial_seconds": 6.2,
        "mfu": pytest.approx(1.5 / 3),
        "units_per_second": 200,
    }


def test_a_stage_waits_for_the_first_and_after_the_last():
    mesh = AbstractMesh((2, 4, 1, 1, 1, 1), AXES)
    made = {"options": SimpleNamespace(batch_size=32), "program": SimpleNamespace(accumulate_steps=2)}
    assert idle_share(SimpleNamespace(mesh=mesh, **made)) == 1 / 5  # 4 rows, one by one


@pytest.mark.parametrize(("stages", "rows", "count"), [(2, 4, 4), (2, 8, 8), (2, 64, 8), (4, 12, 12), (2, 11, 1)])
def test_microbatches_divide_the_rows_of_a_device(stages, rows, count):
    assert num_microbatches(stages, rows) == count


def test_mfu_leaves_out_what_is_computed_again():
    small = {"model.d_model": 32, "model.num_heads": 2, "model.num_layers": 2, "train.batch_size": 2}
    again = small | {"model.remat": "nothing_saveable", "task.loss_chunk": 32}
    plain, twice = (read_config("experiments/pydoc_gpt.py", given) for given in (small, again))
    experiment = set_up(plain)
    flops = count_flops(experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch).jaxpr)
    assert model_flops(plain, jax.devices()) == 0 and model_flops(twice, jax.devices()) == flops


FOUND = {"devices": 4, "topology": "v5e:2x2", "mesh": {"data": 4}, "compiled": True, "flops": 1e12, "model_flops": 1e12}
FOUND["idle"] = 0.0


def test_what_fits_is_said_with_what_is_left():
    text = written(FOUND | {"whole": [], "fits": True, "room": 4 * 2**30, "memory": {"all": 2**30}})
    assert text.splitlines()[1] == "fits: 1.000 of 4.000 GiB per device, 3.000 are left"
    text = written(FOUND | {"whole": [], "fits": False, "room": 2**30, "memory": {"all": 2**31}})
    assert text.splitlines()[1] == "DOES NOT FIT: 2.000 of 1.000 GiB per device, which is too much"


def test_what_does_not_fit_is_said_in_the_compilers_words():
    found = FOUND | {"fits": False, "whole": ["up/kernel [514, 2056]"], "memory": {"parameters": 2**30}}
    text = written(found | {"compiler": "Used 23.08G of 15.75G hbm."})
    assert "DOES NOT FIT. Used 23.08G of 15.75G hbm." in text and "1.000 GiB per device" in text
    assert "whole on each device, as no axis divides: up/kernel [514, 2056]" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--topology=v9:2x2"], "There is no topology 'v9:2x2': kinds are b200, cpu, h100, h200, v5e, v5p, v6e. TPUs"),
        (["--topology=cpu:8", "--config.mesh.data=3"], "is not the number of devices, 8"),
        (["--topology=cpu:8", "--output=no/such/plan.json"], "--output=no/such/plan.json cannot be written"),
    ],
)
def test_topologies_that_cannot_be_are_refused(words, sentence):
    done = planned(*DIGITS, *words)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("topology", "library", "extra"),
    [("2xv5p:2x2x1", "libtpu", "plan"), ("h200:2x4", "jax_cuda13_plugin", "cuda")],
)
def test_without_the_compiler_shapes_are_told_and_its_installation(topology, library, extra, monkeypatch):
    monkeypatch.setattr("bigjax.parallel.topology.find_spec", lambda name: None)
    mesh = {"mesh.data": 1, "mesh.fsdp": 4, "mesh.dcn_data": 2}
    config = read_config("experiments/digits_cnn.py", {"train.batch_size": 64, "model.hidden": 1024} | mesh)
    found = plan(config, topology)
    assert not found["compiled"] and found["fits"] is None and found["mesh"]["data"] == 2
    assert found["missing"].startswith(library) and f"pip install 'bigjax[{extra}]'" in written(found)
    assert found["memory"]["batch"] == 64 / 8 * (24 * 24 + 4 + 4) and "temporaries" not in found["memory"]
    assert found["seconds"].keys() == {"compute", "memory"} and found["flops"] > 0


@pytest.mark.parametrize("text", ["h200:9", "h200:0", "2xh200:8", "v5p:8", "cpu:eight", "2xcpu:8", "4x4", "v5p", ""])
def test_a_topology_that_cannot_be_is_refused(text):
    with pytest.raises(UserError, match=f"There is no topology '{text}': kinds are b200, cpu, h100"):
        read_topology(text)


def test_a_topology_has_an_end():
    with pytest.raises(UserError, match="A topology has 1 to 16,384 devices, not as many as 'h200:4096x8'"):
        read_topology("h200:4096x8")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gpt3-175b", "llama3-8b", "llama3-70b", "bert-large", "vit-g14", "resnet50"])
def test_large_models_are_planned_without_data(model, monkeypatch):
    monkeypatch.setattr("bigjax.parallel.topology.find_spec", lambda name: None)
    found = plan(read_config(f"experiments/large.py:{model}", {}), "v5p:4x4x4")
    section = dict(PRESETS[model])
    size = count_parameters(lambda rngs: MODELS[section.pop("name")](**section, rngs=rngs))
    # In float32, all but what is small or odd lies along fsdp.
    assert 4 * size / 64 <= found["memory"]["parameters"] < 1.2 * 4 * size / 64
    assert found["model_flops"] <= found["flops"] < 1.4 * found["model_flops"]


def test_a_topology_is_read():
    assert read_topology("2xv5p:4x4x4") == Topology("2xv5p:4x4x4", "v5p", "tpu", 2, "4x4x4")
    assert read_topology("h200:2x8") == Topology("h200:2x8", "h200", "gpu", 2, "8")
    assert read_topology("b200:4").slices == 1 and read_topology("2xv5e:4x8").slice_size == 32
