"""Data sets of TensorFlow Datasets, read from ArrayRecord files without TensorFlow.

`bigjax data prepare NAME` writes those files once. The code that prepares some data sets needs TensorFlow; reading does
not. A split is a TFDS split or a part of one: "train", "train[:90%]", "train[90%:]", "train+validation".
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bigjax.data.cached import spooled
from bigjax.data.dataset import Dataset
from bigjax.data.decoding import Encoded, Format, Interpolation, blocks, decoded_dataset
from bigjax.data.fingerprint import files_sha256
from bigjax.data.images import Augment
from bigjax.data.labelled_text import labelled, labelled_text_dataset
from bigjax.data.pairs import pairs_dataset, stored_pairs
from bigjax.data.prepare import one_line, prepared_builder
from bigjax.data.records import BadRecords, OnError
from bigjax.data.text import Layout, text_dataset
from bigjax.errors import UserError

Fetch = Callable[[Sequence[int]], list[dict[str, Any]]]  # examples to their features by name

BLOCK = 1024  # records parsed at a time where all are read


def tfds_images(
    dataset: str,
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
    image_size: int | None = None,
    cache: bool = True,
    crop: int | None = None,
    padding: int = 0,
    flip: bool = False,
    cutout: int = 0,
    interpolation: Interpolation = "bicubic",
    crop_scale: tuple[float, float] | None = None,
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3),
    randaugment_ops: int = 0,
    randaugment_magnitude: float = 10.0,
    on_error: OnError = "stop",
) -> Dataset:
    """Labelled images as uint8 [H, W, C], with the channels that TFDS says: 1 or 3.

    With `cache` all images are decoded at the start into one array, and the fingerprint is over the pixels. Without,
    nothing is decoded before a batch needs it, and the fingerprint is over TFDS's files (see `files_sha256`).

    Args:
      dataset: a TFDS name, `name[/config][:version]`.
      data_dir: where TFDS keeps its data; None is its own default, ~/tensorflow_datasets or TFDS_DATA_DIR.
      on_error, and the others: see `image_folder`.

    Raises:
      UserError: an unknown or unprepared data set, an unknown split or feature, or images as in `image_folder`.
    """
    import tensorflow_datasets as tfds

    builder = prepared_builder(dataset, data_dir)
    image = feature(builder, "image_key", image_key, tfds.features.Image)
    label = feature(builder, "label_key", label_key, tfds.features.ClassLabel)
    if image.np_dtype != np.uint8:
        raise UserError(f"The images of {dataset!r} are {np.dtype(image.np_dtype)}, not uint8 (config.data.image_key).")
    splits = {}
    for name, split in named(train_split, validation_split, test_split).items():
        count, fetch = records(builder, name, split, image_key, label_key)
        splits[name] = Encoded(
            partial(images_and_labels, fetch, image_key, label_key, split),
            f"Example {{}} of {split!r} of {dataset!r}".format,
            count,
            partial(identity, builder, f"{split} {image_key} {label_key}"),
        )
    augment = Augment(crop, padding, flip, cutout, crop_scale, crop_ratio, randaugment_ops, randaugment_magnitude)
    form = Format(image_size, image.shape[-1] == 1, interpolation)
    return decoded_dataset(splits, label.names, augment, form, cache, on_error, repr(dataset))


def tfds_text(
    dataset: str,
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    text_key: str = "text",
    context: int = 256,
    layout: Layout = "windows",
    tokenizer: str = "bytes",
    vocab_size: int | None = None,
    eval_streams: int = 8,
    on_error: OnError = "stop",
) -> Dataset:
    """The texts of a split one after another in the order of its records, each ending with a newline.

    They are written to a file without a name, which goes with the process, and memory-mapped.

    Args:
      tokenizer: as in `text_file`.
      dataset: a TFDS name, `name[/config][:version]`.
      data_dir: where TFDS keeps its data; None is its own default, ~/tensorflow_datasets or TFDS_DATA_DIR.
      on_error: whether a text that is not UTF-8 stops the run or is left out.

    Raises:
      UserError: an unknown or unprepared data set, an unknown split or feature, a text that is not UTF-8, or texts as
        in `text_file`.
    """
    import tensorflow_datasets as tfds

    builder, bad = prepared_builder(dataset, data_dir), BadRecords(on_error)
    feature(builder, "text_key", text_key, tfds.features.Text)
    texts = {}
    for name, split in named(train_split, validation_split, test_split).items():
        parts = (record[text_key] for _, record in text_records(builder, dataset, name, split, [text_key], bad))
        texts[name] = spooled((part.removesuffix("\n") + "\n").encode() for part in parts)
    what = repr(dataset)
    return text_dataset(texts, context, layout, tokenizer, vocab_size, eval_streams, what, notes=bad.notes)


def tfds_translation(
    dataset: str,
    source_language: str,
    target_language: str,
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    tokenizer: str = "bpe",
    vocab_size: int | None = None,
    max_length: int = 256,
    buckets: int = 8,
    on_error: OnError = "stop",
) -> Dataset:
    """Pairs of a data set whose examples are a text in each of some languages, as those of WMT.

    Args:
      dataset: a TFDS name, `name[/config][:version]`.
      source_language, target_language: features of it, such as "en" and "de".
      data_dir: where TFDS keeps its data; None is its own default, ~/tensorflow_datasets or TFDS_DATA_DIR.
      tokenizer, vocab_size, max_length, buckets, on_error: as in `translation_pairs`.

    Raises:
      UserError: an unknown or unprepared data set, an unknown split or language, or pairs as in `translation_pairs`.
    """
    import tensorflow_datasets as tfds

    builder, bad = prepared_builder(dataset, data_dir), BadRecords(on_error)
    for option, language in (("source_language", source_language), ("target_language", target_language)):
        feature(builder, option, language, tfds.features.Text)
    texts = {}
    for name, split in named(train_split, validation_split, test_split).items():
        found = text_records(builder, dataset, name, split, [source_language, target_language], bad)
        rows = ((where, record[source_language], record[target_language]) for where, record in found)
        texts[name] = stored_pairs(rows, bad)
    return pairs_dataset(texts, tokenizer, vocab_size, max_length, buckets, bad)


def tfds_labelled_text(
    dataset: str,
    train_split: str = "train",
    validation_split: str | None = None,
    test_split: str | None = None,
    data_dir: str | None = None,
    text_key: str = "text",
    pair_key: str | None = None,
    label_key: str = "label",
    tokenizer: str = "wordpiece",
    vocab_size: int | None = None,
    max_length: int = 128,
    buckets: int = 12,
    on_error: OnError = "stop",
) -> Dataset:
    """Texts with one of several labels, as `glue/sst2` (with text_key="sentence") and `imdb_reviews` have them.

    Args:
      dataset: a TFDS name, `name[/config][:version]`.
      data_dir: where TFDS keeps its data; None is its own default, ~/tensorflow_datasets or TFDS_DATA_DIR.
      pair_key: the second text, where it is a pair that has a label.
      tokenizer: this and what follows is as `text_table` has it.

    Raises:
      UserError: an unknown or unprepared data set, an unknown split or feature, a split whose labels are kept secret,
        a text that is not UTF-8, or what `text_table` refuses.
    """
    import tensorflow_datasets as tfds

    builder, bad = prepared_builder(dataset, data_dir), BadRecords(on_error)
    options = {"text_key": text_key} if pair_key is None else {"text_key": text_key, "pair_key": pair_key}
    for option, key in options.items():
        feature(builder, option, key, tfds.features.Text)
    label = feature(builder, "label_key", label_key, tfds.features.ClassLabel)
    splits = {}
    for name, split in named(train_split, validation_split, test_split).items():
        keys = [*options.values(), label_key]
        found = text_records(builder, dataset, name, split, keys, bad)
        rows = (([record[key] for key in options.values()], int(record[label_key])) for _, record in found)
        splits[name] = labelled(rows)
        labels = splits[name].labels
        if labels.min() < 0:
            raise UserError(
                f"The labels of {split!r} of {dataset!r} are not given (they are {labels.min()}), as those of GLUE's "
                f"test splits; choose another config.data.{name}_split."
            )
    return labelled_text_dataset(splits, label.names, tokenizer, vocab_size, max_length, buckets, bad.notes)


def named(train: str, validation: str | None, test: str | None) -> dict[str, str]:
    """The TFDS split of each split that is asked for."""
    splits = {"train": train, "validation": validation, "test": test}
    return {name: split for name, split in splits.items() if split is not None}


def text_records(
    builder: Any, dataset: str, name: str, split: str, keys: Sequence[str], bad: BadRecords
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each example of a split is, for errors, and its features `keys`, with text as `str`.

    One with text that is not UTF-8 is a bad record.

    Raises:
      UserError: `bad` stops at an example, or none is left.
    """
    count, fetch = records(builder, name, split, *keys)
    before = bad.count
    for block in blocks(count, BLOCK, f"reading {name}"):
        for number, record in zip(block, fetch(block), strict=True):
            where = f"Example {number} of {split!r} of {dataset!r}"
            try:
                found = decoded(record)
            except UnicodeDecodeError as error:
                bad.report(where, f"a text of it is not UTF-8 at byte {error.start}")
            else:
                yield where, found
    if bad.count - before == count:
        raise UserError(f"No example of {split!r} of {dataset!r} can be used{bad.reason}.")


