"""Random data: batches like those of real sources, addressed by seed and step."""

import numpy as np
import pytest

from bigjax.data.digits import digits
from bigjax.data.random_data import random_images, random_text
from bigjax.data.text_files import pydoc
from bigjax.data.text_masked import text_masked
from bigjax.errors import UserError

ALL = slice(0, 8)


def described(batch):
    return {key: (value.dtype, value.ndim) for key, value in batch.items()}


@pytest.mark.parametrize(
    ("made", "real"),
    [
        (lambda: random_images(24, 10), digits),
        (lambda: random_text(32, 100), lambda: pydoc(context=32)),
        (lambda: random_text(32, 100, hidden=True), lambda: text_masked(context=32, vocab_size=500)),
    ],
)
def test_batches_are_like_those_of_a_real_source(made, real):
    made, real = made(), real()
    split, other = made.splits["train"], real.splits["train"]
    batch = split.train_batch(0, 3, 8, ALL)
    assert described(batch) == described(other.train_batch(0, 3, 8, ALL))
    assert made.info.keys() >= {
        key for key in real.info if key in ("num_classes", "image_shape", "vocab_size", "context")
    }
    again, next_ = split.train_batch(0, 3, 8, ALL), split.train_batch(0, 4, 8, ALL)
    for key in batch:
        np.testing.assert_array_equal(batch[key], again[key])
    assert any((batch[key] != next_[key]).any() for key in batch)
    assert all(len(value) == 3 for value in split.train_batch(0, 3, 8, slice(2, 5)).values())
    assert described(split.eval_batch(0, 8, ALL)) == described(batch)


def test_sizes_are_positive():
    with pytest.raises(UserError, match="takes sizes of 1 or more, not 0"):
        random_text(0)
