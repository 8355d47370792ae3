"""The mesh, microbatches and remat with which a run fits a topology and is quickest: first by shapes, then compiled."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from bigjax.errors import UserError
from bigjax.models import SHARDING
from bigjax.models.target import compiling_for
from bigjax.parallel.chips import CHIPS
from bigjax.parallel.mesh import AXES, state_shardings
from bigjax.parallel.plan import held, plan
from bigjax.parallel.topology import Topology, devices_of, read_topology
from bigjax.training.setup import set_up

# Of a Transformer's block, the bytes that its backward pass keeps for each position and feature, in 16 bits: all
# (Korthikanti et al. 2022, equation 2, without scores), the products with parameters, and its input.
KEPT = {None: 34, "dots_with_no_batch_dims_saveable": 18, "nothing_saveable": 2}
TRIED = ("data", "fsdp", "tensor")
ACCUMULATE = (1, 2, 4, 8, 16)


class Choice(NamedTuple):
    """What is searched over: the sizes of `config.mesh`, `accumulate_steps` and `remat`."""

    mesh: tuple[tuple[str, int], ...]
    accumulate: int
    remat: str | None


def search(config: Mapping[str, Any], topology: str, most: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Plans of the most promising choices, those that fit first and the quickest of them first.

    All choices are ordered by an estimate from shapes, and left out where that does not fit; then they are compiled
    one by one. What does not fit rules out those on its mesh that keep more than a quarter of what it keeps; what fits,
    those on its mesh that are slower.

    Args:
      config: the resolved config.
      most: how many are compiled.
      say: is told what is going on, line by line.

    Raises:
      UserError: there is no such topology or nothing to choose from, or the mesh has an axis that is not tried.
    """
    asked = read_topology(topology)
    if asked.kind not in CHIPS or most < 1:
        raise UserError(f"--search is for accelerators and 1 or more plans, not for {topology} and {most}.")
    fixed = [axis for axis in AXES if axis not in TRIED and config["mesh"][axis] > 1]
    if fixed:
        raise UserError(f"--search tries {', '.join(TRIED)}: set config.mesh.{fixed[0]}=1, or plan without --search.")
    devices, missing = devices_of(asked)
    if missing:
        raise UserError(f"--search={most} compiles plans, and {missing}.")
    with compiling_for(devices[0]):
        estimate = estimator(config, asked, devices[:1])
    every = list(choices(config, asked))
    estimates = {choice: seconds for choice in every if (seconds := estimate(choice)) is not None}
    say(f"{len(every)} choices, of which {len(estimates)} may fit; the compiler is asked about {most} at most")
    plans: list[dict[str, Any]] = []
    fitting: set[tuple[tuple[str, int], ...]] = set()
    failed: list[Choice] = []
    for choice in sorted(estimates, key=lambda choice: estimates[choice]):
        near = any(choice.mesh == other.mesh and keeps(choice) > keeps(other) / 4 for other in failed)
        if choice.mesh in fitting or near:
            continue
        found = plan(chosen(config, choice), topology) | {"choice": choice._asdict() | {"mesh": dict(choice.mesh)}}
        plans.append(found)
        if found["fits"] is False:
            failed.append(choice)
        else:
            fitting.add(choice.mesh)
        say(f"{len(plans)} of {most}: {row(found)}")
        if len(plans) == most:
            break
    return sorted(plans, key=lambda found: (found["fits"] is False, found.get("step_seconds", math.inf)))


