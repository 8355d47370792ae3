"""The mesh and where arrays lie on it, on eight fake devices in a process of its own."""

import re
from types import SimpleNamespace

import jax
import pytest
from helpers import run_python
from jax.sharding import PartitionSpec as P

from bigjax.errors import UserError
from bigjax.parallel import mesh as mesh_lib
from bigjax.parallel.mesh import fsdp_spec, make_mesh, name_of, slices_of

EIGHT = """
import numpy as np, optax
from flax import nnx
from jax.sharding import PartitionSpec as P
from bigjax.errors import UserError
from bigjax.models.gpt import GPT, SHARDING
from bigjax.parallel.mesh import BATCH, batch_shards, make_mesh, name_of, state_shardings
from bigjax.training.state import TrainState

def shape(**sizes):
    return tuple(make_mesh(**sizes).shape.values())

def refused(**sizes):
    try:
        make_mesh(**sizes)
    except UserError as error:
        return str(error)

def state(optimizer, carry=None):
    def first():
        model = GPT(50, 16, 64, 2, 4, rngs=nnx.Rngs(0))
        params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        return TrainState(np.int32(0), np.uint32(0), params, {}, optimizer.init(params), params, carry, np.int32(0))
    return jax.eval_shape(first)

def specs(mesh, state, rules=SHARDING):
    found = jax.tree_util.tree_leaves_with_path(state_shardings(mesh, state, rules))
    return {name_of(path): sharding.spec for path, sharding in found}
"""


def test_a_mesh_over_the_devices_there_are():
    assert dict(make_mesh().shape) == dict.fromkeys(["pipeline", "data", "fsdp", "expert", "sequence", "tensor"], 1)
    assert mesh_lib.batch_shards(make_mesh()) == 1


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": -1, "fsdp": -1}, "at most one -1"),
        ({"data": 0}, "takes positive sizes"),
        ({"tensor": -2}, "takes positive sizes"),
        ({"fsdp": 3}, "multiplies to 3, which does not divide the number of devices, 1"),
        ({"data": 2}, "multiplies to 2, which is not the number of devices, 1"),
    ],
)
def test_meshes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        make_mesh(**sizes)


@pytest.mark.parametrize(
    ("shape", "shards", "spec"),
    [
        ((64, 128), 4, P(None, "fsdp")),
        ((128, 64), 4, P("fsdp", None)),
        ((64, 64), 4, P(None, "fsdp")),  # the last of equals
        ((101, 64), 4, P(None, "fsdp")),
        ((101, 103), 4, P()),
        ((64, 63), 4, P()),  # 4,032 numbers are not worth it
        ((64, 64), 1, P()),
        ((3, 3, 64, 128), 8, P(None, None, None, "fsdp")),
        ((), 4, P()),
    ],
)
def test_without_rules_the_largest_axis_that_divides_is_cut(shape, shards, spec):
    assert fsdp_spec(shape, shards) == spec


@pytest.mark.parametrize(
    ("platform", "slices", "processes", "found"),
    [
        ("tpu", [0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 1, 1]),
        ("tpu", [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]),
        ("gpu", [0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 1, 1]),  # a process for each GPU, as Slurm starts them
        ("gpu", [0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]),  # of a topology that is not here
        ("cpu", None, [0, 0, 1, 1], [0, 0, 1, 1]),
    ],
)
def test_hosts_are_not_processes_where_jax_knows_better(platform, slices, processes, found):
    devices = [SimpleNamespace(platform=platform, process_index=process) for process in processes]
    for device, slice_index in zip(devices, slices or (), strict=slices is not None):
        device.slice_index = slice_index
    assert slices_of(devices) == found


def test_names_of_leaves_are_readable():
    (path, _), *_ = jax.tree_util.tree_leaves_with_path({"blocks": [{"kernel": 1}]})
    assert name_of(path) == "blocks/0/kernel"


