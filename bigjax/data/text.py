"""Batches of text for language modelling: windows, lines or streams of tokens."""

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np

from bigjax.data import cached
from bigjax.data.dataset import (
    Batch,
    Dataset,
    Examples,
    Split,
    in_order,
    random,
    sha256,
    sha256_of_parts,
    shuffled,
)
from bigjax.data.tokenizer import Tokenizer
from bigjax.data.tokens import make_tokenizer
from bigjax.errors import UserError

Layout = Literal["windows", "lines", "stream"]
Packing = Literal["across", "within"]

BLOCK = 1 << 20  # tokens or rows looked at together


@dataclass(frozen=True)
class Text:
    """A text as tokens, and rows cut out of it.

    Attributes:
      tokens: integers [N], the whole text; may be memory-mapped.
      context: the width of a row, T.
      token_bytes: int32 [V], the UTF-8 bytes that each token stands for.
      end: the token that ends a document, where batches are to say which positions are of one document.
    """

    tokens: np.ndarray
    context: int
    token_bytes: np.ndarray
    end: int | None = None

    def cut(self, starts: np.ndarray, lengths: np.ndarray, fresh: np.ndarray) -> Batch:
        """Rows whose targets begin at `starts` and number `lengths` (int64 [b], at most T; the rest is padding).

        The inputs are the targets one position on. `fresh` bool [b] says which rows do not continue the row before.
        """
        column = np.arange(self.context)
        real = column < lengths[:, None]
        position = np.minimum(starts[:, None] + column, len(self.tokens) - 1)
        inputs = self.tokens[position - 1].astype(np.int32) * real
        targets = self.tokens[position].astype(np.int32) * real
        batch = {
            "inputs": inputs,
            "targets": targets,
            "mask": real.astype(np.float32),
            "bytes": (self.token_bytes[targets] * real).sum(1).astype(np.float32),
            "start": fresh,
        }
        return batch if self.end is None else batch | segments((inputs == self.end) & real)


def segments(begins: np.ndarray) -> Batch:
    """Which document each position is of, and its place in it, int32 [B, T] each.

    Args:
      begins: bool [B, T], where the token is that which ended the document before. The next one is predicted from it
        alone: so every token is predicted once, and none from another document.
    """
    column = np.arange(begins.shape[1], dtype=np.int32)
    first = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
    return {"segments": begins.cumsum(1, dtype=np.int32), "positions": column - first}


