"""Every family that a task trains, small, with batches of random numbers of the task's form, for tests of meshes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bigjax.data import SOURCES
from bigjax.data.dataset import Dataset, Examples, random
from bigjax.run import read_config

V, T, CLASSES = 64, 16, 10
TINY = {"d_model": 64, "num_layers": 1, "num_heads": 4, "dropout": 0.1}
GPT = {"name": "gpt", "vocab_size": V, "context": T, **TINY}
LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "num_kv_heads": 2, "tied": False}
STACK = {"scan_layers": True, "num_layers": 4, "dropout": 0.0}  # of stages each microbatch drops by its own key
IMAGE = {"num_classes": CLASSES, "image_shape": (32, 32, 3)}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "alexnet": ("image_classification", {"name": "alexnet", **IMAGE, "image_shape": (64, 64, 3), "hidden": 64}),
    "bert": ("masked_language_modelling", {"name": "bert", "head": "masked_lm", "context": T, "vocab_size": V, **TINY}),
    "cnn": ("image_classification", {"name": "cnn", **IMAGE}),
    "conformer": ("speech_recognition", {"name": "conformer", "vocab_size": V, "num_mels": 8, **TINY}),
    "encoder_decoder": ("translation", {"name": "encoder_decoder", "vocab_size": V, "d_ff": 256, **TINY}),
    "gpt": ("language_modelling", GPT),
    "llama": ("language_modelling", GPT | LLAMA | STACK),
    "quick_cnn": ("image_classification", {"name": "quick_cnn", **IMAGE}),
    "resnet": ("image_classification", {"name": "resnet", "depth": 18, "width": 8, **IMAGE}),
    "rnn": ("language_modelling", {"name": "rnn", "vocab_size": V, "d_model": 64}),
    "rnn_classifier": ("sequence_classification", {"name": "rnn_classifier", "vocab_size": V, "num_classes": CLASSES}),
    "speech_lstm": ("speech_recognition", {"name": "speech_lstm", "vocab_size": V, "num_mels": 8, "d_hidden": 64}),
    "vgg": ("image_classification", {"name": "vgg", "depth": 11, "hidden": 64, **IMAGE}),
    "vit": ("image_classification", {"name": "vit", "patch_size": 8, **IMAGE, **TINY}),
}


@dataclass
class Noise(Examples):
    """Batches that are functions of (seed, step), of what `task` reads."""

    task: str
    image_shape: tuple[int, ...]

    def __len__(self) -> int:
        return 1024

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> dict[str, np.ndarray]:
        rng, n = random(seed, "noise", step), batch_size
        tokens = rng.integers(1, V, (n, T + 1), np.int32)
        lengths = rng.integers(T // 2, T + 1, n, np.int32)
        real, ones = np.arange(T) < lengths[:, None], np.ones(n, np.float32)
        batch = {
            "image_classification": {
                "image": rng.integers(0, 256, (n, *self.image_shape), np.uint8),
                "label": rng.integers(0, CLASSES, n, np.int32),
                "mask": ones,
            },
            "language_modelling": {
                "inputs": tokens[:, :-1],
                "targets": tokens[:, 1:],
                "mask": real.astype(np.float32),
                "bytes": lengths.astype(np.float32),
                "start": rng.random(n) < 0.5,
            },
            "masked_language_modelling": {
                "inputs": np.where(rng.random((n, T)) < 0.3, 0, tokens[:, 1:]),
                "targets": tokens[:, 1:],
                "mask": np.float32(real & (rng.random((n, T)) < 0.5)),
                "real": real,
            },
            "sequence_classification": {
                "tokens": tokens[:, 1:],
                "types": np.zeros((n, T), np.int32),
                "lengths": lengths,
                "label": rng.integers(0, CLASSES, n, np.int32),
                "mask": ones,
            },
            "speech_recognition": {
                "features": rng.normal(size=(n, 4 * T, 8)).astype(np.float32),
                "lengths": 4 * lengths,
                "labels": tokens[:, :2],
                "label_lengths": rng.integers(1, 3, n, np.int32),
                "mask": ones,
                "index": np.arange(n, dtype=np.int32),
            },
            "translation": {
                "source": tokens[:, 1:],
                "source_mask": real,
                "inputs": tokens[:, :-1],
                "targets": tokens[:, 1:],
                "mask": real.astype(np.float32),
            },
        }[self.task]
        return {key: value[rows] for key, value in batch.items()}


def noise(task: str, image_shape: tuple[int, ...] | None) -> Dataset:
    info = {
        "image_shape": image_shape or (1, 1, 3),
        "num_classes": CLASSES,
        "vocab_size": V,
        "context": T,
        "num_mels": 8,
        "subsampling": 4,
        "mask_token": 0,
    }
    return Dataset({"train": Noise(task, info["image_shape"])}, info)


SOURCES["noise"] = noise


def config(family: str, **overrides: Any) -> dict[str, Any]:
    """The resolved config of one of FAMILIES."""
    task, model = FAMILIES[family]
    sections = {
        "model": model,
        "task": {"name": task},
        "data": {"name": "noise", "task": task, "image_shape": model.get("image_shape")},
        # Adam makes steps of what is only rounding, such as the gradient of a bias that a BatchNorm takes away again.
        "optimizer": {"name": "sgd", "learning_rate": 1e-3, "warmup_steps": 5}
        if task == "image_classification"
        else {"name": "adamw", "learning_rate": 1e-3, "warmup_steps": 5},
        "train": {"steps": 20, "batch_size": 16},
    }
    return read_config(sections, overrides)
