"""Windows of tokens over passages, each behind the question that is asked about it, and the batches made of them."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from bigjax.data.buckets import Buckets
from bigjax.data.dataset import Batch, Examples, sha256
from bigjax.data.questions import Question
from bigjax.errors import UserError

BLOCK = 1024  # texts that are tokenised at a time


@dataclass(frozen=True)
class Ragged:
    """Rows of different lengths in one array."""

    values: np.ndarray  # [N, ...]
    bounds: np.ndarray  # int64 [K + 1]; row i is values[bounds[i] : bounds[i + 1]]

    def __getitem__(self, row: Any) -> np.ndarray:
        return self.values[self.bounds[row] : self.bounds[row + 1]]


def ragged(rows: Iterable[np.ndarray]) -> Ragged:
    """Rows as one array."""
    rows = list(rows)
    return Ragged(np.concatenate(rows), np.cumsum([0, *map(len, rows)]))


@dataclass(frozen=True)
class Layout:
    """How a question and a window over its passage become one row of tokens: [CLS] question [SEP] passage [SEP].

    Attributes:
      before, between, after: special tokens, those of the tokenizer.
      types: token types of `before` and the question, `between`, the passage and `after`.
      max_length: of a row.
      stride: tokens from where one window over a passage begins to where the next does.
      max_query_length: tokens of a question; what is longer is cut.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int]
    max_length: int
    stride: int
    max_query_length: int

    def room(self, question_length: int) -> int:
        """The tokens of the passage that a row with such a question has room for."""
        return self.max_length - question_length - len(self.before + self.between + self.after)


def make_layout(tokenizer: Tokenizer, max_length: int, stride: int, max_query_length: int) -> Layout:
    """The layout that a tokenizer's own template of pairs gives.

    Raises:
      UserError: it has none that begins with a special token, or the sizes do not fit each other.
    """
    pair = tokenizer.encode("a", "a")
    ids, kinds, places = pair.ids, pair.type_ids, pair.sequence_ids
    if 0 not in places or 1 not in places or places[0] is not None:
        raise UserError(
            "config.data.tokenizer must put a special token such as [CLS] before a pair of texts, for it stands for "
            "there being no answer; this one does not."
        )
    first, second = (np.flatnonzero([p == part for p in places]) for part in (0, 1))
    layout = Layout(
        tuple(ids[: first[0]]),
        tuple(ids[first[-1] + 1 : second[0]]),
        tuple(ids[second[-1] + 1 :]),
        (kinds[first[0]], kinds[first[-1] + 1], kinds[second[0]]),
        max_length,
        stride,
        max_query_length,
    )
    if max_query_length < 1 or stride < 1:
        raise UserError("config.data.max_query_length and config.data.stride must be positive.")
    if layout.room(max_query_length) < stride:
        raise UserError(
            f"config.data.max_length={max_length} has room for {max(0, layout.room(max_query_length))} tokens of a "
            f"passage behind a question of {max_query_length}, less than config.data.stride={stride}, so that some "
            "would be in no window."
        )
    return layout


