"""What devices send each other: as theory says, and read from the program."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import run_python

from bigjax.parallel.collectives import count_collectives, device_groups

HLO = """HloModule step

%body (p: (f32[8,4])) -> (f32[8,4]) {
  %ag = f32[8,4]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
}

%cond (p: (f32[8,4])) -> pred[] {
  %bound = s32[]{:T(128)} constant(5)
}

%ring (p: (f32[8,4])) -> (f32[8,4]) {
  %aa = f32[4]{0} all-to-all(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %ar = (f32[10]{0}, bf16[6]{0}) all-reduce(%a, %b), replica_groups=[1,4]<=[4], to_apply=%add
  %rs = f32[5]{0} reduce-scatter(%c), replica_groups=mesh['data'=2,'fsdp'=2] {'data'}, dimensions={0}
  %cp = (f32[7]{0}, f32[7]{0}, u32[], u32[]) collective-permute-start(%e), source_target_pairs={{0,1},{1,0}}
  %alone = f32[9]{0} all-reduce(%f), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %loop = (f32[8,4]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %tpu_loop = (f32[8,4]) while(%t), condition=%cond, body=%ring, metadata={op_name="while"}
}
"""


def places(shape, names, slices=1, platform="cpu"):
    """A mesh of devices that are not there, the slices along its first axis."""
    size = math.prod(shape)
    each = size // slices
    devices = [
        SimpleNamespace(id=100_000 * (i // each + 1) + i % each, slice_index=i // each, process_index=i // each)
        for i in range(size)
    ]
    for device in devices:
        device.platform = platform
    return SimpleNamespace(devices=np.array(devices).reshape(shape), axis_names=names)


def test_bytes_are_those_of_a_ring_and_loops_count_as_often_as_they_run():
    assert count_collectives(HLO, places((2, 2), ("data", "fsdp"))) == {
        ("links", "all-reduce", ("data", "fsdp")): 2 * 3 / 4 * (40 + 12),
        ("links", "reduce-scatter", ("data",)): 20,
        ("links", "collective-permute", ("fsdp",)): 28,
        ("links", "all-gather", ("fsdp",)): 3 * 128 / 2,
        ("links", "all-to-all", ("fsdp",)): 5 * 16 / 2,
    }


FUSED = """HloModule step
%first (p: f32[8]) -> f32[8] {
  %ag = f32[8]{0} all-gather(%b), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}

%second (p: f32[8]) -> f32[8] {
  %ag.1 = f32[8]{0} all-gather(%b), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %a = f32[8] fusion(%p), kind=kCustom, calls=%first
  %b = f32[8] fusion(%a), kind=kCustom, calls=%second
  %c = f32[8]{0} all-gather(%b), channel_id=4, replica_groups={{0,1,2,3}}, dimensions={0}
  %c.clone = f32[8]{0} all-gather(%c), channel_id=4, replica_groups={{0,1,2,3}}, dimensions={0}
}
"""


def test_what_is_cut_over_fusions_of_one_channel_counts_once():
    assert sum(count_collectives(FUSED, places((4,), ("fsdp",))).values()) == 3 * 24


HOSTS = """HloModule step
ENTRY %main (p: f32[8]) -> f32[8] {
  %ar = ((f32[10]{0}), f32[10]{0}) all-reduce-start(%a), replica_groups={{0,1,2,3}}, to_apply=%add
  %ag = f32[16]{0} all-gather(%b), replica_groups={{0,1,2,3}}, dimensions={0}
  %rs = f32[5]{0} reduce-scatter(%c), replica_groups={{0,2},{1,3}}, dimensions={0}
  %aa = f32[4]{0} all-to-all(%d), replica_groups={{0,1,2,3}}, dimensions={0}
  %cp = f32[7]{0} collective-permute(%e), source_target_pairs={{0,1},{1,2},{2,3},{3,0}}
}
"""


def test_over_hosts_of_gpus_each_device_sends_its_part_over_the_network():
    """Two hosts of two: a ring of two in each, then for each of two halves a ring of the hosts."""
    both, data = ("data", "fsdp"), ("data",)
    assert count_collectives(HOSTS, places((2, 2), both, slices=2, platform="gpu")) == {
        ("links", "all-reduce", both): 40,
        ("network", "all-reduce", both): 20,
        ("links", "all-gather", both): 32,
        ("network", "all-gather", both): 16,
        ("network", "reduce-scatter", data): 20,
        ("links", "all-to-all", both): 4,
        ("network", "all-to-all", both): 8,
        ("network", "collective-permute", both): 28,
    }


TRANSFER = 'is_host_transfer=true, frontend_attributes={{_xla_megascale_target={},_xla_megascale_transfer_type="{}"}}'
SLICES = f"""HloModule step
ENTRY %main (p: f32[8]) -> f32[8] {{
  %ar = f32[10]{{0}} all-reduce(%a), replica_groups={{{{0,1}}}}, to_apply=%add
  %recv = (f32[6]{{0}}, u32[], token[]) recv(%t), {TRANSFER.format('"{1,2}x{0:1}"', "ALL_REDUCE")}
  %recv-done = (f32[6]{{0}}, token[]) recv-done(%recv), channel_id=1, {TRANSFER.format("", "ALL_REDUCE")}
  %recv.1 = (f32[8]{{0}}, u32[], token[]) recv(%t), {TRANSFER.format("{{100000,200000},{100001,200001}}", "ALL_GATHER")}
}}
"""


def test_slices_of_tpus_are_numbered_each_for_itself_and_send_to_others_by_the_host():
    assert count_collectives(SLICES, places((2, 2), ("data", "fsdp"), slices=2, platform="tpu")) == {
        ("links", "all-reduce", ("fsdp",)): 40,
        ("network", "all-reduce", ("data",)): 24,
        ("network", "all-gather", ("data",)): 16,
    }


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
    ],
)
def test_groups_of_devices(written, groups):
    assert device_groups(f"%x = f32[4]{{0}} all-reduce(%y), {written}") == groups


CODE = """
import json
from bigjax.parallel.collectives import count_collectives
import synthetic
from bigjax.run import read_config
from bigjax.training.setup import set_up

def sent(name, overrides):
    if name in synthetic.FAMILIES:
        experiment = set_up(synthetic.config(name, **overrides))
    else:
        experiment = set_up(read_config(f"experiments/{name}.py", {"optimizer.warmup_steps": 1} | overrides))
    step = experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch).lower().compile()
    sizes = [leaf.size for leaf in jax.tree.leaves(experiment.abstract.params)]
    found = count_collectives(step.as_text(), experiment.mesh)
    kinds = {}
    for (_, kind, _), size in found.items():
        kinds[kind] = kinds.get(kind, 0) + size / (4 * sum(sizes))  # in units of the parameters
    return kinds

text = {"train.batch_size": 64, "train.steps": 9, "train.epochs": None}
gpt = text | {"model.d_model": 256, "model.num_layers": 3, "model.num_heads": 4}
lstm = text | {"model.d_model": 128, "model.d_hidden": 256}
digits = text | {"model.hidden": 1024}
fsdp = {"mesh.data": 1, "mesh.fsdp": 8}
works = {"gpt": ("pydoc_gpt", gpt), "lstm": ("pydoc_lstm", lstm), "cnn": ("digits_cnn", digits)}
works["scanned gpt"] = ("pydoc_gpt", gpt | {"model.scan_layers": True})
works["gpt, its loss in chunks"] = ("pydoc_gpt", gpt | {"task.loss_chunk": 16})
works["bidirectional lstm"] = ("speech_lstm", {"model.d_hidden": 320})
print(json.dumps({work: [sent(name, given), sent(name, given | fsdp)] for work, (name, given) in works.items()}))
"""


@pytest.mark.slow
def test_a_step_sends_what_theory_says_and_no_activations():
    """On 8 devices: data parallelism reduces the gradient; fsdp gathers the parameters, at most for each pass."""
    for work, (data, fsdp) in json.loads(run_python(CODE, devices=8)).items():
        gradient = 2 * 7 / 8
        # A tied embedding's two gradients are reduced one by one.
        assert gradient <= data.pop("all-reduce") <= 1.1 * gradient, work
        assert sum(data.values()) < 0.01, (work, data)
        # XLA's CPU has no reduce-scatter: it reduces all of the gradient and keeps its part.
        assert fsdp.pop("all-reduce") <= 1.1 * gradient, work
        assert 0.8 * 7 / 8 < fsdp.pop("all-gather") <= 2.05 * 7 / 8, work
        assert sum(fsdp.values()) < 0.02, (work, fsdp)
