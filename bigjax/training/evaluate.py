"""Metrics over a whole split."""

from collections.abc import Iterator

import jax
import numpy as np

from bigjax.data.loader import prefetched
from bigjax.parallel.mesh import batch_shards
from bigjax.tasks.task import Batch
from bigjax.training.setup import Experiment
from bigjax.training.state import Tree

AHEAD = 8  # steps that may wait for the device; each holds its batch in memory


def eval_batches(experiment: Experiment, split: str) -> Iterator[Batch]:
    """Every example of a split once, on the devices; rows that fill up the last batch have zero weight."""
    examples = experiment.dataset.splits[split]
    options = experiment.options
    wanted = examples.eval_batch_size(options.eval_batch_size or options.batch_size)
    unit = int(np.lcm(batch_shards(experiment.mesh), jax.process_count()))
    batch_size = -(-wanted // unit) * unit
    rows = experiment.rows(batch_size)
    yield from prefetched(
        lambda index: experiment.to_devices(examples.eval_batch(index, batch_size, rows)),
        0,
        examples.eval_batches(batch_size),
        options.loader_workers,
    )


def evaluate(experiment: Experiment, params: Tree, statistics: Tree, split: str) -> dict[str, float]:
    """The task's metrics over all of a split, exact whatever the batch size and the number of devices."""
    collected = []
    carry = None
    for index, batch in enumerate(eval_batches(experiment, split)):
        if index == 0:
            carry = experiment.task.initial_carry(experiment.model(params, statistics), batch)
        sums, carry = experiment.eval_step(params, statistics, carry, batch)
        collected.append(sums)
        if len(collected) > AHEAD:
            jax.block_until_ready(collected[-AHEAD])
    # In float64, so that the figure does not depend on how many batches the split came in.
    totals = jax.tree.map(lambda *parts: float(np.sum(parts, dtype=np.float64)), *jax.device_get(collected))
    return experiment.task.metrics(totals)
