"""The search for a mesh: what it tries, in which order, and what it rules out."""

import math
import re

import pytest

from bigjax.errors import UserError
from bigjax.parallel import search as searching
from bigjax.parallel.search import choices, search, table
from bigjax.parallel.topology import Imagined, read_topology
from bigjax.run import read_config

GPT = {"train.batch_size": 64, "model.d_model": 512, "model.num_layers": 4, "model.num_heads": 4}
GPT |= {"train.precision": "bfloat16", "model.scan_layers": True}


def config(**changes):
    return read_config("experiments/pydoc_gpt.py", GPT | changes)


def test_choices_fill_the_topology_and_divide_the_batch():
    found = list(choices(config(), read_topology("2xv5p:2x2x2")))
    assert len(found) == len(set(found)) and {choice.remat for choice in found} == set(searching.KEPT)
    for choice in found:
        sizes = dict(choice.mesh)
        assert math.prod(sizes.values()) == 16 and sizes["tensor"] <= 4
        assert 64 % (16 // sizes["tensor"] * choice.accumulate) == 0
    assert {tuple(sorted(dict(choice.mesh))[1:2]) for choice in found} <= {("dcn_data",), ("dcn_fsdp",)}
    images = read_config("experiments/digits_cnn.py", {"train.batch_size": 64})
    assert {(dict(c.mesh)["tensor"], c.remat) for c in choices(images, read_topology("h200:8"))} == {(1, None)}


@pytest.fixture
def asked(monkeypatch):
    """What was planned, where nothing fits that keeps more than a quarter of all."""
    every = []

    def plan(config, topology):
        every.append(config)
        fits = searching.KEPT[config["model"]["remat"]] / config["optimizer"]["accumulate_steps"] <= 34 / 4
        figures = {"memory": {"all": 2**30}, "step_seconds": 1 / len(every), "bound": "compute", "mfu": 0.5}
        return figures | {"fits": fits, "units_per_second": 9.0, "unit": "tokens"}

    monkeypatch.setattr(searching, "plan", plan)
    monkeypatch.setattr(
        searching, "devices_of", lambda topology: ([Imagined(i, 0, "v5e", platform="cpu") for i in range(4)], "")
    )
    return every


def test_meshes_that_do_not_divide_the_model_are_left_out(asked):
    said = []
    search(config(**{"model.d_ff": 1022}), "v5e:2x2", 30, said.append)
    assert asked and all(dict(given["mesh"])["tensor"] <= 2 for given in asked)


def test_what_does_not_fit_rules_out_what_keeps_more_and_what_fits_what_is_slower(asked):
    said = []
    plans = search(config(), "v5e:2x2", 6, said.append)
    assert len(plans) == len(asked) == 6 and re.match(r"\d+ choices, of which \d+ may fit", said[0])
    fits = [found["fits"] for found in plans]
    assert fits == sorted(fits, reverse=True) and True in fits and False in fits
    times = [found["step_seconds"] for found in plans if found["fits"]]
    assert times == sorted(times)
    choices = [found["choice"] for found in plans]
    assert {choice["accumulate"] for choice in choices} == {1, 4}  # half and a third of what did not fit are left out
    fitting = [str(found["choice"]["mesh"]) for found in plans if found["fits"]]
    assert len(fitting) == len(set(fitting))
    assert "does not fit" in table(plans) and table(plans).startswith(said[-1].partition(": ")[2][:3])


def test_shapes_rule_out_what_cannot_fit(asked):
    """Of 2.6 billion parameters a v5e holds no whole replica."""
    large = {"model.d_model": 5120, "model.num_layers": 8, "model.num_heads": 40}
    plans = search(config(**large), "v5e:2x2", 20, lambda line: None)
    assert plans and all(found["choice"]["mesh"]["data"] == 1 for found in plans)


def test_images_are_searched_for_too(asked):
    vit = read_config("experiments/digits_vit.py", {"train.batch_size": 64, "model.remat": "nothing_saveable"})
    assert len(search(vit, "v5e:2x2", 2, print)) == len(asked) == 2


def test_a_search_that_cannot_be_is_refused(monkeypatch):
    with pytest.raises(UserError, match="--search is for accelerators and 1 or more plans, not for v5e:2x2 and 0"):
        search(config(), "v5e:2x2", 0, print)
    with pytest.raises(UserError, match="not for cpu:8 and 2"):
        search(config(), "cpu:8", 2, print)
    monkeypatch.setattr("bigjax.parallel.topology.find_spec", lambda name: None)
    with pytest.raises(UserError, match="compiles plans, and libtpu is not installed"):
        search(config(), "v5e:2x2", 2, print)
