"""ResNet-18 with the stem for small images on CIFAR-10: padded 32x32 crops and flips, SGD with a cosine, 200 epochs.

From JPEG files, `root/train/<class>/*.jpg` and `root/test/<class>/*.jpg`, or with `:tfds` from TensorFlow Datasets:

    bigjax train --config=experiments/cifar10_resnet.py --config.data.root=path/to/cifar10
    bigjax train --config=experiments/cifar10_resnet.py:tfds

The recipe is the usual one, but that biases and BatchNorm's scales do not decay. It has not been run to its end yet.
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
            "model": {"name": "resnet", "depth": 18, "stem": "cifar"},
            "task": {"name": "image_classification", "mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)},
            "data": (tfds if arg else folder) | {"crop": 32, "padding": 4, "flip": True},
            "optimizer": {
                "name": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "schedule": "cosine",
            },
            "train": {"epochs": 200, "batch_size": 128, "log_every": 50, "eval_every": 1000, "checkpoint_every": 1000},
        }
    )
