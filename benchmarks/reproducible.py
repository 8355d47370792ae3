"""What reproducibility costs: elastic steps beside plain ones, and hashing beside writing.

    python -m benchmarks.reproducible

Steps are timed in turns, on 1 and on 8 fake CPU devices, each number of devices in a process of its own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.process import prepare_process
from bigjax.run import read_config
from bigjax.training.checkpoint import Checkpoints, hashes
from bigjax.training.loop import batch_fetcher
from bigjax.training.setup import set_up
from bigjax.training.state import TrainState

WORK = {  # name: experiment, overrides, steps
    "digits CNN, batch 128": ("experiments/digits_cnn.py", {"train.batch_size": 128}, 30),
    "pydoc GPT": ("experiments/pydoc_gpt.py", {}, 8),
    "pydoc LSTM": ("experiments/pydoc_lstm.py", {}, 8),
}
TURNS = 5


def step_seconds(spec: str, overrides: dict, steps: int) -> dict[str, list[float]]:
    """Seconds per step of the plain and the elastic mode, in turns."""
    modes = {"plain": True, "elastic": "elastic"}
    ready = {}
    for name, mode in modes.items():
        experiment = set_up(read_config(spec, overrides | {"reproducible": mode}))
        batch = batch_fetcher(experiment)(0)
        state, _ = jax.block_until_ready(experiment.train_step(experiment.initial_state(), batch))
        ready[name] = [experiment, batch, state]
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    for _ in range(TURNS):
        for name, (experiment, batch, state) in ready.items():
            begun = time.perf_counter()
            for _ in range(steps):
                state, _ = experiment.train_step(state, batch)
            jax.block_until_ready(state)
            seconds[name].append((time.perf_counter() - begun) / steps)
            ready[name][2] = state
    return seconds


def steps() -> None:
    """Rows of the table for this number of devices."""
    for name, (spec, overrides, number) in WORK.items():
        seconds = step_seconds(spec, overrides, number)
        plain, elastic = (sorted(seconds[mode]) for mode in ("plain", "elastic"))
        ratio = statistics.median(e / p for e, p in zip(seconds["elastic"], seconds["plain"], strict=True))
        print(
            f"| {name} | {jax.device_count()} | {plain[0] * 1e3:.1f}-{plain[-1] * 1e3:.1f} ms "
            f"| {elastic[0] * 1e3:.1f}-{elastic[-1] * 1e3:.1f} ms | {ratio:.2f} |",
            flush=True,
        )


def saving(gigabytes: float = 1.0) -> None:
    """How long training waits for a checkpoint, how long hashing takes, and how long until it is written."""
    count = int(gigabytes * 1e9 / 4 / 16)
    params = {f"kernel{i}": jnp.arange(count, dtype=jnp.float32) + i for i in range(16)}
    state = TrainState(jnp.int32(1), jnp.uint32(0), params, {}, (), {}, None, jnp.int32(0))
    jax.block_until_ready(state)
    begun = time.perf_counter()
    hashes(state)
    hashed = time.perf_counter() - begun
    waits, writes = [], []
    for turn in range(3):
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder) / "checkpoints")
            begun = time.perf_counter()
            checkpoints.save(state._replace(step=np.array(turn, np.int32)), None)
            waits.append(time.perf_counter() - begun)
            checkpoints.check(wait=True)
            writes.append(time.perf_counter() - begun)
            checkpoints.close()
    print(
        f"{gigabytes:.1f} GB: hashing {hashed:.2f} s; training waits {min(waits):.2f}-{max(waits):.2f} s; "
        f"written after {min(writes):.2f}-{max(writes):.2f} s"
    )


def main() -> None:
    if len(sys.argv) > 1:
        prepare_process(elastic=True)
        steps()
        return
    print("| work | devices | plain step | elastic step | elastic / plain |\n|---|---|---|---|---|")
    for devices in (1, 8):
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        subprocess.run([sys.executable, "-m", "benchmarks.reproducible", "steps"], env=environment, check=True)
    saving()


if __name__ == "__main__":
    main()
