"""The small runs that are maltreated, and how they are started."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TRAIN = {"batch_size": 16, "steps": 24, "log_every": 3, "eval_every": 7, "checkpoint_every": 4, "keep_checkpoints": 2}
ADAMW = {"name": "adamw", "learning_rate": 3e-3, "clip_norm": 0.5}
LANGUAGE = {"name": "language_modelling", "sample_tokens": 4}
IMAGES = {"name": "image_classification"}
RUNS = {
    "cnn": {
        "model": {"name": "cnn", "channels": (4, 8), "hidden": 256},
        "task": IMAGES,
        "data": {"name": "digits", "flip": True},
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9},
    },
    "lstm": {
        "model": {"name": "rnn", "cell": "lstm", "d_model": 64, "num_layers": 2, "dropout": 0.3},
        "task": LANGUAGE,
        "data": {"name": "pydoc", "context": 8, "layout": "stream"},
        "optimizer": ADAMW | {"ema_decay": 0.9},
    },
    "gpt": {
        "model": {"name": "gpt", "d_model": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.3},
        "task": LANGUAGE,
        "data": {"name": "pydoc", "context": 8},
        "optimizer": ADAMW | {"accumulate_steps": 2},
    },
}
RESNET = {
    "model": {"name": "resnet", "depth": 18, "width": 4, "stem": "cifar"},
    "task": IMAGES,
    "data": {"name": "digits", "flip": True},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
}

TRAINER = """
import json, sys
import bigjax
config, workdir = json.loads(sys.argv[1]), sys.argv[2]
print(bigjax.train(config, {}, workdir, quiet=True).result["params_sha256"])
"""


def config(name: str, **train: object) -> dict:
    """The whole config of a small run."""
    return (RUNS | {"resnet": RESNET})[name] | {"train": TRAIN | train}


def start(config: dict, workdir: Path, devices: int = 1) -> subprocess.Popen:
    """Trains in a process of its own, which prints the params_sha256 at the end."""
    environment = {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", TRAINER, json.dumps(config), str(workdir)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """The params_sha256 that a process prints; raises where it fails or takes five minutes."""
    out, err = process.communicate(timeout=300)
    if process.returncode:
        raise RuntimeError(err)
    return out.split()[-1]
