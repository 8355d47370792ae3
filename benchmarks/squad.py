"""MiniLM fine-tuned on the questions of xquad.en.json, and the same fine-tuning in PyTorch: what both reach.

    python -m benchmarks.squad ours   --checkpoint=path/to/all-MiniLM-L6-v2 --data=xquad.en.json --seed=0
    python -m benchmarks.squad theirs --checkpoint=path/to/all-MiniLM-L6-v2 --data=xquad.en.json --seed=0 --peers=PYTHON

The recipe is experiments/xquad_minilm.py; PYTHON is one that has torch and transformers. Both sides see the same
batches and learning rates, have the same loss, optimizer and rate of dropout, and are scored by the same code. The
head's first weights and what is dropped are drawn by each side.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["ours", "theirs"])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", default="data/xquad.en.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--peers", metavar="PYTHON")
    arguments = parser.parse_args()

    from bigjax.run import read_config

    overrides = {
        "seed": arguments.seed,
        "data.train": f"{arguments.data}[:38]",
        "data.test": f"{arguments.data}[38:]",
    } | ({"train.epochs": arguments.epochs} if arguments.epochs else {})
    config = read_config(f"{ROOT / 'experiments/xquad_minilm.py'}:{arguments.checkpoint}", overrides)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.side == "ours":
            figures = ours(config, Path(folder))
        else:
            figures = theirs(config, Path(folder), arguments.checkpoint, arguments.peers)
    seconds = time.perf_counter() - start
    print(f"{arguments.side} seed {arguments.seed}: {figures} in {seconds:.0f} s, all included")


def ours(config: dict, folder: Path) -> dict[str, float]:
    import bigjax

    return bigjax.train(config, workdir=folder / "run").result["metrics"]["test"]


def theirs(config: dict, folder: Path, checkpoint: str, python: str) -> dict[str, float]:
    from bigjax.training.setup import set_up

    experiment = set_up(config)
    train, test, size = *map(experiment.dataset.splits.get, ("train", "test")), config["train"]["batch_size"]
    arrays = {
        "seed": config["seed"],
        "dropout": config["model"]["dropout"],
        "rates": [experiment.schedule(step) for step in range(experiment.steps)],
        "weight_decay": config["optimizer"]["weight_decay"],
        "clip_norm": config["optimizer"]["clip_norm"],
        "test_batches": test.eval_batches(size),
    }
    tests = [test.eval_batch(i, size, slice(None)) for i in range(test.eval_batches(size))]
    trains = [train.train_batch(config["seed"], step, size, slice(None)) for step in range(experiment.steps)]
    for split, batches in (("train", trains), ("test", tests)):
        arrays |= {f"{split}_{i}_{key}": value for i, batch in enumerate(batches) for key, value in batch.items()}
    np.savez(folder / "batches.npz", **arrays)
    script = ROOT / "benchmarks/peers/squad_torch.py"
    words = [python, str(script), checkpoint, str(folder / "batches.npz"), str(folder / "logits.npz")]
    subprocess.run(words, check=True)
    logits = np.load(folder / "logits.npz", allow_pickle=False)
    outputs = {
        int(number): {"start": row[:, 0], "end": row[:, 1]}
        for i, batch in enumerate(tests)
        for number, row in zip(batch["index"], logits[f"logits_{i}"], strict=True)
        if number >= 0
    }
    return experiment.task.score(outputs, test.references)


if __name__ == "__main__":
    main()
