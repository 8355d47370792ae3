"""The article's CNN and its recipe on CIFAR-10: random 24x24 crops and flips, SGD, 10 epochs.

From JPEG files, `root/train/<class>/*.jpg` and `root/test/<class>/*.jpg`, or with `:tfds` from TensorFlow Datasets:

    bigjax train --config=experiments/cifar10_cnn.py --config.data.root=path/to/cifar10
    bigjax train --config=experiments/cifar10_cnn.py:tfds

65.3% of the test images (JPEG files, seed 0) in 1 min 30 s on 2 CPU cores.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "tfds"):
        raise ValueError(f"takes no argument or 'tfds', not {arg!r}")
    folder = {"name": "image_folder", "root": "data/cifar10"}
    tfds = {
        "name": "tfds_images",
        "dataset": "cifar10",
        "train_split": "train[:90%]",
        "validation_split": "train[90%:]",
        "test_split": "test",
    }
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "cnn"},
            "task": {"name": "image_classification", "mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)},
            "data": (tfds if arg else folder) | {"crop": 24, "flip": True},
            "optimizer": {"name": "sgd", "learning_rate": 0.001, "momentum": 0.9},
            "train": {"epochs": 10, "batch_size": 32, "log_every": 200, "eval_every": 2000, "checkpoint_every": 2000},
        }
    )
