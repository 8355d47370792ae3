"""Batches of labelled texts, or pairs of them: the user's own tables, or data sets of TFDS."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from bigjax.data.buckets import Buckets
from bigjax.data.cached import Spool
from bigjax.data.dataset import Batch, Dataset, Examples, random, sha256
from bigjax.data.ragged import Ragged, RaggedSpool, Texts, TextSpool
from bigjax.data.records import BadRecords, OnError, Record, read_table
from bigjax.data.subwords import subword_tokenizer
from bigjax.errors import UserError

BLOCK = 4096  # texts that are encoded at a time
FINE, COARSE = 4, 16  # of which widths are multiples in training, and in evaluation, whose splits so share them
SHOWN = 10  # classes that an error names


class Labelled(NamedTuple):
    """Texts with their labels."""

    columns: tuple[Texts, ...]  # one, or two where it is pairs that have labels
    labels: np.ndarray  # int32 [N]

    def take(self, which: np.ndarray) -> "Labelled":
        """Some of them, by number, int64 [n]."""
        return Labelled(tuple(column.take(which) for column in self.columns), self.labels[which])


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens.

    Attributes:
      ids: int32.
      types: int8; 1 in the second text of a pair.
    """

    ids: Ragged
    types: Ragged

    def rows(self, examples: np.ndarray, width: int) -> Batch:
        """`tokens` and `types` int32 [b, width], 0 from `lengths` int32 [b] on, of some texts int64 [b]."""
        return {
            "tokens": self.ids.padded(examples, width),
            "types": self.types.padded(examples, width),
            "lengths": self.ids.lengths[examples],
        }


@dataclass(frozen=True)
class LabelledTextSplit(Examples):
    """One split: what `Tokens.rows` gives, `label` int32 [B], and `mask` float32 [B], 0 where a row is none.

    In evaluation also `index` int32 [B], the example's number, or -1; the references are the labels by that number.

    Attributes:
      tokens: N texts.
      labels: int32 [N].
      buckets: of the texts by length.
    """

    tokens: Tokens
    labels: np.ndarray
    buckets: Buckets

    @property
    def references(self) -> np.ndarray:
        return self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        return self.buckets.train(seed, step, batch_size)[0]

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        examples, width = self.buckets.train(seed, step, batch_size)
        return self.batch(examples[rows], width, np.ones(len(examples[rows]), np.float32))

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask, width = self.buckets.evaluation(index, batch_size, rows)
        number = np.where(mask > 0, examples, -1).astype(np.int32)
        return self.batch(examples, width, mask) | {"index": number}

    def batch(self, examples: np.ndarray, width: int, mask: np.ndarray) -> Batch:
        """The rows of some examples, int64 [b]."""
        return self.tokens.rows(examples, width) | {"label": self.labels[examples], "mask": mask}

    def fingerprint(self) -> str:
        ids, types = self.tokens.ids, self.tokens.types
        return sha256(ids.values, types.values, ids.offsets, self.labels)


def labelled(rows: Iterable[tuple[Sequence[str], int]]) -> Labelled:
    """What some rows have: one text or two, and a label."""
    spools: list[TextSpool] = []
    labels = Spool(np.int32)
    for texts, label in rows:
        spools = spools or [TextSpool() for _ in texts]
        for spool, text in zip(spools, texts, strict=True):
            spool.append(text)
        labels.append(np.int32(label).tobytes())
    return Labelled(tuple(spool.texts() for spool in spools), labels.array())


