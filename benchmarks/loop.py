"""What the loop, and checkpoints, cost over the bare jitted step.

    python -m benchmarks.loop

The bare step runs again and again on one batch that is already on the device. The loop is the real one, `train`: it
loads batches, logs every 50 steps and writes all files. Both run in turns, A B A B, in one process; a ratio above 1
is overhead.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import jax

from bigjax.run import read_config, use_compilation_cache
from bigjax.training.loop import batch_fetcher, train
from bigjax.training.setup import Experiment, set_up
from bigjax.training.workdir import Workdir

WORK = {  # name: experiment, overrides, steps
    "digits CNN, batch 128": ("experiments/digits_cnn.py", {"train.batch_size": 128}, 300),
    "pydoc GPT": ("experiments/pydoc_gpt.py", {}, 250),
}
ROUNDS = 3


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


def main() -> None:
    use_compilation_cache()
    print("| work | bare step | loop | loop / bare | with a checkpoint every 100 steps / loop |")
    print("|---|---|---|---|---|")
    for name, (config, overrides, steps) in WORK.items():
        plain = {"train.steps": steps, "train.log_every": 50, "train.eval_every": 0, "train.checkpoint_every": 0}
        runs: dict[str, list[float]] = {"bare": [], "loop": [], "checkpoints": []}
        experiment = set_up(read_config(config, overrides | plain))
        saving = set_up(read_config(config, overrides | plain | {"train.checkpoint_every": 100}))
        bare(experiment, 10)
        for _ in range(ROUNDS):
            runs["bare"].append(bare(experiment, steps))
            runs["loop"].append(looped(experiment))
            runs["checkpoints"].append(looped(saving))
        ms = {
            key: f"{statistics.median(v) * 1e3:.2f} ms ({min(v) * 1e3:.2f}-{max(v) * 1e3:.2f})"
            for key, v in runs.items()
        }
        ratio = statistics.median(a / b for a, b in zip(runs["loop"], runs["bare"], strict=True))
        cost = statistics.median(a / b for a, b in zip(runs["checkpoints"], runs["loop"], strict=True))
        print(f"| {name} | {ms['bare']} | {ms['loop']} | {ratio:.3f} | {cost:.3f} |", flush=True)


if __name__ == "__main__":
    main()
