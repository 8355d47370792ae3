"""Encoded images (JPEG, PNG, ...) to pixels of one shape: all at the start, or each time they are asked for."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from bigjax.data.dataset import Dataset, sha256
from bigjax.data.images import Augment, Reader, image_dataset
from bigjax.errors import UserError

CHUNK = 64  # images that a thread decodes at a time


@dataclass(frozen=True)
class Encoded:
    """The images of one split as they are stored.

    Attributes:
      fetch: gives the encoded images of some examples; called from several threads.
      name: says in an error which image an example is.
      labels: integers [N].
      content: a sha256 that stands for the content where the pixels are not all read at the start.
    """

    fetch: Callable[[Sequence[int]], Sequence[bytes]]
    name: Callable[[int], str]
    labels: np.ndarray
    content: str


@dataclass(frozen=True)
class Format:
    """What pixels every image becomes.

    Attributes:
      image_size: the short side is resized to this and the middle square kept; None keeps images as they are.
      grayscale: one channel, else three (RGB).
    """

    image_size: int | None
    grayscale: bool

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise UserError(f"config.data.image_size must be positive, not {self.image_size}.")

    def decode(self, data: bytes, name: str) -> np.ndarray:
        """Pixels uint8 [H, W, C] of one encoded image; raises UserError, with its `name`, where it is damaged.

        As in torchvision's ImageFolder, transparency and the EXIF rotation are ignored.
        """
        mode = "L" if self.grayscale else "RGB"
        try:
            image = Image.open(io.BytesIO(data))
            if self.image_size:
                # JPEG alone can decode at a fraction of its size; twice what is wanted leaves the filter its work.
                image.draft(mode, (2 * self.image_size, 2 * self.image_size))
            image.load()
        except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
            reason = "no known format" if isinstance(error, UnidentifiedImageError) else error
            raise UserError(f"{name} is damaged or not an image ({reason}); replace or remove it.") from error
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{name} has more than 8 bits a channel, which would be cut off; convert it to 8 bits.")
        pixels = image if image.mode == mode else image.convert(mode)
        if self.image_size:
            pixels = ImageOps.fit(pixels, (self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return np.asarray(pixels).reshape(pixels.height, pixels.width, -1)


def decoded_dataset(
    splits: Mapping[str, Encoded], class_names: Sequence[str], augment: Augment, form: Format, cache: bool, what: str
) -> Dataset:
    """A data set from encoded images. The first training image fixes the shape of all.

    Args:
      cache: decodes all images now into one array a split; else each is decoded when a batch needs it.
      what: names the data set in errors.

    Raises:
      UserError: a split is empty, an image is damaged or of another size, labels or the crop do not fit, or the
        decoded images would fill more than half of the memory.
    """
    for name, split in splits.items():
        if len(split.labels) == 0:
            raise UserError(f"The {name} split of {what} is empty.")
    train = splits["train"]
    shape = form.decode(train.fetch([0])[0], train.name(0)).shape
    augment.size(shape[0], shape[1])  # a crop that does not fit is told before everything is decoded
    if cache:
        check_memory(sum(len(split.labels) for split in splits.values()) * int(np.prod(shape)), what)
    # One pool for all splits. Pillow decodes without holding the interpreter, so threads decode in parallel.
    threads = os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    parts: dict[str, tuple[Reader, np.ndarray, str]] = {}
    for name, split in splits.items():
        read = reader(split, form, shape, pool, threads)
        if cache:
            pixels = np.empty((len(split.labels), *shape), np.uint8)
            for block in blocks(len(pixels), 8 * CHUNK * threads, f"decoding {name}"):
                pixels[block.start : block.stop] = read(np.arange(block.start, block.stop))
            parts[name] = (pixels.__getitem__, split.labels, sha256(pixels, split.labels))
        else:
            parts[name] = (read, split.labels, split.content)
    return image_dataset(parts, class_names, augment, what)


def reader(split: Encoded, form: Format, shape: tuple[int, ...], pool: ThreadPoolExecutor, threads: int) -> Reader:
    """Gives the pixels uint8 [n, *shape] of examples int64 [n], decoded by the `threads` of `pool`."""

    def decode(examples: list[int], out: np.ndarray) -> None:
        for row, (example, data) in enumerate(zip(examples, split.fetch(examples), strict=True)):
            pixels = form.decode(data, split.name(example))
            if pixels.shape != shape:
                raise UserError(
                    f"{split.name(example)} has {pixels.shape[0]}x{pixels.shape[1]} pixels, but the first training "
                    f"image {shape[0]}x{shape[1]}; set config.data.image_size to make all the same size."
                )
            out[row] = pixels

    def read(examples: np.ndarray) -> np.ndarray:
        out = np.empty((len(examples), *shape), np.uint8)
        step = min(CHUNK, len(examples) // threads + 1)  # a small batch is spread over all threads too
        done = [
            pool.submit(decode, examples[i : i + step].tolist(), out[i : i + step])
            for i in range(0, len(examples), step)
        ]
        for chunk in done:  # in order, so that of several damaged images the first is told
            chunk.result()
        return out

    return read


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
