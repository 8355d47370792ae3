"""Checkpoints that are written while training goes on, and whose every array is checked when it is read."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bigjax.errors import UserError
from bigjax.parallel.mesh import name_of
from bigjax.training.state import TrainState, Tree

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells of every file it touches


class Checkpoints:
    """The checkpoints of one run: the last `keep`, and the best by the task's main metric.

    Args:
      directory: where each step has a folder.
      keep: how many of the newest stay.
      metric: which figure of the metrics given to `save` tells the best.
      higher_is_better: whether more of it is better.
      many_files: writes each array by itself; otherwise few large files, which take memory until they are whole.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 1,
        metric: str = "loss",
        higher_is_better: bool = False,
        many_files: bool = False,
    ) -> None:
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
        self.orbax = ocp.training.Checkpointer(
            directory.absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )

    def steps(self) -> list[int]:
        """The steps that there are, oldest first."""
        return [int(checkpoint.step) for checkpoint in self.orbax.checkpoints]

    def save(self, state: TrainState, metrics: Mapping[str, float] | None) -> None:
        """Begins to write `state`; returns when the arrays are copied. `metrics` are of the same step, or None."""
        with self.context:
            self.orbax.save_async(
                int(state.step),
                state,
                metrics=dict(metrics) if metrics else None,
                custom_metadata={"sha256": hashes(state)},
            )

    def restore(self, abstract: TrainState, step: int) -> TrainState:
        """The state of `step`, laid out as `abstract` (ShapeDtypeStructs with shardings) says.

        Raises:
          UserError: the checkpoint cannot be read, or an array is not what was written.
        """
        return self.load(step, lambda metadata: abstract)

    def restore_weights(self, step: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """The weights to use the model with (their moving average where there is one) and the statistics, by name.

        Nothing else is read, and all of it is put on the first device.
        """
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def described(tree: Tree) -> Tree:
            return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=here), tree)

        def wanted(metadata: dict[str, Tree]) -> dict[str, Tree]:
            weights = "ema" if metadata["ema"] else "params"
            skipped = {part: jax.tree.map(lambda _: ocp.PLACEHOLDER, tree) for part, tree in metadata.items()}
            return skipped | {part: described(metadata[part]) for part in (weights, "statistics")}

        state = self.load(step, wanted)
        return flatten(state["ema"] or state["params"]), flatten(state["statistics"])

    def load(self, step: int, wanted: Callable[[Any], Any]) -> Any:
        """What `wanted` asks for, given the checkpoint's metadata; every array is checked against its hash."""
        where = f"checkpoint {step} in {self.orbax.directory}"
        try:
            metadata = self.orbax.metadata(step)
            state = self.orbax.load(step, wanted(metadata.metadata))
            written = metadata.custom_metadata["sha256"]
        except Exception as error:  # Orbax has no common class for what a damaged folder raises
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"Cannot read {where}: {reason}") from error
        read = hashes(jax.tree.map(lambda leaf: None if leaf is ocp.PLACEHOLDER else leaf, state))
        if damaged := sorted(name for name in read if written.get(name) != read[name]):
            raise UserError(f"{where} is damaged: array {damaged[0]} is not what was written.")
        return state

    def close(self) -> None:
        """Waits until everything is written."""
        self.orbax.close()


def flatten(tree: Tree) -> dict[str, Any]:
    """The leaves of a tree by readable name, such as `blocks/0/mlp/up/kernel`."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def hashes(tree: Tree) -> dict[str, str]:
    """The sha256 of each array's bytes, by name."""
    return {name: hashlib.sha256(host_bytes(leaf)).hexdigest() for name, leaf in flatten(tree).items()}


def host_bytes(array: jax.Array) -> memoryview:
    """The bytes of an array, in row-major order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def params_sha256(params: Tree) -> str:
    """One sha256 over all parameters' names, dtypes, shapes and bytes, in sorted order of names."""
    digest = hashlib.sha256()
    for name, array in sorted(flatten(params).items()):
        digest.update(f"{name} {array.dtype} {tuple(array.shape)} ".encode())
        digest.update(host_bytes(array))
    return digest.hexdigest()
