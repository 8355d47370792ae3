"""On every mesh each family learns what it learns on one device, and its parameters lie where the table says.

The table is shardings.txt; `PYTHONPATH=tests python tests/parallel/test_meshes.py` writes it again.
"""

import json
import math
import re
from pathlib import Path

import jax
import pytest
from flax import nnx
from helpers import run_python
from jax.sharding import AbstractMesh
from synthetic import FAMILIES, STACK, config

from bigjax.errors import UserError
from bigjax.models import CUTS_POSITIONS, MODELS, SHARDING
from bigjax.models.presets import PRESETS
from bigjax.parallel.mesh import AXES, name_of, state_shardings
from bigjax.training.setup import set_up

TABLE = Path(__file__).with_name("shardings.txt")
MESHES = {
    "data 8": {"data": 8},
    "fsdp 8": {"data": 1, "fsdp": 8},
    "data 2, tensor 4": {"data": 2, "tensor": 4},
    "data 2, sequence 2, tensor 2": {"data": 2, "sequence": 2, "tensor": 2},
    "data 2, expert 4": {"data": 2, "expert": 4},
    "pipeline 2, data 4": {"pipeline": 2, "data": 4},
}

CODE = """
import json, sys
from synthetic import config
from bigjax.training.setup import set_up

def losses(experiment):
    state = jax.device_put(first, jax.tree.map(lambda x: x.sharding, experiment.abstract))
    train, found = experiment.dataset.splits["train"], []
    for step in range(experiment.steps):
        batch = experiment.to_devices(train.train_batch(0, step, experiment.options.batch_size, slice(None)))
        state, sums = experiment.train_step(state, batch)
        found.append(float(sums["loss"] / sums["weight"]))
    return found

family, meshes, overrides = json.loads(ARGUMENTS)
alone = set_up(config(family, **overrides), jax.devices()[:1])
first = jax.device_get(alone.initial_state())
found = {}
for name, mesh in meshes.items():
    found[name] = losses(set_up(config(family, **{f"mesh.{axis}": size for axis, size in mesh.items()} | overrides)))
print(json.dumps([losses(alone), found]))
"""


def meshes_of(model):
    """Those whose axes a model has."""
    axes = {"tensor": model["name"] in SHARDING, "sequence": model["name"] in CUTS_POSITIONS}
    axes["expert"] = bool(model.get("num_experts"))
    axes["pipeline"] = bool(model.get("scan_layers")) and not axes["expert"]
    return {title: mesh for title, mesh in MESHES.items() if all(axes.get(axis, True) for axis in mesh)}


def agrees(family, meshes, rel=1e-5, **overrides):
    arguments = json.dumps([family, meshes, overrides])
    alone, found = json.loads(run_python(f"ARGUMENTS = {arguments!r}\n{CODE}", devices=8))
    assert len(alone) == 20 and len(set(alone)) == 20
    for mesh, losses in found.items():
        assert losses == pytest.approx(alone, rel=rel), (family, mesh)
    assert found.keys() == meshes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_twenty_steps_agree_with_one_device(family):
    agrees(family, meshes_of(FAMILIES[family][1]))


def test_whisper_which_no_task_trains_computes_what_it_does_on_one_device():
    run_python(WHISPER, devices=8)


