"""Encoded images (JPEG, PNG, ...) to pixels of one shape: all at the start, or each time they are asked for."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bigjax.data.dataset import Dataset
from bigjax.data.images import Augment, Source, image_dataset, in_memory
from bigjax.data.opening import open_image
from bigjax.data.records import BadRecords, OnError
from bigjax.errors import UserError

CHUNK = 64  # images that a thread decodes at a time

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class BadImage(UserError):
    """An image that cannot be used."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} is {problem}.")
        self.name, self.problem = name, problem


@dataclass(frozen=True)
class Encoded:
    """The images of one split as they are stored.

    Attributes:
      fetch: gives the encoded images and the labels of some examples; called from several threads.
      name: says in an error which image an example is.
      count: how many there are.
      content: gives a sha256 that stands for the content where the pixels are not all read at the start.
    """

    fetch: Callable[[Sequence[int]], tuple[Sequence[bytes], Sequence[int]]]
    name: Callable[[int], str]
    count: int
    content: Callable[[], str]

    def only(self, examples: np.ndarray) -> "Encoded":
        """The split of these examples alone, int64 [n]."""
        return Encoded(
            lambda some: self.fetch(examples[some].tolist()),
            lambda i: self.name(examples[i]),
            len(examples),
            lambda: hashlib.sha256(f"{self.content()} {examples.tolist()}".encode()).hexdigest(),
        )


@dataclass(frozen=True)
class Format:
    """What pixels every image becomes.

    Attributes:
      image_size: the short side is resized to this and the middle square kept; None keeps images as they are.
      grayscale: one channel, else three (RGB).
      interpolation: the filter of every resizing; as always in Pillow it is wide enough to see all pixels.
    """

    image_size: int | None
    grayscale: bool
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"config.data.image_size must be positive, not {self.image_size}.")

    def decode(
        self, data: bytes, name: str, part: Callable[[int, int], tuple[int, int, int, int]] | None = None, size: int = 0
    ) -> np.ndarray:
        """Pixels uint8 [H, W, C] of one encoded image; as in torchvision, transparency and EXIF rotation are ignored.

        Args:
          name: for errors.
          part: gives left, top, right and bottom of what is wanted from the image's height and width; that becomes
            uint8 [size, size, C], whatever `image_size` is.

        Raises:
          BadImage: it is damaged.
        """
        mode, filter = "L" if self.grayscale else "RGB", Image.Resampling[self.interpolation.upper()]
        wanted, least = size if part else self.image_size, None
        try:
            (width, height), load = open_image(data, mode)
            left, top, right, bottom = part(height, width) if part else (0, 0, width, height)
            if wanted:  # twice as much leaves the filter its work
                least = 2 * wanted * width // (right - left), 2 * wanted * height // (bottom - top)
            pixels = load(least)
        except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
            reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
            raise BadImage(name, f"damaged or not an image ({reason}); replace or remove it") from error
        if isinstance(pixels, np.ndarray):
            if not wanted:
                return pixels
            pixels = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
        if pixels.mode.startswith(("I", "F")):
            raise BadImage(name, "of more than 8 bits a channel, which would be cut off; convert it to 8 bits")
        if pixels.mode != mode:
            pixels = pixels.convert(mode)
        if part:
            x, y = pixels.width / width, pixels.height / height
            pixels = pixels.resize((size, size), filter, (left * x, top * y, right * x, bottom * y))
        elif wanted:
            pixels = ImageOps.fit(pixels, (wanted, wanted), filter)
        return np.asarray(pixels).reshape(pixels.height, pixels.width, -1)


