"""What devices send each other: as theory says, and read from the program."""

import json

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


def test_bytes_are_those_of_a_ring_and_loops_count_as_often_as_they_run():
    class Places:
        devices, axis_names = np.zeros((2, 2)), ("data", "fsdp")

    assert count_collectives(HLO, Places()) == {
        ("all-reduce", ("data", "fsdp")): 2 * 3 / 4 * (40 + 12),
        ("reduce-scatter", ("data",)): 20,
        ("collective-permute", ("fsdp",)): 28,
        ("all-gather", ("fsdp",)): 3 * 128 / 2,
        ("all-to-all", ("fsdp",)): 5 * 16 / 2,
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
from bigjax.run import read_config
from bigjax.training.setup import set_up

def sent(name, overrides):
    experiment = set_up(read_config(f"experiments/{name}.py", {"optimizer.warmup_steps": 1} | overrides))
    step = experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch).lower().compile()
    sizes = [leaf.size for leaf in jax.tree.leaves(experiment.abstract.params)]
    found = count_collectives(step.as_text(), experiment.mesh)
    kinds = {}
    for (kind, axes), size in found.items():
        kinds[kind] = kinds.get(kind, 0) + size / (4 * sum(sizes))  # in units of the parameters
    return kinds

text = {"train.batch_size": 64, "train.steps": 9, "train.epochs": None}
gpt = text | {"model.d_model": 256, "model.num_layers": 3, "model.num_heads": 4}
lstm = text | {"model.d_model": 128, "model.d_hidden": 256}
digits = text | {"model.hidden": 1024}
fsdp = {"mesh.data": 1, "mesh.fsdp": 8}
works = {"gpt": ("pydoc_gpt", gpt), "lstm": ("pydoc_lstm", lstm), "cnn": ("digits_cnn", digits)}
works["scanned gpt"] = ("pydoc_gpt", gpt | {"model.scan_layers": True})
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
        assert sum(fsdp.values()) < 0.1, (work, fsdp)
