"""Whether a run will fit on devices that are not here, and how fast it can be: its own step, compiled for them."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import jax

from bigjax.models.stages import num_microbatches
from bigjax.models.target import compiling_for
from bigjax.parallel.chips import CHIPS, Chip, measure_cpu
from bigjax.parallel.collectives import count_collectives
from bigjax.parallel.mesh import batch_shards
from bigjax.parallel.topology import devices_of, read_topology
from bigjax.training.checkpoint import flatten
from bigjax.training.setup import Experiment, set_up

WITHOUT_DEVICE = {"gpu": {"xla_gpu_enable_triton_gemm": False}}  # Triton's kernels are chosen by running them
AGAIN = (("model", "remat"), ("task", "loss_chunk"))  # with these a backward pass computes things again


def plan(config: Mapping[str, Any], topology: str) -> dict[str, Any]:
    """Compiles a run's training step for a topology, and says what it takes.

    Args:
      config: the resolved config.
      topology: as `read_topology` reads it.

    Returns:
      "compiled", False where the compiler is "missing", and then only what shapes tell; "fits" (None where that is not
      known, or memory has no bound), "room", the bytes of a device's memory, and "compiler", its words where it does
      not; "memory", bytes per device by part; "whole", large parameters that the mesh cuts nowhere; "flops" of a step
      over all devices, and "model_flops", without what is computed again; "idle", the share of its time that a stage of
      a pipeline waits for the others; "sent", bytes per device by link, kind and axes; "seconds", the least that
      compute, memory, links and network take; "step_seconds", the longest of them, its "bound", "mfu", and
      "units_per_second"; "serial_seconds", their sum.

    Raises:
      UserError: there is no such topology, or the config does not fit the devices.
    """
    asked = read_topology(topology)
    devices, missing = devices_of(asked)
    chip = CHIPS[asked.kind] if asked.kind in CHIPS else measure_cpu(len(devices))
    room = None if math.isinf(chip.memory) else chip.memory
    begun = time.perf_counter()
    with nullcontext() if missing else compiling_for(devices[0]):
        experiment = set_up(config, devices)
        traced = experiment.jitted_step.trace(experiment.abstract, experiment.abstract_batch)
        flops = experiment.step_flops()
        found: dict[str, Any] = {
            "topology": topology,
            "devices": len(devices),
            "mesh": dict(experiment.mesh.shape),
            "unit": experiment.task.unit,
            "units": math.prod(experiment.abstract_batch["mask"].shape),
            "compiled": not missing,
            "flops": flops,
            "model_flops": model_flops(config, devices) or flops,
            "idle": idle_share(experiment),
            "memory": state_bytes(experiment),
            "whole": whole_parameters(experiment),
            "room": room,
        }
        if missing:
            found["memory"]["all"] = sum(found["memory"].values())
            too_much = room is not None and found["memory"]["all"] > room
            found |= {"missing": missing, "sent": {}, "fits": False if too_much else None}
            return found | roofline(found, chip)
        try:
            compiled = traced.lower().compile(compiler_options=WITHOUT_DEVICE.get(asked.platform))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) and "memory" not in str(error):
                raise
            lines = [line.strip() for line in str(error).splitlines() if "memory" in line.lower()]
            return found | {"fits": False, "compiler": " ".join(lines)[:400]}
    found["compile_seconds"] = round(time.perf_counter() - begun, 1)
    memory = compiled.memory_analysis()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found["memory"] |= {"temporaries": memory.temp_size_in_bytes, "new outputs": fresh}
    found["memory"]["all"] = memory.argument_size_in_bytes + memory.temp_size_in_bytes + fresh
    found["sent"] = {"links": {}, "network": {}}
    for (link, kind, axes), size in count_collectives(compiled.as_text() or "", experiment.mesh).most_common():
        found["sent"][link][f"{kind} over {', '.join(axes)}"] = size
    found["fits"] = found["memory"]["all"] <= room if room else None
    return found | roofline(found, chip)


def model_flops(config: Mapping[str, Any], devices: Sequence[jax.Device]) -> int:
    """The FLOPs of a step that computes nothing again; 0 where this one does not."""
    again = [(section, key) for section, key in AGAIN if config[section].get(key) is not None]
    if not again:
        return 0
    plain = {**config, **{section: {**config[section], key: None} for section, key in again}}
    return set_up(plain, devices).step_flops()


def idle_share(experiment: Experiment) -> float:
    """Of the time that the layers take, the share that a stage waits for its first microbatch, and after its last."""
    stages = experiment.mesh.shape["pipeline"]
    rows = experiment.options.batch_size // experiment.program.accumulate_steps // batch_shards(experiment.mesh)
    return (stages - 1) / (num_microbatches(stages, rows) + stages - 1)


def held(tree: Any) -> int:
    """Bytes of arrays on each device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def state_bytes(experiment: Experiment) -> dict[str, int]:
    """Bytes on each device of the parts of the train state and of a batch."""
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


