"""The device mesh, and which axis of which array lies along it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr

from bigjax.errors import UserError
from bigjax.models.stacked import is_stacked
from bigjax.models.target import ROWS

# From the one that sends least to the one that sends most.
AXES = ("pipeline", "data", "fsdp", "expert", "sequence", "tensor")
BATCH = PartitionSpec(ROWS)
Rules = Sequence[tuple[Any, ...]]  # a regular expression, and PartitionSpecs


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    sequence: int = 1,
    expert: int = 1,
    pipeline: int = 1,
    dcn_data: int = 1,
    dcn_fsdp: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over devices; but for those, these are the keys of `config.mesh`.

    Args:
      data: replicas of the parameters, each with its share of the batch; -1 means all devices that are left.
      fsdp: devices that share one replica's parameters and optimizer state, and its share of the batch.
      tensor: devices that share the work inside a layer, where the model's rules say how.
      sequence: devices that share the positions of each row (Transformers).
      expert: devices that share the experts of each layer, and the batch (a mixture of experts).
      pipeline: devices, or groups of them, that each hold a stage of the layers (Transformers with `scan_layers`).
      dcn_data: over how many slices of TPUs, or hosts of GPUs, the replicas go; `data` is within one. The axis `data`
        of the mesh is the product of both.
      dcn_fsdp: likewise of `fsdp`.
      devices: None is all that there are.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or slices.
    """
    devices = jax.devices() if devices is None else devices
    given = {"data": data, "fsdp": fsdp, "tensor": tensor, "sequence": sequence, "expert": expert}
    given |= {"pipeline": pipeline, "dcn_data": dcn_data, "dcn_fsdp": dcn_fsdp}
    sizes = mesh_sizes(given, len(devices))
    inside = tuple(sizes[axis] for axis in AXES)
    across = tuple(sizes.get(f"dcn_{axis}", 1) for axis in AXES)
    if math.prod(across) == 1:
        if devices[0].platform == "cpu":
            return Mesh(np.array(devices).reshape(inside), AXES)
        return Mesh(mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True), AXES)
    slices = slices_of(devices)
    if math.prod(across) != len(set(slices)):
        raise UserError(
            f"config.mesh.dcn_data={dcn_data} and dcn_fsdp={dcn_fsdp} multiply to {math.prod(across)}, which is not "
            f"the number of slices of TPUs or hosts of others, {len(set(slices))}."
        )
    by_process = slices == [device.process_index for device in devices]
    placed = mesh_utils.create_hybrid_device_mesh(
        inside, across, devices, process_is_granule=by_process, allow_split_physical_axes=True
    )
    return Mesh(placed, AXES)


def slices_of(devices: Sequence[jax.Device]) -> list[int]:
    """Of each device the slice of TPUs, or the host of others, within which it is linked the fastest.

    JAX gives a GPU its host's number for a slice, whatever processes there are on it. Devices that have no slice, or
    but one as those that programs are only compiled for, are told apart by their processes.
    """
    found = [getattr(device, "slice_index", 0) for device in devices]
    one_slice = len(set(found)) == 1 and devices[0].platform != "tpu"
    return [device.process_index for device in devices] if one_slice else found


def mesh_sizes(sizes: Mapping[str, int], devices: int) -> dict[str, int]:
    """The sizes with -1 filled in; raises UserError unless they multiply to the number of devices."""
    given = list(sizes.values())
    if given.count(-1) > 1 or any(size < 1 and size != -1 for size in given):
        raise UserError(f"config.mesh takes positive sizes and at most one -1, not {dict(sizes)}.")
    fixed = math.prod(size for size in given if size != -1)
    if (devices % fixed) if -1 in given else (devices != fixed):
        raise UserError(
            f"config.mesh {dict(sizes)} multiplies to {fixed}, which "
            f"{'does not divide' if -1 in given else 'is not'} the number of devices, {devices}."
        )
    return {axis: devices // fixed if size == -1 else size for axis, size in sizes.items()}


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts `mesh` cuts a batch."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def name_of(path: tuple[Any, ...]) -> str:
    """The readable name of a leaf, such as `params/blocks/0/mlp/up/kernel`."""
    return keystr(path, simple=True, separator="/")


def state_shardings(mesh: Mesh | AbstractMesh, state: Any, rules: Rules = (), zero: int = 3) -> Any:
    """A sharding for every array of a train state.

    The first rule whose pattern is found in an array's name decides (optimizer state carries its parameter's name, so
    it follows the parameter): by the first of its specs whose axes the mesh divides. Without a rule, the largest axis
    that `fsdp` divides lies along it. Arrays of stacked layers lie along `pipeline`, too, and carried recurrent state
    lies as the batch does.

    Args:
      mesh: from `make_mesh`.
      state: the train state, arrays or `ShapeDtypeStruct`s.
      rules: a regular expression and PartitionSpecs each, beside each model that has them.
      zero: below 3 the parameters and their average do not lie along `fsdp`.

    Raises:
      UserError: the mesh divides the axes of a parameter by none of its rule's specs.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        spec = spec_of(name_of(path), tuple(leaf.shape))
        if zero < 3 and name_of(path).startswith(("params/", "ema/")):
            spec = PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))
        return NamedSharding(mesh, spec)

    def refuse(name: str, shape: tuple[int, ...], axis: str, of: int) -> NoReturn:
        raise UserError(
            f"config.mesh.{axis}={mesh.shape[axis]} does not divide axis {of} of {name.removeprefix('params/')}, "
            f"{list(shape)}: {nearest_multiples(shape[of], mesh.shape[axis])} would do."
        )

    def spec_of(name: str, shape: tuple[int, ...]) -> PartitionSpec:
        if name.startswith("carry"):
            return BATCH
        stages = "pipeline" if is_stacked(name) and shape and mesh.shape["pipeline"] > 1 else None
        if stages and undivided(mesh, (stages,), shape):
            if "opt_state/" not in name:
                refuse(name, shape, stages, 0)
            stages = None
        specs = next((specs for pattern, *specs in rules if re.search(pattern, name)), [])
        for spec in specs:
            whole = (stages,) * (len(shape) - len(spec))  # of scanned layers, the axis of layers
            if len(spec) <= len(shape) and not undivided(mesh, (*whole, *spec), shape):
                return PartitionSpec(*whole, *spec)
        # Of an optimizer's factored state the axes are others than its parameter's.
        if specs and "opt_state/" not in name:
            refuse(name, shape, *undivided(mesh, (*whole, *spec), shape)[0])
        if stages:
            return PartitionSpec(stages, *fsdp_spec(shape[1:], mesh.shape["fsdp"]))
        return fsdp_spec(shape, mesh.shape["fsdp"])

    return jax.tree_util.tree_map_with_path(sharding, state)


def undivided(mesh: Mesh | AbstractMesh, spec: Sequence[str | None], shape: Sequence[int]) -> list[tuple[str, int]]:
    """Which axes of the mesh do not divide which axes of an array."""
    return [(axis, i) for i, axis in enumerate(spec) if axis is not None and shape[i] % mesh.shape[axis]]


def nearest_multiples(size: int, unit: int) -> str:
    """The multiples of `unit` next to a size that is none, such as "48 or 56"."""
    below = size // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


def fsdp_spec(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    """Along `fsdp` the largest axis that `shards` divides (the last of equals); small or odd arrays stay whole."""
    fitting = [axis for axis, size in enumerate(shape) if size % shards == 0]
    if shards == 1 or not fitting or math.prod(shape) < 4096:
        return PartitionSpec()
    best = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == best else None for axis in range(len(shape))))