def test_meshes_of_eight_devices():
    out = run_python(
        EIGHT
        + """
assert make_mesh().axis_names == ("pipeline", "data", "fsdp", "expert", "sequence", "tensor")
assert shape() == (1, 8, 1, 1, 1, 1)
assert shape(fsdp=4) == (1, 2, 4, 1, 1, 1)
assert shape(data=2, fsdp=-1, tensor=2) == (1, 2, 2, 1, 1, 2)
assert shape(data=1, fsdp=8, tensor=1) == (1, 1, 8, 1, 1, 1)
assert shape(sequence=2, expert=2) == (1, 2, 1, 2, 2, 1)
assert shape(pipeline=2, tensor=2) == (2, 2, 1, 1, 1, 2)
assert batch_shards(make_mesh(fsdp=2, tensor=2)) == 4
assert batch_shards(make_mesh(expert=4, sequence=2)) == 4
assert "dcn_data=2 and dcn_fsdp=1 multiply to 2, which is not the number of slices" in refused(dcn_data=2)
assert shape(dcn_data=1, data=1, fsdp=-1) == (1, 1, 8, 1, 1, 1)
assert "multiplies to 3, which does not divide the number of devices, 8" in refused(fsdp=3)
assert "multiplies to 4, which is not the number of devices, 8" in refused(data=2, fsdp=2)

mesh = make_mesh(data=2, fsdp=2, tensor=2)
plain = specs(mesh, state(optax.adamw(0.1), carry=[np.zeros((8, 5)), np.zeros((8,))]))
kernels = {
    "embedding/embedding": P("tensor", "fsdp"),
    "positions/embedding": P(),  # no rule is about it, and 16 x 64 is small
    "blocks/0/attention/query/kernel": P("fsdp", "tensor"),
    "blocks/1/attention/value/kernel": P("fsdp", "tensor"),
    "blocks/0/attention/out/kernel": P("tensor", "fsdp"),
    "blocks/1/mlp/up/kernel": P("fsdp", "tensor"),
    "blocks/1/mlp/down/kernel": P("tensor", "fsdp"),
    "blocks/0/mlp/up/bias": P(),
    "norm/scale": P(),
}
for name, spec in kernels.items():
    for tree in ("params", "ema", "opt_state/0/mu", "opt_state/0/nu"):
        assert plain[f"{tree}/{name}"] == spec, (tree, name, plain[f"{tree}/{name}"])
assert plain["step"] == plain["seed"] == plain["opt_state/0/count"] == P()
assert plain["carry/0"] == plain["carry/1"] == BATCH

# An axis that its mesh axis does not divide stays whole; without rules the largest is cut.
odd = specs(make_mesh(fsdp=1, tensor=4), state(optax.sgd(0.1)))
assert odd["params/embedding/embedding"] == P(None, "fsdp")
bare = specs(make_mesh(fsdp=4), state(optax.sgd(0.1)), rules=())
assert bare["params/blocks/0/mlp/up/kernel"] == P(None, "fsdp")
assert bare["params/blocks/0/mlp/down/kernel"] == P("fsdp", None)
print("fine")
""",
        devices=8,
    )
    assert out.strip() == "fine"


def test_optimizer_state_of_any_shape_finds_a_place():
    """Adafactor's factored moments carry their kernel's name but have fewer axes."""
    out = run_python(
        EIGHT
        + """
mesh = make_mesh(data=2, fsdp=2, tensor=2)
for optimizer in (optax.adafactor(0.1, min_dim_size_to_factor=8), optax.lamb(0.1), optax.sgd(0.1, momentum=0.9)):
    tree = state(optimizer)
    placed = state_shardings(mesh, tree, SHARDING)
    jax.tree.map(lambda leaf, sharding: sharding.shard_shape(leaf.shape), tree, placed)
print("fine")
""",
        devices=8,
    )
    assert out.strip() == "fine"
