"""Batches of labelled images, augmented a whole batch at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bigjax.data.dataset import Batch, Dataset, Examples, in_order, random, sha256, shuffled
from bigjax.errors import UserError

Reader = Callable[[np.ndarray], np.ndarray]  # examples int64 [n] to pixels uint8 [n, H, W, C]


@dataclass(frozen=True)
class Augment:
    """How training images vary. Every random number is addressed by (seed, step, row).

    Attributes:
      crop: side of the square cut out of each image: anywhere in training, in the middle in evaluation; None keeps all.
      padding: black pixels added on every side before cropping.
      flip: left and right are exchanged in half of the images.
      cutout: side of a square, anywhere, that is blanked to mid-grey (DeVries & Taylor 2017); 0 is off.
    """

    crop: int | None = None
    padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name, least in (("crop", 1), ("padding", 0), ("cutout", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"config.data.{name} must be at least {least}, not {value}.")

    def train(self, images: np.ndarray, rng: np.random.Generator, batch_size: int, rows: slice) -> np.ndarray:
        """Augments `images` uint8 [n, H, W, C], the `rows` of a batch of `batch_size`."""
        height, width = self.size(images.shape[1], images.shape[2])
        pad = self.padding
        # Drawn for the whole batch, so that a row's numbers do not depend on which process has it.
        top = rng.integers(0, images.shape[1] + 2 * pad - height + 1, batch_size)[rows]
        left = rng.integers(0, images.shape[2] + 2 * pad - width + 1, batch_size)[rows]
        mirrored = rng.random(batch_size)[rows] < (0.5 if self.flip else 0)
        middle = rng.random((batch_size, 2))[rows]
        if pad:
            images = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        crops = sliding_window_view(images, (height, width), (1, 2))  # a view, [n, tops, lefts, C, height, width]
        images = crops.transpose(0, 1, 2, 4, 5, 3)[np.arange(len(images)), top, left]
        images[mirrored] = images[mirrored, :, ::-1]
        if self.cutout:
            blank = (abs(np.arange(height) + 0.5 - middle[:, :1] * height) < self.cutout / 2)[:, :, None] & (
                abs(np.arange(width) + 0.5 - middle[:, 1:] * width) < self.cutout / 2
            )[:, None, :]
            images[blank] = 128
        return images

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """The middle of each image."""
        height, width = self.size(images.shape[1], images.shape[2])
        top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        return images[:, top : top + height, left : left + width]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what comes out; raises UserError where the crop is larger than the image."""
        if self.crop is None:
            return height, width
        if self.crop > min(height, width):
            raise UserError(f"config.data.crop is {self.crop}, but the images are only {height}x{width}.")
        return self.crop, self.crop


@dataclass(frozen=True)
class ImageSplit(Examples):
    """One split of images: `image` uint8 [B, H, W, C], `label` int32 [B], `mask` float32 [B].

    Attributes:
      read: gives pixels by example.
      labels: int32 [N].
      augment: what varies in training.
      content: a sha256 over the images and labels.
    """

    read: Reader
    labels: np.ndarray
    augment: Augment
    content: str

    def __len__(self) -> int:
        return len(self.labels)

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        _, index = shuffled(seed, step, batch_size, len(self))
        index = index[rows]
        images = self.augment.train(self.read(index), random(seed, "augment", step), batch_size, rows)
        return {"image": images, "label": self.labels[index], "mask": np.ones(len(index), np.float32)}

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask = in_order(index, batch_size, len(self), rows)
        return {"image": self.augment.evaluate(self.read(examples)), "label": self.labels[examples], "mask": mask}

    def fingerprint(self) -> str:
        return self.content


def in_memory(images: np.ndarray, labels: np.ndarray) -> tuple[Reader, np.ndarray, str]:
    """A split for `image_dataset` from uint8 [N, H, W, C] and integers [N]."""
    return images.__getitem__, labels, sha256(images, labels)


def image_dataset(
    splits: Mapping[str, tuple[Reader, np.ndarray, str]], class_names: Sequence[str], augment: Augment, what: str
) -> Dataset:
    """A data set from readers, labels and content hashes by split.

    Raises:
      UserError: a split is empty, a label is outside the classes, or the crop does not fit.
    """
    made = {}
    for name, (read, labels, content) in splits.items():
        if len(labels) == 0:
            raise UserError(f"The {name} split of {what} is empty.")
        wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
        if len(wrong):
            raise UserError(
                f"Example {wrong[0]} of the {name} split of {what} has label {labels[wrong[0]]}, "
                f"but there are {len(class_names)} classes (0 to {len(class_names) - 1})."
            )
        made[name] = ImageSplit(read, labels.astype(np.int32), augment, content)
    first = made["train"].eval_batch(0, 1, slice(0, 1))["image"]
    info = {"num_classes": len(class_names), "image_shape": first.shape[1:], "class_names": list(class_names)}
    return Dataset(made, info)
