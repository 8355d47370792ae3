"""Batches of random numbers: for plans, and to measure the speed of a model whose data are not here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bigjax.data.dataset import Batch, Dataset, Examples, in_order, random
from bigjax.errors import UserError

EXAMPLES = 2**20  # of an epoch, of which any number is as random as all


@dataclass(frozen=True)
class RandomSplit(Examples):
    """Random examples; each batch is a function of (seed, step) alone.

    Attributes:
      make: of a generator and the number of rows, their batch without its mask.
      mask: the shape of an example's mask.
    """

    make: Callable[[np.random.Generator, int], Batch]
    mask: tuple[int, ...]

    def __len__(self) -> int:
        return EXAMPLES

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        count = len(range(batch_size)[rows])
        batch = self.make(random(seed, "random", step, rows.start or 0), count)
        return batch | {"mask": np.ones((count, *self.mask), np.float32)}

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        real = in_order(index, batch_size, len(self), rows)[1].reshape(-1, *(1 for _ in self.mask))
        batch = self.train_batch(0, index, batch_size, rows)
        return batch | {"mask": batch["mask"] * real}

    def fingerprint(self) -> str:
        return "random"


def random_images(image_size: int = 224, num_classes: int = 1000) -> Dataset:
    """Images of random pixels, with random labels."""

    def make(rng: np.random.Generator, rows: int) -> Batch:
        image = rng.integers(0, 256, (rows, image_size, image_size, 3), np.uint8)
        return {"image": image, "label": rng.integers(0, num_classes, rows, np.int32)}

    info = {"num_classes": num_classes, "image_shape": (image_size, image_size, 3)}
    return of(make, (), info | {"class_names": [str(label) for label in range(num_classes)]}, image_size, num_classes)


def random_text(context: int = 1024, vocab_size: int = 50257, hidden: bool = False) -> Dataset:
    """Texts of random tokens, counted as a byte each.

    Args:
      hidden: they are for masked language modelling, where all are real and all are to be predicted.
    """

    def make(rng: np.random.Generator, rows: int) -> Batch:
        tokens = rng.integers(0, vocab_size, (rows, context + 1), np.int32)
        batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
        if hidden:
            return batch | {"real": np.ones((rows, context), bool)}
        return batch | {"bytes": np.full(rows, context, np.float32), "start": np.ones(rows, bool)}

    info = {"vocab_size": vocab_size, "context": context, "decode": lambda tokens: " ".join(map(str, tokens))}
    return of(make, (context,), info | ({"mask_token": 0} if hidden else {}), context, vocab_size)


def of(
    make: Callable[[np.random.Generator, int], Batch], mask: tuple[int, ...], info: Mapping[str, Any], *sizes: int
) -> Dataset:
    """The data set of a split; raises UserError unless its sizes are positive."""
    if min(sizes) < 1:
        raise UserError(f"config.data takes sizes of 1 or more, not {min(sizes)}.")
    return Dataset({"train": RandomSplit(make, mask)}, info, notes=("The data are random numbers.",))
