"""The training step beside the same step in PyTorch: same shapes, precision, optimizer and threads.

    python -m benchmarks.training --peers=PYTHON [--turns=5] [--only=WORK] [--json=FILE]

PYTHON has torch and transformers. Each side is a process of its own that stays alive; they compute in turns, ours,
eager PyTorch, `torch.compile` where that works, and back, while the others wait. Ours is what `bigjax train` runs: the
step that `set_up` makes of a config, on one batch that lies on the device. The figures are medians over turns with
their range, what a process held at most, and how long it took from its start to the end of the first step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SECONDS = 6.0  # of a turn, about
ADAMW = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01, "clip_norm": 1.0}
MOMENTUM = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}


def images(rows: int, side: int, classes: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a data set of images says of itself, and a batch."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        "label": rng.integers(0, classes, rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return {"num_classes": classes, "image_shape": (side, side, 3), "class_names": [*map(str, range(classes))]}, batch


def text(rows: int, length: int, vocab_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Likewise, of a text."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (rows, length + 1), np.int32)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "mask": np.ones((rows, length), np.float32),
        "bytes": np.full(rows, length, np.float32),
        "start": np.zeros(rows, bool),
    }
    return {"vocab_size": vocab_size, "context": length, "decode": None}, batch


def sentences(rows: int, length: int, vocab_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Likewise, of labelled texts."""
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(0, vocab_size, (rows, length), np.int32),
        "types": np.zeros((rows, length), np.int32),
        "lengths": np.full(rows, length, np.int32),
        "label": rng.integers(0, 2, rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return {"vocab_size": vocab_size, "context": 512, "num_classes": 2, "class_names": ["0", "1"]}, batch


def speech(rows: int, frames: int, vocab_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Likewise, of speech, with 40 labels an utterance."""
    rng = np.random.default_rng(0)
    batch = {
        "features": rng.normal(size=(rows, frames, 80)).astype(np.float32),
        "lengths": np.full(rows, frames, np.int32),
        "labels": rng.integers(1, vocab_size, (rows, 40), np.int32),
        "label_lengths": np.full(rows, 40, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return {"vocab_size": vocab_size, "num_mels": 80, "subsampling": 4}, batch


@dataclass(frozen=True)
class Work:
    """A row of the table: the sections of its config, and its data."""

    model: dict[str, Any]
    task: str
    optimizer: dict[str, Any]
    data: Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]
    sizes: tuple[int, int, int]  # rows, length or side, classes or vocabulary


WORK = {
    "cnn": Work({"name": "cnn"}, "image_classification", MOMENTUM, images, (128, 24, 10)),
    "resnet18": Work({"name": "resnet", "depth": 18}, "image_classification", MOMENTUM, images, (16, 64, 1000)),
    "lstm": Work(
        {"name": "rnn", "d_model": 650, "d_hidden": 650, "num_layers": 2, "dropout": 0.0, "tied": False},
        "language_modelling",
        {"name": "sgd", "learning_rate": 1.0, "clip_norm": 5.0},
        text,
        (20, 35, 10_000),
    ),
    "gpt": Work(
        {"name": "gpt", "d_model": 384, "num_layers": 6, "num_heads": 6, "use_bias": False},
        "language_modelling",
        ADAMW,
        text,
        (8, 256, 256),
    ),
    "bert_base": Work(
        {"name": "bert", "head": "sequence_classification"},
        "sequence_classification",
        ADAMW,
        sentences,
        (8, 128, 30_522),
    ),
    "conformer": Work({"name": "conformer", "scan_layers": True}, "speech_recognition", ADAMW, speech, (8, 500, 256)),
}


def worker(name: str) -> None:
    """Our side: for every line, which is a number of steps, runs so many and prints the seconds."""
    import jax

    from bigjax.data import SOURCES
    from bigjax.data.dataset import Dataset, Examples
    from bigjax.process import prepare_process
    from bigjax.run import read_config
    from bigjax.training.setup import set_up

    work = WORK[name]
    info, batch = work.data(*work.sizes)

    class Given(Examples):
        def __len__(self) -> int:
            return work.sizes[0]

        def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> dict[str, np.ndarray]:
            return {key: value[rows] for key, value in batch.items()}

    SOURCES["given"] = lambda: Dataset({"train": Given()}, info)
    prepare_process()
    sections = {
        "model": work.model,
        "task": {"name": work.task},
        "data": {"name": "given"},
        "optimizer": work.optimizer,
    }
    experiment = set_up(read_config(sections, {"train.steps": 1000, "train.batch_size": work.sizes[0]}))
    placed, state = experiment.to_devices(batch), experiment.initial_state()
    experiment.compile_step(state, placed)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = experiment.train_step(state, placed)
        jax.block_until_ready(state)

    serve(run, sum(leaf.size for leaf in jax.tree.leaves(state.params)))


def serve(run: Callable[[int], None], parameters: int) -> None:
    """One step, then as many as each line says; prints seconds, and last the most memory it held, in bytes."""
    import resource

    run(1)
    print("ready", parameters, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, flush=True)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)


class Side:
    """A process that serves.

    Attributes:
      times: seconds per step, of each turn.
      first: seconds from the start of the process to the end of its first step.
      parameters: how many numbers it trains; 0 when it does not work.
    """

    def __init__(self, command: list[str]) -> None:
        start = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline().split()
        self.first = time.perf_counter() - start
        self.parameters = int(ready[1]) if ready[:1] == ["ready"] else 0
        self.times: list[float] = []

    def run(self, steps: int) -> float:
        """Seconds per step."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline()) / steps

    def end(self) -> int:
        """Ends the process; the bytes that it held at most."""
        out, _ = self.process.communicate()
        return int(out)


def compare(name: str, peers: str, turns: int) -> dict[str, Any]:
    """A row of the table."""
    ours = [sys.executable, "-m", "benchmarks.training", f"--worker={name}"]
    theirs = [peers, "-m", "benchmarks.peers.training", name]
    sides = {"bigjax": Side(ours), "eager": Side(theirs), "compiled": Side([*theirs, "--compile"])}
    sides = {key: side for key, side in sides.items() if side.parameters}
    steps = {key: max(1, round(SECONDS / side.run(2))) for key, side in sides.items()}
    for turn in range(turns):
        for key in sorted(sides, reverse=turn % 2 == 1):
            sides[key].times.append(sides[key].run(steps[key]))
    return {
        key: {
            "median_ms": 1e3 * statistics.median(side.times),
            "least_ms": 1e3 * min(side.times),
            "most_ms": 1e3 * max(side.times),
            "first_step_s": side.first,
            "parameters": side.parameters,
            "peak_bytes": side.end(),
        }
        for key, side in sides.items()
    }


def row(name: str, result: dict[str, Any]) -> str:
    """A line of Markdown: the ratio is that of the medians, of the faster PyTorch to ours."""
    ours, theirs = result["bigjax"], {key: side for key, side in result.items() if key != "bigjax"}
    best = min(theirs, key=lambda key: theirs[key]["median_ms"])

    def ms(side: dict[str, float]) -> str:
        return f"{side['median_ms']:.1f} ({side['least_ms']:.1f}-{side['most_ms']:.1f})"

    other = [ms(result[key]) if key in result else "does not run" for key in ("eager", "compiled")]
    memory = [f"{result[key]['peak_bytes'] / 2**20:.0f}" for key in ("bigjax", best)]
    first = [f"{result[key]['first_step_s']:.1f}" for key in ("bigjax", best)]
    size = [f"{result[key]['parameters'] / 1e6:.2f}" for key in ("bigjax", best)]
    ratio = theirs[best]["median_ms"] / ours["median_ms"]
    cells = [name, " / ".join(size), ms(ours), *other, f"{ratio:.2f}", " / ".join(memory), " / ".join(first)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", choices=WORK)
    parser.add_argument("--peers")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", choices=WORK, action="append")
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    if not options.peers:
        parser.error("--peers=PYTHON is needed: a Python that has torch and transformers")
    results = {}
    print("| work | parameters, M | bigjax, ms | PyTorch eager, ms | torch.compile, ms | ratio | MiB | first step, s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.only or WORK:
        results[name] = compare(name, options.peers, options.turns)
        print(row(name, results[name]), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
