"""Rows of different lengths: texts and their tokens. What is large lies in a file, so that memory does not grow."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import overload

import numpy as np

from bigjax.data.cached import Spool


@dataclass(frozen=True)
class Ragged(Sized):
    """Rows of different lengths.

    Attributes:
      values: integers, one row after another.
      offsets: int64 [N + 1], where each begins, and the end of the last.
      lengths: int32 [N].
    """

    values: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def padded(self, rows: np.ndarray, width: int) -> np.ndarray:
        """Some rows, int64 [n], filled up with zeros or cut: int32 [n, width]."""
        column = np.arange(width)
        real = column < self.lengths[rows][:, None]
        position = np.where(real, self.offsets[rows][:, None] + column, 0)
        return np.where(real, self.values[position], 0).astype(np.int32)


class RaggedSpool:
    """Rows that are written one by one, of integers of one dtype."""

    def __init__(self, dtype: type | np.dtype) -> None:
        self.values, self.offsets, self.lengths = Spool(dtype), Spool(np.int64), Spool(np.int32)
        self.end = np.int64(0)
        self.offsets.append(self.end.tobytes())

    def append(self, row: bytes | np.ndarray) -> None:
        """Writes a row [t]; raises UserError where it cannot."""
        self.values.append(row)
        self.end += len(row)
        self.offsets.append(self.end.tobytes())
        self.lengths.append(np.int32(len(row)).tobytes())

    def rows(self) -> Ragged:
        """All rows."""
        return Ragged(self.values.array(), self.offsets.array(), self.lengths.array())


class Texts(Sequence[str]):
    """Texts that lie in a file; of each, memory has only where it stands.

    Args:
      content: uint8, in UTF-8, one after another.
      starts, ends: int64 [N], where each begins and ends.
    """

    def __init__(self, content: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        self.content, self.starts, self.ends = content, starts, ends

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        return self.content[self.starts[place] : self.ends[place]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def take(self, which: np.ndarray) -> "Texts":
        """Some of them, by number, int64 [n]."""
        return Texts(self.content, self.starts[which], self.ends[which])


class TextSpool:
    """Texts that are written one by one."""

    def __init__(self) -> None:
        self.spool = RaggedSpool(np.uint8)

    def append(self, text: str) -> None:
        """Writes a text; raises UserError where it cannot."""
        self.spool.append(text.encode())

    def texts(self) -> Texts:
        """All texts."""
        rows = self.spool.rows()
        return Texts(rows.values, rows.offsets[:-1], rows.offsets[1:])