WHISPER = """
import numpy as np
from flax import nnx
from bigjax.models import SHARDING
from bigjax.models.whisper import Whisper
from bigjax.parallel.mesh import make_mesh, state_shardings

rng = np.random.default_rng(0)
inputs = np.float32(rng.normal(size=(4, 16, 8))), rng.integers(0, 64, (4, 8))
sizes = {"vocab_size": 64, "num_mels": 8, "d_model": 32, "num_layers": 2, "num_heads": 4}
graphdef, state = nnx.split(jax.jit(lambda: Whisper(**sizes, rngs=nnx.Rngs(0)))())
state = nnx.to_pure_dict(state)
laid = jax.device_put(state, state_shardings(make_mesh(data=2, fsdp=2, tensor=2), state, SHARDING["whisper"]))
run = jax.jit(lambda state, inputs: jax.tree.leaves(nnx.merge(graphdef, state)(*inputs))[0])
expected = run(state, inputs)
assert np.abs(expected).max() > 0.1
np.testing.assert_allclose(run(laid, inputs), expected, rtol=1e-5, atol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "overrides", "rel"),
    [
        ("bert", {"model.remat": "nothing_saveable", "optimizer.zero": 2}, 1e-5),
        # At some seeds, others on each CPU, rounding decides on which side of a relu's kink a number lies, and Adam
        # makes up to 1e-4 of it; at the rest they agree to 8e-7.
        ("encoder_decoder", {"optimizer.accumulate_steps": 2}, 2e-4),
    ],
)
def test_stages_read_masks_and_sources_of_their_microbatch(family, overrides, rel):
    meshes = {"all": {"pipeline": 2, "data": 1, "fsdp": 2, "tensor": 2}}
    agrees(family, meshes, rel, **{f"model.{key}": value for key, value in STACK.items()}, **overrides)


@pytest.mark.slow
def test_a_loss_in_chunks_is_that_of_all_on_every_mesh():
    agrees("gpt", meshes_of(FAMILIES["gpt"][1]), **{"task.loss_chunk": 4})


@pytest.mark.slow
def test_devices_may_share_less_than_the_parameters():
    agrees("llama", {"fsdp 8": MESHES["fsdp 8"]}, **{"optimizer.zero": 2})


def test_what_the_devices_share():
    shares = json.loads(run_python(SHARES, devices=8))
    for zero, (params, moments) in zip((1, 2, 3), shares, strict=True):
        assert params == pytest.approx(1 if zero < 3 else 1 / 8, rel=0.12)  # what is small stays whole
        assert moments == pytest.approx(2 / 8, rel=0.12)


SHARES = """
import json
from synthetic import config
from bigjax.parallel.plan import state_bytes
from bigjax.training.setup import set_up

def share(zero):
    experiment = set_up(config("llama", **{"mesh.data": 1, "mesh.fsdp": 8, "optimizer.zero": zero}))
    held = state_bytes(experiment)
    whole = sum(4 * leaf.size for leaf in jax.tree.leaves(experiment.abstract.params))
    return held["parameters"] / whole, held["optimizer"] / whole

print(json.dumps([share(zero) for zero in (1, 2, 3)]))
"""


@pytest.mark.slow
def test_a_device_holds_its_share_of_the_state_and_its_rows_activations():
    alone, shared = json.loads(run_python(MEMORY, devices=8))
    activations = alone["temporaries"] - alone["gradients"]  # what a device holds beside the state, of as many rows
    share = (alone["state"] + alone["gradients"]) / 8
    assert activations > 4 * share  # not only of the state is told here
    assert shared["state"] + shared["temporaries"] == pytest.approx(share + activations, rel=0.15)


MEMORY = """
import json
import synthetic
from bigjax.training.setup import set_up

synthetic.T = context = 128
sizes = {"model.context": context, "model.d_model": 256, "model.num_layers": 8, "model.dropout": 0.0}
sizes |= {"model.remat": "nothing_saveable"}

def memory(devices, **mesh):
    config = synthetic.config("llama", **sizes, **mesh, **{"train.batch_size": 16 * devices})
    experiment = set_up(config, jax.devices()[:devices])
    step = experiment.jitted_step.lower(experiment.abstract, experiment.abstract_batch).compile().memory_analysis()
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(experiment.abstract.params))
    return {
        "state": step.argument_size_in_bytes, "temporaries": step.temp_size_in_bytes, "gradients": gradients
    }