def decoded(value: Any) -> Any:
    """Bytes as text, and arrays as lists, in whatever they stand; raises UnicodeDecodeError."""
    if isinstance(value, Mapping):
        return {key: decoded(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list):
        return [decoded(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def images_and_labels(
    fetch: Fetch, image_key: str, label_key: str, split: str, examples: Sequence[int]
) -> tuple[list[bytes], list[int]]:
    """The encoded images and the labels of some examples."""
    found = fetch(examples)
    labels = [int(record[label_key]) for record in found]
    if min(labels) < 0:
        raise UserError(f"Examples of {split!r} have no label, as TFDS keeps them where the labels are not published.")
    return [record[image_key] for record in found], labels


def records(builder: Any, name: str, split: str, *keys: str) -> tuple[int, Fetch]:
    """How many records a split has, and what gives the features `keys` of some of them, images still encoded."""
    import tensorflow_datasets as tfds

    known = builder.info.splits
    try:
        count = known[split].num_examples
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{split!r} (config.data.{name}_split) is no split of {builder.info.full_name}, nor a part of one like "
            f"'train[:90%]'; there are: {', '.join(known)}."
        ) from error
    if count == 0:
        raise UserError(f"The {name} split of {builder.info.full_name} is empty (config.data.{name}_split={split!r}).")
    try:
        source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except NotImplementedError as error:
        raise UserError(
            f"{builder.info.full_name} is prepared in {builder.data_path} as {builder.info.file_format.value}, which "
            f"needs TensorFlow to read; remove that folder and run `bigjax data prepare {builder.name}`."
        ) from error
    # Only these features are parsed: others may need TensorFlow, or time.
    wanted = tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})
    raw = {key: tfds.decode.SkipDecoding() for key in keys if isinstance(wanted[key], tfds.features.Image)}

    def fetch(examples: Sequence[int]) -> list[dict[str, Any]]:
        try:
            found = source.__getitems__(list(examples))
        except RuntimeError as error:  # every record carries a checksum
            raise UserError(
                f"The records of {builder.info.full_name} in {builder.data_path} are damaged ({one_line(error)}); "
                f"remove that folder and run `bigjax data prepare {builder.name}`."
            ) from error
        return [wanted.deserialize_example_np(record, decoders=raw) for record in found]

    return count, fetch


def feature(builder: Any, option: str, key: str, kind: type) -> Any:
    """The feature `key`, which `config.data.<option>` names and which must be a `kind`."""
    features = builder.info.features
    if key not in features:
        raise UserError(
            f"{builder.info.full_name} has no feature {key!r} (config.data.{option}); there are: {', '.join(features)}."
        )
    if not isinstance(features[key], kind):
        raise UserError(
            f"The feature {key!r} of {builder.info.full_name} (config.data.{option}) is a "
            f"{type(features[key]).__name__}, not a {kind.__name__}."
        )
    return features[key]


def identity(builder: Any, content: str) -> str:
    """A sha256 over the files of a data set and `content`, which says what of them is used."""
    folder = Path(builder.data_path)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = files_sha256(folder, names, f"fingerprint of {builder.name}")
    return hashlib.sha256(f"{files} {content}".encode()).hexdigest()