def roofline(found: Mapping[str, Any], chip: Chip) -> dict[str, Any]:
    """The least seconds that a step takes, by what bounds it; nothing is as quick as that.

    Memory moves at least once: state in and out, and each temporary written and read. MFU counts the model's FLOPs.
    """
    per_device = {key: found[key] / found["devices"] / chip.flops for key in ("flops", "model_flops")}
    seconds = {"compute": per_device["flops"] / (1 - found["idle"])}
    seconds["memory"] = 2 * found["memory"]["all"] / chip.bandwidth
    for link, speed in (("links", chip.links), ("network", chip.network)):
        if sent := found["sent"].get(link):
            seconds[link] = sum(sent.values()) / speed
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "seconds": seconds,
        "bound": bound,
        "step_seconds": seconds[bound],
        "serial_seconds": sum(seconds.values()),
        "mfu": per_device["model_flops"] / seconds[bound],
        "units_per_second": found["units"] / seconds[bound],
    }


def written(found: Mapping[str, Any], budget: float | None = None, price: float | None = None) -> str:
    """A plan for people.

    Args:
      found: from `plan`.
      budget: so many units (tokens, images, ...) are to be trained on.
      price: of a device, for an hour.
    """
    lines = [f"{found['devices']} devices of {found['topology']}, mesh {json.dumps(found['mesh'])}"]
    if "compiler" in found:
        lines.append(f"DOES NOT FIT. {found['compiler']}")
    elif found["fits"] is not None:
        used, room = found["memory"]["all"] / 2**30, found["room"] / 2**30
        left = f"{room - used:.3f} are left" if found["fits"] else "which is too much"
        lines.append(f"{'fits:' if found['fits'] else 'DOES NOT FIT:'} {used:.3f} of {room:.3f} GiB per device, {left}")
    if not found["compiled"]:
        lines.append(
            f"NOT COMPILED: {found['missing']}. Until then this is what shapes tell, without activations, gradients "
            "and what devices send each other."
        )
    lines += [f"  {name:24} {size / 2**30:10.3f} GiB per device" for name, size in found["memory"].items()]
    if found["whole"]:
        lines.append(f"  whole on each device, as no axis divides: {', '.join(found['whole'])}")
    lines.append(f"  {'FLOPs per step':24} {found['flops'] / 1e12:10.3f} T")
    if found["model_flops"] < found["flops"]:
        lines.append(f"  {'of them computed anew':24} {(found['flops'] - found['model_flops']) / 1e12:10.3f} T")
    if found["idle"]:
        lines.append(f"  a stage of the pipeline waits for {found['idle']:.0%} of the layers' time")
    if "seconds" not in found:
        return "\n".join(lines)
    for link, sent in found["sent"].items():
        lines += [f"  {name:40} {size / 2**20:10.1f} MiB sent per device, {link}" for name, size in sent.items()]
    lines += [f"  {name:24} {1e3 * seconds:10.2f} ms at least" for name, seconds in found["seconds"].items()]
    lines.append(
        f"a step takes at least {1e3 * found['step_seconds']:.2f} ms, bound by {found['bound']}, and "
        f"{1e3 * found['serial_seconds']:.2f} ms where nothing overlaps: at most "
        f"{found['units_per_second']:,.0f} {found['unit']}/s, MFU {found['mfu']:.0%}"
    )
    if found["topology"] != "cpu:1":
        lines.append("these times were not held against such hardware")
    if budget:
        hours = budget / found["units_per_second"] / 3600
        cost = f", {hours * found['devices'] * price:,.0f} in the price's currency" if price else ""
        lines.append(f"{budget:,.0f} {found['unit']} take at least {hours:,.1f} hours{cost}")
    return "\n".join(lines)
