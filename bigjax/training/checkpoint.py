"""Checkpoints that are written while training goes on, and whose every array is checked when it is read."""

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bigjax.errors import SaveError, UserError, first_line
from bigjax.parallel.mesh import name_of
from bigjax.parallel.processes import from_first, host_pieces, together
from bigjax.training.state import TrainState, Tree

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file it touches


class Checkpoints:
    """What a run writes: its last `keep` checkpoints, and the best by the task's main metric.

    Opening clears away what a killed process left half-written, so only the process that trains may do it. A folder
    that never became whole is set aside into `damaged/`, beside the checkpoints, where nothing looks for it.

    Args:
      directory: where each step has a folder.
      keep: how many of the newest stay.
      metric: which figure of the metrics given to `save` tells the best.
      higher_is_better: whether more of it is better.
      many_files: writes each array by itself; otherwise few large files, which take memory until they are whole.

    Raises:
      UserError: the directory cannot be made or written.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 1,
        metric: str = "loss",
        higher_is_better: bool = False,
        many_files: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        self.set_aside: list[str] = []  # what was, and why
        self.damaged = self.directory.parent / "damaged"
        from_first(self.tidy)
        self.context = ocp.Context()
        if many_files:
            saving = self.context.array.saving
            saving.use_ocdbt = saving.use_zarr3 = False
            saving.storage_options.chunk_byte_size = 2**26
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            n=1,
            get_metric_fn=lambda metrics: metrics[metric] if higher_is_better else -metrics[metric],
            keep_checkpoints_without_metrics=False,
        )
        self.opened = partial(
            ocp.training.Checkpointer,
            self.directory,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        self.orbax = self.opened()
        # Hashing and writing take a thread of their own, so that training waits for neither.
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.writing: tuple[int, Future[None]] | None = None

    def tidy(self) -> None:
        """Makes the directory, and sets aside what in it is not whole."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.directory} cannot be written: {error.strerror or error}.") from error
        whole = saved_steps(self.directory)
        for path in self.directory.iterdir():
            if path.name.isdecimal() and int(path.name) not in whole:
                self.move_away(path, "it is not whole")

    def save(self, state: TrainState, metrics: Mapping[str, float] | None, recent: Sequence[Mapping] = ()) -> None:
        """Begins to write `state`, and returns when its arrays are copied.

        Where there are several processes hashes are made before it returns, as they all must take part at once.

        Args:
          state: what is saved.
          metrics: of the same step, or None.
          recent: the sums of the steps that no line of figures has told of yet; a resumed run goes on with them.
        """
        step = int(state.step)
        sums = [{key: value.tolist() for key, value in one.items()} for one in jax.device_get(list(recent))]
        figures = dict(metrics) if metrics else None

        def write(copied: TrainState) -> None:
            noted = {"sha256": hashes(copied), "recent": sums}
            with self.context:
                self.orbax.save(step, copied, metrics=figures, custom_metadata=noted)

        if jax.process_count() == 1:
            copied = jax.tree.map(np.array, state)  # the next step gives these arrays away
            self.writing = step, self.thread.submit(write, copied)
            return
        noted = {"sha256": hashes(state), "recent": sums}
        with self.context:
            response = self.orbax.save_async(step, state, metrics=figures, custom_metadata=noted)
        self.writing = step, self.thread.submit(response.result)

    def check(self, wait: bool = False) -> None:
        """Raises SaveError, once, if the write that was under way has failed; costs nothing while it goes on.

        Args:
          wait: until it is over.
        """
        if self.writing is None or not (wait or self.writing[1].done()):
            return
        (step, write), self.writing = self.writing, None
        try:
            write.result()
        except Exception as error:  # Orbax has no common class for what a full disk or a lost folder raises
            # Begun anew it clears away what only fills the disk, knows again of the checkpoint that this one was to
            # replace, and does not raise the same at the next write.
            with contextlib.suppress(Exception):
                self.orbax.close()
            self.orbax = self.opened()
            raise not_saved(step, error) from error

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, list[Mapping[str, Any]]] | None:
        """The newest state that is what was written, and its `recent`; None where there is no checkpoint.

        Newer ones that are damaged are set aside. Where none can be read all stay where they are, for the reason may be
        another one, such as too little memory.

        Args:
          abstract: ShapeDtypeStructs with shardings, as which the state is laid out.

        Raises:
          UserError: there are checkpoints, or were, but none can be read.
        """
        unreadable: list[tuple[Path, str]] = []
        for step in reversed(saved_steps(self.directory)):
            path = self.directory / str(step)
            try:
                state, metadata = read(path, lambda _: abstract)
            except UserError as error:
                unreadable.append((path, str(error)))
                continue
            for bad, reason in unreadable:
                from_first(partial(self.move_away, bad, reason))
                self.orbax.reload()
            return state, [{k: np.float32(v) for k, v in one.items()} for one in metadata.get("recent", ())]
        if unreadable or self.damaged.exists():
            reason = unreadable[0][1] if unreadable else f"all that there were are in {self.damaged}."
            raise UserError(
                f"No checkpoint in {self.directory} can be read: {reason} Nothing was deleted; choose another "
                "--workdir to begin again."
            )
        return None

    def move_away(self, path: Path, reason: str) -> None:
        """Sets a checkpoint aside and notes why; raises SaveError where it cannot be moved."""
        number = 0
        while (to := self.damaged / f"{path.name}-{number}").exists():
            number += 1
        try:
            self.damaged.mkdir(exist_ok=True)
            path.rename(to)
        except OSError as error:
            raise SaveError(f"{path} is damaged and cannot be moved to {to}: {error.strerror or error}.") from error
        self.set_aside.append(f"checkpoint {path.name} was set aside in {self.damaged}: {reason.rstrip('.')}.")

    def close(self) -> None:
        """Waits until everything is written; raises SaveError where that fails."""
        try:
            self.check(wait=True)
        finally:
            self.thread.shutdown()
            with contextlib.suppress(Exception):  # told already
                self.orbax.close()


