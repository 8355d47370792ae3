"""What becomes of steps whose loss or gradient is not finite: `config.train.on_nonfinite`."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from bigjax.errors import UserError, first_line
from bigjax.tasks.task import Sums
from bigjax.training.checkpoint import Checkpoints
from bigjax.training.evaluate import AHEAD
from bigjax.training.nonfinite import diagnose
from bigjax.training.setup import Experiment
from bigjax.training.state import TrainState
from bigjax.training.workdir import Workdir

Recent = list[Mapping[str, Any]]


class Watch:
    """Looks at each step's "bad" when the device has come that far.

    Args:
      experiment: what runs.
      workdir: where a halt leaves `nonfinite.json`.
      tell: shows a sentence.
    """

    def __init__(self, experiment: Experiment, workdir: Workdir, tell: Callable[[str], None]) -> None:
        self.experiment, self.workdir, self.tell = experiment, workdir, tell
        self.pending: deque[tuple[int, jax.Array]] = deque()
        self.first_bad: int | None = None
        self.rollbacks = 0

    def sees_bad(self, step: int, sums: Sums, now: bool) -> bool:
        """Notes a step; waits for it (`now`), or for the one `AHEAD` steps before, and says whether any was bad."""
        self.pending.append((step, sums["bad"]))
        while self.pending and (now or len(self.pending) > AHEAD):
            number, bad = self.pending.popleft()
            if float(bad) and self.first_bad is None:
                self.first_bad = number
        return self.first_bad is not None

    def mend(self, state: TrainState, recent: Recent, step: int, checkpoints: Checkpoints) -> tuple[TrainState, Recent]:
        """What training goes on with after `step`, and the sums that are still to be logged.

        No checkpoint may be on its way.

        Raises:
          UserError: the run halts.
        """
        options, bad = self.experiment.options, self.first_bad
        self.first_bad = None
        if options.on_nonfinite == "skip" and int(state.bad) <= options.max_nonfinite:
            self.tell(f"step {bad} is not finite and was skipped, {int(state.bad)} so far")
            return state, recent
        goes_back = options.on_nonfinite == "rollback" and self.rollbacks < options.max_nonfinite
        if goes_back and (restored := checkpoints.restore_newest(self.experiment.abstract)) is not None:
            self.rollbacks += 1
            self.pending.clear()
            old, _ = restored
            self.tell(f"step {bad} is not finite: back to step {int(old.step)}, and the data up to {step} are left out")
            # The number of the step, and with it data and randomness, goes on.
            return old._replace(step=jax.device_put(np.int32(step), old.step.sharding)), []
        raise UserError(self.halt(state, bad or step))

    def halt(self, state: TrainState, bad: int) -> str:
        """Writes `nonfinite.json` about step `bad`; returns what to tell."""
        experiment = self.experiment
        split, batch_size = experiment.dataset.splits["train"], experiment.options.batch_size
        local = split.train_batch(experiment.config["seed"], bad - 1, batch_size, experiment.rows(batch_size))
        # A state that skips has moved on, the others are as they were before the step.
        try:
            found = diagnose(experiment.program, state, experiment.to_devices(local, batch_size))
        except Exception as error:  # it is a help; that it fails must not hide what happened
            found = {"parameters": [], "batch": [], "diagnosis": f"failed: {first_line(error)}"}
        examples = split.train_examples(experiment.config["seed"], bad - 1, batch_size)
        report = {"step": bad, "seed": experiment.config["seed"], "examples": examples.tolist(), **found}
        self.workdir.write("nonfinite.json", report)
        origin = ""
        if first := found.get("first"):
            layer = f" of {first['layer']}" if first["layer"] else ""
            origin = f" The first {first['value']} is from {first['operation']}{layer}, {first['line']}."
        elif found["parameters"] or found["batch"]:
            origin = f" {(found['parameters'] + found['batch'])[0]} is not finite before it."
        return (
            f"The loss or gradient of step {bad} is not finite.{origin} "
            f"{self.workdir.path / 'nonfinite.json'} has more. A lower config.optimizer.learning_rate may help, or "
            "config.optimizer.clip_norm, or config.train.on_nonfinite='skip' or 'rollback'."
        )
