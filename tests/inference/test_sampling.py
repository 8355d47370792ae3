"""How a token is chosen from logits: against plain numpy, and by the frequencies of many draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.inference.sampling import GREEDY, Sampling, choose, nucleus, penalised

LOGITS = np.log([0.5, 0.02, 0.3, 0.1, 0.08])


def frequencies(sampling, logits=LOGITS, draws=20000):
    keys = jax.random.split(jax.random.key(0), draws)
    tokens = choose(jnp.broadcast_to(jnp.float32(logits), (draws, len(logits))), keys, sampling)
    return np.bincount(tokens, minlength=len(logits)) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [0.5, 0.02, 0.3, 0.1, 0.08]),
        (Sampling(temperature=0.5), np.array([0.25, 0.0004, 0.09, 0.01, 0.0064]) / 0.3568),
        (Sampling(top_k=2), [0.625, 0, 0.375, 0, 0]),
        (Sampling(top_k=9), [0.5, 0.02, 0.3, 0.1, 0.08]),
        (Sampling(top_p=0.5), [1, 0, 0, 0, 0]),
        (Sampling(top_p=0.51), [0.625, 0, 0.375, 0, 0]),
        (Sampling(top_k=3, top_p=0.7), [0.625, 0, 0.375, 0, 0]),  # of the three that are left, two have 8/9
        (Sampling(temperature=2.0, top_k=1), [1, 0, 0, 0, 0]),
        (GREEDY, [1, 0, 0, 0, 0]),
    ],
)
def test_frequencies(sampling, expected):
    np.testing.assert_allclose(frequencies(sampling), expected, atol=0.015)  # four standard errors


def test_nucleus_equals_a_loop_over_sorted_tokens():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 30)).astype(np.float32) * 2
    kept = np.isfinite(nucleus(jnp.asarray(logits), 0.8))
    for row, keeps in zip(logits, kept, strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        total, expected = 0.0, set()
        for token in np.argsort(-row):
            if total >= 0.8:
                break
            expected.add(int(token))
            total += probabilities[token]
        assert set(np.flatnonzero(keeps)) == expected


def test_repetition_penalty_moves_seen_tokens_down():
    logits = jnp.array([[2.0, -2.0, 1.0, 0.0]])
    seen = jnp.array([[True, True, False, True]])
    np.testing.assert_array_equal(penalised(logits, seen, 2.0), [[1.0, -4.0, 1.0, 0.0]])
    np.testing.assert_array_equal(penalised(logits, seen, 1.0), logits)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature must be 0 or more, not -0.1"),
        ({"top_k": -1}, "top_k must be 0 or more"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, not 1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be positive"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**options)