def encode(tokenizer: Tokenizer, columns: Sequence[Sequence[str]], max_length: int) -> Tokens:
    """Tokens of texts or pairs, with the tokenizer's special ones; of what is too long the end of the text is cut.

    Of a pair the longer text is cut first.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy, for the next line changes it
    tokenizer.enable_truncation(max_length)
    ids, types = RaggedSpool(np.int32), Spool(np.int8)
    for start in range(0, len(columns[0]), BLOCK):
        texts, *pairs = (column[start : start + BLOCK] for column in columns)
        for encoding in tokenizer.encode_batch(list(zip(texts, *pairs, strict=True)) if pairs else list(texts)):
            ids.append(np.array(encoding.ids, np.int32))
            types.append(np.array(encoding.type_ids, np.int8))
    rows = ids.rows()
    return Tokens(rows, Ragged(types.array(), rows.offsets, rows.lengths))


def labelled_text_dataset(
    splits: Mapping[str, Labelled],
    class_names: Sequence[str],
    tokenizer: str,
    vocab_size: int | None,
    max_length: int,
    buckets: int,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set from the texts and labels of each split, "train" among them.

    Raises:
      UserError: there is one class alone, or the tokenizer or a size does not fit.
    """
    if len(class_names) < 2:
        raise UserError(f"All labels are {class_names[0]!r}: to classify takes two classes or more.")
    if buckets < 1:
        raise UserError(f"config.data.buckets must be positive, not {buckets}.")
    columns = splits["train"].columns
    coder = subword_tokenizer(tokenizer, vocab_size, *columns)
    special = coder.num_special_tokens_to_add(len(columns) == 2)
    if max_length <= special:
        raise UserError(
            f"config.data.max_length must be more than the tokenizer's {special} special tokens, not {max_length}."
        )
    made = {}
    for name, (texts, labels) in splits.items():
        tokens = encode(coder, texts, max_length)
        widths = Buckets(tokens.ids.lengths, buckets, FINE if name == "train" else COARSE)
        made[name] = LabelledTextSplit(tokens, labels, widths)
    info = {
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "vocab_size": max(coder.get_vocab().values()) + 1,
        "context": -(-max_length // COARSE) * COARSE,  # the widest batch
        "max_length": max_length,
        "pairs": len(columns) == 2,
        "decode": lambda ids: coder.decode(list(ids)),
    }
    return Dataset(made, info, {"tokenizer.json": coder.to_str()}, notes)


def text_table(
    train: str,
    validation: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    text_column: str = "text",
    pair_column: str | None = None,
    label_column: str = "label",
    tokenizer: str = "wordpiece",
    vocab_size: int | None = None,
    max_length: int = 128,
    buckets: int = 12,
    on_error: OnError = "stop",
) -> Dataset:
    """The user's own labelled texts: .tsv or .csv files whose first line names the columns, or .jsonl files.

    Args:
      holdout: the share of the training file that is drawn for validation where there is no file for it.
      pair_column: of the second text, where it is a pair that has a label.
      label_column: of labels, which are any words or whole numbers; those of the training file are the classes.
      tokenizer: "wordpiece" or "bpe", which learn `vocab_size` tokens, or a tokenizer.json, or a folder with one.
      max_length: tokens, special ones included, after which a text is cut.
      buckets: how many widths the batches have at most; each is compiled once.

    Raises:
      UserError: a file, column or record is not as it should be (see `read_table`), or the tokenizer or a size does
        not fit.
    """
    bad = BadRecords(on_error)
    columns = [column for column in (text_column, pair_column) if column is not None]
    number: dict[str, int] = {}  # of each class
    splits: dict[str, Labelled] = {}
    for split, path in {"train": train, "validation": validation, "test": test}.items():
        if path is None:
            continue
        found = read_table(path, split, [*columns, label_column], bad)
        splits[split] = labelled(checked(found, columns, label_column, number, train if splits else None, bad))
        if not len(splits[split].labels):
            raise UserError(f"{path!r} (config.data.{split}) has no records that can be used{bad.reason}.")
        if split == "train":  # until now the classes were numbered as they came
            order = classes(number)
            place = np.argsort([number[name] for name in order]).astype(np.int32)
            splits[split] = splits[split]._replace(labels=place[splits[split].labels])
            number = {name: i for i, name in enumerate(order)}
    if validation is None:
        splits |= held_out(splits["train"], holdout)
    return labelled_text_dataset(splits, list(number), tokenizer, vocab_size, max_length, buckets, bad.notes)


def checked(
    found: Iterable[Record],
    columns: Sequence[str],
    label_column: str,
    number: dict[str, int],
    train: str | None,
    bad: BadRecords,
) -> Iterator[tuple[list[str], int]]:
    """The texts of each record with the number of its class; what is no text, and no label, is bad.

    A new class is given the next number; where `train` is a file, it is that which has all of them.
    """
    for where, values in found:
        texts, label = [values[column] for column in columns], values[label_column]
        name = str(label).strip()
        if not all(isinstance(text, str) for text in texts):
            bad.report(where, f"what is in {' and '.join(map(repr, columns))} must be text")
        elif not isinstance(label, str | int):
            bad.report(where, f"the label must be a word or a whole number, not {label!r}")
        elif train is not None and name not in number:
            known = ", ".join(list(number)[:SHOWN]) + (", ..." if len(number) > SHOWN else "")
            bad.report(where, f"the label {str(label)!r} is not one of those in {train!r}: {known}")
        else:
            yield texts, number.setdefault(name, len(number))


def classes(labels: Iterable[str]) -> list[str]:
    """The different labels in order, numbers by their size."""
    names = sorted(set(labels))
    try:
        return sorted(names, key=int)
    except ValueError:
        return names


def held_out(train: Labelled, share: float) -> dict[str, Labelled]:
    """The examples of a file without those drawn for validation, and these; the same ones whatever the seed.

    Raises:
      UserError: the share is none, or one of the two would be empty.
    """
    if not 0 < share < 1:
        raise UserError(f"config.data.holdout must be between 0 and 1, not {share}.")
    count = round(share * len(train.labels))
    if not 0 < count < len(train.labels):
        raise UserError(
            f"{len(train.labels)} examples are too few to hold out {share:.0%} for validation (config.data.holdout)."
        )
    order = random(0, "holdout").permutation(len(train.labels))
    return {"train": train.take(np.sort(order[count:])), "validation": train.take(np.sort(order[:count]))}