class Rows(Sized, Protocol):
    """Where the rows of a text are."""

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the first target of each of the rows `index` stands, and how many targets it has, int64 [b] each."""
        ...


@dataclass(frozen=True)
class Windows:
    """`count` rows of `width` targets one after another; the last ends with the target before `stop`."""

    count: int
    width: int
    stop: int

    def __len__(self) -> int:
        return self.count

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = 1 + index.astype(np.int64) * self.width
        return starts, np.minimum(self.width, self.stop - starts)


@dataclass(frozen=True)
class Lines:
    """Rows that begin at `starts`, int64 [E], each ending where the next one begins, and the last before `stop`."""

    starts: np.ndarray
    stop: int

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        following = np.minimum(index + 1, len(self) - 1)
        ends = np.where(index + 1 < len(self), self.starts[following], self.stop)
        return self.starts[index], ends - self.starts[index]


@dataclass(frozen=True)
class RowSplit(Examples):
    """Independent rows: windows of a text, or its lines.

    Attributes:
      rows: where they are.
      jitter: each epoch shifts all rows by a random number of tokens up to this, so that their edges differ.
    """

    text: Text
    rows: Rows
    jitter: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        epoch, index = (part[rows] for part in shuffled(seed, step, batch_size, len(self)))
        starts, lengths = self.rows.take(index)
        return self.text.cut(starts + jittered(seed, epoch, self.jitter), lengths, np.ones(len(index), bool))

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask = in_order(index, batch_size, len(self), rows)
        starts, lengths = self.rows.take(examples)
        return self.text.cut(starts, lengths * (mask > 0), np.ones(len(mask), bool))

    def fingerprint(self) -> str:
        def places(which: int) -> Iterator[np.ndarray]:
            for begin in range(0, len(self), BLOCK):
                yield self.rows.take(np.arange(begin, min(begin + BLOCK, len(self))))[which]

        tokens, shape = self.text.tokens, (len(self),)
        parts = (("int64", shape, places(which)) for which in (0, 1))
        return sha256_of_parts((str(tokens.dtype), tokens.shape, [tokens]), *parts)


def jittered(seed: int, epoch: np.ndarray, most: int) -> np.ndarray:
    """By how much rows of these epochs, int64 [b], are shifted: all of one epoch equally, by 0 to `most`."""
    if not most:
        return np.zeros(len(epoch), np.int64)
    shift = {e: random(seed, "jitter", int(e)).integers(most + 1) for e in np.unique(epoch)}
    return np.array([shift[e] for e in epoch], np.int64)


@dataclass(frozen=True)
class StreamSplit:
    """A text as parallel streams: row r of a batch goes on where row r of the batch before ended.

    In training there are as many streams as rows in a batch. In evaluation there are `eval_streams`, whatever the
    batch size, because how often a state starts afresh changes the figures.
    """

    text: Text
    eval_streams: int
    references: None = None

    def steps_per_epoch(self, batch_size: int) -> float:
        return self.chunks(batch_size)

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        return self.chunk(step % self.chunks(batch_size), batch_size, np.arange(batch_size)[rows])

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        chunk = step % self.chunks(batch_size)
        return np.arange(batch_size) * self.stream_length(batch_size) + chunk * self.text.context

    def eval_batch_size(self, wanted: int) -> int:
        return self.eval_streams

    def eval_batches(self, batch_size: int) -> int:
        return self.chunks(self.eval_streams)

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        return self.chunk(index, self.eval_streams, np.arange(batch_size)[rows])

    def stream_length(self, streams: int) -> int:
        """Targets in each stream but the last, which may be shorter."""
        return -(-(len(self.text.tokens) - 1) // streams)

    def chunks(self, streams: int) -> int:
        """Into how many chunks of at most T targets the longest of `streams` streams is cut."""
        return -(-self.stream_length(streams) // self.text.context)

    def chunk(self, index: int, streams: int, rows: np.ndarray) -> Batch:
        """Chunk `index` of the streams `rows` int64 [b]; a row that is no stream is all padding."""
        whole, last, begin = self.stream_length(streams), len(self.text.tokens), index * self.text.context
        starts = 1 + rows * whole + begin
        ends = np.minimum(1 + (rows + 1) * whole, last)
        lengths = np.where(rows < streams, np.clip(ends - starts, 0, self.text.context), 0)
        return self.text.cut(np.minimum(starts, last - 1), lengths, np.full(len(rows), index == 0))

    def fingerprint(self) -> str:
        return sha256(self.text.tokens)


def text_dataset(
    texts: Mapping[str, np.ndarray],
    context: int,
    layout: Layout,
    tokenizer: str,
    vocab_size: int | None,
    eval_streams: int,
    what: str,
    packing: Packing = "across",
    files: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """A data set from the text of each split, uint8 [N] of UTF-8; a NUL in it ends a document.

    What is made of large texts is kept in the cache folder and memory-mapped.

    Args:
      packing: whether attention looks "across" the ends of documents, or stays "within" each.
      files: the files that splits come from alone, by name of split, for errors.

    Raises:
      UserError: a split is empty, the training text is shorter than the context, or sizes are not positive.
    """
    if context < 1 or eval_streams < 1:
        raise UserError("config.data.context and config.data.eval_streams must be positive.")
    where = {name: f"The {name} split of {what}" for name in texts}
    where |= {name: repr(file) for name, file in (files or {}).items()}
    coder = make_tokenizer(tokenizer, vocab_size, texts["train"], where["train"])
    if packing == "within" and coder.end is None:
        raise UserError(
            "config.data.packing='within' needs documents: a folder of .txt files, a .jsonl, or a text with a NUL "
            "between them; and a tokenizer with a token for their end."
        )
    splits: dict[str, Split] = {}
    for name, raw in texts.items():
        tokens = tokenized(coder, raw, where[name])
        text = Text(tokens, context, coder.token_bytes, coder.end if packing == "within" else None)
        length = len(tokens)
        if length < 2:
            raise UserError(f"The {name} split of {what} is empty: it has {length} tokens.")
        if name == "train" and length <= context:
            raise UserError(f"The text of {what} has {length} tokens, too short for config.data.context={context}.")
        if layout == "stream":
            splits[name] = StreamSplit(text, eval_streams)
        elif layout == "lines":
            splits[name] = RowSplit(text, line_rows(text, coder.newline))
        elif name == "train":
            splits[name] = RowSplit(text, *training_windows(length, context))
        else:
            splits[name] = RowSplit(text, all_windows(length, context))
    info = {"vocab_size": len(coder.token_bytes), "context": context, "decode": coder.decode}
    return Dataset(splits, info, coder.files, notes)


def tokenized(coder: Tokenizer, text: np.ndarray, where: str) -> np.ndarray:
    """The token ids of a text, uint8 [N]; those of a large one are memory-mapped."""
    if coder.pieces is None or len(text) < cached.LARGE:
        return coder.encode(text, where)
    return cached.cached(f"tokens {coder.identity} {sha256(text)}", coder.dtype, lambda: coder.stream(text, where))


def training_windows(length: int, width: int) -> tuple[Windows, int]:
    """Whole windows of `length` tokens, and by how much they can be shifted."""
    count = max(1, (length - width) // width)
    return Windows(count, width, length), min(width - 1, length - 1 - count * width)


def all_windows(length: int, width: int) -> Windows:
    """Windows that have every one of `length` tokens but the first as a target once."""
    return Windows(-(-(length - 1) // width), width, length)


def line_rows(text: Text, newline: np.ndarray) -> Lines:
    """A text's lines; longer ones are cut every T tokens.

    A line ends with the token that holds its newline (`newline` bool [V]), and is predicted from the one before it.
    """
    make = partial(line_starts, text.tokens, newline, text.context)
    if len(text.tokens) < cached.LARGE:
        starts = np.concatenate(list(make()))
    else:
        starts = cached.cached(f"lines {sha256(text.tokens, newline)} {text.context}", np.int64, make)
    return Lines(starts, len(text.tokens))


def line_starts(tokens: np.ndarray, newline: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Where lines and their pieces begin, int64, part by part."""
    begin, stop = 1, len(tokens)
    for at in range(0, stop, BLOCK):
        breaks = at + 1 + np.flatnonzero(newline[tokens[at : at + BLOCK]])
        ends = [stop] if at + BLOCK >= stop and stop not in breaks[-1:] else []
        bounds = np.concatenate([[begin], breaks[breaks > begin], ends]).astype(np.int64)
        pieces = -(-np.diff(bounds) // width)
        within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        yield np.repeat(bounds[:-1], pieces) + within * width
        begin = bounds[-1]
