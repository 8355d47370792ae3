"""Runs a recorded config again and says whether the bits are the same, and if not, where and why they part."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigjax.config import differences
from bigjax.errors import UserError
from bigjax.training import loop
from bigjax.training.checkpoint import Checkpoints, hashes, params_sha256, recorded_hashes, saved_steps
from bigjax.training.manifest import changed, manifest, read_manifest
from bigjax.training.setup import Experiment
from bigjax.training.state import TrainState
from bigjax.training.workdir import Workdir

SPEED = ("seconds", "_per_second", "mfu")  # endings of figures that no one can repeat


class Verdict(NamedTuple):
    """What a comparison found.

    Attributes:
      differences: where the bits part, the earliest first; empty where they are the same.
      conditions: what is not as it was recorded, whether or not it matters.
      compared: what was, in words.
    """

    differences: list[str]
    conditions: list[str]
    compared: str


class Enough(Exception):
    """Nothing that is still to come can change the verdict."""


class ComparedFigures(Workdir):
    """A scratch folder whose lines of figures are held against those of a run."""

    def __init__(self, path: Path, recorded: Sequence[Mapping[str, Any]], last: int | None) -> None:
        super().__init__(path)
        self.recorded = {(row["step"], row["split"]): figures(row) for row in recorded}
        self.last = last
        self.compared = 0
        self.different: list[str] = []

    def append(self, row: Mapping[str, Any]) -> None:
        address = (row["step"], row["split"])
        if self.last is not None and row["step"] > self.last:
            raise Enough
        if address in self.recorded:
            self.compared += 1
            if parted := differences(self.recorded[address], figures(row)):
                self.different.append(f"step {address[0]}, {address[1]} figures: {parted[0]}")
        super().append(row)


class ComparedCheckpoints(Checkpoints):
    """Writes nothing: states are held against the hashes in a run's checkpoints."""

    def __init__(self, directory: Path, last: int | None, goes_back: bool) -> None:
        self.recorded = {step: found for step in saved_steps(directory) if (found := recorded_hashes(directory, step))}
        self.last = last
        self.goes_back = goes_back  # then the newest state is kept in memory
        self.newest: TrainState | None = None
        self.set_aside = []
        self.compared: list[int] = []
        self.different: list[str] = []

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, list[Mapping[str, Any]]] | None:
        return None if self.newest is None else (jax.tree.map(jnp.copy, self.newest), [])

    def save(self, state: TrainState, metrics: Any, recent: Any = ()) -> None:
        step = int(state.step)
        if step in self.recorded:
            self.compared.append(step)
            found, recorded = hashes(state), self.recorded[step]
            if parted := [name for name in found if recorded.get(name) != found[name]]:
                self.different.append(f"step {step}, checkpoint: {parted[0]} and {len(parted) - 1} more arrays")
                raise Enough
        if self.last is not None and step >= self.last:
            raise Enough
        if self.goes_back:
            self.newest = jax.tree.map(jnp.copy, state)  # a step takes what it is given

    def check(self, wait: bool = False) -> None:
        pass

    def close(self) -> None:
        pass


def figures(row: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a line that a run repeats."""
    return {key: value for key, value in row.items() if not key.endswith(SPEED)}


def compare(run: Path, experiment: Experiment, last: int | None = None, quiet: bool = False) -> Verdict:
    """Trains again from the beginning, in a scratch folder, and compares.

    It ends at the first checkpoint that differs, at step `last`, or at the end. Every line of figures, the arrays of
    every checkpoint that the run has kept, and at the end its `params_sha256` are compared.

    Args:
      run: the folder of the run.
      experiment: of its recorded config.
      last: the step up to which is compared; None is the whole run.

    Raises:
      UserError: the run has nothing to compare with.
    """
    recorded = Workdir(run)
    old, new = read_manifest(recorded), manifest(experiment)
    rows = recorded.rows()
    expected = None
    if (run / "result.json").exists():
        expected = recorded.read("result.json").get("params_sha256")
        if not isinstance(expected, str):
            raise UserError(f"{run / 'result.json'} is damaged: it has no params_sha256.")
    elif last is None:
        last = max((row["step"] for row in rows), default=0)
    conditions = [f"config.{line}" for line in differences(old.get("config", {}), experiment.config)]
    conditions += changed(old, new)
    for resumed in old["resumed"]:
        conditions += [f"at its resume at step {resumed['step']}: {line}" for line in resumed["changed"]]
    options = replace(experiment.options, tensorboard=False, wandb=None)
    checkpoints = ComparedCheckpoints(run / "checkpoints", last, options.on_nonfinite == "rollback")
    parted: list[str] = []
    with tempfile.TemporaryDirectory(prefix="bigjax-reproduce-") as scratch:
        folder = ComparedFigures(Path(scratch), rows, last)
        try:
            state, _ = loop.fit(replace(experiment, options=options), folder, checkpoints, quiet)
            if expected and (found := params_sha256(state.params)) != expected:
                parted = [f"step {int(state.step)}: params_sha256 was {expected} and is now {found}"]
        except Enough:
            pass
        initial = json.loads((Path(scratch) / "manifest.json").read_text())["initial_sha256"]
    if initial != old.get("initial_sha256", initial):
        parted.insert(0, "step 0: the initial parameters are others")
    parted += folder.different + checkpoints.different
    parted.sort(key=lambda line: int(line.split()[1].strip(",:")))
    compared = f"{folder.compared} lines of figures and {len(checkpoints.compared)} checkpoints"
    if not folder.compared and not checkpoints.compared:
        raise UserError(f"{run} has nothing to compare with up to step {last}: no figures and no checkpoint.")
    return Verdict(parted, conditions, compared)
