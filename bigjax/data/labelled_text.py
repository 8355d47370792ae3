"""Batches of labelled texts, or pairs of them: the user's own tables, or data sets of TFDS."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from bigjax.data.buckets import Buckets
from bigjax.data.dataset import Batch, Dataset, Examples, random, sha256
from bigjax.data.records import BadRecords, OnError, read_table
from bigjax.data.subwords import subword_tokenizer
from bigjax.errors import UserError

BLOCK = 4096  # texts that are encoded at a time
FINE, COARSE = 4, 16  # of which widths are multiples in training, and in evaluation, whose splits so share them
SHOWN = 10  # classes that an error names


class Labelled(NamedTuple):
    """Texts with their labels."""

    texts: list[str]
    pairs: list[str] | None  # the second text of each, or None where there is one alone
    labels: np.ndarray  # integers [N]


@dataclass(frozen=True)
class Tokens:
    """Texts as tokens, one after another.

    Attributes:
      ids: int32 [tokens].
      types: int8 [tokens]; 1 in the second text of a pair.
      offsets: int64 [N + 1], where each text begins, and the end.
    """

    ids: np.ndarray
    types: np.ndarray
    offsets: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """int32 [N]."""
        return np.diff(self.offsets).astype(np.int32)

    def rows(self, examples: np.ndarray, width: int) -> Batch:
        """`tokens` and `types` int32 [b, width], 0 from `lengths` int32 [b] on, of some texts int64 [b]."""
        lengths = self.lengths[examples]
        column = np.arange(width)
        real = column < lengths[:, None]
        place = np.where(real, self.offsets[examples, None] + column, 0)
        return {
            "tokens": np.where(real, self.ids[place], 0),
            "types": np.where(real, self.types[place], 0).astype(np.int32),
            "lengths": lengths,
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
        return sha256(self.tokens.ids, self.tokens.types, self.tokens.offsets, self.labels)


def encode(tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int) -> Tokens:
    """Tokens of texts or pairs, with the tokenizer's special ones; of what is too long the end of the text is cut.

    Of a pair the longer text is cut first.
    """
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy, for the next line changes it
    tokenizer.enable_truncation(max_length)
    ids, types, lengths = [np.empty(0, np.int32)], [np.empty(0, np.int8)], [0]
    for start in range(0, len(texts), BLOCK):
        some = slice(start, start + BLOCK)
        inputs = list(texts[some]) if pairs is None else list(zip(texts[some], pairs[some], strict=True))
        for encoding in tokenizer.encode_batch(inputs):
            ids.append(np.array(encoding.ids, np.int32))
            types.append(np.array(encoding.type_ids, np.int8))
            lengths.append(len(encoding.ids))
    return Tokens(np.concatenate(ids), np.concatenate(types), np.cumsum(lengths))


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
    train = splits["train"]
    coder = subword_tokenizer(tokenizer, vocab_size, [*train.texts, *(train.pairs or ())])
    special = coder.num_special_tokens_to_add(train.pairs is not None)
    if max_length <= special:
        raise UserError(
            f"config.data.max_length must be more than the tokenizer's {special} special tokens, not {max_length}."
        )
    made = {}
    for name, (texts, pairs, labels) in splits.items():
        tokens = encode(coder, texts, pairs, max_length)
        widths = Buckets(tokens.lengths, buckets, FINE if name == "train" else COARSE)
        made[name] = LabelledTextSplit(tokens, labels.astype(np.int32), widths)
    info = {
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "vocab_size": max(coder.get_vocab().values()) + 1,
        "context": -(-max_length // COARSE) * COARSE,  # the widest batch
        "max_length": max_length,
        "pairs": train.pairs is not None,
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
    names: list[str] = []
    splits = {}
    for split, path in {"train": train, "validation": validation, "test": test}.items():
        if path is None:
            continue
        rows, found = [], []
        for where, values in read_table(path, split, [*columns, label_column], bad):
            texts, label = [values[column] for column in columns], values[label_column]
            if not all(isinstance(text, str) for text in texts):
                bad.report(where, f"what is in {' and '.join(map(repr, columns))} must be text")
            elif not isinstance(label, str | int):
                bad.report(where, f"the label must be a word or a whole number, not {label!r}")
            elif names and str(label).strip() not in names:
                known = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
                bad.report(where, f"the label {str(label)!r} is not one of those in {train!r}: {known}")
            else:
                rows.append(texts)
                found.append(str(label).strip())
        if not rows:
            raise UserError(f"{path!r} (config.data.{split}) has no records that can be used{bad.reason}.")
        names = names or classes(found)
        number = {name: i for i, name in enumerate(names)}
        first, *second = map(list, zip(*rows, strict=True))
        splits[split] = Labelled(first, second[0] if second else None, np.array([number[name] for name in found]))
    if validation is None:
        splits |= held_out(splits["train"], holdout)
    return labelled_text_dataset(splits, names, tokenizer, vocab_size, max_length, buckets, bad.notes)


def classes(labels: Sequence[str]) -> list[str]:
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

    def taken(examples: np.ndarray) -> Labelled:
        texts, pairs = ([part[i] for i in examples] if part is not None else None for part in train[:2])
        return Labelled(texts or [], pairs, train.labels[examples])

    return {"train": taken(np.sort(order[count:])), "validation": taken(np.sort(order[:count]))}