class Windows:
    """Questions and windows over their passages; passages are kept once, and rows are put together when asked for.

    Attributes:
      questions: what was asked.
      unanswerable: some of the data's questions have no answer.
      question: int32 [W], whose window it is; the windows of a question follow each other.
      begin, length: int32 [W], the tokens of the passage in it.
      shift: int32 [W], where in the row they begin.
      widths: int32 [W], the tokens of the row.
      answer: int32 [W, 2], the first and last token of the answer in the row; 0 where the window does not hold it all.
    """

    def __init__(self, questions: Sequence[Question], tokenizer: Tokenizer, layout: Layout, unanswerable: bool) -> None:
        self.questions, self.layout, self.unanswerable = questions, layout, unanswerable
        numbers: dict[str, int] = {}
        self.passage = np.array([numbers.setdefault(q.passage, len(numbers)) for q in questions], np.int32)
        tokens, spans = [], []
        for passage, encoding in zip(numbers, encoded(tokenizer, list(numbers)), strict=True):
            tokens.append(np.array(encoding.ids, np.int32))
            spans.append(np.array([with_marks(passage, *span) for span in encoding.offsets], np.int32).reshape(-1, 2))
        self.passage_tokens, self.spans = ragged(tokens), ragged(spans)
        self.question_tokens = ragged(
            np.array(encoding.ids[: layout.max_query_length], np.int32)
            for encoding in encoded(tokenizer, [q.text for q in questions])
        )
        windows = [window for number in range(len(questions)) for window in self.cut(number)]
        self.question, self.begin, self.length, self.shift, *ends = np.array(windows, np.int32).T
        self.answer = np.stack(ends, 1)
        self.widths = self.shift + self.length + len(layout.after)
        self.first = np.searchsorted(self.question, np.arange(len(questions) + 1))

    def cut(self, number: int) -> list[tuple[int, ...]]:
        """The windows of one question: its number, begin, length, shift, and the answer's first and last token."""
        question, spans = self.questions[number], self.spans[self.passage[number]]
        asked = len(self.question_tokens[number])
        room, stride = self.layout.room(asked), self.layout.stride
        shift = len(self.layout.before) + asked + len(self.layout.between)
        first = last = -1
        if question.answers:
            # Its tokens are those that have a character in common with it.
            first = int(np.searchsorted(spans[:, 1], question.start, side="right"))
            last = int(np.searchsorted(spans[:, 0], question.start + len(question.answers[0]), side="left")) - 1
        windows: list[tuple[int, ...]] = []
        for begin in range(0, max(len(spans) - room + stride, 1), stride):
            length = min(room, len(spans) - begin)
            inside = begin <= first <= last < begin + length
            ends = (shift + first - begin, shift + last - begin) if inside else (0, 0)
            windows.append((number, begin, length, shift, *ends))
        return windows

    def __len__(self) -> int:
        return len(self.question)

    def windows(self, question: int) -> range:
        """The windows over the passage that a question is about."""
        return range(self.first[question], self.first[question + 1])

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What the tokens of a row stand for.

        Returns:
          int32 [T, 2], the characters of the passage from and to, (0, 0) for other tokens; and bool [T], the passage's
          tokens that no other window shows with more context: to the left and right of it, whichever is less.
        """
        question = self.question[number]
        spans = np.zeros((self.widths[number], 2), np.int32)
        place = slice(self.shift[number], self.shift[number] + self.length[number])
        begin, end = self.begin[number], self.begin[number] + self.length[number]
        spans[place] = self.spans[self.passage[question]][begin:end]
        central = np.zeros(len(spans), bool)
        central[place] = self.most_central(question, np.arange(begin, end)) == number
        return spans, central

    def most_central(self, question: int, tokens: np.ndarray) -> np.ndarray:
        """The window of a question that shows each of the passage's `tokens` with most context, int64 [N]."""
        numbers = np.array(self.windows(question))
        left = tokens - self.begin[numbers, None]  # [windows, N]
        right = self.length[numbers, None] - 1 - left
        # Of windows that are equal in that, the longer one, as the published code has it.
        context = np.minimum(left, right) + 0.01 * self.length[numbers, None]
        return numbers[np.where((left >= 0) & (right >= 0), context, -1).argmax(0)]

    def rows(self, numbers: np.ndarray, width: int) -> Batch:
        """Rows of `width` tokens, without their masks: see `bigjax.tasks.question_answering`."""
        layout, shape = self.layout, (len(numbers), width)
        tokens, types = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        real, answerable = np.zeros(shape, bool), np.zeros(shape, bool)
        for row, number in enumerate(numbers):
            question, shift, end = self.question[number], self.shift[number], self.widths[number]
            begin, length = self.begin[number], self.length[number]
            passage = self.passage_tokens[self.passage[question]][begin : begin + length]
            asked = self.question_tokens[question]
            tokens[row, :end] = np.concatenate([layout.before, asked, layout.between, passage, layout.after])
            types[row, :end] = layout.types[0]
            types[row, len(layout.before) + len(asked) : shift] = layout.types[1]
            types[row, shift:end] = layout.types[2]
            real[row, :end] = True
            answerable[row, shift : shift + length] = answerable[row, 0] = True
        ends = self.answer[numbers]
        return {
            "tokens": tokens,
            "types": types,
            "real": real,
            "answerable": answerable,
            "start": ends[:, 0],
            "end": ends[:, 1],
        }


def with_marks(passage: str, begin: int, end: int) -> tuple[int, int]:
    """A token's characters with the accents behind the last, where they are characters of their own that it drops."""
    while end < len(passage) and passage[end] > "\x7f" and unicodedata.combining(passage[end]):
        end += 1
    return begin, end


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterable[Any]:
    """What a tokenizer makes of each text, without special tokens."""
    for start in range(0, len(texts), BLOCK):
        yield from tokenizer.encode_batch(texts[start : start + BLOCK], add_special_tokens=False)


class WindowSplit(Examples):
    """Batches of windows of similar length; the references are the windows themselves."""

    def __init__(self, windows: Windows, buckets: int) -> None:
        self.references = windows
        self.buckets = Buckets(windows.widths, buckets)

    def __len__(self) -> int:
        return len(self.references)

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        return self.buckets.train(seed, step, batch_size)[0]

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        examples, width = self.buckets.train(seed, step, batch_size)
        examples = examples[rows]
        return self.references.rows(examples, width) | {"mask": np.ones(len(examples), np.float32)}

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask, width = self.buckets.evaluation(index, batch_size, rows)
        numbers = np.where(mask > 0, examples, -1).astype(np.int32)
        return self.references.rows(examples, width) | {"mask": mask, "index": numbers}

    def fingerprint(self) -> str:
        windows = self.references
        answers = "\0".join(answer for question in windows.questions for answer in question.answers).encode()
        texts = (windows.question_tokens.values, windows.passage_tokens.values, np.frombuffer(answers, np.uint8))
        return sha256(*texts, windows.passage, windows.question, windows.begin, windows.widths, windows.answer)
