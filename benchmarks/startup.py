"""How long a user waits: for `--help`, and from the command to the first step.

python -m benchmarks.startup
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENTS = ("digits_cnn", "pydoc_lstm", "pydoc_gpt")
ROUNDS = 5


def seconds(*words: str, cache: Path) -> float:
    """Wall time of `bigjax WORDS` in a process of its own."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "bigjax", *words],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    return time.perf_counter() - start


def first_step(name: str, cache: Path) -> float:
    """Seconds from the command to the first step's figures, compilation included."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        process = subprocess.Popen(
            [sys.executable, "-m", "bigjax", "train", f"--config=experiments/{name}.py", f"--workdir={workdir}"]
            + ["--config.train.log_every=1"],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        )
        start = time.perf_counter()
        metrics = workdir / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().endswith("}\n")):
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended before its first step")
            time.sleep(0.005)
        elapsed = time.perf_counter() - start
        process.kill()
        process.wait()
        assert json.loads(metrics.read_text().splitlines()[0])["step"] == 1
    return elapsed


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        print("| what | first time | then (median) |")
        print("|---|---|---|")
        times = [seconds("--help", cache=cache) for _ in range(ROUNDS + 1)]
        print(f"| `bigjax --help` | {times[0]:.2f} s | {statistics.median(times[1:]):.2f} s |")
        for name in EXPERIMENTS:
            times = [first_step(name, cache) for _ in range(ROUNDS + 1)]
            print(f"| first step of {name} | {times[0]:.2f} s | {statistics.median(times[1:]):.2f} s |", flush=True)


if __name__ == "__main__":
    main()
