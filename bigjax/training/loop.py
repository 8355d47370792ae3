"""The one training loop, of every model and task."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax

from bigjax.data.loader import prefetched
from bigjax.errors import SaveError
from bigjax.parallel.processes import from_first
from bigjax.report import write_report
from bigjax.tasks.task import Batch
from bigjax.training.checkpoint import Checkpoints, params_sha256
from bigjax.training.evaluate import eval_batches, evaluate
from bigjax.training.interrupt import Interrupts
from bigjax.training.manifest import continued, manifest, read_manifest
from bigjax.training.meter import Meter
from bigjax.training.profile import Profile
from bigjax.training.progress import make_progress
from bigjax.training.setup import Experiment
from bigjax.training.sinks import make_sinks
from bigjax.training.state import TrainState, Tree
from bigjax.training.watch import Recent, Watch
from bigjax.training.workdir import Workdir


def train(experiment: Experiment, workdir: Workdir, quiet: bool = False, profile: Profile | None = None) -> TrainState:
    """A whole run, after which `workdir` holds all that a run leaves; see `fit`.

    Returns:
      The last state.
    """
    state, rows = fit(experiment, workdir, open_checkpoints(experiment, workdir), quiet, profile)
    if profile:
        step = experiment.jitted_step.lower(experiment.abstract, batch_fetcher(experiment)(0)).compile()
        workdir.write("profile.json", profile.tabulated(step.as_text() or ""))
    shown = examples(experiment, state) if jax.process_count() == 1 else {}  # where arrays are all here
    workdir.write("result.json", result(rows, state))  # last, for a run that has it is never taken up again
    if workdir.writes:
        write_report(workdir.path, shown)
    return state


def fit(
    experiment: Experiment,
    workdir: Workdir,
    checkpoints: Checkpoints,
    quiet: bool = False,
    profile: Profile | None = None,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """Trains from the newest good checkpoint, or from the beginning, to the last step.

    The loop runs ahead of an accelerator: it waits for the newest step only to log, evaluate or save.

    Returns:
      The last state, and the lines of figures.

    Raises:
      Stopped: a signal asked for it; started again, the run goes on from there.
      UserError: there are checkpoints but none can be read, or the last one could not be written.
    """
    options, splits, steps = experiment.options, experiment.dataset.splits, experiment.steps
    openers = make_sinks(options, workdir.path, experiment.config) if workdir.writes else []
    fetch = batch_fetcher(experiment)
    state, recent, rows, resumed = begin(experiment, workdir, checkpoints)
    start = int(state.step)
    if profile:
        profile.check(steps - start)
    sinks = [opened() for opened in openers]
    progress = make_progress(start, steps, quiet or not workdir.writes)
    where = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    begun = f"resuming at step {start} of {steps}" if resumed else f"{steps} steps"
    progress.message(f"{experiment.config['experiment']}: {begun} on {where}, into {workdir.path}")
    for note in (*checkpoints.set_aside, *experiment.dataset.notes):
        progress.message(note)
    meter = Meter(experiment, rows[-1]["seconds"] if rows else 0.0, experiment.step_flops())
    watch = Watch(experiment, workdir, progress.message)

    def attempt(write: Callable[[], None]) -> None:
        try:
            write()
        except SaveError as error:
            if options.on_save_error == "stop":
                raise
            progress.message(f"{error} Training goes on.")

    def log(step: int, split: str, figures: Mapping[str, float]) -> None:
        row = {"step": step, "split": split, **figures, "seconds": meter.seconds()}
        rows.append(row)
        attempt(partial(workdir.append, row))
        for sink in sinks:
            sink(row)
        progress.figures(step, split, figures, meter.seconds_left(step) if split == "train" else None)

    def due(step: int, every: int) -> bool:
        return step == steps or (every > 0 and step % every == 0)

    def measure(step: int, split: str) -> dict[str, float] | None:
        params = eval_params(experiment, state)
        metrics = evaluate(experiment, params, state.statistics, split, interrupts.goes_on)
        if metrics is not None:  # None where a signal came
            log(step, split, metrics)
        return metrics

    with Interrupts(options.stall_seconds) as interrupts:
        try:
            step, end = start, steps
            if resumed and "validation" in splits and due(start, options.eval_every) and not evaluated(rows, start):
                # A signal came in the middle of it. Where one comes again the step is not left.
                end = start if measure(start, "validation") is None else steps
            batches = prefetched(fetch, start, end, options.loader_workers)
            for step, batch in enumerate(profile.over(batches) if profile else batches, start + 1):
                if step == start + 1:
                    experiment.compile_step(state, batch)
                state, sums = experiment.train_step(state, batch)
                recent.append(sums)
                progress.step(step)
                if step == start + 1:
                    jax.block_until_ready(sums)
                    meter.restart(uncounted=len(recent))
                stops = not interrupts.goes_on()
                saves = due(step, options.checkpoint_every)
                logs = due(step, options.log_every) or saves  # so that a resumed run logs the same figures
                evaluates = "validation" in splits and due(step, options.eval_every)
                if watch.sees_bad(step, sums, now=logs or evaluates or stops):  # nothing else may be saved
                    attempt(partial(checkpoints.check, wait=True))
                    state, recent = watch.mend(state, recent, step, checkpoints)
                if logs and recent:
                    log(step, "train", meter.figures(recent, step))
                    recent = []
                with meter.paused():
                    metrics = measure(step, "validation") if evaluates else None
                    stops |= evaluates and metrics is None
                    attempt(partial(checkpoints.check, wait=saves or stops))
                    if saves or stops:
                        checkpoints.save(state, metrics, recent)
                if stops:
                    break
            if interrupts.goes_on() and "test" in splits:
                measure(steps, "test")
        finally:
            progress.close()
            checkpoints.close()
        interrupts.obey(step)
    return state, rows


def begin(
    experiment: Experiment, workdir: Workdir, checkpoints: Checkpoints
) -> tuple[TrainState, Recent, list[dict[str, Any]], bool]:
    """What training begins with; `workdir` then says what runs in it.

    Returns:
      The newest good state or, where there is none, the first; the sums of the steps since the last line of figures;
      the lines up to there; and whether it is a run that goes on.
    """
    recorded, files = manifest(experiment), dict(experiment.dataset.files)
    restored = checkpoints.restore_newest(experiment.abstract)
    if restored:
        state, recent = restored
        recorded = continued(from_first(lambda: read_manifest(workdir)), recorded, int(state.step))
    else:
        state, recent = experiment.initial_state(), []
        recorded |= {"config": experiment.config, "initial_sha256": params_sha256(state.params)}
        files |= experiment.documents()
    workdir.begin(experiment.config, recorded, files)
    return state, recent, from_first(lambda: workdir.keep_rows(int(state.step))), restored is not None


def evaluated(rows: list[dict[str, Any]], step: int) -> bool:
    """Whether the validation figures of `step` are logged."""
    return any(row["step"] == step and row["split"] == "validation" for row in rows)


def open_checkpoints(experiment: Experiment, workdir: Workdir) -> Checkpoints:
    """The run's checkpoints."""
    task = experiment.task
    keep = experiment.options.keep_checkpoints
    return Checkpoints(workdir.checkpoints, keep, task.main_metric, task.higher_is_better)


