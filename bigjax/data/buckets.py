"""Examples of different lengths in batches of similar length, so that little of a batch is padding."""

from functools import cached_property, lru_cache

import numpy as np

from bigjax.data.dataset import in_order, random, shuffled

POOL = 64


class Buckets:
    """Which examples make a batch, and how wide it is: functions of (seed, step) or of the index alone.

    In training, every `pool` batches' worth of the shuffled examples is sorted by length, cut into batches, and the
    batches are shuffled; an epoch's worth at most, for copies of an example would share a batch. A batch is as wide as
    the narrowest bucket that holds its longest example; there are few buckets, for each is compiled once.

    Args:
      lengths: int [N], of the examples.
      count: buckets at most.
      multiple: of which their widths are.
      pool: batches that are sorted by length together.
      among: int [M], what the widths are chosen for where several splits share them; else `lengths`.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        count: int = 8,
        multiple: int = 8,
        pool: int = POOL,
        among: np.ndarray | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths)  # no copy, for it may be in a file
        self.widths = bucket_widths(self.lengths if among is None else among, count, multiple)
        self.pool_size = pool
        self.pool = lru_cache(maxsize=4)(self.make_pool)

    @cached_property
    def by_length(self) -> np.ndarray:
        """The examples from short to long, int64 [N]."""
        return np.argsort(self.lengths, kind="stable")

    def train(self, seed: int, step: int, batch_size: int) -> tuple[np.ndarray, int]:
        """The examples of a training batch, int64 [batch_size], and its width."""
        number, place = divmod(step, self.pool_batches(batch_size))
        examples = self.pool(seed, number, batch_size)[place]
        return examples, self.width(examples)

    def make_pool(self, seed: int, number: int, batch_size: int) -> np.ndarray:
        """The examples of a pool's batches, int64 [batches, batch_size]."""
        batches = self.pool_batches(batch_size)
        _, examples = shuffled(seed, number, batches * batch_size, len(self.lengths))
        examples = examples[np.argsort(self.lengths[examples], kind="stable")]
        order = random(seed, "buckets", number).permutation(batches)
        return examples.reshape(batches, batch_size)[order]

    def pool_batches(self, batch_size: int) -> int:
        """How many batches are sorted together."""
        return max(1, min(self.pool_size, len(self.lengths) // batch_size))

    def evaluation(self, index: int, batch_size: int, rows: slice) -> tuple[np.ndarray, np.ndarray, int]:
        """Batch `index` of all examples, from short to long.

        Returns:
          The example of each of `rows`, int64; a mask, float32, 0 where a row only fills the batch up; the width.
        """
        places, mask = in_order(index, batch_size, len(self.lengths), rows)
        last = min((index + 1) * batch_size, len(self.lengths)) - 1  # of the whole batch, on whatever process
        return self.by_length[places], mask, self.width(self.by_length[last : last + 1])

    def width(self, examples: np.ndarray) -> int:
        """The narrowest bucket that holds them all."""
        return int(self.widths[np.searchsorted(self.widths, self.lengths[examples].max())])


def bucket_widths(lengths: np.ndarray, count: int, multiple: int) -> np.ndarray:
    """At most `count` widths, int64 in rising order, that leave the least padding where each length takes the next.

    Exact, by dynamic programming over the lengths rounded up to a multiple of `multiple`.
    """
    rounded = -(-np.maximum(lengths, 1).astype(np.int64) // multiple) * multiple
    sizes, numbers = np.unique(rounded, return_counts=True)
    before = np.concatenate([[0], np.cumsum(numbers)])  # examples narrower than each size
    # cost[j]: the least total width of the examples up to size j, with the buckets so far, the last being size j.
    cost = before[1:] * sizes
    chosen = []
    for _ in range(min(count, len(sizes)) - 1):
        ways = cost[:, None] + (before[None, 1:] - before[1:, None]) * sizes[None, :]  # the last but one is size i
        ways[np.tril_indices(len(sizes))] = np.iinfo(np.int64).max
        best = ways.argmin(0)
        fewer = cost <= ways[best, np.arange(len(sizes))]
        chosen.append(np.where(fewer, -1, best))
        cost = np.where(fewer, cost, ways[best, np.arange(len(sizes))])
    last, widths = len(sizes) - 1, [len(sizes) - 1]
    for step in reversed(chosen):
        if step[last] >= 0:
            last = step[last]
            widths.append(last)
    return sizes[widths[::-1]]
