"""Batches of text for language modelling: windows, lines or streams of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bigjax.data.dataset import Batch, Dataset, Examples, Split, in_order, random, sha256, shuffled
from bigjax.data.tokens import make_tokenizer
from bigjax.errors import UserError

Layout = Literal["windows", "lines", "stream"]


@dataclass(frozen=True)
class Text:
    """A text as tokens, and rows cut out of it.

    Attributes:
      tokens: integers [N], the whole text; may be memory-mapped.
      context: the width of a row, T.
      token_bytes: int32 [V], the UTF-8 bytes that each token stands for.
    """

    tokens: np.ndarray
    context: int
    token_bytes: np.ndarray

    def cut(self, starts: np.ndarray, lengths: np.ndarray, fresh: np.ndarray) -> Batch:
        """Rows whose targets begin at `starts` and number `lengths` (int64 [b], at most T; the rest is padding).

        The inputs are the targets one position on. `fresh` bool [b] says which rows do not continue the row before.
        """
        column = np.arange(self.context)
        real = column < lengths[:, None]
        position = np.minimum(starts[:, None] + column, len(self.tokens) - 1)
        targets = self.tokens[position].astype(np.int32) * real
        return {
            "inputs": self.tokens[position - 1].astype(np.int32) * real,
            "targets": targets,
            "mask": real.astype(np.float32),
            "bytes": (self.token_bytes[targets] * real).sum(1).astype(np.float32),
            "start": fresh,
        }


@dataclass(frozen=True)
class RowSplit(Examples):
    """Independent rows: windows of a text, or its lines.

    Attributes:
      starts: int64 [E], where each row's first target stands.
      lengths: int64 [E], its targets.
      jitter: each epoch shifts all rows by a random number of tokens up to this, so that their edges differ.
    """

    text: Text
    starts: np.ndarray
    lengths: np.ndarray
    jitter: int = 0

    def __len__(self) -> int:
        return len(self.starts)

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        epoch, index = (part[rows] for part in shuffled(seed, step, batch_size, len(self)))
        starts = self.starts[index]
        if self.jitter:
            shift = {e: random(seed, "jitter", int(e)).integers(self.jitter + 1) for e in np.unique(epoch)}
            starts = starts + np.array([shift[e] for e in epoch], np.int64)
        return self.text.cut(starts, self.lengths[index], np.ones(len(index), bool))

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask = in_order(index, batch_size, len(self), rows)
        lengths = self.lengths[examples] * (mask > 0)
        return self.text.cut(self.starts[examples], lengths, np.ones(len(mask), bool))

    def fingerprint(self) -> str:
        return sha256(self.text.tokens, self.starts, self.lengths)


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
) -> Dataset:
    """A data set from the text of each split, uint8 [N] of UTF-8.

    Raises:
      UserError: a split is empty, the training text is shorter than the context, or sizes are not positive.
    """
    if context < 1 or eval_streams < 1:
        raise UserError("config.data.context and config.data.eval_streams must be positive.")
    coder = make_tokenizer(tokenizer, vocab_size, texts["train"])
    splits: dict[str, Split] = {}
    for name, raw in texts.items():
        text = Text(coder.encode(raw), context, coder.token_bytes)
        length = len(text.tokens)
        if length < 2:
            raise UserError(f"The {name} split of {what} is empty: it has {length} tokens.")
        if name == "train" and length <= context:
            raise UserError(f"The text of {what} has {length} tokens, too short for config.data.context={context}.")
        if layout == "stream":
            splits[name] = StreamSplit(text, eval_streams)
        elif layout == "lines":
            splits[name] = RowSplit(text, *line_rows(text, coder.newline))
        elif name == "train":
            # Whole windows only, with room to shift them.
            count = max(1, (length - context) // context)
            starts = 1 + np.arange(count) * context
            jitter = min(context - 1, length - 1 - count * context)
            splits[name] = RowSplit(text, starts, np.full(count, context), jitter)
        else:
            starts = np.arange(1, length, context)
            splits[name] = RowSplit(text, starts, np.minimum(context, length - starts))
    info = {"vocab_size": len(coder.token_bytes), "context": context, "decode": coder.decode}
    return Dataset(splits, info, coder.files)


def line_rows(text: Text, newline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines' targets start and how many they are, int64 [E] each; longer lines are cut every T tokens.

    A line ends with the token that holds its newline (`newline` bool [V]), and is predicted from the one before it.
    """
    breaks = np.flatnonzero(newline[text.tokens]) + 1
    bounds = np.unique(np.concatenate([[1], breaks[breaks > 1], [len(text.tokens)]]))
    starts, lengths = bounds[:-1], np.diff(bounds)
    pieces = -(-lengths // text.context)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(starts, pieces) + within * text.context
    return starts, np.minimum(np.repeat(lengths, pieces) - within * text.context, text.context)


def pydoc(
    context: int = 128,
    layout: Layout = "windows",
    tokenizer: str = "bytes",
    vocab_size: int | None = None,
    eval_streams: int = 8,
) -> Dataset:
    """The Python language reference as every Python carries it: 0.4 MB of prose, which differs a little by version.

    Of every ten topics one is for validation and one for test. Chapters repeat sections of each other; a paragraph
    that came before, in whatever split, is left out.
    """
    from pydoc_data.topics import topics

    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for number, topic in enumerate(sorted(topics)):
        part = parts[{0: "validation", 5: "test"}.get(number % 10, "train")]
        for paragraph in topics[topic].split("\n\n"):
            if (bare := paragraph.strip("\n")) not in seen:
                seen.add(bare)
                part.append(paragraph)
    texts = {name: np.frombuffer("\n\n".join(part).encode(), np.uint8) for name, part in parts.items()}
    return text_dataset(texts, context, layout, tokenizer, vocab_size, eval_streams, "pydoc")


def text_file(
    train: str,
    validation: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    context: int = 256,
    layout: Layout = "windows",
    tokenizer: str = "bytes",
    vocab_size: int | None = None,
    eval_streams: int = 8,
) -> Dataset:
    """The user's own text files, memory-mapped; without one for validation, the last `holdout` of the first is it.

    `tokenizer` is "bytes", "bpe" (which learns `vocab_size` tokens), or a checkpoint's tokenizer.json or folder.

    Raises:
      UserError: a file is missing or empty, or too short for the context.
    """
    paths = {"train": train, "validation": validation, "test": test}
    texts: dict[str, np.ndarray] = {}
    for name, path in paths.items():
        if path is None:
            continue
        file = Path(path).expanduser()
        if not file.is_file():
            raise UserError(f"There is no text file {path!r} (config.data.{name}).")
        if file.stat().st_size == 0:
            raise UserError(f"The {name} split is empty: {path!r} has 0 bytes.")
        texts[name] = np.memmap(file, np.uint8, mode="r")
    if validation is None:
        if not 0 < holdout < 1:
            raise UserError(f"config.data.holdout must be between 0 and 1, not {holdout}.")
        whole = texts["train"]
        cut = int(len(whole) * (1 - holdout))
        while 0 < cut < len(whole) and whole[cut] & 0xC0 == 0x80:  # inside a character of several bytes
            cut -= 1
        texts["train"], texts["validation"] = whole[:cut], whole[cut:]
    return text_dataset(texts, context, layout, tokenizer, vocab_size, eval_streams, repr(train))
