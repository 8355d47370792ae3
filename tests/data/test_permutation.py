"""Permutations without memory: each is one, and they look like any other."""

import numpy as np
import pytest

from bigjax.data import dataset
from bigjax.data.dataset import random, shuffled
from bigjax.data.permutation import permuted


@pytest.mark.parametrize("length", [1, 2, 3, 5, 16, 17, 100, 1000, 4096, 4097, 70_001])
def test_every_element_comes_once(length):
    for epoch in range(3):
        moved = permuted(np.arange(length), length, random(0, "order", epoch))
        np.testing.assert_array_equal(np.sort(moved), np.arange(length))


def test_an_element_does_not_depend_on_the_others():
    whole = permuted(np.arange(1000), 1000, random(0, "order", 0))
    some = np.array([7, 999, 0, 500])
    np.testing.assert_array_equal(permuted(some, 1000, random(0, "order", 0)), whole[some])


def test_every_place_is_as_likely_as_any_other():
    """Chi-squared of where each of ten elements goes in 4,000 permutations: 81 degrees of freedom."""
    counts = np.zeros((10, 10))
    for epoch in range(4_000):
        counts[np.arange(10), permuted(np.arange(10), 10, np.random.Generator(np.random.Philox(epoch)))] += 1
    statistic = ((counts - 400) ** 2 / 400).sum()
    assert 40 < statistic < 140  # beyond the 1e-4 quantiles of a uniform choice


def test_neighbours_part():
    """Where successive elements go is uncorrelated, and they follow each other as rarely as by chance."""
    length = 100_003
    moved = permuted(np.arange(length), length, random(0, "order", 0))
    assert abs(np.corrcoef(moved[:-1], moved[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(moved, np.arange(length))[0, 1]) < 0.01
    assert (np.abs(np.diff(moved)) == 1).sum() < 12  # 2 are expected
    other = permuted(np.arange(length), length, random(0, "order", 1))
    assert (moved == other).sum() < 10


def test_epochs_of_many_examples(monkeypatch):
    monkeypatch.setattr(dataset, "MOST_IN_MEMORY", 50)
    seen = [shuffled(3, step, 16, 80) for step in range(10)]
    epochs, index = (np.concatenate(part) for part in zip(*seen, strict=True))
    for epoch in range(2):
        assert sorted(index[epochs == epoch]) == list(range(80))
    assert (index[:80] != index[80:]).any()
    np.testing.assert_array_equal(shuffled(3, 7, 16, 80)[1], seen[7][1])


def test_the_order_of_fewer_examples_stays():
    np.testing.assert_array_equal(shuffled(3, 0, 100, 100)[1], random(3, "order", 0).permutation(100))
