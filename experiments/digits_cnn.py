"""The article's CNN and its recipe on handwritten digits, enlarged to 28x28 and cropped at random to 24x24.

bigjax train --config=experiments/digits_cnn.py

98.9% of the test digits (seed 0; 98.9% to 99.4% over seeds 0 to 2) in 17 s on 2 CPU cores.
"""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise ValueError(f"takes no argument, not {arg!r}")
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "cnn"},
            "task": {"name": "image_classification", "mean": (0.3,), "std": (0.35,)},
            "data": {"name": "digits", "image_size": 28, "crop": 24},
            "optimizer": {"name": "sgd", "learning_rate": 0.001, "momentum": 0.9},
            "train": {"epochs": 60, "batch_size": 32, "log_every": 100, "eval_every": 400, "checkpoint_every": 400},
        }
    )


def sweep() -> Iterator[dict[str, Any]]:
    for learning_rate in (0.0003, 0.001, 0.003):
        yield {"optimizer.learning_rate": learning_rate, "train.epochs": 20.0}
