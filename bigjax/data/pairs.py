"""Pairs of texts for translation: tokens of one vocabulary, in batches in which both sides are of similar length."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from bigjax.data.buckets import Buckets, bucket_widths
from bigjax.data.dataset import Batch, Dataset, Examples, Split, random, sha256
from bigjax.data.ragged import Ragged, RaggedSpool, Texts, TextSpool
from bigjax.data.records import BadRecords, OnError, read_table
from bigjax.data.subwords import subword_tokenizer
from bigjax.errors import UserError

CHUNK = 10_000  # texts encoded at a time
TARGET_WIDTHS = 6  # at most, for each width of the source
MULTIPLE = 2  # of which all widths are
POOL = 256  # batches that are sorted together: two lengths need more of them than one


class Pairs(NamedTuple):
    """What one side is, and what it is to become."""

    sources: Texts
    targets: Texts


@dataclass(frozen=True)
class References:
    """What translations are compared with.

    Attributes:
      texts: the right translation of each pair.
      tokenizer: makes texts of tokens.
    """

    texts: Sequence[str]
    tokenizer: Tokenizer

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""
        return self.tokenizer.decode([int(token) for token in tokens])


@dataclass(frozen=True)
class PairSplit(Examples):
    """Pairs in batches, each as wide on either side as its box; see `boxes`.

    Attributes:
      source: tokens of each source, with the end token.
      target: of each target, between the begin and the end token.
      buckets: how many widths of the source there are at most.
    """

    source: Ragged
    target: Ragged
    buckets: int
    references: References | None

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """See the function `boxes`."""
        return boxes(self.source.lengths, self.target.lengths - 1, self.buckets)

    @cached_property
    def order(self) -> Buckets:
        """The examples of each batch: those of one box or of neighbours."""
        return Buckets(self.boxes[0], pool=POOL)

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        return self.order.train(seed, step, batch_size)[0]

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        examples, _ = self.order.train(seed, step, batch_size)
        return self.cut(examples, rows)

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, real, _ = self.order.evaluation(index, batch_size, slice(None))
        batch = self.cut(examples, rows)
        # A row that only fills the batch up keeps its source, for attention to nothing at all is not a number.
        batch["mask"] *= real[rows, None]
        batch["index"] = np.where(real > 0, examples, -1)[rows].astype(np.int32)
        batch["stop"] = np.full(len(batch["index"]), self.source.values[-1], np.int32)
        return batch

    def cut(self, examples: np.ndarray, rows: slice) -> Batch:
        """Some rows of the batch of `examples`, int64 [B], which is as wide as it is for all of them."""
        box, shapes = self.boxes
        source_width, target_width = shapes[np.unique(box[examples])].max(0)
        examples = examples[rows]
        source, target = self.source.padded(examples, source_width), self.target.padded(examples, target_width + 1)
        real = np.arange(target_width) < self.target.lengths[examples][:, None] - 1
        return {
            "source": source,
            "source_mask": np.arange(source_width) < self.source.lengths[examples][:, None],
            "inputs": target[:, :-1] * real,
            "targets": target[:, 1:],
            "mask": real.astype(np.float32),
        }

    def fingerprint(self) -> str:
        return sha256(self.source.values, self.source.offsets, self.target.values, self.target.offsets)


def boxes(source: np.ndarray, target: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts pairs into boxes by both their lengths, so that little is padding and few shapes are compiled.

    The best `count` widths of the source, and for the pairs of each the best `TARGET_WIDTHS` widths of the target.
    Boxes are numbered so that neighbours have one width in common: there and back again.

    Args:
      source, target: int [N], lengths.
      count: widths of the source at most.

    Returns:
      The box of each pair, int16 [N], and the width of source and target in each box, int64 [K, 2].
    """
    box, shapes = np.zeros(len(source), np.int16), np.zeros((0, 2), np.int64)
    source_widths = bucket_widths(source, count, MULTIPLE)
    of_source = np.searchsorted(source_widths, source)
    for number, width in enumerate(source_widths):
        here = np.flatnonzero(of_source == number)
        target_widths = bucket_widths(target[here], TARGET_WIDTHS, MULTIPLE)
        place = np.searchsorted(target_widths, target[here])
        if number % 2:
            target_widths, place = target_widths[::-1], len(target_widths) - 1 - place
        box[here] = len(shapes) + place
        shapes = np.concatenate([shapes, np.stack([np.full(len(target_widths), width), target_widths], 1)])
    return box, shapes


def translation_pairs(
    train: str,
    validation: str | None = None,
    test: str | None = None,
    source_column: str = "source",
    target_column: str = "target",
    holdout: float = 0.05,
    tokenizer: str = "bpe",
    vocab_size: int | None = None,
    max_length: int = 256,
    buckets: int = 8,
    on_error: OnError = "stop",
) -> Dataset:
    """Pairs in the user's own .tsv, .csv or .jsonl files, in UTF-8.

    Args:
      train, validation, test: files. Without one for validation, `holdout` of the first are it, drawn at random and
        always the same.
      source_column, target_column: what holds the text and its translation.
      tokenizer: "bpe" or "wordpiece", learned from both sides of the training pairs; or a tokenizer.json.
      vocab_size: how many tokens are learned, 8000 where it is not said.
      max_length: training pairs with more tokens than this on a side are left out; the other splits keep all.
      buckets: how many widths of the source there are at most; fewer compile faster, more leave less padding.
      on_error: "stop" at a bad record, or "skip" it.

    Raises:
      UserError: a file is missing or empty or lacks a column, a record is bad, or the tokenizer does not fit.
    """
    bad = BadRecords(on_error)
    texts = {}
    for name, path in {"train": train, "validation": validation, "test": test}.items():
        if path is not None:
            texts[name] = read_pairs(path, name, source_column, target_column, bad)
    if validation is None:
        if not 0 < holdout < 1:
            raise UserError(f"config.data.holdout must be between 0 and 1, not {holdout}.")
        texts["train"], texts["validation"] = held_out(texts["train"], holdout, repr(train))
    return pairs_dataset(texts, tokenizer, vocab_size, max_length, buckets, bad)