def choices(config: Mapping[str, Any], topology: Topology) -> Iterator[Choice]:
    """All that a config allows on a topology."""
    model, each = config["model"], topology.slice_size
    rows = config["train"]["batch_size"]
    heads = model["num_heads"] if model["name"] in SHARDING else 1
    heads = math.gcd(heads, model.get("num_kv_heads") or heads)
    across: list[dict[str, int]] = [{}]
    if topology.slices > 1:
        across = [{"dcn_data": topology.slices}, {"dcn_fsdp": topology.slices}]
    for tensor in (size for size in (1, 2, 4, 8) if heads % size == 0 and each % size == 0):
        for fsdp in (size for size in range(1, each // tensor + 1) if each // tensor % size == 0):
            for dcn in across:
                mesh = {"data": each // tensor // fsdp, "fsdp": fsdp, "tensor": tensor} | dcn
                for accumulate in ACCUMULATE:
                    if rows % (each // tensor * topology.slices * accumulate) == 0:
                        for remat in KEPT if "remat" in model else (None,):
                            yield Choice(tuple(mesh.items()), accumulate, remat)


def chosen(config: Mapping[str, Any], choice: Choice) -> dict[str, Any]:
    """A config with a choice."""
    model = config["model"] | ({"remat": choice.remat} if "remat" in config["model"] else {})
    optimizer = config["optimizer"] | {"accumulate_steps": choice.accumulate}
    return {**config, "model": model, "optimizer": optimizer, "mesh": dict(choice.mesh)}


def keeps(choice: Choice) -> float:
    """How much of activations is in memory at once, as a share of all that there are."""
    return KEPT[choice.remat] / choice.accumulate


def estimator(
    config: Mapping[str, Any], topology: Topology, device: Sequence[jax.Device]
) -> Callable[[Choice], float | None]:
    """A function that tells from shapes about how long a step takes, or None where a choice cannot be or cannot fit."""
    chip, remats = CHIPS[topology.kind], KEPT if "remat" in config["model"] else (None,)
    experiments = {remat: set_up(chosen(config, Choice((("data", 1),), 1, remat)), device) for remat in remats}
    first = experiments[None]
    model = first.config["model"]
    flops = {remat: made.step_flops() for remat, made in experiments.items()}
    width = model.get("d_model", 0) * (2 if config["train"]["precision"] == "bfloat16" else 4)
    positions = math.prod(first.abstract_batch["mask"].shape)
    if len(first.abstract_batch["mask"].shape) == 1 and "patch_size" in model:
        positions *= math.prod(size // model["patch_size"] for size in model["image_shape"][:2])
    layers, rules = model.get("num_layers", 0), SHARDING.get(model["name"], ())

    def estimate(choice: Choice) -> float | None:
        sizes = dict.fromkeys((*AXES, "dcn_data", "dcn_fsdp"), 1) | dict(choice.mesh)
        data, fsdp, tensor = (sizes[axis] for axis in ("data", "fsdp", "tensor"))
        whole = sizes | {"data": data * sizes["dcn_data"], "fsdp": fsdp * sizes["dcn_fsdp"]}
        mesh = AbstractMesh(tuple(whole[axis] for axis in AXES), AXES)
        try:
            shardings = state_shardings(mesh, first.abstract, rules)
        except UserError:  # it does not divide the model
            return None
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), first.abstract, shardings)
        mine = positions / (whole["data"] * whole["fsdp"]) / choice.accumulate  # of a microbatch
        parameters = held(state.params)
        kept = KEPT[choice.remat] / 2 * mine * width * layers / tensor
        if held(state) + parameters + kept > chip.memory:  # with the gradient
            return None
        # In 16 bits: parameters are gathered for both passes of each microbatch, and gradients reduced to parts.
        gathered, passes = parameters / 2 * whole["fsdp"], 3 * choice.accumulate
        links = passes * (fsdp - 1) / fsdp * gathered + (data - 1) / data * parameters
        links += choice.accumulate * 8 * (tensor - 1) / tensor * mine * width * layers  # four all-reduces a layer
        across = passes * gathered / fsdp * (sizes["dcn_fsdp"] - 1) / sizes["dcn_fsdp"]
        across += parameters / data * (sizes["dcn_data"] - 1) / sizes["dcn_data"]
        compute = flops[choice.remat] / (topology.slices * topology.slice_size) / chip.flops
        # The longest is what bounds it; the others tell apart those that it bounds alike.
        parts = (compute, links / chip.links, across / chip.network)
        return max(parts) + sum(parts) / 100

    return estimate


def row(found: Mapping[str, Any]) -> str:
    """A choice and its plan in a line."""
    choice = found["choice"]
    mesh = " ".join(f"{axis}={size}" for axis, size in choice["mesh"].items() if size > 1) or "data=1"
    told = f"{mesh:34} accumulate {choice['accumulate']:2}  remat {choice['remat'] or 'none':32} "
    if found["fits"] is False:
        return f"{told} does not fit"
    return (
        f"{told} {found['memory']['all'] / 2**30:7.2f} GiB {1e3 * found['step_seconds']:10.1f} ms, "
        f"{found['bound']}, {found['units_per_second']:,.0f} {found['unit']}/s, MFU {found['mfu']:.0%}"
    )


def table(plans: list[dict[str, Any]]) -> str:
    """The plans of `search`, the best first, for people."""
    head = "" if plans and plans[0]["fits"] is not False else "nothing that was tried fits\n"
    return head + "\n".join(row(found) for found in plans)
