"""A plan's seconds for a step held against the step itself, on one CPU device in float32.

    JAX_PLATFORMS=cpu python -m benchmarks.planned [--turns=10]

What the CPU can do is measured between the steps, and of both the best counts, so that other work on the machine
disturbs both alike. Exits with 1 where a plan is off by more than a factor of 2.
"""

import argparse
import dataclasses
import sys
import time
from typing import Any

import jax

from bigjax.parallel.chips import Chip, measure_cpu
from bigjax.parallel.plan import plan, roofline
from bigjax.process import prepare_process
from bigjax.run import read_config
from bigjax.training.setup import set_up

SGD = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}
IMAGES = {"name": "random_images", "image_size": 32, "num_classes": 10}
TEXT = {"name": "random_text", "context": 64, "vocab_size": 2000}
SIZES = {"d_model": 256, "num_layers": 4, "num_heads": 4}
WORK: dict[str, tuple[int, dict[str, Any], str, dict[str, Any]]] = {
    "cnn": (128, {"name": "cnn"}, "image_classification", IMAGES),
    "resnet": (32, {"name": "resnet", "depth": 18}, "image_classification", IMAGES),
    "lstm": (32, {"name": "rnn", "d_model": 256, "d_hidden": 256}, "language_modelling", TEXT),
    "gpt": (16, {"name": "gpt", **SIZES}, "language_modelling", TEXT),
    "bert": (16, {"name": "bert", "head": "masked_lm", **SIZES}, "masked_language_modelling", TEXT | {"hidden": True}),
    "vit": (16, {"name": "vit", "patch_size": 4, **SIZES}, "image_classification", IMAGES),
}


def compare(name: str, turns: int) -> float:
    """Prints a line; returns measured over planned seconds."""
    rows, model, task, data = WORK[name]
    sections = {"model": model, "task": {"name": task}, "data": data, "optimizer": SGD}
    config = read_config(sections, {"train.steps": 1000, "train.batch_size": rows})
    found = plan(config, "cpu:1")
    experiment = set_up(config)
    batch = experiment.to_devices(experiment.dataset.splits["train"].train_batch(0, 0, rows, slice(0, rows)))
    state = experiment.initial_state()
    state, _ = experiment.train_step(state, batch)
    best, chip = float("inf"), measure_cpu(1)
    for _ in range(turns):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(experiment.train_step(state, batch))
        best = min(best, time.perf_counter() - start)
        chip = Chip(*map(max, dataclasses.astuple(chip), dataclasses.astuple(measure_cpu(1))))
    planned = roofline(found, chip)
    seconds = {key: f"{1e3 * value:.1f}" for key, value in planned["seconds"].items()}
    ratio = best / planned["serial_seconds"]  # this device does one thing after the other
    print(
        f"{name:8} planned {1e3 * planned['serial_seconds']:8.1f} ms {seconds}, measured {1e3 * best:8.1f} ms, "
        f"{ratio:.2f} of it; {chip.flops / 1e9:.0f} GFLOP/s, {chip.bandwidth / 1e9:.1f} GB/s",
        flush=True,
    )
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=10)
    turns = parser.parse_args().turns
    prepare_process()
    ratios = [compare(name, turns) for name in WORK]
    return int(not all(0.5 <= ratio <= 2 for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
