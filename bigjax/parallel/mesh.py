"""The device mesh, and which axis of which array lies along it."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr

from bigjax.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
Rules = Sequence[tuple[str, PartitionSpec]]


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices; these are the keys of `config.mesh`.

    Args:
      data: replicas of the parameters, each with its share of the batch; -1 means all devices that are left.
      fsdp: devices that share one replica's parameters and optimizer state, and its share of the batch.
      tensor: devices that share the work inside a layer, where the model's rules say how.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    sizes = mesh_sizes(jax.device_count(), data, fsdp, tensor)
    return jax.make_mesh(sizes, AXES, axis_types=(jax.sharding.AxisType.Auto,) * len(AXES))


def mesh_over(devices: Sequence[jax.Device], data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """Likewise over devices that may not be here."""
    sizes = mesh_sizes(len(devices), data, fsdp, tensor)
    if devices[0].platform == "cpu":
        return Mesh(np.array(devices).reshape(sizes), AXES)
    return Mesh(mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True), AXES)


def mesh_sizes(devices: int, data: int, fsdp: int, tensor: int) -> tuple[int, ...]:
    """The sizes of the axes; raises UserError unless they multiply to the number of devices."""
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(
            f"config.mesh takes positive sizes and at most one -1, not {dict(zip(AXES, sizes, strict=True))}."
        )
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if (devices % fixed) if -1 in sizes else (devices != fixed):
        raise UserError(
            f"config.mesh {dict(zip(AXES, sizes, strict=True))} multiplies to {fixed}, which "
            f"{'does not divide' if -1 in sizes else 'is not'} the number of devices, {devices}."
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts `mesh` cuts a batch."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def name_of(path: tuple[Any, ...]) -> str:
    """The readable name of a leaf, such as `params/blocks/0/mlp/up/kernel`."""
    return keystr(path, simple=True, separator="/")


def state_shardings(mesh: Mesh, state: Any, rules: Rules = ()) -> Any:
    """A sharding for every array of a train state.

    The first rule whose pattern is found in an array's name decides (optimizer state carries its parameter's name, so
    it follows the parameter); an axis that its mesh axis does not divide stays whole. Without a rule, the largest
    axis that `fsdp` divides lies along it. Carried recurrent state lies as the batch does.

    Args:
      mesh: from `make_mesh`.
      state: the train state, arrays or `ShapeDtypeStruct`s.
      rules: pairs of a regular expression and a PartitionSpec, beside each model that has them.
    """

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = name_of(path)
        if name.startswith("carry"):
            return NamedSharding(mesh, BATCH)
        spec = next((spec for pattern, spec in rules if re.search(pattern, name)), None)
        if spec is None or len(spec) > len(leaf.shape):  # factored optimizer state has fewer axes than its parameter
            return NamedSharding(mesh, fsdp_spec(leaf.shape, mesh.shape["fsdp"]))
        whole = (None,) * (len(leaf.shape) - len(spec))  # of scanned layers, the axis of layers
        axes = [
            axis if axis is None or size % mesh.shape[axis] == 0 else None
            for axis, size in zip((*whole, *spec), leaf.shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(sharding, state)


def fsdp_spec(shape: tuple[int, ...], shards: int) -> PartitionSpec:
    """Along `fsdp` the largest axis that `shards` divides (the last of equals); small or odd arrays stay whole."""
    fitting = [axis for axis, size in enumerate(shape) if size % shards == 0]
    if shards == 1 or not fitting or int(np.prod(shape)) < 4096:
        return PartitionSpec()
    best = max(fitting, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == best else None for axis in range(len(shape))))
