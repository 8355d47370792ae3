"""How fast a run is: seconds, units per second, FLOP/s, MFU, time left."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from bigjax.training.flops import peak_flops
from bigjax.training.setup import Experiment


class Meter:
    """A stopwatch for the steps; compilation, evaluation and checkpoints do not count into throughput.

    Args:
      experiment: what runs.
      before: seconds that the run took before it was resumed.
      flops_per_step: of one training step, over all devices.
    """

    def __init__(self, experiment: Experiment, before: float, flops_per_step: int) -> None:
        self.experiment = experiment
        self.flops_per_step = flops_per_step
        self.began = time.perf_counter() - before
        self.last = time.perf_counter()  # when the interval began, moved on by what does not count
        self.uncounted = 0  # steps of the interval that were not timed
        self.step_seconds: float | None = None

    def seconds(self) -> float:
        """Since the run began, resumptions included."""
        return round(time.perf_counter() - self.began, 3)

    def restart(self, uncounted: int) -> None:
        """The interval begins now; `uncounted` steps of it are over, with their compilation."""
        self.last = time.perf_counter()
        self.uncounted = uncounted

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        start = time.perf_counter()
        yield
        self.last += time.perf_counter() - start

    def figures(self, recent: Sequence[Mapping[str, Any]], step: int) -> dict[str, float]:
        """The task's metrics over the steps since the last call, with their speed; waits for the newest."""
        fetched = jax.device_get(list(recent))
        now = time.perf_counter()
        totals = {key: np.sum([sums[key] for sums in fetched], 0, np.float64).tolist() for key in fetched[0]}
        figures = self.experiment.task.metrics(totals) if totals["weight"] else {}
        figures["grad_norm"] = float(fetched[-1]["grad_norm"])
        if totals["bad"]:
            figures["skipped_steps"] = totals["bad"]
        figures["learning_rate"] = float(self.experiment.schedule(step - 1))
        timed = len(fetched) - self.uncounted
        if timed:
            self.step_seconds = (now - self.last) / timed
            rate = totals["weight"] / len(fetched) / self.step_seconds
            figures[f"{self.experiment.task.unit}_per_second"] = rate
            figures["flops_per_second"] = self.flops_per_step / self.step_seconds
            if peak := peak_flops(jax.devices()[0].device_kind):
                figures["mfu"] = figures["flops_per_second"] / (peak * jax.device_count())
        self.last, self.uncounted = now, 0
        return figures

    def seconds_left(self, step: int) -> float | None:
        """Until the last step, at the newest speed; None before it is known."""
        return None if self.step_seconds is None else (self.experiment.steps - step) * self.step_seconds
