"""Experts that are shared out over devices: the numbers of one device, each where it belongs, and what is sent."""

import json

import numpy as np
import pytest
from helpers import run_python

CODE = """
import json
from bigjax.parallel.collectives import count_collectives
from bigjax.parallel.mesh import name_of
from bigjax.run import read_config
from bigjax.training.loop import batch_fetcher
from bigjax.training.setup import set_up

small = {"model.d_model": 32, "model.num_layers": 2, "model.d_ff": 48, "model.dropout": 0.0, "data.context": 32}
small |= {"train.epochs": None, "train.steps": 20, "optimizer.warmup_steps": 5}

def run(devices, mesh=None, **model):
    given = {f"mesh.{axis}": size for axis, size in (mesh or {}).items()} | {f"model.{k}": v for k, v in model.items()}
    experiment = set_up(read_config("experiments/pydoc_gpt.py:moe", small | given), jax.devices()[:devices])
    step = experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch).lower().compile()
    state, fetch, steps = experiment.initial_state(), batch_fetcher(experiment), []
    for number in range(20):
        state, sums = step(state, fetch(number))
        steps.append({key: value.tolist() for key, value in sums.items()})
    leaves = jax.tree_util.tree_leaves_with_path(experiment.abstract.opt_state)
    return {
        "steps": steps,
        "flops": experiment.step_flops(),
        "sent": {" ".join((kind, *axes)): sent for (_, kind, axes), sent in
                 count_collectives(step.as_text(), experiment.mesh).items()},
        "shards": {name_of(path): leaf.sharding.shard_shape(leaf.shape) for path, leaf in leaves},
    }

print(json.dumps([
    run(1),
    run(8, {"expert": 4}),
    run(8, {"expert": 2, "fsdp": 2, "tensor": 2}, scan_layers=True),
]))
"""


@pytest.mark.slow
def test_a_run_on_any_mesh_is_that_of_one_device():
    alone, experts, all_axes = json.loads(run_python(CODE, devices=8))
    for other in (experts, all_axes):
        for key in ("loss", "penalty", "balance"):
            of_one, of_many = ([step[key] for step in run["steps"]] for run in (alone, other))
            np.testing.assert_allclose(of_many, of_one, rtol=1e-5, err_msg=key)
        assert other["steps"][-1]["expert_tokens"] == alone["steps"][-1]["expert_tokens"]
        assert other["flops"] == alone["flops"]
    assert alone["steps"][-1]["loss"] < 0.85 * alone["steps"][0]["loss"]

    # A step takes each product forward and twice back: the projections of 4 heads, 2 of keys and values, of attention
    # the whole square, of experts the router and 2 of 4, and the tied embedding.
    d, t, f, vocabulary = 32, 32, 48, 256
    block = 2 * d * d + 2 * d * d // 2 + 2 * t * d + 4 * d + 2 * 3 * d * f
    assert alone["flops"] == 3 * 2 * 16 * t * (2 * block + d * vocabulary)

    def shard(run, name):
        (found,) = {tuple(shape) for key, shape in run["shards"].items() if key.endswith(name)}
        return found

    assert shard(experts, "blocks/1/mlp/up") == (1, d, f)
    assert shard(all_axes, "blocks/mlp/up") == (2, 2, d // 2, f // 2)
    assert shard(all_axes, "blocks/mlp/down") == (2, 2, f // 2, d // 2)

    # Bytes. A device has 2 rows. In each layer it gathers the tokens of four, of as many of the gradient, of weights
    # and of experts; what it scatters is the output and the gradients of tokens and weights.
    tokens, choices, layers = 2 * t * d * 4, 2 * t * 2 * 4, 2
    assert experts["sent"]["all-gather expert"] == layers * 3 * (2 * tokens + 2 * choices)
    assert experts["sent"]["reduce-scatter expert"] == layers * 3 * (2 * tokens + choices)
    assert experts["sent"]["all-reduce data"] == layers * 3 * d * f * 4  # the gradient of one expert each


REFUSED = """
from bigjax.errors import UserError
from bigjax.run import read_config
from bigjax.training.setup import set_up

for name, given in (("digits_cnn.py", {}), ("pydoc_gpt.py", {}), ("pydoc_gpt.py:moe", {"model.num_experts": 6})):
    try:
        set_up(read_config(f"experiments/{name}", given | {"mesh.expert": 4}))
    except UserError as error:
        print(error)
"""


def test_experts_that_cannot_be_shared_out_are_refused():
    sentence = "config.mesh.expert=4 shares out config.model.num_experts, which is {} and must be a multiple of 4: "
    sentence += "change it, or set config.mesh.expert=1.\n"
    assert run_python(REFUSED, devices=4) == "".join(map(sentence.format, (None, None, 6)))
