"""A small ResNet on CIFAR-10 in minutes on a CPU: SGD with a short warm-up and a line to zero, 12 epochs.

From JPEG files, `root/train/<class>/*.jpg` and `root/test/<class>/*.jpg`, or with `tfds` from TensorFlow Datasets:

    bigjax train --config=experiments/cifar10_resnet.py --config.data.root=path/to/cifar10
    bigjax train --config=experiments/cifar10_resnet.py:tfds
    bigjax train --config=experiments/cifar10_resnet.py:resnet18 --config.data.root=path/to/cifar10

It trains on all of the training images and is made for at least 90% of the test images, each seen as it is and
mirrored. What makes it quick is known from David Page's "How to train your ResNet" (2019) and Jordan 2024: most of the
work is done at 16x16 and below, the first layer starts nearly white, and labels are smoothed.

`resnet18` is the usual long recipe, 200 epochs with a cosine, but that biases and BatchNorm's scales do not decay. It
has not been run to its end yet.
"""

from ml_collections import ConfigDict

FOLDER = {"name": "image_folder", "root": "data/cifar10"}
TFDS = {"name": "tfds_images", "dataset": "cifar10", "train_split": "train", "test_split": "test"}
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}


def get_config(arg: str | None = None) -> ConfigDict:
    words = set((arg or "").split(",")) - {""}
    if words - {"tfds", "resnet18"}:
        raise ValueError(f"takes 'tfds', 'resnet18', both with a comma between them, or nothing, not {arg!r}")
    source = TFDS if "tfds" in words else FOLDER
    task = {"name": "image_classification", "mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)}
    if "resnet18" in words:
        held_out = {"train_split": "train[:90%]", "validation_split": "train[90%:]"} if "tfds" in words else {}
        return ConfigDict(
            {
                "seed": 0,
                "model": {"name": "resnet", "depth": 18, "stem": "cifar"},
                "task": task,
                "data": source | held_out | {"crop": 32, "padding": 4, "flip": True},
                "optimizer": SGD | {"learning_rate": 0.1, "schedule": "cosine"},
                "train": {"epochs": 200, "batch_size": 128, "eval_every": 1000, "checkpoint_every": 1000},
            }
        )
    model = {"name": "resnet", "depth": 18, "stem": "halving", "width": 16, "cosine_stem": True}
    return ConfigDict(
        {
            "seed": 0,
            "model": model | {"widths": (32, 96, 192), "blocks": (1, 1, 1)},
            "task": task | {"label_smoothing": 0.1, "mirror": True},
            "data": source | ({} if "tfds" in words else {"holdout": 0.0}) | {"crop": 32, "padding": 2, "flip": True},
            "optimizer": SGD | {"learning_rate": 0.2, "nesterov": True, "schedule": "linear", "warmup_steps": 400},
            "train": {"epochs": 12, "batch_size": 256, "log_every": 50, "checkpoint_every": 400},
        }
    )
