"""ImageNet's official archives (ILSVRC2012), read without TensorFlow into what TFDS makes of them."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bigjax.errors import UserError

ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}

Example = tuple[str, dict[str, Any]]  # a key, and the features by name


def imagenet_splits(folder: Path, classes: list[str]) -> dict[str, Iterator[Example]]:
    """The examples of both splits, in place of the `_split_generators` of TFDS's `imagenet2012`.

    Images are kept as they are; TFDS itself converts the 22 that are CMYK and the one PNG, which decoding does too.

    Args:
      folder: holds the two archives as they were downloaded.
      classes: the synsets in the order of their labels.

    Raises:
      UserError: an archive is missing, damaged or holds something else.
    """
    for name in ARCHIVES.values():
        if not (folder / name).is_file():
            raise UserError(
                f"There is no {str(folder / name)!r}: register at image-net.org, download "
                f"{' and '.join(ARCHIVES.values())} and name their folder with --manual-dir."
            )
    return {
        "train": train(folder / ARCHIVES["train"], classes),
        "validation": validation(folder / ARCHIVES["validation"]),
    }


def train(path: Path, classes: list[str]) -> Iterator[Example]:
    """A tar of one tar a class, `n01440764.tar`, of that class's images."""
    for name, content in members(path, path):
        synset = name.removesuffix(".tar")
        if synset not in classes:
            raise UserError(f"{str(path)!r} holds {name!r}, which is none of ImageNet's classes.")
        for image, data in members(path, io.BytesIO(content)):
            yield image, {"file_name": image, "image": data, "label": synset}


def validation(path: Path) -> Iterator[Example]:
    """A tar of images named by number, from `ILSVRC2012_val_00000001.JPEG`; TFDS carries the published labels."""
    import tensorflow_datasets as tfds

    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    for image, data in members(path, path):
        number = image.removeprefix("ILSVRC2012_val_").removesuffix(".JPEG")
        if not number.isdecimal() or not 1 <= int(number) <= len(labels):
            raise UserError(f"{str(path)!r} holds {image!r}, which is no image of ImageNet's validation set.")
        yield image, {"file_name": image, "image": data, "label": labels[int(number) - 1]}


def members(path: Path, archive: Path | BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files in a tar that is, or lies in, the file `path`."""
    try:
        with tarfile.open(archive) if isinstance(archive, Path) else tarfile.open(fileobj=archive) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) is not None:
                    yield Path(member.name).name, file.read()
    except tarfile.TarError as error:
        raise UserError(f"{str(path)!r} is damaged or no tar archive ({error}); download it again.") from error