def not_saved(step: int, error: Exception) -> SaveError:
    """What to tell where a checkpoint could not be written."""
    return SaveError(f"Checkpoint {step} could not be written ({first_line(error)}); the older ones are intact.")


def saved_steps(directory: Path) -> list[int]:
    """The steps whose checkpoints were written to their end, oldest first."""
    marked = directory.glob("*/commit_success.txt") if directory.is_dir() else ()
    return sorted(int(mark.parent.name) for mark in marked if mark.parent.name.isdecimal())


def newest_weights(workdir: Path) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """A run's weights to use its model with (their moving average where there is one) and its statistics, by name.

    They are of the newest checkpoint that is not damaged, which a warning says. Nothing else is read, and all of it is
    put on the first device.

    Raises:
      UserError: there is no checkpoint, or none that can be read.
    """
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def described(tree: Tree) -> Tree:
        return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), tree)

    def wanted(metadata: dict[str, Tree]) -> dict[str, Tree]:
        weights = "ema" if metadata["ema"] else "params"
        skipped = {part: jax.tree.map(lambda _: ocp.PLACEHOLDER, tree) for part, tree in metadata.items()}
        return skipped | {part: described(metadata[part]) for part in (weights, "statistics")}

    steps = saved_steps(workdir / "checkpoints")
    if not steps:
        raise UserError(f"{workdir} has no checkpoint yet.")
    for step in reversed(steps):
        try:
            state, _ = read(workdir / "checkpoints" / str(step), wanted)
        except UserError as error:
            if step == steps[0]:
                raise
            warnings.warn(f"{error} An older checkpoint is used.", stacklevel=2)
            continue
        break
    return flatten(state["ema"] or state["params"]), flatten(state["statistics"])


def recorded_hashes(directory: Path, step: int) -> dict[str, str] | None:
    """The sha256 of each array as it was written, by name; None where the checkpoint does not say."""
    try:
        return ocp.metadata((directory / str(step)).absolute()).custom_metadata["sha256"]
    except Exception:  # as in `read`
        return None


def read(path: Path, wanted: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """What `wanted` asks of the checkpoint in `path`, given its metadata, and what was noted with it.

    Raises:
      UserError: it cannot be read, or an array is not what was written.
    """
    where = f"Checkpoint {path.name} in {path.parent}"

    def load() -> tuple[Any, dict[str, Any], dict[str, str]]:
        try:
            metadata = ocp.metadata(path.absolute())
            state = ocp.load(path.absolute(), wanted(metadata.metadata))
            return state, metadata.custom_metadata, metadata.custom_metadata["sha256"]
        except Exception as error:  # Orbax has no common class for what a damaged folder raises
            raise UserError(f"{where} cannot be read: {first_line(error)}.") from error

    state, noted, written = together(load)
    found = hashes(jax.tree.map(lambda leaf: None if leaf is ocp.PLACEHOLDER else leaf, state))
    if damaged := sorted(name for name in found if written.get(name) != found[name]):
        raise UserError(f"{where} is damaged: array {damaged[0]} is not what was written.")
    return state, noted


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by readable name, such as `blocks/0/mlp/up/kernel`."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def hashes(tree: Tree) -> dict[str, str]:
    """The sha256 of each array's bytes, by name."""
    return {name: hashed(hashlib.sha256(), leaf).hexdigest() for name, leaf in flatten(tree).items()}


def hashed(digest: Any, array: jax.Array) -> Any:
    """A digest, given the bytes of an array in row-major order."""
    for part in host_pieces(array):
        digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return digest


def params_sha256(params: Tree) -> str:
    """One sha256 over all parameters' names, dtypes, shapes and bytes, in sorted order of names."""
    digest = hashlib.sha256()
    for name, array in sorted(flatten(params).items()):
        digest.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
        hashed(digest, array)
    return digest.hexdigest()
