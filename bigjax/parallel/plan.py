"""Whether a run will fit on devices that are not here, and how fast it can be: its own step, compiled for them."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import jax
from jax.experimental import topologies

from bigjax.errors import UserError, first_line, nearest
from bigjax.models.target import compiling_for
from bigjax.parallel.chips import CHIPS, Chip, measure_cpu
from bigjax.parallel.collectives import count_collectives
from bigjax.training.checkpoint import flatten
from bigjax.training.setup import Experiment, set_up

KNOWN = (*CHIPS, "cpu")


def plan(config: Mapping[str, Any], topology: str) -> dict[str, Any]:
    """Compiles a run's training step for a topology, and says what it takes.

    Args:
      config: the resolved config.
      topology: a TPU slice such as "v5p:4x4x4", or "cpu:8", fake devices of this machine.

    Returns:
      "fits" (None where memory has no bound), "room", the bytes of a device's memory, and "compiler", its words where
      it does not; "memory", bytes per device by part; "whole", large parameters that the mesh cuts nowhere; "flops" of
      a step over all devices; "sent", bytes per device by kind and axes; "seconds", the least that compute, memory and
      network take; "step_seconds", the longest of them, its "bound", "mfu", and "units_per_second".

    Raises:
      UserError: there is no such topology, libtpu is missing, or the config does not fit the devices.
    """
    kind, devices = devices_of(topology)
    chip = CHIPS[kind] if kind in CHIPS else measure_cpu(len(devices))
    begun = time.perf_counter()
    with compiling_for(devices[0].platform):
        experiment = set_up(config, devices)
        traced = experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch)
        found: dict[str, Any] = {
            "topology": topology,
            "devices": len(devices),
            "mesh": dict(experiment.mesh.shape),
            "flops": experiment.step_flops(),
            "memory": state_bytes(experiment),
            "whole": whole_parameters(experiment),
        }
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "memory" not in str(error):
                raise
            lines = [line.strip() for line in str(error).splitlines() if "memory" in line.lower()]
            return found | {"fits": False, "compiler": " ".join(lines)[:400], "unit": experiment.task.unit}
    found["compile_seconds"] = round(time.perf_counter() - begun, 1)
    memory = compiled.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found["memory"] |= {"temporaries": memory.temp_size_in_bytes, "new outputs": fresh}
    found["memory"]["all"] = memory.argument_size_in_bytes + memory.temp_size_in_bytes + fresh
    sent = count_collectives(compiled.as_text() or "", experiment.mesh)
    found["sent"] = {f"{kind} over {', '.join(axes)}": size for (kind, axes), size in sent.most_common()}
    found |= roofline(found, chip, len(devices))
    found["fits"] = None if math.isinf(chip.memory) else found["memory"]["all"] <= chip.memory
    found["room"] = None if math.isinf(chip.memory) else chip.memory
    found["unit"] = experiment.task.unit
    found["units_per_second"] = math.prod(experiment.abstract_batch["mask"].shape) / found["step_seconds"]
    return found


def devices_of(topology: str) -> tuple[str, Sequence[jax.Device]]:
    """The kind of a topology, and its devices."""
    kind, _, rest = topology.partition(":")
    if kind == "cpu":
        if not rest.isdecimal():
            raise UserError(f"There is no topology {topology!r}: write cpu:8 for eight fake devices.")
        if rest != str(jax.device_count()):
            raise UserError(f"{topology} needs JAX_NUM_CPU_DEVICES={rest}, and there are {jax.device_count()} devices.")
        return kind, jax.devices()
    if kind not in CHIPS:
        raise UserError(f"There is no topology {topology!r}: {nearest(kind, KNOWN)} It is written as v5p:4x4x4.")
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if find_spec("libtpu") is None:
            raise UserError("Plans for TPUs need the TPU compiler: pip install 'bigjax[plan]'.") from error
        raise UserError(f"The compiler knows no topology {topology!r}: {first_line(error)}.") from error
    return kind, found.devices


def state_bytes(experiment: Experiment) -> dict[str, int]:
    """Bytes on each device of the parts of the train state and of a batch."""

    def held(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
        )

    state = experiment.abstract
    return {
        "parameters": held(state.params),
        "optimizer": held(state.opt_state),
        "other state": held((state.statistics, state.ema, state.carry)),
        "batch": held(experiment.abstract_batch),
    }


def whole_parameters(experiment: Experiment) -> list[str]:
    """The large parameters that lie whole on each device, though the mesh would cut them."""
    if experiment.mesh.shape["data"] == experiment.mesh.size:
        return []
    leaves = flatten(experiment.abstract.params).items()
    return [f"{n} {list(x.shape)}" for n, x in leaves if x.size >= 2**20 and x.sharding.is_fully_replicated]


def roofline(found: Mapping[str, Any], chip: Chip, devices: int) -> dict[str, Any]:
    """The least seconds that a step takes, by what bounds it; nothing is as quick as that.

    Memory moves at least once: state in and out, and each temporary written and read.
    """
    memory = found["memory"]
    seconds = {
        "compute": found["flops"] / devices / chip.flops,
        "memory": 2 * memory["all"] / chip.bandwidth,
        "network": sum(found["sent"].values()) / chip.links,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "seconds": seconds,
        "bound": bound,
        "step_seconds": seconds[bound],
        "mfu": seconds["compute"] / seconds[bound],
    }


def written(found: Mapping[str, Any], budget: float | None = None, price: float | None = None) -> str:
    """A plan for people.

    Args:
      found: from `plan`.
      budget: so many units (tokens, images, ...) are to be trained on.
      price: of a device, for an hour.
    """
    lines = [f"{found['devices']} devices of {found['topology']}, mesh {json.dumps(found['mesh'])}"]
    if found["fits"] is False:
        lines.append(f"DOES NOT FIT. {found.get('compiler', '')}".rstrip())
    elif found["fits"]:
        held, room = found["memory"]["all"] / 2**30, found["room"] / 2**30
        lines.append(f"fits: {held:.3f} of {room:.3f} GiB per device, {room - held:.3f} are left")
    lines += [f"  {name:24} {size / 2**30:10.3f} GiB per device" for name, size in found["memory"].items()]
    if found["whole"]:
        lines.append(f"  whole on each device, as no axis divides: {', '.join(found['whole'])}")
    lines.append(f"  {'FLOPs per step':24} {found['flops'] / 1e12:10.3f} T")
    if "seconds" not in found:
        return "\n".join(lines)
    lines += [f"  {name:40} {size / 2**20:10.1f} MiB sent per device" for name, size in found["sent"].items()]
    lines += [f"  {name:24} {1e3 * seconds:10.2f} ms at least" for name, seconds in found["seconds"].items()]
    lines.append(
        f"a step takes at least {1e3 * found['step_seconds']:.2f} ms, bound by {found['bound']}: at most "
        f"{found['units_per_second']:,.0f} {found['unit']}/s, MFU {found['mfu']:.0%}"
    )
    if budget:
        hours = budget / found["units_per_second"] / 3600
        cost = f", {hours * found['devices'] * price:,.0f} in the price's currency" if price else ""
        lines.append(f"{budget:,.0f} {found['unit']} take at least {hours:,.1f} hours{cost}")
    return "\n".join(lines)
