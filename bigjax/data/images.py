"""Batches of labelled images, augmented a whole batch at a time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from bigjax.data.dataset import Batch, Dataset, Examples, in_order, random, sha256, shuffled
from bigjax.data.randaugment import rand_augment
from bigjax.errors import UserError

TRIES = 10  # at a random part of an image that fits into it
DRAWS = 2 * TRIES + 2  # random numbers for one part


@dataclass(frozen=True)
class Source:
    """The images of one split.

    Attributes:
      read: gives pixels uint8 [n, H, W, C] and labels int [n] of examples int64 [n]; the second argument is None, or
        float64 [n, DRAWS], from which comes a random part of each image (`Augment.part`), resized to `crop`.
      count: how many images there are.
      content: a sha256 over the images and labels.
      labels: all of them, int [count], where they are known without reading the images.
    """

    read: Callable[[np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray]]
    count: int
    content: str
    labels: np.ndarray | None = None


@dataclass(frozen=True)
class Augment:
    """How training images vary. Every random number is addressed by (seed, step, row).

    Attributes:
      crop: side of the square cut out of each image: anywhere in training, in the middle in evaluation; None keeps all.
      padding: black pixels added on every side before cropping.
      flip: left and right are exchanged in half of the images.
      cutout: side of a square, anywhere, that is blanked to mid-grey (DeVries & Taylor 2017); 0 is off.
      crop_scale: least and greatest share of a training image's area; a part of such an area, anywhere, is resized to
        `crop` (Szegedy et al. 2015, section 6: 0.08 to 1). None cuts `crop` out without resizing.
      crop_ratio: least and greatest width / height of that part.
      randaugment_ops: how many operations change each image (Cubuk et al. 2020): see `rand_augment`; 0 is off.
      randaugment_magnitude: how much they do.
    """

    crop: int | None = None
    padding: int = 0
    flip: bool = False
    cutout: int = 0
    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    randaugment_ops: int = 0
    randaugment_magnitude: float = 10.0

    def __post_init__(self) -> None:
        least = {"crop": 1, "padding": 0, "cutout": 0, "randaugment_ops": 0, "randaugment_magnitude": 0}
        for name, value in ((name, getattr(self, name)) for name in least):
            if value is not None and value < least[name]:
                raise UserError(f"config.data.{name} must be at least {least[name]}, not {value}.")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UserError(f"config.data.crop_ratio must be two positive numbers that rise, not {self.crop_ratio}.")
        if self.crop_scale is None:
            return
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"config.data.crop_scale must be two numbers that rise in 0 to 1, not {self.crop_scale}.")
        if self.crop is None:
            raise UserError("config.data.crop_scale needs config.data.crop, the side that parts are resized to.")

    def draws(self, rng: np.random.Generator, batch_size: int, rows: slice) -> np.ndarray | None:
        """What `Source.read` takes, from which `part` makes the part of each image, float64 [n, DRAWS]."""
        return None if self.crop_scale is None else rng.random((batch_size, DRAWS))[rows]

    def part(self, draws: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
        """The part of an image to train on: left, top, right and bottom, as in torchvision's RandomResizedCrop.

        Args:
          draws: random numbers in 0..1, float64 [DRAWS].
        """
        assert self.crop_scale is not None
        (least, most), (narrow, wide) = self.crop_scale, self.crop_ratio
        for area, ratio in draws[:-2].reshape(TRIES, 2):
            pixels = height * width * (least + (most - least) * area)
            ratio = narrow * (wide / narrow) ** ratio
            w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draws[-2] * (width - w + 1)), int(draws[-1] * (height - h + 1))
                return left, top, left + w, top + h
        # No try fits into an image that is much longer than wide, or the other way round: its middle.
        w = min(width, max(1, round(height * wide)))
        h = min(height, max(1, round(width / narrow)))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

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
        if self.randaugment_ops:
            chosen = rng.random((batch_size, self.randaugment_ops, 2))[rows]
            images = np.stack(
                [rand_augment(*row, self.randaugment_magnitude) for row in zip(images, chosen, strict=True)]
            )
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
    """One split of images: `image` uint8 [B, H, W, C], `label` int32 [B], `mask` float32 [B]."""

    source: Source
    augment: Augment

    def __len__(self) -> int:
        return self.source.count

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        _, index = shuffled(seed, step, batch_size, len(self))
        draws = self.augment.draws(random(seed, "crop", step), batch_size, rows)
        images, labels = self.source.read(index[rows], draws)
        images = self.augment.train(images, random(seed, "augment", step), batch_size, rows)
        return {"image": images, "label": labels.astype(np.int32), "mask": np.ones(len(images), np.float32)}

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask = in_order(index, batch_size, len(self), rows)
        images, labels = self.source.read(examples, None)
        return {"image": self.augment.evaluate(images), "label": labels.astype(np.int32), "mask": mask}

    def fingerprint(self) -> str:
        return self.source.content


def in_memory(images: np.ndarray, labels: np.ndarray) -> Source:
    """A split for `image_dataset` from uint8 [N, H, W, C] and integers [N]."""

    def read(examples: np.ndarray, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        if draws is not None:
            raise UserError(
                "config.data.crop_scale takes parts of whole images as they are stored, which these data are not."
            )
        return images[examples], labels[examples]

    return Source(read, len(labels), sha256(images, labels), labels)


def image_dataset(
    splits: Mapping[str, Source],
    class_names: Sequence[str],
    augment: Augment,
    what: str,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set from the sources of its splits.

    Raises:
      UserError: a split is empty, a label is outside the classes, or the crop does not fit.
    """
    for name, source in splits.items():
        if source.count == 0:
            raise UserError(f"The {name} split of {what} is empty.")
        labels = np.zeros(0) if source.labels is None else source.labels
        wrong = np.flatnonzero((labels < 0) | (labels >= len(class_names)))
        if len(wrong):
            raise UserError(
                f"Example {wrong[0]} of the {name} split of {what} has label {labels[wrong[0]]}, "
                f"but there are {len(class_names)} classes (0 to {len(class_names) - 1})."
            )
    made = {name: ImageSplit(source, augment) for name, source in splits.items()}
    first = made["train"].eval_batch(0, 1, slice(0, 1))["image"]
    info = {"num_classes": len(class_names), "image_shape": first.shape[1:], "class_names": list(class_names)}
    return Dataset(made, info, notes=notes)
