"""CTC against the enumeration of all alignments, and against optax's loss."""

from collections import defaultdict
from itertools import product

import jax
import numpy as np
import optax
import pytest

from bigjax.inference.ctc import best_path, log_probability, prefix_beam_search


def scores(length, labels, seed, sharp=1.5):
    logits = np.random.default_rng(seed).normal(0, sharp, (length, labels))
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def collapsed(alignment):
    """The definition: first repeats, then blanks are removed."""
    kept = [label for i, label in enumerate(alignment) if i == 0 or label != alignment[i - 1]]
    return tuple(label for label in kept if label != 0)


def enumerated(log_probs):
    """The probability of every sequence of labels, a sum over all V^T alignments."""
    length, labels = log_probs.shape
    found = defaultdict(float)
    for alignment in product(range(labels), repeat=length):
        found[collapsed(alignment)] += np.exp(log_probs[np.arange(length), alignment].sum())
    return found


@pytest.mark.parametrize("alignment", [(), (0,), (1, 1, 0, 1, 2, 2, 0), (0, 0), (3, 3, 3), (1, 2, 1)])
def test_best_path_is_the_definition(alignment):
    assert best_path(np.array(alignment, int)) == list(collapsed(alignment))


@pytest.mark.parametrize(("length", "labels"), [(1, 3), (4, 3), (6, 3), (5, 4)])
@pytest.mark.parametrize("seed", range(3))
def test_unpruned_beam_search_finds_all_in_their_order(length, labels, seed):
    log_probs = scores(length, labels, seed)
    expected = enumerated(log_probs)
    found = prefix_beam_search(log_probs, 10_000)
    assert {tuple(some) for some, _ in found} == expected.keys()
    for some, chance in found:
        assert np.exp(chance) == pytest.approx(expected[tuple(some)], rel=1e-9)
        assert np.exp(log_probability(log_probs, some)) == pytest.approx(expected[tuple(some)], rel=1e-9)
    chances = [chance for _, chance in found]
    assert chances == sorted(chances, reverse=True)
    assert sum(expected.values()) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(20))
def test_few_beams_find_the_best_and_never_say_too_much(seed):
    log_probs = scores(6, 4, seed, sharp=2.5)
    expected = enumerated(log_probs)
    found = prefix_beam_search(log_probs, 8)
    assert len(found) <= 8 and tuple(found[0][0]) == max(expected, key=expected.get)
    assert all(np.exp(chance) <= expected[tuple(some)] * (1 + 1e-9) for some, chance in found)


def test_beam_search_finds_what_the_best_path_misses():
    """Graves 2012, section 7.5: the best path is all blank, but the label is likelier."""
    log_probs = np.log(np.array([[0.6, 0.4], [0.6, 0.4]]))
    assert best_path(log_probs.argmax(-1)) == []
    found = prefix_beam_search(log_probs, 3)
    assert found[0][0] == [1] and np.exp(found[0][1]) == pytest.approx(0.64)


def test_log_probability_is_minus_the_loss_of_optax():
    log_probs = np.stack([scores(9, 5, seed) for seed in range(4)]).astype(np.float32)
    labels = np.array([[1, 1, 2, 0], [3, 0, 0, 0], [4, 3, 4, 1], [2, 2, 2, 2]])
    lengths, label_lengths = np.array([9, 4, 7, 9]), np.array([3, 1, 4, 4])
    loss = jax.jit(optax.ctc_loss)(
        log_probs, np.arange(9) >= lengths[:, None], labels, np.arange(4) >= label_lengths[:, None]
    )
    for row in range(4):
        ours = log_probability(log_probs[row, : lengths[row]], labels[row, : label_lengths[row]])
        assert ours == pytest.approx(-float(loss[row]), rel=1e-4)


def test_what_does_not_fit_is_impossible():
    log_probs = scores(3, 3, 0)
    assert log_probability(log_probs, [1, 1, 1]) == -np.inf
    assert log_probability(log_probs, [1, 2, 1]) > -np.inf
    assert log_probability(log_probs, []) == pytest.approx(log_probs[:, 0].sum())
