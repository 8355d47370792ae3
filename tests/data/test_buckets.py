"""Batches of similar length: every example once, the best widths, each batch a function of (seed, step)."""

from itertools import combinations

import numpy as np
import pytest

from bigjax.data.buckets import POOL, Buckets, bucket_widths


def padded(lengths, widths):
    return widths[np.searchsorted(widths, lengths)].sum()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_widths_leave_the_least_padding(count, seed):
    lengths = np.random.default_rng(seed).integers(1, 60, 40)
    widths = bucket_widths(lengths, count, 4)
    sizes = np.unique(-(-lengths // 4) * 4)
    best = min(
        padded(lengths, np.array([*some, sizes[-1]]))
        for number in range(count)
        for some in combinations(sizes[:-1], number)
    )
    assert padded(lengths, widths) == best
    assert len(widths) <= count and (widths % 4 == 0).all() and (np.diff(widths) > 0).all()


def test_one_width_where_all_are_alike():
    np.testing.assert_array_equal(bucket_widths(np.full(9, 5), 4, 8), [8])
    np.testing.assert_array_equal(bucket_widths(np.zeros(3, int), 4, 8), [8])  # an empty example has a place, too


def test_splits_share_widths():
    both = np.array([3, 9, 17, 30])
    np.testing.assert_array_equal(
        Buckets(both[:2], 4, 8, among=both).widths, Buckets(both[2:], 4, 8, among=both).widths
    )
    assert Buckets(both[:2], 4, 8, among=both).width(np.array([0, 1])) == 16


def test_each_example_comes_once_an_epoch_and_batches_are_alike():
    lengths = np.random.default_rng(0).integers(1, 200, POOL * 8)
    buckets = Buckets(lengths)
    batches = [buckets.train(3, step, 8) for step in range(POOL)]
    examples = np.stack([batch for batch, _ in batches])
    np.testing.assert_array_equal(np.sort(examples.ravel()), np.arange(len(lengths)))
    assert all(lengths[batch].max() <= width for batch, width in batches)
    # Lengths spread evenly are the worst case: half a bucket of 200 / 8 is lost of 100 on average.
    waste = 1 - lengths.sum() / sum(8 * width for _, width in batches)
    assert waste < 0.15 < 1 - lengths.sum() / (len(lengths) * 200) - 0.3
    order = [width for _, width in batches]
    assert order != sorted(order)


def test_a_small_data_set_does_not_fill_batches_with_copies():
    lengths = np.random.default_rng(0).integers(5, 60, 256)
    buckets = Buckets(lengths)
    batches = [buckets.train(0, step, 32)[0] for step in range(40)]
    assert all(len(np.unique(batch)) == 32 for batch in batches)
    np.testing.assert_array_equal(np.bincount(np.concatenate(batches)), np.full(256, 5))


def test_a_batch_depends_on_seed_and_step_alone():
    lengths = np.random.default_rng(1).integers(1, 50, 70)
    one, other = Buckets(lengths), Buckets(lengths)
    steps = [130, 2, 64, 2, 7]
    for step in steps:
        np.testing.assert_array_equal(one.train(5, step, 6)[0], other.train(5, step, 6)[0])
    assert any((one.train(5, s, 6)[0] != one.train(6, s, 6)[0]).any() for s in steps)
    two_epochs = np.concatenate([one.train(5, step, 5)[0] for step in range(28)])
    assert len(two_epochs) == 140


def test_evaluation_covers_all_in_order_of_length_on_every_process():
    lengths = np.random.default_rng(2).integers(1, 90, 23)
    buckets = Buckets(lengths)
    seen = []
    for index in range(3):
        examples, mask, width = buckets.evaluation(index, 8, slice(0, 8))
        halves = [buckets.evaluation(index, 8, slice(start, start + 4)) for start in (0, 4)]
        np.testing.assert_array_equal(np.concatenate([half[0] for half in halves]), examples)
        assert {half[2] for half in halves} == {width} and lengths[examples].max() <= width
        seen += examples[mask > 0].tolist()
    assert sorted(seen) == list(range(23)) and (np.diff(lengths[seen]) >= 0).all()
