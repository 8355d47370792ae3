"""The one training loop, of every model and task."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax

from bigjax.data.loader import prefetched
from bigjax.report import write_report
from bigjax.tasks.task import Batch, Sums
from bigjax.training.checkpoint import Checkpoints, params_sha256
from bigjax.training.evaluate import AHEAD, eval_batches, evaluate
from bigjax.training.flops import count_flops
from bigjax.training.manifest import manifest
from bigjax.training.meter import Meter
from bigjax.training.progress import make_progress
from bigjax.training.setup import Experiment
from bigjax.training.sinks import make_sinks
from bigjax.training.state import TrainState, Tree
from bigjax.training.workdir import Workdir


def train(experiment: Experiment, workdir: Workdir, quiet: bool = False) -> TrainState:
    """Trains from the newest checkpoint in `workdir`, or from the beginning, to the last step.

    The loop runs ahead of the device: it waits for the newest step only to log, evaluate or save.

    Returns:
      The last state; `workdir` holds all that a run leaves.
    """
    options, splits, steps = experiment.options, experiment.dataset.splits, experiment.steps
    sinks = make_sinks(options, workdir.path, experiment.config)
    fetch = batch_fetcher(experiment)
    flops = count_flops(experiment.train_step.trace(experiment.abstract, fetch(0)).jaxpr)
    checkpoints = open_checkpoints(experiment, workdir)
    start = max(checkpoints.steps(), default=0)
    state = checkpoints.restore(experiment.abstract, start) if start else experiment.initial_state()
    files = {**experiment.dataset.files, "data.json": remembered(experiment.dataset.info)}
    if not start:
        files |= experiment.documents()
    workdir.begin(experiment.config, manifest(experiment), files)
    rows = workdir.keep_rows(start)
    progress = make_progress(start, steps, quiet)
    where = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    begun = f"resuming at step {start} of {steps}" if start else f"{steps} steps"
    progress.message(f"{experiment.config['experiment']}: {begun} on {where}, into {workdir.path}")
    for note in experiment.dataset.notes:
        progress.message(note)
    meter = Meter(experiment, rows[-1]["seconds"] if rows else 0.0, flops)

    def log(step: int, split: str, figures: Mapping[str, float]) -> None:
        row = {"step": step, "split": split, **figures, "seconds": meter.seconds()}
        rows.append(row)
        workdir.append(row)
        for sink in sinks:
            sink(row)
        progress.figures(step, split, figures, meter.seconds_left(step) if split == "train" else None)

    def due(step: int, every: int) -> bool:
        return step == steps or (every > 0 and step % every == 0)

    recent: list[Sums] = []
    try:
        for step, batch in enumerate(prefetched(fetch, start, steps, options.loader_workers), start + 1):
            state, sums = experiment.train_step(state, batch)
            recent.append(sums)
            progress.step(step)
            if step == start + 1:
                jax.block_until_ready(sums)
                meter.restart(uncounted=1)
            elif len(recent) > AHEAD:
                jax.block_until_ready(recent[-AHEAD])
            # What a checkpoint's step ends is logged too: a resumed run then logs the same figures.
            if due(step, options.log_every) or due(step, options.checkpoint_every):
                log(step, "train", meter.figures(recent, step))
                recent = []
            with meter.paused():
                metrics = None
                if "validation" in splits and due(step, options.eval_every):
                    metrics = evaluate(experiment, eval_params(experiment, state), state.statistics, "validation")
                    log(step, "validation", metrics)
                if due(step, options.checkpoint_every):
                    checkpoints.save(state, metrics)
        if "test" in splits:
            log(steps, "test", evaluate(experiment, eval_params(experiment, state), state.statistics, "test"))
    finally:
        progress.close()
        checkpoints.close()
    workdir.write("result.json", result(rows, state, meter.seconds()))
    shown = examples(experiment, state)
    if workdir.writes:
        write_report(workdir.path, shown)
    return state


def open_checkpoints(experiment: Experiment, workdir: Workdir) -> Checkpoints:
    """The run's checkpoints."""
    task = experiment.task
    keep = experiment.options.keep_checkpoints
    return Checkpoints(workdir.checkpoints, keep, task.main_metric, task.higher_is_better)


def batch_fetcher(experiment: Experiment) -> Callable[[int], Batch]:
    """A function from a step to its training batch on the devices."""
    split, batch_size = experiment.dataset.splits["train"], experiment.options.batch_size
    seed, rows = experiment.config["seed"], experiment.rows(batch_size)
    return lambda step: experiment.to_devices(split.train_batch(seed, step, batch_size, rows))


def remembered(info: Mapping[str, Any]) -> str:
    """What the data say of themselves as JSON, for prediction without them."""
    return json.dumps({key: value for key, value in info.items() if not callable(value)}, indent=2) + "\n"


def eval_params(experiment: Experiment, state: TrainState) -> Tree:
    """The parameters that evaluation uses: their moving average where there is one."""
    return state.params if experiment.program.ema_decay is None else state.ema


def examples(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What the report shows of the trained model, on the split that was held out longest."""
    split = next(s for s in ("test", "validation", "train") if s in experiment.dataset.splits)
    model = experiment.model(eval_params(experiment, state), state.statistics)
    return experiment.task.examples(model, eval_batches(experiment, split), experiment.dataset.info)


def result(rows: list[dict[str, Any]], state: TrainState, seconds: float) -> dict[str, Any]:
    """The content of result.json: the last figures of each split, and a hash of the parameters."""
    metrics = {row["split"]: {k: v for k, v in row.items() if k not in ("step", "split", "seconds")} for row in rows}
    return {
        "status": "completed",
        "step": int(state.step),
        "metrics": metrics,
        "params_sha256": params_sha256(state.params),
        "wall_seconds": seconds,
    }
