"""Generation with a cache against the slow way: the whole text through the model for every token."""

from functools import cache
from itertools import pairwise, product

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import made

from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate, stream
from bigjax.inference.sampling import GREEDY, Sampling
from bigjax.models.gpt import GPT

LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "num_kv_heads": 2, "qk_norm": True}
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11]]
LENGTH = 24


@cache
def build(vocab_size=20, scale=6.0, **options):
    """A small decoder with larger weights, so that what it says depends on all that came before."""
    sizes = {"vocab_size": vocab_size, "context": LENGTH, "d_model": 16, "num_layers": 2, "num_heads": 4, "tied": False}
    model = made(lambda rngs: GPT(**sizes, **options, rngs=rngs))
    graphdef, state = nnx.split(model)
    larger = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if "scale" in jax.tree_util.keystr(path) else leaf * scale, nnx.to_pure_dict(state)
    )
    return nnx.merge(graphdef, larger)


@jax.jit
def logits(model, tokens):
    return model(tokens)[0]


def next_logits(model, text):
    """Of the token after `text`, without any cache; what is behind a position cannot change it."""
    padded = np.zeros((1, LENGTH), np.int32)
    padded[0, : len(text)] = text
    return np.asarray(logits(model, padded))[0, len(text) - 1]


def slow_greedy(model, prompt, num_tokens):
    text = list(prompt)
    for _ in range(num_tokens):
        text.append(int(next_logits(model, text).argmax()))
    return text[len(prompt) :]


MIXED = LLAMA | {"num_experts": 4, "scan_layers": True}


@pytest.mark.parametrize(
    "options", [{}, LLAMA, {"scan_layers": True}, MIXED], ids=["gpt2", "llama", "scanned", "experts"]
)
def test_greedy_of_prompts_of_different_lengths_equals_each_alone_without_a_cache(options):
    model = build(**options)
    expected = [slow_greedy(model, prompt, 12) for prompt in PROMPTS]
    assert generate(model, PROMPTS, 12, GREEDY) == expected
    assert len({token for row in expected for token in row}) > 6  # so that a wrong token would show


def test_sampling_is_fixed_by_the_seed_and_a_row_by_its_place():
    model = build()
    options = Sampling(temperature=1.3, top_k=15, top_p=0.95, repetition_penalty=1.2)
    texts = generate(model, PROMPTS, 12, options, seed=3)
    assert texts == generate(model, PROMPTS, 12, options, seed=3)
    assert texts != generate(model, PROMPTS, 12, options, seed=4)
    assert texts[:1] == generate(model, PROMPTS[:1], 12, options, seed=3)
    assert generate(model, [PROMPTS[0]] * 2, 12, options)[0] != generate(model, [PROMPTS[0]] * 2, 12, options)[1]


@pytest.mark.parametrize("every", [1, 5])
def test_a_stream_grows_to_what_generate_gives(every):
    model = build()
    parts = list(stream(model, PROMPTS, 12, Sampling(), seed=1, every=every))
    assert parts[-1] == generate(model, PROMPTS, 12, Sampling(), seed=1)
    for before, after in pairwise(parts):
        for short, long in zip(before, after, strict=True):
            assert long[: len(short)] == short and len(long) - len(short) == min(every, 12 - len(short))


def test_a_row_ends_with_its_stop_token_and_the_others_go_on():
    model = build()
    free = generate(model, PROMPTS, 12, GREEDY)
    stop = free[0][4]
    expected = [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert generate(model, PROMPTS, 12, GREEDY, stop=[stop]) == expected
    assert len({len(row) for row in expected}) > 1


def test_penalty_against_repetition_counts_the_prompt():
    model, penalty = build(), 1.7
    expected = []
    for prompt in PROMPTS:
        text = list(prompt)
        for _ in range(10):
            row = next_logits(model, text)
            seen = np.isin(np.arange(20), text)
            row = np.where(seen, np.where(row < 0, row * penalty, row / penalty), row)
            text.append(int(row.argmax()))
        expected.append(text[len(prompt) :])
    assert generate(model, PROMPTS, 10, Sampling(temperature=0, repetition_penalty=penalty)) == expected
    assert generate(model, PROMPTS, 10, GREEDY) != expected


@pytest.mark.parametrize(
    ("prompts", "num_tokens", "words"),
    [([[1], []], 3, "a prompt is empty"), ([], 3, "a prompt is empty"), ([[1] * 20], 5, "25 tokens are more than")],
)
def test_prompts_that_cannot_be_continued_are_refused(prompts, num_tokens, words):
    for search in (generate, lambda *arguments: beam_search(*arguments, num_beams=2)):
        with pytest.raises(ValueError, match=words):
            search(build(), prompts, num_tokens)


def best_of_all(model, prompt, num_tokens, stop, length_penalty, offset):
    """The best text among all that there are, in float64: score over ((offset + length) / (offset + 1)) ** penalty."""
    found = {}
    for text in product(range(5), repeat=num_tokens):
        score = 0.0
        for length, token in enumerate(text, 1):
            row = next_logits(model, [*prompt, *text[: length - 1]]).astype(np.float64)
            score += row[token] - np.log(np.exp(row).sum())
            if token in stop:
                break
        found[text[:length]] = score / ((offset + length) / (offset + 1)) ** length_penalty
    return list(max(found, key=found.__getitem__))


@pytest.mark.parametrize(
    ("stop", "length_penalty", "offset"), [((), 1.0, 0), ((2,), 1.0, 0), ((2,), 0.0, 0), ((2,), 3.0, 5)]
)
def test_a_wide_beam_finds_the_best_of_all_texts(stop, length_penalty, offset):
    model = build(vocab_size=5, scale=3.0)
    prompts = [[1, 2, 3], [4]]
    expected = [best_of_all(model, prompt, 3, stop, length_penalty, offset) for prompt in prompts]
    found = beam_search(model, prompts, 3, 25, stop=stop, length_penalty=length_penalty, length_offset=offset)
    assert found == expected


def test_one_beam_is_greedy_and_more_are_likelier():
    model = build()
    assert beam_search(model, PROMPTS, 12, 1) == generate(model, PROMPTS, 12, GREEDY)

    def score(prompt, text):
        rows = np.stack([next_logits(model, prompt + text[:i]) for i in range(len(text))])
        return sum((row - jax.nn.logsumexp(row))[token] for row, token in zip(rows, text, strict=True))

    pairs = zip(PROMPTS, beam_search(model, PROMPTS, 8, 6), generate(model, PROMPTS, 8, GREEDY), strict=True)
    gains = [score(prompt, beam) - score(prompt, greedy) for prompt, beam, greedy in pairs]
    assert min(gains) > -1e-4 and max(gains) > 0.01


def test_no_beams_are_refused():
    with pytest.raises(ValueError, match="num_beams must be positive, not 0"):
        beam_search(build(), PROMPTS, 3, 0)
