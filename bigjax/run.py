"""The verbs as functions: what the terminal and the notebook both call."""

import inspect
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict
from tokenizers import Tokenizer

from bigjax.config import experiment_config, load_experiment
from bigjax.data.subwords import load_tokenizer
from bigjax.errors import UserError, nearest
from bigjax.folders import new_folder
from bigjax.parallel.processes import check_alike, connect, dependent_on_others, everywhere, from_first, together
from bigjax.pretrained.folder import read_documents
from bigjax.pretrained.load import load_pretrained, stop_tokens
from bigjax.pretrained.save import save_pretrained
from bigjax.process import prepare_process
from bigjax.report import plot_metrics
from bigjax.training import loop
from bigjax.training.begin import DOCUMENTS
from bigjax.training.begin import model_config as model_config  # for experiments
from bigjax.training.checkpoint import Checkpoints, newest_weights, params_sha256
from bigjax.training.evaluate import evaluate as evaluate_split
from bigjax.training.manifest import read_manifest
from bigjax.training.profile import Profile
from bigjax.training.reproduce import Verdict, compare
from bigjax.training.setup import model_maker, resolve, set_up
from bigjax.training.state import TrainState
from bigjax.training.workdir import Workdir

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

Overrides = Mapping[str, Any]


class Run:
    """A run that left its files in a folder.

    Attributes:
      workdir: the folder.
      config: the resolved config.
    """

    def __init__(self, workdir: str | Path) -> None:
        self.workdir = Path(workdir)
        recorded = Workdir(self.workdir).read("config.json")
        imported = recorded.keys() == {"experiment", "model"}  # it was never trained here
        self.config = recorded if imported else resolve(recorded)

    def __repr__(self) -> str:
        return f"Run({str(self.workdir)!r})"

    @property
    def result(self) -> dict[str, Any]:
        """The content of result.json; raises UserError where the run has not ended."""
        result = Workdir(self.workdir).read("result.json")
        if not is_result(result):
            raise UserError(f"{self.workdir / 'result.json'} is damaged: it is no result of a run.")
        return result

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The figures of metrics.jsonl as a table."""
        import pandas

        return pandas.DataFrame(Workdir(self.workdir).rows())

    def plot(self) -> "Figure":
        """Curves of every metric."""
        return plot_metrics(Workdir(self.workdir).rows())

    @cached_property
    def model(self) -> nnx.Module:
        """The trained model as a live module on the first device, from the newest checkpoint."""
        weights, statistics = newest_weights(self.workdir)
        abstract = nnx.eval_shape(model_maker(self.config), jax.random.key(0))
        graphdef, *parts = nnx.split(abstract, nnx.Param, ...)
        for part, arrays in zip(parts, (weights, statistics), strict=True):
            wanted = {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(part)}
            shapes = ({name: a.shape for name, a in tree.items()} for tree in (wanted, arrays))
            if different := sorted(name for name, _ in set.symmetric_difference(*(set(s.items()) for s in shapes))):
                raise UserError(f"{self.workdir}: {different[0]} is not in its checkpoint as its config.json has it.")
            for name, variable in wanted.items():
                variable.set_value(arrays[name])
        return nnx.merge(graphdef, *parts)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer that was kept with the run; None where tokens are bytes, or the model has none."""
        file = self.workdir / "tokenizer.json"
        return load_tokenizer(file) if file.exists() else None

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the data said of themselves: `class_names`, `image_shape` and the like."""
        return read_manifest(Workdir(self.workdir)).get("data", {})

    @cached_property
    def documents(self) -> dict[str, str]:
        """config.json and other files of the checkpoint that the model began as, contents by name; or none."""
        return read_documents(self.workdir / DOCUMENTS)

    @cached_property
    def stop(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return stop_tokens(self.documents)


def is_result(content: Mapping[str, Any]) -> bool:
    """Whether this is what a result.json holds."""
    splits = content.get("metrics")
    if "params_sha256" not in content or not isinstance(splits, dict):
        return False
    return all(
        isinstance(split, dict) and all(isinstance(figure, int | float | None) for figure in split.values())
        for split in splits.values()
    )


def train(
    config: str | Mapping[str, Any],
    overrides: Overrides | None = None,
    workdir: str | Path | None = None,
    *,
    quiet: bool = False,
    profile: int = 0,
    processes: Mapping[str, Any] | None = None,
) -> Run:
    """Trains an experiment, or goes on with it where it was stopped.

    Args:
      config: an experiment file, `experiments/x.py` or `experiments/x.py:arg`, or a config as `get_config` returns it.
      overrides: dotted keys to values, `{"optimizer.learning_rate": 0.1}`.
      workdir: where the run's files go; `runs/NAME-<time>` by default. One that holds this run resumes it.
      quiet: shows no progress.
      profile: traces so many steps, into `workdir/profile`, and tells in the report where their time went.
      processes: the `coordinator`, `processes` and `process` of a run over several that nothing has started together;
        see `bigjax.parallel.processes.connect`.

    Raises:
      UserError: something in the config, the data or the workdir is wrong.
      Stopped: SIGTERM or SIGINT came, and where the run was is saved.
    """
    resolved = read_config(config, overrides)
    path = Path(workdir or f"runs/{resolved['experiment']}-{time.strftime('%Y%m%d-%H%M%S')}")
    prepare_process(elastic=resolved["reproducible"] == "elastic")
    connect(**processes or {})
    experiment = together(lambda: set_up(resolved))
    path = Path(from_first(lambda: str(path)))
    fingerprint = experiment.dataset.fingerprint()
    check_alike("config", experiment.config)
    check_alike("data", {"fingerprint": fingerprint})
    folder = Workdir(path, writes=jax.process_index() == 0)
    with ExitStack() as stack:
        together(lambda: stack.enter_context(folder.locked()))
        from_first(lambda: folder.check(experiment.config, fingerprint))
        if not from_first((path / "result.json").exists):
            with dependent_on_others():
                loop.train(experiment, folder, quiet, Profile(path / "profile", profile) if profile else None)
    everywhere("done")  # what process 0 alone writes is there for all
    return Run(path)


def load(workdir: str | Path) -> Run:
    """A run from its folder: nothing in it is executed.

    Raises:
      UserError: the folder holds no run, or a damaged one.
    """
    return Run(workdir)


def evaluate(workdir: str | Path, split: str = "test") -> dict[str, float]:
    """The metrics of a run's newest checkpoint on a whole split, computed again.

    Raises:
      UserError: there is no checkpoint, or no such split.
    """
    run = Run(workdir)
    if "data" not in run.config:
        raise UserError(f"{workdir} was imported and has no data to evaluate on.")
    prepare_process()
    experiment = set_up(run.config)
    if split not in experiment.dataset.splits:
        raise UserError(f"The data have no split {split!r}; {nearest(split, experiment.dataset.splits)}")
    _, *state = nnx.split(run.model, nnx.Param, ...)
    shardings = jax.tree.map(lambda a: a.sharding, (experiment.abstract.params, experiment.abstract.statistics))
    params, statistics = jax.device_put(tuple(map(nnx.to_pure_dict, state)), shardings)
    metrics = evaluate_split(experiment, params, statistics, split)
    assert metrics is not None  # nothing stops it
    return metrics


def predict(workdir: str | Path, source: str, **options: str) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """What a run's model answers to an input, a file or many; see `bigjax.prediction.predict`.

    Args:
      source: a text, a file, a folder or a table.
      options: what an input has besides, such as the `context` that a question is about.

    Yields:
      Each input and its answer, with `answer` and `probability`.
    """
    from bigjax.prediction.predict import predict

    yield from predict(Run(workdir), source, options)


def reproduce(workdir: str | Path, steps: int | None = None, *, quiet: bool = False) -> Verdict:
    """Trains a run again and compares every bit that it has left; see `bigjax.training.reproduce.compare`.

    Args:
      steps: compares only up to there.

    Raises:
      UserError: the folder holds no run that was trained here, or its data cannot be read.
    """
    run = Run(workdir)
    if "data" not in run.config:
        raise UserError(f"{workdir} was imported: there is no training to run again.")
    if steps is not None and steps < 1:
        raise UserError(f"--steps must be positive, not {steps}.")
    prepare_process(elastic=run.config["reproducible"] == "elastic")
    return compare(run.workdir, set_up(run.config), steps, quiet)


def sweep(
    config: str, overrides: Overrides | None = None, workdir: str | Path | None = None, *, quiet: bool = False
) -> Iterator[tuple[dict[str, Any], Run]]:
    """Trains every member of an experiment's `sweep()`, one after another; all are checked before the first starts.

    Yields:
      The member's overrides and its run, in `workdir/0`, `workdir/1`, ....
    """
    module, _ = load_experiment(config)
    if not inspect.isfunction(getattr(module, "sweep", None)):
        raise UserError(f"{config} defines no sweep() that yields dicts of overrides.")
    members = [dict(member) for member in module.sweep()]
    resolved = [read_config(config, {**member, **(overrides or {})}) for member in members]
    if not members:
        raise UserError(f"The sweep() of {config} yields nothing.")
    path = Path(workdir or f"runs/{resolved[0]['experiment']}-sweep-{time.strftime('%Y%m%d-%H%M%S')}")
    for number, (member, one) in enumerate(zip(members, resolved, strict=True)):
        yield member, train(one, None, path / str(number), quiet=quiet)


def import_checkpoint(path: str | Path, workdir: str | Path) -> Run:
    """Reads a Hugging Face checkpoint folder into a run's folder, to generate from, evaluate or export.

    Raises:
      UserError: the checkpoint cannot be read (see `load_pretrained`), or `workdir` is not empty.
    """
    with new_folder(workdir) as temporary:
        loaded = load_pretrained(path)
        folder = Workdir(temporary)
        params, statistics = map(nnx.to_pure_dict, nnx.state(loaded.model, nnx.Param, ...))
        folder.write("config.json", {"experiment": Path(path).resolve().name, "model": loaded.config})
        for name, content in loaded.documents.items():
            folder.write(f"{DOCUMENTS}/{name}", content)
        if loaded.tokenizer is not None:
            folder.write("tokenizer.json", loaded.tokenizer.to_str())
        checkpoints = Checkpoints(folder.checkpoints, many_files=True)
        checkpoints.save(TrainState(jnp.int32(0), jnp.uint32(0), params, statistics, (), {}, None, jnp.int32(0)), None)
        checkpoints.close()
        result = {"status": "imported", "step": 0, "metrics": {}, "params_sha256": params_sha256(params)}
        folder.write("result.json", result)
    return Run(workdir)


def export_checkpoint(workdir: str | Path, path: str | Path) -> None:
    """Writes a run's model, LoRA's corrections merged into its weights, as a Hugging Face checkpoint folder.

    Raises:
      UserError: the run has no checkpoint, no Hugging Face architecture has its model, or `path` is not empty.
    """
    run = Run(workdir)
    save_pretrained(path, run.model, run.config["model"], documents=run.documents, tokenizer=run.tokenizer)


def read_config(config: str | Mapping[str, Any], overrides: Overrides | None) -> dict[str, Any]:
    """The resolved config of an experiment file or of a config."""
    return resolve(experiment_config(config) if isinstance(config, str) else ConfigDict(config), overrides)