def decoded_dataset(
    splits: Mapping[str, Encoded],
    class_names: Sequence[str],
    augment: Augment,
    form: Format,
    cache: bool,
    on_error: OnError,
    what: str,
) -> Dataset:
    """A data set from encoded images. The first good training image fixes the shape of all.

    Args:
      cache: decodes all images now into one array a split; else each is decoded when a batch needs it.
      on_error: "skip" leaves out images that cannot be used; without `cache` all are decoded once now to find them.
      what: names the data set in errors.

    Raises:
      UserError: a split is empty, an image cannot be used or is of another size, labels or the crop do not fit, the
        decoded images would fill more than half of the memory, or `augment` wants parts of images that are cached.
    """
    if augment.crop_scale and (cache or not form.image_size):
        raise UserError(
            "config.data.crop_scale takes parts of whole images: it needs config.data.cache=False, and "
            "config.data.image_size for evaluation."
        )
    for name, split in splits.items():
        if split.count == 0:
            raise UserError(f"The {name} split of {what} is empty.")
    shape = first_shape(splits["train"], form, on_error)
    augment.size(shape[0], shape[1])  # a crop that does not fit is told before everything is decoded
    if cache:
        check_memory(sum(split.count for split in splits.values()) * int(np.prod(shape)), what)
    # One pool for all splits. Pillow decodes without holding the interpreter, so threads decode in parallel.
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    bad, sources = BadRecords(on_error), {}
    for name, split in splits.items():
        decoder = Decoder(split, form, augment, shape, pool, threads)
        if cache or on_error == "skip":
            pixels, labels = np.empty((split.count if cache else 0, *shape), np.uint8), np.empty(split.count, np.int32)
            good = np.ones(split.count, bool)
            for block in blocks(split.count, 8 * CHUNK * threads, f"decoding {name}"):
                rows = slice(block.start, block.stop)
                images, labels[rows], errors = decoder.attempt(np.array(block))
                for row, error in errors:
                    bad.report(error.name, error.problem)
                    good[block.start + row] = False
                if cache:
                    pixels[rows] = images
            if not good.any():
                raise UserError(f"No image of the {name} split of {what} can be used{bad.reason}.")
            if not good.all():
                pixels, labels = pixels[good] if cache else pixels, labels[good]
                decoder.split = split = split.only(np.flatnonzero(good))
        sources[name] = in_memory(pixels, labels) if cache else Source(decoder, split.count, split.content())
    return image_dataset(sources, class_names, augment, what, bad.notes)


def first_shape(split: Encoded, form: Format, on_error: OnError) -> tuple[int, ...]:
    """The shape of the first image that can be used."""
    for example in range(split.count):
        try:
            return form.decode(split.fetch([example])[0][0], split.name(example)).shape
        except BadImage:
            if on_error == "stop":
                raise
    raise UserError(f"None of {split.count} training images can be used, such as {split.name(0)}.")


@dataclass
class Decoder:
    """Reads images of one split: what `Source.read` is.

    Attributes:
      shape: what `form` makes of every image.
      pool: has as many `threads`.
    """

    split: Encoded
    form: Format
    augment: Augment
    shape: tuple[int, ...]
    pool: ThreadPoolExecutor
    threads: int

    def __call__(self, examples: np.ndarray, draws: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and labels of examples int64 [n]; raises BadImage for the first that cannot be used."""
        pixels, labels, errors = self.attempt(examples, draws)
        for _, error in errors:
            raise error
        return pixels, labels

    def attempt(
        self, examples: np.ndarray, draws: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[int, BadImage]]]:
        """Pixels and labels of examples int64 [n], and the rows whose image cannot be used with the reason."""
        shape = self.shape if draws is None else (*self.augment.size(*self.shape[:2]), self.shape[-1])
        pixels, labels = np.empty((len(examples), *shape), np.uint8), np.empty(len(examples), np.int32)

        def decode(start: int) -> list[tuple[int, BadImage]]:
            some, errors = examples[start : start + step].tolist(), []
            encoded, labels[start : start + step] = self.split.fetch(some)
            for row, (example, data) in enumerate(zip(some, encoded, strict=True), start):
                part = None if draws is None else partial(self.augment.part, draws[row])
                try:
                    image = self.form.decode(data, self.split.name(example), part, shape[0])
                except BadImage as error:
                    errors.append((row, error))
                    continue
                if image.shape != shape:
                    raise UserError(
                        f"{self.split.name(example)} has {image.shape[0]}x{image.shape[1]} pixels, but the first "
                        f"training image {shape[0]}x{shape[1]}; set config.data.image_size to make all the same size."
                    )
                pixels[row] = image
            return errors

        step = min(CHUNK, len(examples) // self.threads + 1)  # a small batch is spread over all threads too
        done = [self.pool.submit(decode, start) for start in range(0, len(examples), step)]
        # In order, so that of several bad images the first is told.
        return pixels, labels, [error for chunk in done for error in chunk.result()]


def blocks(length: int, size: int, doing: str) -> Iterator[range]:
    """Cuts `range(length)` into ranges of `size`; on a terminal a bar says how far `doing` is."""
    from rich.console import Console
    from rich.progress import track

    cuts = [range(i, min(i + size, length)) for i in range(0, length, size)]
    return iter(track(cuts, doing, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()))


def check_memory(needed: int, what: str) -> None:
    """Raises UserError where `needed` bytes are more than half of the machine's memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
        raise UserError(
            f"Decoded, the images of {what} take {needed / 1e9:,.1f} GB, more than half of the {memory / 1e9:,.1f} GB "
            "of memory; config.data.cache=False decodes them at every step instead."
        )