def read_pairs(path: str, option: str, source: str, target: str, bad: BadRecords) -> Pairs:
    """The pairs of one file; raises UserError where there are none."""
    rows = (
        (where, values[source], values[target]) for where, values in read_table(path, option, (source, target), bad)
    )
    pairs = stored_pairs(rows, bad)
    if not pairs.sources:
        raise UserError(f"{path!r} (config.data.{option}) has no pairs{bad.reason}.")
    return pairs


def stored_pairs(rows: Iterable[tuple[str, object, object]], bad: BadRecords) -> Pairs:
    """The pairs, of texts without spaces around them, of rows: where each is, and its sides; others are bad records."""
    sources, targets = TextSpool(), TextSpool()
    for where, source, target in rows:
        if not isinstance(source, str) or not isinstance(target, str):
            bad.report(where, "a side is no text")
        elif not source.strip() or not target.strip():
            bad.report(where, f"the {'target' if source.strip() else 'source'} is empty")
        else:
            sources.append(source.strip())
            targets.append(target.strip())
    return Pairs(sources.texts(), targets.texts())


def held_out(pairs: Pairs, share: float, what: str) -> tuple[Pairs, Pairs]:
    """All pairs but a `share`, and those, in order."""
    count = len(pairs.sources)
    chosen = random(0, "holdout").permutation(count) < share * count
    if chosen.all() or not chosen.any():
        raise UserError(f"{what} has only {count} pairs: too few to hold out config.data.holdout={share} of them.")
    kept, out = (Pairs(*(side.take(np.flatnonzero(which)) for side in pairs)) for which in (~chosen, chosen))
    return kept, out


def pairs_dataset(
    texts: Mapping[str, Pairs],
    tokenizer: str,
    vocab_size: int | None,
    max_length: int,
    buckets: int,
    bad: BadRecords,
) -> Dataset:
    """A data set from the pairs of each split; for the arguments see `translation_pairs`.

    Raises:
      UserError: sizes are not positive, the tokenizer does not fit, or no training pair is short enough.
    """
    if max_length < 1 or buckets < 1:
        raise UserError("config.data.max_length and config.data.buckets must be positive.")
    if vocab_size is None and tokenizer in ("bpe", "wordpiece"):
        vocab_size = 8000
    coder = subword_tokenizer(tokenizer, vocab_size, *texts["train"])
    begin, end = begin_and_end(coder, tokenizer)
    splits: dict[str, Split] = {}
    left_out = 0
    for name, pairs in texts.items():
        longest = max_length if name == "train" else None
        source, target = encoded(coder, pairs, begin, end, longest)
        left_out += len(pairs.sources) - len(source)
        if not len(source):
            raise UserError(f"Every training pair has more than config.data.max_length={max_length} tokens.")
        references = None if name == "train" else References(pairs.targets, coder)
        splits[name] = PairSplit(source, target, buckets, references)
    notes = bad.notes
    if left_out:
        what = f"{left_out} training pair{'s' * (left_out > 1)}"
        notes += (f"left out {what} of more than config.data.max_length={max_length} tokens",)
    decode = References((), coder).decode
    info = {"vocab_size": coder.get_vocab_size(), "begin": begin, "end": end, "decode": decode}
    return Dataset(splits, info, {"tokenizer.json": coder.to_str()}, notes)


def begin_and_end(coder: Tokenizer, name: str) -> tuple[int, int]:
    """The tokens that a tokenizer puts around a text; one that puts only one has it for both."""
    around = coder.encode("").ids
    if not around:
        raise UserError(f"config.data.tokenizer={name!r} has no token that ends a text; 'bpe' learns one that has.")
    return around[0], around[-1]


def encoded(coder: Tokenizer, pairs: Pairs, begin: int, end: int, longest: int | None) -> tuple[Ragged, Ragged]:
    """The tokens of sources, which `end` follows, and of targets, between `begin` and `end`.

    Pairs with more than `longest` tokens on a side, those two not counted, are left out.
    """
    dtype = np.dtype(np.uint16 if coder.get_vocab_size() <= 2**16 else np.int32)
    sources, targets = RaggedSpool(dtype), RaggedSpool(dtype)
    for start in range(0, len(pairs.sources), CHUNK):
        sides = (encode(coder, side[start : start + CHUNK]) for side in pairs)
        for source, target in zip(*sides, strict=True):
            if longest is None or max(len(source), len(target)) <= longest:
                sources.append(np.array([*source, end], dtype))
                targets.append(np.array([begin, *target, end], dtype))
    return sources.rows(), targets.rows()


def encode(coder: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The tokens of each text alone; a special token's name in it is text like any other."""
    coder.encode_special_tokens = True
    for encoding in coder.encode_batch_fast(list(texts), add_special_tokens=False):
        yield encoding.ids