print(json.dumps([memory(1), memory(8, **{"mesh.data": 1, "mesh.fsdp": 8})]))
"""


def table():
    """Where each parameter of the published sizes lies on each mesh, one layer of each kind for all."""
    small = {"num_layers": 1}
    sections = {name: PRESETS[name] | small for name in ("gpt2", "bert-base", "vit-b16", "transformer-base")}
    scanned = {"num_layers": 2, "scan_layers": True}
    sections |= {name: PRESETS[name] | scanned for name in ("llama3-8b", "mixtral-8x7b")}
    sections |= {"whisper-tiny": PRESETS["whisper-tiny"] | {"num_mels": 80, "num_layers": 1}}
    sections |= {name: PRESETS[name] for name in ("alexnet", "vgg11", "resnet18")}
    sections |= {"rnn": {"name": "rnn", "vocab_size": 10000, "d_model": 650}}
    for name in ("cnn", "conformer", "quick_cnn", "rnn_classifier", "speech_lstm"):
        sections[name] = FAMILIES[name][1] | ({"d_model": 256} | small if name == "conformer" else {})
    sections["conformer"] |= {"subsampling": 4}
    sections["speech_lstm"] = sections["speech_lstm"] | {"subsampling": 4}
    assert {section["name"] for section in sections.values()} == MODELS.keys()
    lines = []
    for model, section in sections.items():
        kwargs = {key: value for key, value in section.items() if key != "name"}
        abstract = nnx.eval_shape(lambda: MODELS[section["name"]](**kwargs, rngs=nnx.Rngs(0)))  # noqa: B023
        params = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
        for title, sizes in meshes_of(section).items():
            mesh = AbstractMesh(tuple(sizes.get(axis, 1) for axis in AXES), AXES)
            placed = jax.tree.leaves(state_shardings(mesh, params, SHARDING.get(section["name"], ())))
            cut = {}
            for (path, leaf), sharding in zip(jax.tree_util.tree_leaves_with_path(params), placed, strict=True):
                sharding.shard_shape(leaf.shape)  # that can be cut so
                laid = (*sharding.spec, *[None] * (leaf.ndim - len(sharding.spec)))
                spec = [axis if mesh.shape.get(axis, 1) > 1 else None for axis in laid]
                if any(spec):
                    pairs = zip(leaf.shape, spec, strict=True)
                    cut[name_of(path)] = ", ".join(f"{size} {axis}" if axis else f"{size}" for size, axis in pairs)
            whole = len(placed) - len(cut)
            lines += [f"{model} on {title}: {whole} of {len(placed)} whole on each device"]
            lines += [f"  {name} [{axes}]" for name, axes in cut.items()]
    return "\n".join(lines) + "\n"


def test_parameters_lie_where_the_table_says():
    assert table() == TABLE.read_text()


@pytest.mark.parametrize(
    ("family", "overrides", "sentence"),
    [
        (
            "cnn",
            {"mesh.tensor": 2},
            "mesh.tensor is for bert, encoder_decoder, gpt, vit, whisper, and not for cnn",
        ),
        ("vit", {"mesh.sequence": 2}, "config.mesh.sequence is for bert, encoder_decoder, gpt, and not for vit"),
        (
            "gpt",
            {"mesh.sequence": 3},
            "mesh.sequence=3 does not divide the 16 positions of inputs: 15 or 18 would do.",
        ),
        (
            "gpt",
            {"mesh.tensor": 4, "model.d_ff": 250},
            "config.mesh.tensor=4 does not divide axis 0 of blocks/0/mlp/down/kernel, [250, 64]: 248 or 252 would do.",
        ),
        (
            "llama",
            {"mesh.fsdp": 3, "train.batch_size": 24},
            "config.mesh.fsdp=3 does not divide axis 1 of blocks/attention/key/kernel, [4, 64, 32]: 63 or 66 would do.",
        ),
        (
            "llama",
            {"mesh.pipeline": 2, "model.num_layers": 3},
            "mesh.pipeline=2 does not divide axis 0 of blocks/attention/key/bias, [3, 32]: 2 or 4 would do.",
        ),
        (
            "conformer",
            {"mesh.pipeline": 2, "model.num_layers": 3, "model.scan_layers": True},
            "config.mesh.pipeline=2 does not divide axis 0 of blocks/",
        ),
        ("gpt", {"mesh.pipeline": 2}, "it takes a model with config.model.scan_layers=True and no num_experts"),
        ("gpt", {"mesh.expert": 2}, "config.mesh.expert=2 shares out config.model.num_experts, which is None"),
    ],
)
def test_what_a_mesh_cannot_do_is_refused_by_name(family, overrides, sentence):
    sizes = [size for key, size in overrides.items() if key.startswith("mesh.")]
    devices = jax.devices() * math.prod(sizes)  # they are only counted
    with pytest.raises(UserError, match=re.escape(sentence)):
        set_up(config(family, **overrides), devices)


if __name__ == "__main__":
    TABLE.write_text(table())
