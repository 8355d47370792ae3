"""What the loop, and checkpoints, cost over the bare jitted step.

    python -m benchmarks.loop

The bare step runs again and again on one batch that is already on the device. The loop is the real one, `train`: it
loads batches, logs every 50 steps and writes all files. They run in turns in one process, so that a machine that gets
slower slows all of them. A ratio above 1 is overhead: once of the fastest turns, which other work on the machine
disturbed least, and once the median over the turns.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import jax

from bigjax.process import prepare_process
from bigjax.run import read_config
from bigjax.training.loop import batch_fetcher, train
from bigjax.training.setup import Experiment, set_up
from bigjax.training.workdir import Workdir

WORK = {  # name: experiment, overrides, steps, turns
    "digits CNN, batch 128": ("experiments/digits_cnn.py", {"train.batch_size": 128}, 350, 10),
    "pydoc GPT": ("experiments/pydoc_gpt.py", {}, 250, 6),
}


def bare(experiment: Experiment, steps: int) -> float:
    """Seconds per step of the jitted step alone."""
    batch = batch_fetcher(experiment)(0)
    state, sums = experiment.train_step(experiment.initial_state(), batch)
    jax.block_until_ready(sums)
    start = time.perf_counter()
    for _ in range(steps):
        state, sums = experiment.train_step(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / steps


def looped(experiment: Experiment) -> float:
    """Seconds per step of the loop, between its first and last line of figures."""
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, Workdir(Path(folder) / "run"), quiet=True)
        rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    train_rows = [row for row in rows if row["split"] == "train"]
    first, last = train_rows[0], train_rows[-1]
    return (last["seconds"] - first["seconds"]) / (last["step"] - first["step"])


def compared(runs: dict[str, list[float]], name: str, base: str) -> str:
    """`name` over `base`: of the fastest turns, and the median over the turns."""
    ratios = [a / b for a, b in zip(runs[name], runs[base], strict=True)]
    return f"{min(runs[name]) / min(runs[base]):.3f}, {statistics.median(ratios):.3f}"


def main() -> None:
    prepare_process()
    print("| work | bare step | loop | loop / bare: fastest, median | with a checkpoint every 100 steps / loop |")
    print("|---|---|---|---|---|")
    for name, (config, overrides, steps, turns) in WORK.items():
        plain = {"train.steps": steps, "train.log_every": 50, "train.eval_every": 0, "train.checkpoint_every": 0}
        experiment = set_up(read_config(config, overrides | plain))
        saving = set_up(read_config(config, overrides | plain | {"train.checkpoint_every": 100}))
        bare(experiment, 10)
        ways = {
            "bare": lambda e=experiment, n=steps: bare(e, n - 50),
            "loop": lambda e=experiment: looped(e),
            "saving": lambda e=saving: looped(e),
        }
        runs: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(turns):
            for way in sorted(ways, reverse=turn % 2 == 1):  # back and forth, so that no way is always the last
                runs[way].append(ways[way]())
        ms = {way: f"{min(times) * 1e3:.2f}-{max(times) * 1e3:.2f} ms" for way, times in runs.items()}
        overhead, cost = compared(runs, "loop", "bare"), compared(runs, "saving", "loop")
        print(f"| {name} | {ms['bare']} | {ms['loop']} | {overhead} | {cost} |", flush=True)


if __name__ == "__main__":
    main()
