"""What a person sees while training goes on: a bar on a terminal, one line in a notebook, plain lines in a log."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Shows nothing; its heirs show how far a run is."""

    def step(self, step: int) -> None:
        """`step` steps are done; called at every one, so it must cost next to nothing."""

    def figures(self, step: int, split: str, figures: Mapping[str, float], seconds_left: float | None) -> None:
        """New figures of a split."""

    def message(self, text: str) -> None:
        """Something to tell."""

    def close(self) -> None:
        """The run is over."""


class Lines(Progress):
    """Plain lines, for a log."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def figures(self, step: int, split: str, figures: Mapping[str, float], seconds_left: float | None) -> None:
        left = "" if seconds_left is None else f"  {clock(seconds_left)} left"
        self.message(f"step {step}/{self.steps}  {split}  {summary(figures)}{left}")

    def message(self, text: str) -> None:
        print(text, flush=True)


class Notebook(Lines):
    """One line under the cell that is written over, and a line for each evaluation."""

    def __init__(self, steps: int) -> None:
        from IPython.display import display

        super().__init__(steps)
        self.handle: Any = display({"text/plain": ""}, raw=True, display_id=True)

    def figures(self, step: int, split: str, figures: Mapping[str, float], seconds_left: float | None) -> None:
        if split != "train":
            super().figures(step, split, figures, seconds_left)
            return
        left = "" if seconds_left is None else f"  {clock(seconds_left)} left"
        self.handle.update({"text/plain": f"step {step}/{self.steps}  {summary(figures)}{left}"}, raw=True)


class Bar(Progress):
    """A live bar with the newest figures, and a line above it for each evaluation."""

    def __init__(self, start: int, steps: int) -> None:
        self.console = Console()
        self.bar = RichProgress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,
        )
        self.task = self.bar.add_task("", total=steps, completed=start, figures="compiling")
        self.bar.start()
        self.shown = time.monotonic()

    def step(self, step: int) -> None:
        now = time.monotonic()
        if now - self.shown > 0.25:
            self.shown = now
            self.bar.update(self.task, completed=step, refresh=True)

    def figures(self, step: int, split: str, figures: Mapping[str, float], seconds_left: float | None) -> None:
        if split == "train":
            self.bar.update(self.task, completed=step, figures=summary(figures), refresh=True)
        else:
            self.message(f"step {step}  {split}  {summary(figures)}")

    def message(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self.bar.stop()


def summary(figures: Mapping[str, float]) -> str:
    """Figures in the units that people read."""
    hidden = {"seconds", "learning_rate", "grad_norm"}
    return "  ".join(readable(name, value) for name, value in figures.items() if name not in hidden)


def readable(name: str, value: float) -> str:
    """One figure: rates by thousands, shares in percent, the rest to four digits."""
    if name == "flops_per_second":
        return f"{value / 1e9:,.1f} GFLOP/s"
    if name.endswith("_per_second"):
        return f"{value:,.0f} {name.removesuffix('_per_second')}/s"
    if name in ("accuracy", "mfu"):
        return f"{name} {value:.1%}"
    return f"{name} {value:.4f}"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def make_progress(start: int, steps: int, quiet: bool = False) -> Progress:
    """The kind of progress that fits where the output goes."""
    if quiet:
        return Progress()
    if in_notebook():
        return Notebook(steps)
    return Bar(start, steps) if sys.stdout.isatty() else Lines(steps)


def in_notebook() -> bool:
    """Whether this code runs in a cell; that ipykernel is imported says nothing, a test runner may have done so."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
