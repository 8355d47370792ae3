"""The training step beside the same step in PyTorch: same shapes, precision, optimizer and threads.

    python -m benchmarks.training --peers=PYTHON [--turns=5] [--only=WORK] [--json=FILE] [--device=gpu]
    python -m benchmarks.training --profile=STEPS [--only=WORK]       # where the time of our step goes

PYTHON has torch and transformers. Each side is a process of its own that stays alive; they compute in turns, ours,
eager PyTorch, `torch.compile` where that works, and back, while the others wait. Ours is what `bigjax train` runs: the
step that `set_up` makes of a config, on one batch that lies on the device. The figures are medians over turns with
their range, what a process held at most (of a GPU's memory with --device=gpu), and how long it took from its start to
the end of the first step.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.work import CPU, GPU, WORK, Work

if TYPE_CHECKING:
    from bigjax.training.setup import Experiment

SECONDS = 6.0  # of a turn, about


def set_up_work(work: Work) -> tuple["Experiment", dict[str, np.ndarray]]:
    """The experiment of a row, and its batch."""
    if work in CPU.values():
        os.environ["JAX_PLATFORMS"] = "cpu"
    from bigjax.data import SOURCES
    from bigjax.data.dataset import Dataset, Examples
    from bigjax.process import prepare_process
    from bigjax.run import read_config
    from bigjax.training.setup import set_up

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
        "train": {"steps": 1000, "batch_size": work.sizes[0], "precision": work.precision},
        "reproducible": False,  # PyTorch's kernels on a GPU may add up in any order, too; a CPU knows no difference
    }
    return set_up(read_config(sections, {})), batch


def worker(name: str) -> None:
    """Our side: for every line, which is a number of steps, runs so many and prints the seconds."""
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # PyTorch's processes need some of a GPU's memory
    experiment, batch = set_up_work(WORK[name])
    import jax

    if name in GPU and jax.default_backend() != "gpu":
        sys.exit(f"{name} is for a GPU, and JAX finds none.")
    placed, state = experiment.to_devices(batch), experiment.initial_state()
    experiment.compile_step(state, placed)

    def run(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = experiment.train_step(state, placed)
        jax.block_until_ready(state)

    def on_device() -> int:
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]

    peak = resident if jax.default_backend() == "cpu" else on_device
    serve(run, peak, sum(leaf.size for leaf in jax.tree.leaves(state.params)), experiment.step_flops())


def serve(run: Callable[[int], None], peak: Callable[[], int], parameters: int, flops: int = 0) -> None:
    """One step, then as many as each line says; prints seconds, and last the most memory it held, in bytes."""
    run(1)
    print("ready", parameters, flops, flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, flush=True)
    print(peak(), flush=True)


def resident() -> int:
    """The most memory that this process held, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Side:
    """A process that serves.

    Attributes:
      times: seconds per step, of each turn.
      first: seconds from the start of the process to the end of its first step.
      parameters: how many numbers it trains; 0 when it does not work.
      flops: of a step, where the process counts them.
    """

    def __init__(self, command: list[str]) -> None:
        start = time.perf_counter()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline().split()
        self.first = time.perf_counter() - start
        self.parameters, self.flops = map(int, ready[1:]) if ready[:1] == ["ready"] else (0, 0)
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
            "flops": side.flops,
            "peak_bytes": side.end(),
        }
        for key, side in sides.items()
    }


def row(name: str, result: dict[str, Any]) -> str:
    """A line of Markdown: the ratio is that of the medians, of the faster PyTorch to ours; memory is the leaner's."""
    ours, theirs = result["bigjax"], {key: side for key, side in result.items() if key != "bigjax"}
    best = min(theirs, key=lambda key: theirs[key]["median_ms"])

    def ms(side: dict[str, float]) -> str:
        return f"{side['median_ms']:.1f} ({side['least_ms']:.1f}-{side['most_ms']:.1f})"

    def both(figure: Callable[[dict[str, float]], str]) -> str:
        return " / ".join(figure(result[key]) for key in ("bigjax", best))

    other = [ms(result[key]) if key in result else "does not run" for key in ("eager", "compiled")]
    cells = [name, both(lambda side: f"{side['parameters'] / 1e6:.2f}"), ms(ours), *other]
    cells.append(f"{theirs[best]['median_ms'] / ours['median_ms']:.2f}")
    if name in GPU:
        from bigjax.training.flops import PEAK_BFLOAT16

        peak = PEAK_BFLOAT16["NVIDIA H200"]  # whose rows they are
        cells.append(both(lambda side: f"{1e3 * WORK[name].units / side['median_ms']:,.0f}"))
        cells.append(both(lambda side: f"{1e3 * ours['flops'] / side['median_ms'] / peak:.1%}"))
    held = ours["peak_bytes"], min(side["peak_bytes"] for side in theirs.values())
    cells.append(" / ".join(f"{size / 2**20:.0f}" for size in held))
    cells.append(both(lambda side: f"{side['first_step_s']:.1f}"))
    return f"| {' | '.join(cells)} |"


def profile(name: str, steps: int) -> str:
    """A line of Markdown: what share of our step is what kind of work."""
    from bigjax.training.profile import Profile

    experiment, batch = set_up_work(WORK[name])
    placed, state = experiment.to_devices(batch), experiment.initial_state()
    experiment.compile_step(state, placed)
    with tempfile.TemporaryDirectory() as folder:
        traced = Profile(Path(folder), steps)
        for given in traced.over([placed] * (steps + 10)):
            state, _ = experiment.train_step(state, given)
        table = traced.tabulated(experiment.jitted_step.lower(state, placed).compile().as_text() or "")
    whole = table["step_ms"]
    times = table["device_ms"] | {"idle": table["input_ms"] + table["host_ms"]}
    shares = [f"{kind} {ms / whole:.0%}" for kind, ms in times.items() if ms > 0.005 * whole]
    return f"| {name} | {whole:.1f} | {', '.join(shares)} |"


def machine() -> dict[str, Any]:
    """What the figures depend on, on our side."""
    from bigjax.training.manifest import cpu_model, git_state, package_version

    versions = {name: package_version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    return {"cpu": cpu_model(), "python": platform.python_version(), "versions": versions, "git": git_state()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", choices=WORK)
    parser.add_argument("--peers")
    parser.add_argument("--profile", type=int, metavar="STEPS")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--only", choices=WORK, action="append")
    parser.add_argument("--json")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    names = options.only or (GPU if options.device == "gpu" else CPU)
    if options.profile:
        print("| work | step, ms | of which |\n|---|---|---|")
        for name in names:
            print(profile(name, options.profile), flush=True)
        return
    if not options.peers:
        parser.error("--peers=PYTHON is needed: a Python that has torch and transformers")
    results: dict[str, Any] = {"machine": machine()}
    speed = ["a second", "MFU"] if options.device == "gpu" else []
    head = ["work", "parameters, M", "bigjax, ms", "PyTorch eager, ms", "torch.compile, ms", "ratio", *speed]
    head += ["MiB", "first step, s"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in names:
        results[name] = compare(name, options.peers, options.turns)
        print(row(name, results[name]), flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
