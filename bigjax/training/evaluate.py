"""Metrics over a whole split."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from bigjax.data.loader import prefetched
from bigjax.parallel.mesh import batch_shards
from bigjax.tasks.task import Batch, Sums
from bigjax.training.setup import Experiment
from bigjax.training.state import Tree

AHEAD = 8  # steps that may wait for the device; each holds its batch in memory


def eval_batches(experiment: Experiment, split: str) -> Iterator[Batch]:
    """Every example of a split once, on the devices; rows that fill up the last batch have zero weight."""
    examples = experiment.dataset.splits[split]
    options = experiment.options
    wanted = examples.eval_batch_size(options.eval_batch_size or options.batch_size)
    unit = batch_shards(experiment.mesh)
    batch_size = -(-wanted // unit) * unit
    rows = experiment.rows(batch_size)
    yield from prefetched(
        lambda index: experiment.to_devices(examples.eval_batch(index, batch_size, rows), batch_size),
        0,
        examples.eval_batches(batch_size),
        options.loader_workers,
    )


def evaluate(
    experiment: Experiment, params: Tree, statistics: Tree, split: str, goes_on: Callable[[], bool] = lambda: True
) -> dict[str, float] | None:
    """The task's metrics over all of a split, exact whatever the batch size and the number of devices.

    Args:
      goes_on: asked before each batch; where it says no, None is returned.
    """
    collected: list[Sums] = []
    outputs: dict[int, dict[str, np.ndarray]] = {}
    carry = None
    for number, batch in enumerate(eval_batches(experiment, split)):
        if not goes_on():
            return None
        if number == 0:
            carry = experiment.initial_carry(params, statistics, batch)
        sums, carry, rows = experiment.eval_step(params, statistics, carry, batch)
        collected.append(sums)
        if rows:
            outputs |= by_example(batch["index"], rows)
        if len(collected) > AHEAD:
            jax.block_until_ready(collected[-AHEAD])
    # In float64, so that the figure does not depend on how many batches the split came in.
    totals = jax.tree.map(lambda *parts: np.sum(parts, 0, np.float64).tolist(), *jax.device_get(collected))
    figures = experiment.task.metrics(totals)
    if outputs:
        figures |= experiment.task.score(outputs, experiment.dataset.splits[split].references)
    return figures


def by_example(index: jax.Array, rows: dict[str, jax.Array]) -> dict[int, dict[str, np.ndarray]]:
    """Leaves [B, ...] row by row, by the number in `index`, int32 [B]; those with a negative number are left out."""
    if jax.process_count() > 1:
        index, rows = multihost_utils.process_allgather((index, rows), tiled=True)
    numbers, leaves = jax.device_get((index, rows))
    return {int(i): {key: leaf[row] for key, leaf in leaves.items()} for row, i in enumerate(numbers) if i >= 0}
