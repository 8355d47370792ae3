"""Other places that figures go to, beside metrics.jsonl: TensorBoard and Weights & Biases."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bigjax.config import TrainOptions
from bigjax.errors import UserError

Sink = Callable[[Mapping[str, Any]], None]  # takes a row of metrics.jsonl


def make_sinks(options: TrainOptions, workdir: Path, config: Mapping[str, Any]) -> list[Callable[[], Sink]]:
    """What opens the sinks that `config.train` asks for, once `workdir` holds a run.

    Raises:
      UserError: a package is missing.
    """
    sinks = []
    if options.tensorboard:
        sinks.append(tensorboard(workdir))
    if options.wandb:
        sinks.append(wandb(options.wandb, workdir, config))
    return sinks


def tensorboard(workdir: Path) -> Callable[[], Sink]:
    """Writes event files into `workdir/tensorboard`."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise UserError("config.train.tensorboard needs the package tensorboardX: pip install tensorboardX") from error

    def opened() -> Sink:
        writer = SummaryWriter(str(workdir / "tensorboard"))

        def sink(row: Mapping[str, Any]) -> None:
            for name, value in figures(row).items():
                writer.add_scalar(f"{row['split']}/{name}", value, row["step"])
            writer.flush()

        return sink

    return opened


def wandb(project: str, workdir: Path, config: Mapping[str, Any]) -> Callable[[], Sink]:
    """Sends to the Weights & Biases project `project`; a resumed run goes on in the same one."""
    try:
        import wandb as client
    except ImportError as error:
        raise UserError("config.train.wandb needs the package wandb: pip install wandb") from error

    def opened() -> Sink:
        run = client.init(project=project, id=workdir.name, resume="allow", dir=str(workdir), config=dict(config))
        return lambda row: run.log(
            {f"{row['split']}/{name}": value for name, value in figures(row).items()}, step=row["step"]
        )

    return opened


def figures(row: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a row, without its address."""
    return {name: value for name, value in row.items() if name not in ("step", "split")}
