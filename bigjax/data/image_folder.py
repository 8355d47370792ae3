"""Images in folders, one folder a class."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TypeVar

import numpy as np

from bigjax.data.dataset import Dataset
from bigjax.data.decoding import Encoded, Format, Interpolation, decoded_dataset
from bigjax.data.fingerprint import files_sha256
from bigjax.data.images import Augment
from bigjax.data.records import OnError, files_below
from bigjax.errors import UserError, nearest

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LAYOUT = (
    "expected train/<class>/*.jpg (or .jpeg, .png, .bmp, .webp) in it, and if wanted validation/ and test/ likewise"
)

T = TypeVar("T")
Files = list[tuple[str, int]]  # path below the root, label


def image_folder(
    root: str,
    image_size: int | None = None,
    grayscale: bool = False,
    cache: bool = True,
    crop: int | None = None,
    padding: int = 0,
    flip: bool = False,
    cutout: int = 0,
    holdout: float = 0.1,
    interpolation: Interpolation = "bicubic",
    crop_scale: tuple[float, float] | None = None,
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    randaugment_ops: int = 0,
    randaugment_magnitude: float = 10.0,
    on_error: OnError = "stop",
) -> Dataset:
    """Images in `root/train/<class>/`, `root/validation/<class>/` (or `val`) and `root/test/<class>/`, uint8 [H, W, C].

    The classes are the folders of train in sorted order; files come in sorted order. Hidden files are passed over, and
    so are other kinds of files and those in folders of a class folder, but a note tells of these. Without a validation
    folder the share `holdout` of the training images is it: always the same images, whatever config.seed, until files
    are added or removed; 0 is no validation.

    With `cache` all images are decoded at the start into one array, so that a damaged one is found at once, and the
    fingerprint is over the pixels. Without, they are decoded when a batch needs them, and the fingerprint is over the
    files, which are read for it once (see `files_sha256`).

    Args:
      image_size, grayscale, interpolation: see `Format`; without `image_size` all images must have one size.
      crop, padding, flip, cutout, crop_scale, crop_ratio, randaugment_ops, randaugment_magnitude: see `Augment`.
      on_error: a damaged image stops the run, with `cache` at the start, without when a batch needs it; "skip" leaves
        such images out and counts them, for which without `cache` all images are decoded once at the start.

    Raises:
      UserError: a folder is missing or not as expected, or an image is damaged or of another size.
    """
    folder = Path(root).expanduser()
    if not (folder / "train").is_dir():
        raise UserError(f"There is no folder {str(folder / 'train')!r} (config.data.root is {root!r}): {LAYOUT}.")
    classes = subfolders(folder / "train")
    if not classes:
        raise UserError(f"{str(folder / 'train')!r} has no class folders (config.data.root is {root!r}): {LAYOUT}.")
    others: list[str] = []
    files = {"train": list_images(folder, "train", classes, others)}
    for name in ("validation", "val", "test"):
        split = "validation" if name == "val" else name
        if (folder / name).is_dir():
            if split in files:
                raise UserError(f"{str(folder)!r} has both 'validation' and 'val'; remove one of them.")
            files[split] = list_images(folder, name, classes, others)
    empty = set(classes) - {classes[label] for _, label in files["train"]}
    if empty:
        raise UserError(f"The class folder {str(folder / 'train' / min(empty))!r} has no images: {LAYOUT}.")
    if "validation" not in files and holdout:
        files["train"], files["validation"] = hold_out(files["train"], holdout)
    splits = {split: encoded(folder, part) for split, part in files.items()}
    augment = Augment(crop, padding, flip, cutout, crop_scale, crop_ratio, randaugment_ops, randaugment_magnitude)
    form = Format(image_size, grayscale, interpolation)
    data = decoded_dataset(splits, classes, augment, form, cache, on_error, repr(str(folder)))
    return replace(data, notes=(*data.notes, *passed_over(others)))


def subfolders(folder: Path) -> list[str]:
    """The sorted names of the folders in `folder` that are not hidden."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def list_images(root: Path, split: str, classes: Sequence[str], others: list[str]) -> Files:
    """The images of `root/split/<class>/`, sorted by class and name; raises UserError for a class not in `classes`.

    Files of other kinds, and those deeper below, are added to `others`; hidden ones are not.
    """
    files = []
    for name in subfolders(root / split):
        if name not in classes:
            raise UserError(f"{str(root / split / name)!r} is no class of the train folder; {nearest(name, classes)}")
        label, images = classes.index(name), []
        for entry in os.scandir(root / split / name):
            path = f"{split}/{name}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.name.lower().endswith(SUFFIXES):
                images.append((path, label))
            elif entry.is_dir():
                others += (str(file.relative_to(root)) for file in files_below(root / path, "*"))
            else:
                others.append(path)
        files += sorted(images)
    return files


def passed_over(files: Sequence[str]) -> tuple[str, ...]:
    """A note of the files in class folders that are not used, if there are any."""
    if not files:
        return ()
    what = f"{len(files)} file{'s' * (len(files) > 1)}, such as {min(files)!r}"
    return (f"passed over {what}: only {', '.join(SUFFIXES)} right in a class folder are read",)


def hold_out(files: Sequence[T], share: float) -> tuple[list[T], list[T]]:
    """What is left to train on, and a `share` for validation that depends on nothing but the number of files."""
    if not 0 < share < 1:
        raise UserError(f"config.data.holdout must be between 0 and 1, not {share}.")
    order = np.random.RandomState(0).permutation(len(files))
    cut = max(1, int(len(files) * share))
    return [files[i] for i in np.sort(order[cut:])], [files[i] for i in np.sort(order[:cut])]


def encoded(root: Path, files: Files) -> Encoded:
    """The images `files` below `root`, not yet read."""

    def fetch(examples: Sequence[int]) -> tuple[list[bytes], list[int]]:
        return [read(f"{root}/{files[i][0]}") for i in examples], [files[i][1] for i in examples]

    names = [path for path, _ in files]
    content = partial(files_sha256, root, names, f"fingerprint of {root.name}")
    return Encoded(fetch, lambda i: repr(f"{root}/{files[i][0]}"), len(files), content)


def read(path: str) -> bytes:
    """A file's bytes; strings and FileIO, as pathlib takes a third of the time that decoding a small image does."""
    try:
        with FileIO(path) as file:
            return file.readall()
    except OSError as error:
        raise UserError(f"{path!r} cannot be read: {error.strerror}.") from error
