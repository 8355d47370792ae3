"""A run over several processes: how they find each other, and how they agree."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_leaves_with_path

from bigjax.errors import UserError, first_line
from bigjax.launch import launched_together

T = TypeVar("T")
SILENT_SECONDS = 30  # after which a process that says nothing counts as dead, and all others end
PIECE_BYTES = 2**26


def connect(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Joins the other processes of a run, where there are any; must come before the first use of a device.

    Without arguments they are found by JAX where one of these has started them: Slurm (srun), Open MPI (mpirun), an
    indexed Kubernetes job (JobSet, with the package `kubernetes`), a Cloud TPU slice.

    Args:
      coordinator: HOST:PORT on the machine of process 0.
      processes: how many there are.
      process: which this is, from 0.

    Raises:
      UserError: they cannot be found.
    """
    given = (coordinator, processes, process)
    if given == (None, None, None) and not launched_together():
        return
    if None in given and given != (None, None, None):
        raise UserError("--coordinator, --processes and --process come together, or none of them.")
    if processes is not None and not 0 <= (process or 0) < processes:
        raise UserError(f"--process counts from 0 to {processes - 1} of --processes={processes}, not {process}.")
    try:
        jax.distributed.initialize(
            *given, heartbeat_timeout_seconds=SILENT_SECONDS, shutdown_timeout_seconds=SILENT_SECONDS
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"The other processes of the run cannot be reached ({error}); --coordinator=HOST:PORT, --processes=N and "
            "--process=I say where they are."
        ) from error


def everywhere(text: str) -> list[str]:
    """What each process gives, in order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    mine = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(mine.size)).ravel()
    padded = np.zeros(max(1, sizes.max()), np.uint8)
    padded[: mine.size] = mine
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def together(do: Callable[[], T]) -> T:
    """What `do` gives, once it has worked in every process: else all raise the UserError of the first that failed."""
    failure: UserError | None = None
    try:
        value = do()
    except UserError as error:
        failure = error
    told = everywhere(str(failure or ""))
    if failure:
        raise failure
    for number, text in enumerate(told):
        if text:
            raise UserError(f"Process {number}: {text}")
    return value


def from_first(do: Callable[[], T]) -> T:
    """What `do` gives in process 0, where alone it is called; it can be written as JSON.

    Raises:
      UserError: in all processes, where it does in that one.
    """
    if jax.process_count() == 1:
        return do()
    return json.loads(everywhere(together(lambda: json.dumps(do()) if jax.process_index() == 0 else ""))[0])


def check_alike(what: str, mine: Mapping[str, Any]) -> None:
    """Raises UserError, in all processes, unless they all have what process 0 has, which can be written as JSON."""
    first, *others = (
        {keystr(path, simple=True, separator="."): leaf for path, leaf in tree_leaves_with_path(json.loads(text))}
        for text in everywhere(json.dumps(mine))
    )
    for number, other in enumerate(others, 1):
        if different := [key for key in sorted(first | other) if first.get(key) != other.get(key)]:
            parts = [f"{what}.{key} is {other.get(key)!r}, not {first.get(key)!r}" for key in different]
            raise UserError(f"Process {number} has not what process 0 has: {'; '.join(parts)}.")


@contextmanager
def dependent_on_others() -> Iterator[None]:
    """Raises UserError where JAX's runtime has failed because another process is not there any more."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise UserError(
            f"Another process of the run has ended ({first_line(error)}). The same command in all of them "
            "goes on from the newest checkpoint."
        ) from error


class Agreement:
    """Whether any process says yes, the same answer in all and without waiting for the device: that of two calls ago.

    All must ask equally often. A process that is alone is told at once.
    """

    def __init__(self) -> None:
        devices = np.array(jax.devices())
        self.sharding = NamedSharding(Mesh(devices, "all"), PartitionSpec("all"))
        whole = NamedSharding(self.sharding.mesh, PartitionSpec())
        self.any = jax.jit(jnp.any, out_shardings=whole)
        self.asked: deque[jax.Array] = deque()

    def __call__(self, mine: bool) -> bool:
        """What all agree on, where this process says `mine`."""
        if jax.process_count() == 1:
            return mine
        flags = np.full(jax.local_device_count(), mine)
        self.asked.append(self.any(jax.make_array_from_process_local_data(self.sharding, flags)))
        return len(self.asked) > 2 and bool(self.asked.popleft())


def host_pieces(array: Any) -> Iterator[np.ndarray]:
    """An array in the host's memory, in pieces one after the other along its first axis.

    One that other processes hold a part of comes in pieces of `PIECE_BYTES`, which all gather, so that none needs room
    for all of it; all must call it.
    """
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        yield np.asarray(array)
        return
    whole = NamedSharding(array.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
    rows = max(1, PIECE_BYTES * array.shape[0] // array.nbytes)
    for start in range(0, array.shape[0], rows):
        yield np.asarray(piece(array, np.int32(start), min(rows, array.shape[0] - start), whole))


@partial(jax.jit, static_argnames=("size", "sharding"))
def piece(array: jax.Array, start: int, size: int, sharding: NamedSharding) -> jax.Array:
    """Rows of an array, laid as `sharding` says."""
    return jax.lax.with_sharding_constraint(jax.lax.dynamic_slice_in_dim(array, start, size), sharding)
