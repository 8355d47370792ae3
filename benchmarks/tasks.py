"""What each task's loader gives beside what its step takes, and how much of a batch is padding.

    python -m benchmarks.tasks --data=FOLDER [--checkpoint=FOLDER]

FOLDER has cifar10/, fsdd/ (a folder of WAV files), sst2/*.tsv, tinyshakespeare.txt and xquad.en.json; what is not there
is passed over. The checkpoint is all-MiniLM-L6-v2. A step waits for its loader where the ratio is below 1.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bigjax.errors import UserError
from bigjax.process import prepare_process
from bigjax.run import read_config
from bigjax.training.loop import batch_fetcher
from bigjax.training.setup import set_up

BATCHES = 48  # of the loader
STEPS = 8  # of the device, after one that compiles


def work(data: Path, checkpoint: str | None) -> dict[str, tuple[str, dict[str, Any]]]:
    """Experiment and overrides of each task."""
    tables = {
        "data.train": str(data / "sst2/train.tsv"),
        "data.validation": str(data / "sst2/dev.tsv"),
        "data.test": str(data / "sst2/test.tsv"),
    }
    text = {"data.train": str(data / "tinyshakespeare.txt")}
    found = {
        "images, CIFAR-10": ("cifar10_quick.py", {"data.root": str(data / "cifar10")}),
        "images, decoded at every step": ("cifar10_cnn.py", {"data.root": str(data / "cifar10"), "data.cache": False}),
        "language modelling, GPT": ("shakespeare_gpt.py", text),
        "language modelling, LSTM": ("shakespeare_lstm.py", text),
        "masked language modelling": ("bert_pretraining.py", {}),
        "text classification, LSTM": ("sst2_lstm.py", tables),
        "speech, LSTM": ("fsdd_lstm.py", {"data.root": str(data / "fsdd")}),
        "translation": ("numerals_transformer.py", {}),
    }
    if checkpoint:
        question = {"data.train": str(data / "xquad.en.json") + "[:38]", "data.test": None}
        found["text classification, MiniLM"] = (f"sst2_minilm.py:{checkpoint}", tables)
        found["question answering, MiniLM"] = (f"xquad_minilm.py:{checkpoint}", question)
    return found


def filled(batch: dict[str, np.ndarray]) -> tuple[int, int]:
    """How many positions of a batch are real, and how many there are."""
    if "lengths" in batch:
        wide = next(batch[key] for key in ("tokens", "features") if key in batch)
        return int(batch["lengths"].sum()), wide.shape[0] * wide.shape[1]
    if "real" in batch:
        return int(batch["real"].sum()), batch["real"].size
    if "source_mask" in batch:
        both = (batch["source_mask"], batch["mask"])
        return sum(int((part > 0).sum()) for part in both), sum(part.size for part in both)
    return int((batch["mask"] > 0).sum()), batch["mask"].size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--checkpoint")
    options = parser.parse_args()
    prepare_process()
    print("| task | rows a batch | loader, rows/s | step, rows/s | ratio | padding |")
    print("|---|---|---|---|---|---|")
    for name, (spec, overrides) in work(options.data, options.checkpoint).items():
        try:
            experiment = set_up(read_config(f"experiments/{spec}", overrides))
        except UserError as error:
            print(f"| {name} | {error} |||||")
            continue
        size, split = experiment.options.batch_size, experiment.dataset.splits["train"]
        begun = time.perf_counter()
        batches = [split.train_batch(0, step, size, slice(0, size)) for step in range(BATCHES)]
        loaded = BATCHES * size / (time.perf_counter() - begun)
        real, total = np.sum([filled(batch) for batch in batches], axis=0)
        batch, state = batch_fetcher(experiment)(0), experiment.initial_state()
        state, _ = jax.block_until_ready(experiment.train_step(state, batch))
        begun = time.perf_counter()
        for _ in range(STEPS):
            state, _ = experiment.train_step(state, batch)
        jax.block_until_ready(state)
        stepped = STEPS * size / (time.perf_counter() - begun)
        print(
            f"| {name} | {size} | {loaded:,.0f} | {stepped:,.0f} | {loaded / stepped:,.1f} | {1 - real / total:.1%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
