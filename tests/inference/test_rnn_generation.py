"""Recurrent language models in the generic loops: prompts of different lengths, one state for each row."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import made, same_bits

from bigjax.inference.beam import beam_search
from bigjax.inference.generate import begin, generate, padded
from bigjax.inference.sampling import GREEDY, Sampling
from bigjax.models.rnn import RNN

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5]]
MODELS = {
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru", "tied": False},
    "awd": {"cell": "lstm", "num_layers": 3, "d_hidden": 10, "locked_dropout": True, "dropout": 0.4, "beta": 1.0},
}


@cache
def build(name):
    """A model whose parameters are large, so that every token has its say."""
    return jax.tree.map(lambda p: 4 * p, made(lambda rngs: RNN(11, **({"d_model": 6} | MODELS[name]), rngs=rngs)))


@jax.jit
def chances(model, tokens):
    return jax.nn.log_softmax(model(tokens)[0].astype(jnp.float32))


def naive(model, prompt, num_tokens):
    """The likeliest next token of the whole text so far, run from its beginning for each one."""
    text = np.zeros(16, np.int32)
    text[: len(prompt)] = prompt
    for end in range(len(prompt), len(prompt) + num_tokens):
        text[end] = chances(model, text[None])[0, end - 1].argmax()
    return text[len(prompt) : len(prompt) + num_tokens].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_of_a_mixed_batch_is_that_of_running_each_text_again(name):
    model = build(name)
    expected = [naive(model, prompt, 8) for prompt in PROMPTS]
    assert generate(model, PROMPTS, 8, GREEDY) == expected
    assert len({tuple(text) for text in expected}) > 1


def test_a_padded_prompt_leaves_the_state_of_its_last_token():
    model = build("lstm")
    tokens, lengths = padded(PROMPTS)
    carry = begin(model, tokens, lengths, 4).carry
    for garbage in (1, 10):
        other = np.where(np.arange(5) < lengths[:, None], tokens, garbage)
        same_bits(begin(model, other, lengths, 4).carry, carry)
    alone = begin(model, tokens[2:, :3], lengths[2:], 4).carry
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), jax.tree.map(lambda c: c[2:], carry), alone)


def test_a_stop_token_ends_its_row_alone():
    model = build("gru")
    whole = generate(model, PROMPTS, 8, GREEDY)
    stop = whole[0][2]
    stopped = generate(model, PROMPTS, 8, GREEDY, stop=[stop])
    assert stopped == [row[: row.index(stop) + 1] if stop in row else row for row in whole]


def test_a_text_does_not_depend_on_the_rows_below_it():
    model, sampling = build("lstm"), Sampling(top_k=5)
    assert generate(model, PROMPTS, 6, sampling, seed=3)[0] == generate(model, PROMPTS[:1], 6, sampling, seed=3)[0]


def test_beams_carry_their_own_state():
    """One beam is greedy; as many beams as tokens find the best of all texts of two tokens."""
    model = build("awd")
    assert beam_search(model, PROMPTS, 5, 1) == generate(model, PROMPTS, 5, GREEDY)
    pairs = [[first, second] for first in range(11) for second in range(11)]
    best = []
    for prompt in PROMPTS:
        scores = chances(model, np.array([prompt + pair[:1] for pair in pairs]))
        first, second = np.array(pairs).T
        rows = np.arange(len(pairs))
        best.append(pairs[int((scores[rows, -2, first] + scores[rows, -1, second]).argmax())])
    assert beam_search(model, PROMPTS, 2, 11) == best
