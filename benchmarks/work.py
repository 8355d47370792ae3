"""What is trained when training is measured: models, optimizers and batches, on a CPU and on a GPU.

Random numbers stand for data: nothing that is measured depends on them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

ADAMW = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.01, "clip_norm": 1.0}
MOMENTUM = {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}


def images(rows: int, side: int, classes: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a data set of images says of itself, and a batch."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (rows, side, side, 3), np.uint8),
        "label": rng.integers(0, classes, rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return {"num_classes": classes, "image_shape": (side, side, 3), "class_names": [*map(str, range(classes))]}, batch


def text(rows: int, length: int, vocab_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Likewise, of a text."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (rows, length + 1), np.int32)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "mask": np.ones((rows, length), np.float32),
        "bytes": np.full(rows, length, np.float32),
        "start": np.zeros(rows, bool),
    }
    return {"vocab_size": vocab_size, "context": length, "decode": None}, batch


def sentences(rows: int, length: int, vocab_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Likewise, of labelled texts."""
    rng = np.random.default_rng(0)
    batch = {
        "tokens": rng.integers(0, vocab_size, (rows, length), np.int32),
        "types": np.zeros((rows, length), np.int32),
        "lengths": np.full(rows, length, np.int32),
        "label": rng.integers(0, 2, rows, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return {"vocab_size": vocab_size, "context": 512, "num_classes": 2, "class_names": ["0", "1"]}, batch


def speech(rows: int, frames: int, vocab_size: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Likewise, of speech, with 40 labels an utterance."""
    rng = np.random.default_rng(0)
    batch = {
        "features": rng.normal(size=(rows, frames, 80)).astype(np.float32),
        "lengths": np.full(rows, frames, np.int32),
        "labels": rng.integers(1, vocab_size, (rows, 40), np.int32),
        "label_lengths": np.full(rows, 40, np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return {"vocab_size": vocab_size, "num_mels": 80, "subsampling": 4}, batch


@dataclass(frozen=True)
class Work:
    """A row of the table: the sections of its config, its data, and what it computes in."""

    model: dict[str, Any]
    task: str
    optimizer: dict[str, Any]
    data: Callable[..., tuple[dict[str, Any], dict[str, np.ndarray]]]
    sizes: tuple[int, int, int]  # rows, length or side, classes or vocabulary
    precision: str = "float32"

    @property
    def units(self) -> int:
        """Tokens, images or utterances of a step."""
        return self.sizes[0] * (self.sizes[1] if self.data in (text, sentences) else 1)


IMAGES, BF16 = "image_classification", "bfloat16"
BERT = Work(
    {"name": "bert", "head": "sequence_classification"}, "sequence_classification", ADAMW, sentences, (8, 128, 30_522)
)
LSTM = Work(
    {"name": "rnn", "d_model": 650, "d_hidden": 650, "num_layers": 2, "dropout": 0.0, "tied": False},
    "language_modelling",
    {"name": "sgd", "learning_rate": 1.0, "clip_norm": 5.0},
    text,
    (20, 35, 10_000),
)
CPU = {
    "cnn": Work({"name": "cnn"}, IMAGES, MOMENTUM, images, (128, 24, 10)),
    "resnet18": Work({"name": "resnet", "depth": 18}, IMAGES, MOMENTUM, images, (16, 64, 1000)),
    "lstm": LSTM,
    "gpt": Work(
        {"name": "gpt", "d_model": 384, "num_layers": 6, "num_heads": 6, "use_bias": False},
        "language_modelling",
        ADAMW,
        text,
        (8, 256, 256),
    ),
    "bert_base": BERT,
    "conformer": Work({"name": "conformer", "scan_layers": True}, "speech_recognition", ADAMW, speech, (8, 500, 256)),
}
GPU = {
    # As nanoGPT trains it: no biases, and a vocabulary that divides by 128.
    "gpt2": Work(
        {"name": "gpt", "use_bias": False}, "language_modelling", ADAMW, text, (32, 1024, 50_304), precision=BF16
    ),
    "bert_base_128": replace(BERT, sizes=(128, 128, 30_522), precision=BF16),
    "bert_base_384": replace(BERT, sizes=(32, 384, 30_522), precision=BF16),
    "resnet50": Work({"name": "resnet", "depth": 50}, IMAGES, MOMENTUM, images, (256, 224, 1000), precision=BF16),
    "vit_b16": Work({"name": "vit"}, IMAGES, ADAMW, images, (128, 224, 1000), precision=BF16),
    "lstm_bf16": replace(LSTM, precision=BF16),
}
WORK = CPU | GPU
