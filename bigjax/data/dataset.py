"""What a data source gives: splits whose batches are addressed by step."""

import hashlib
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from bigjax.data.permutation import permuted

Batch = dict[str, np.ndarray]

MOST_IN_MEMORY = 1 << 22  # examples whose order in an epoch is an array; that of more is computed for each batch


class Split(Protocol):
    """One split of a data set. `rows` is the part of a global batch that this process wants."""

    @property
    def references(self) -> Any:
        """What a task's `score` compares with, such as the texts that were spoken; None where it needs nothing."""
        ...

    def steps_per_epoch(self, batch_size: int) -> float:
        """Training batches in one pass."""
        ...

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        """The batch of `step`: a function of its arguments alone."""
        ...

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        """Which examples that batch holds, by number (of a stream: by the token it begins at), int64 [batch_size]."""
        ...

    def eval_batch_size(self, wanted: int) -> int:
        """The rows of an evaluation batch; a split of fixed streams has as many rows as streams."""
        ...

    def eval_batches(self, batch_size: int) -> int:
        """How many batches hold every example once."""
        ...

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        """Batch `index` of the split in order; the last is filled up with rows whose mask is 0."""
        ...

    def fingerprint(self) -> str:
        """A sha256 over the content."""
        ...


class Examples(Sized):
    """The part of a split that is the same for every one with independent examples; its length is their number."""

    references: Any = None

    def steps_per_epoch(self, batch_size: int) -> float:
        return len(self) / batch_size

    def train_examples(self, seed: int, step: int, batch_size: int) -> np.ndarray:
        return shuffled(seed, step, batch_size, len(self))[1]

    def eval_batch_size(self, wanted: int) -> int:
        return wanted

    def eval_batches(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)


@dataclass(frozen=True)
class Dataset:
    """The splits of a source.

    Attributes:
      splits: "train", and where there are any "validation" and "test".
      info: what models, tasks and reports need to know: `num_classes`, `image_shape`, `class_names` of images;
        `vocab_size`, `context`, `decode` (token ids to text) of texts.
      files: what must be kept with the run, by file name: a trained tokenizer.
      notes: sentences to tell at the start, such as how many records were skipped.
    """

    splits: Mapping[str, Split]
    info: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """A sha256 over the content of all splits."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            digest.update(f"{name}:{self.splits[name].fingerprint()};".encode())
        return digest.hexdigest()


def random(seed: int, stream: str, *address: int) -> np.random.Generator:
    """The numpy generator of one stream of randomness at one address: the same whenever it is asked for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *stream.encode(), *address])))


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of `length` examples in one epoch, int64 [length]."""
    return random(seed, "order", epoch).permutation(length)


def shuffled(seed: int, step: int, batch_size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples make the batch of `step` when every epoch is a new permutation of `length` examples.

    Batches go on across the ends of epochs, so that every example comes exactly once an epoch.

    Returns:
      The epoch and the example of each row, int64 [batch_size] each.
    """
    position = np.arange(step * batch_size, (step + 1) * batch_size)
    epoch, place = np.divmod(position, length)
    index = np.empty_like(place)
    for e in np.unique(epoch):
        here = place[epoch == e]
        if length <= MOST_IN_MEMORY:
            index[epoch == e] = permutation(seed, int(e), length)[here]
        else:
            index[epoch == e] = permuted(here, length, random(seed, "order", int(e)))
    return epoch, index


def in_order(index: int, batch_size: int, length: int, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Which examples make evaluation batch `index`, and which rows are real.

    Returns:
      The example of each row, int64 (padding repeats the last one), and a mask, float32.
    """
    position = np.arange(index * batch_size, (index + 1) * batch_size)[rows]
    return np.minimum(position, length - 1), (position < length).astype(np.float32)


def sha256(*arrays: np.ndarray) -> str:
    """A sha256 over dtypes, shapes and bytes."""
    return sha256_of_parts(*((str(array.dtype), array.shape, [array]) for array in arrays))


def sha256_of_parts(*arrays: tuple[str, tuple[int, ...], Iterable[np.ndarray]]) -> str:
    """The same of arrays that come part by part, each with its whole dtype and shape."""
    digest = hashlib.sha256()
    for dtype, shape, parts in arrays:
        digest.update(f"{dtype}{shape}".encode())
        for part in parts:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()
