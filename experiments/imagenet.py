"""ImageNet (ILSVRC2012) by the published recipe of each model, 224x224, from TensorFlow Datasets or from folders.

    bigjax data prepare imagenet2012 --manual-dir=FOLDER_OF_THE_TWO_ARCHIVES
    bigjax train --config=experiments/imagenet.py:resnet50
    bigjax train --config=experiments/imagenet.py:resnet50,folder --config.data.root=path/to/imagenet

A folder has `train/<synset>/*.JPEG` and `val/<synset>/*.JPEG`. Images are decoded as they are needed, by all cores.
None of this has been run to its end yet, for want of the data and of an accelerator; what each is meant to reach on
the validation images, and who reached it:

| argument | accuracy | source |
|---|---|---|
| `alexnet` | 56.5% | torchvision, references/classification |
| `vgg16` | 71.6% | torchvision |
| `resnet18` | 69.8% | torchvision |
| `resnet50` | 76.2% to 76.4% | torchvision; Goyal et al. 2017, with He et al. 2019's label smoothing |
| `vit-s16` | 76.5% | Beyer et al. 2022, "Better plain ViT baselines", whose positions are fixed and not learned |
| `cnn` | | the article's CNN with two convolutions more: a floor |
"""

from ml_collections import ConfigDict

EPOCH = 1_281_167 / 1024  # steps
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "schedule": "step"}
# Without BatchNorm the rate must stay low. torchvision's reference: 256 images a step, a tenth after 30 and 60 epochs.
PLAIN = {"optimizer": SGD | {"learning_rate": 0.01, "milestones": (1 / 3, 2 / 3)}, "train": {"batch_size": 256}}
# Goyal et al. 2017: 0.1 for 256 images, five epochs of warm-up, a tenth after 30, 60 and 80 epochs.
RESNET = {
    "task": {"label_smoothing": 0.1},
    "optimizer": SGD | {"learning_rate": 0.4, "nesterov": True, "warmup_steps": round(5 * EPOCH)},
}
RECIPES = {
    "alexnet": PLAIN | {"model": {"name": "alexnet"}},
    "vgg16": PLAIN | {"model": {"name": "vgg", "depth": 16}},
    "resnet18": RESNET | {"model": {"name": "resnet", "depth": 18}},
    "resnet50": RESNET | {"model": {"name": "resnet", "depth": 50}},
    "vit-s16": {
        "model": {"name": "vit", "patch_size": 16, "d_model": 384, "num_layers": 12, "num_heads": 6, "pool": "mean"},
        "task": {"mean": (0.5,), "std": (0.5,), "mixup": 0.2},
        "data": {"crop_scale": (0.05, 1.0), "randaugment_ops": 2, "randaugment_magnitude": 10.0},
        # The paper's decay of 1e-4 is not multiplied by the rate of 1e-3; optax's is.
        "optimizer": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "warmup_steps": 10_000,
            "clip_norm": 1.0,
            "weight_decay": 0.1,
            "weight_decay_mask": "kernel",
        },
    },
    "cnn": PLAIN | {"model": {"name": "cnn", "channels": (32, 64, 128, 256), "hidden": 512}},
}
TFDS = {
    "name": "tfds_images",
    "dataset": "imagenet2012",
    "train_split": "train",
    "validation_split": "validation",
}
FOLDER = {"name": "image_folder", "root": "data/imagenet"}


def get_config(arg: str | None = None) -> ConfigDict:
    model, _, source = (arg or "resnet50").partition(",")
    if model not in RECIPES or source not in ("", "folder"):
        raise ValueError(f"takes one of {', '.join(RECIPES)}, and ',folder' after it if wanted, not {arg!r}")
    recipe = RECIPES[model]
    data = {"cache": False, "image_size": 256, "crop": 224, "crop_scale": (0.08, 1.0), "flip": True}
    train = {"epochs": 90, "batch_size": 1024, "precision": "bfloat16", "loader_workers": 4, "log_every": 100}
    train |= {"eval_every": 5000, "checkpoint_every": 5000}
    return ConfigDict(
        {
            "seed": 0,
            "model": recipe["model"],
            "task": {"name": "image_classification", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
            | recipe.get("task", {}),
            "data": (FOLDER if source else TFDS) | {"interpolation": "bilinear"} | data | recipe.get("data", {}),
            "optimizer": recipe["optimizer"],
            "train": train | recipe.get("train", {}),
        }
    )
