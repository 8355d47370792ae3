"""What models are compiled for: a kind of device, and a mesh of them."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from jax.sharding import PartitionSpec as P

ROWS = ("data", "fsdp", "expert")  # the axes of the mesh that share a batch
_compiled_for: list[jax.Device] = []


def target() -> jax.Device:
    """A device of those here or, within `compiling_for`, of others."""
    return _compiled_for[-1] if _compiled_for else jax.devices()[0]


def platform() -> str:
    """ "cpu", "gpu" or "tpu": that of the target."""
    return target().platform


@contextmanager
def compiling_for(device: jax.Device) -> Iterator[None]:
    """What is traced inside is for devices like this one, which need not be here."""
    _compiled_for.append(device)
    try:
        yield
    finally:
        _compiled_for.pop()


def over_batch(x: jax.Array) -> jax.Array:
    """[B, ...] with its rows along the mesh's axes `data`, `fsdp` and `expert`, where there is a mesh.

    Else the compiler may prefer to gather the rows, and to compute like tensor parallelism with what `fsdp` cuts of
    the parameters.
    """
    return laid(x, P(ROWS))


def over_positions(x: jax.Array) -> jax.Array:
    """[B, T, ...] likewise, and its positions along `sequence` where that divides them."""
    return laid(x, P(ROWS, "sequence" if x.shape[1] % axis_size("sequence") == 0 else None))


def axis_size(axis: str) -> int:
    """How many devices lie along an axis of the mesh; 1 without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else int(mesh.shape[axis])


def replicated(x: jax.Array) -> jax.Array:
    """The array whole on every device, as for a loop that would gather it at every turn."""
    return laid(x, P())


def laid(x: jax.Array, spec: P) -> jax.Array:
    """The array as `spec` says, within a mesh of more than one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty or mesh.size == 1 else jax.lax.with_sharding_constraint(x, spec)