def batch_fetcher(experiment: Experiment) -> Callable[[int], Batch]:
    """A function from a step to its training batch on the devices."""
    split, batch_size = experiment.dataset.splits["train"], experiment.options.batch_size
    seed, rows = experiment.config["seed"], experiment.rows(batch_size)
    return lambda step: experiment.to_devices(split.train_batch(seed, step, batch_size, rows), batch_size)


def eval_params(experiment: Experiment, state: TrainState) -> Tree:
    """The parameters that evaluation uses: their moving average where there is one."""
    return state.params if experiment.program.ema_decay is None else state.ema


def examples(experiment: Experiment, state: TrainState) -> dict[str, Any]:
    """What the report shows of the trained model, on the split that was held out longest."""
    split = next(s for s in ("test", "validation", "train") if s in experiment.dataset.splits)
    model = experiment.model(eval_params(experiment, state), state.statistics)
    info = {**experiment.dataset.info, "references": experiment.dataset.splits[split].references}
    return experiment.task.examples(model, eval_batches(experiment, split), info)


def result(rows: list[dict[str, Any]], state: TrainState) -> dict[str, Any]:
    """The content of result.json: the last figures of each split, and a hash of the parameters."""
    metrics = {row["split"]: {k: v for k, v in row.items() if k not in ("step", "split", "seconds")} for row in rows}
    return {
        "status": "completed",
        "step": int(state.step),
        "metrics": metrics,
        "params_sha256": params_sha256(state.params),
        "wall_seconds": rows[-1]["seconds"] if rows else 0.0,
    }
