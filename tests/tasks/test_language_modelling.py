"""Language modelling: figures against closed forms, the carried state, and sampling."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import made, same_bits

from bigjax.models.gpt import GPT
from bigjax.models.rnn import RNN
from bigjax.tasks.language_modelling import LanguageModelling, sample

TASK = LanguageModelling()
MODELS = {
    "gpt": lambda rngs: GPT(13, 8, 16, 2, 2, rngs=rngs),
    "rnn": lambda rngs: RNN(13, 8, 1, rngs=rngs),
}


class Table(nnx.Module):
    """Logits looked up by the current token; state is the number of tokens seen."""

    def __init__(self, table):
        self.table = nnx.Param(jnp.float32(table))

    def initial_carry(self, batch_size):
        return jnp.zeros((batch_size, 1), jnp.int32)

    def features(self, tokens, carry=None, *, train=False, rngs=None):
        return tokens, None if carry is None else carry + tokens.shape[1]

    def logits(self, x):
        return self.table[...][x]

    def __call__(self, tokens, carry=None, *, train=False, rngs=None):
        x, carry = self.features(tokens, carry)
        return self.logits(x), carry


def batch(inputs, targets, mask=None, start=None):
    inputs, targets = jnp.array(inputs), jnp.array(targets)
    mask = jnp.ones(targets.shape) if mask is None else jnp.array(mask, jnp.float32)
    start = jnp.ones(len(inputs), bool) if start is None else jnp.array(start)
    return {"inputs": inputs, "targets": targets, "mask": mask, "bytes": 2 * mask.sum(1), "start": start}


@jax.jit
def compiled(model, batch, carry):
    return TASK.loss(model, batch, carry, train=False, rngs=None)


def loss(model, batch, carry=None):
    sums, carry = compiled(model, batch, carry)
    return {name: float(value) for name, value in sums.items()}, carry


def test_uniform_logits_cost_log_of_the_vocabulary():
    sums, _ = loss(Table(np.zeros((5, 5))), batch([[0, 1, 2]], [[1, 2, 4]]))
    metrics = TASK.metrics(sums)
    assert metrics["loss"] == pytest.approx(np.log(5), abs=1e-6)
    assert metrics["perplexity"] == pytest.approx(5, abs=1e-5)
    assert metrics["bits_per_byte"] == pytest.approx(np.log2(5) / 2, abs=1e-6)  # two bytes a token


def test_loss_is_the_sum_over_counted_targets():
    table = np.random.default_rng(0).normal(size=(4, 4))
    inputs, targets = [[0, 1, 2], [3, 0, 0]], [[1, 2, 3], [2, 0, 0]]
    mask = [[1, 1, 1], [1, 0, 0]]
    sums, _ = loss(Table(table), batch(inputs, targets, mask))
    log_chances = table - np.log(np.exp(table).sum(1, keepdims=True))
    expected = -sum(
        log_chances[i, t] for i, t, m in zip(np.ravel(inputs), np.ravel(targets), np.ravel(mask), strict=True) if m
    )
    assert sums == {"loss": pytest.approx(expected, abs=1e-5), "weight": 4, "bytes": 8}


@pytest.mark.parametrize(("nats", "tokens", "size"), [(12.5, 7, 21), (1.0, 1, 1), (1e6, 10, 40)])
def test_figures_are_one_figure_in_three_units(nats, tokens, size):
    metrics = TASK.metrics({"loss": nats, "weight": tokens, "bytes": size})
    assert metrics["loss"] == nats / tokens
    assert metrics["bits_per_byte"] == pytest.approx(metrics["loss"] * tokens / size / np.log(2), rel=1e-12)
    if metrics["loss"] < 700:
        assert np.log(metrics["perplexity"]) == pytest.approx(metrics["loss"], rel=1e-12)
    assert np.isfinite(metrics["perplexity"])


def test_start_resets_only_its_rows():
    model = Table(np.zeros((3, 3)))
    data = batch([[0, 1], [1, 2], [2, 0]], [[1, 2], [2, 0], [0, 1]], start=[True, False, True])
    _, carry = loss(model, data, jnp.array([[5], [6], [7]]))
    assert carry.tolist() == [[2], [8], [2]]


def test_recurrent_state_goes_on_unless_the_row_starts():
    model = made(lambda rngs: RNN(5, 4, 1, rngs=rngs))
    tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, 5)
    whole, _ = loss(model, batch(tokens[:, :8], tokens[:, 1:]), TASK.initial_carry(model, {"inputs": tokens}))
    carry, total = TASK.initial_carry(model, {"inputs": tokens}), 0.0
    for begin, start in ((0, True), (4, False)):
        piece = batch(tokens[:, begin : begin + 4], tokens[:, begin + 1 : begin + 5], start=[start] * 2)
        sums, carry = loss(model, piece, carry)
        total += sums["loss"]
    assert total == pytest.approx(whole["loss"], abs=1e-5)
    afresh, _ = loss(model, piece | {"start": jnp.array([True, True])}, carry)
    zeros, _ = loss(model, piece, TASK.initial_carry(model, piece))
    assert afresh == zeros != sums


def test_models_without_state_carry_nothing():
    model, data = made(MODELS["gpt"]), batch([[0, 1]], [[1, 2]])
    assert TASK.initial_carry(model, data) is None
    assert loss(model, data)[1] is None


@pytest.mark.parametrize("name", MODELS)
def test_sampling_at_a_tiny_temperature_is_a_manual_argmax(name):
    model, context = jax.tree.map(lambda leaf: 8 * leaf, made(MODELS[name])), 8  # louder: every token has its say
    prompt = jax.random.randint(jax.random.key(1), (2, 3), 0, 13)
    out = np.asarray(sample(model, prompt, 12, 1e-6, context, jax.random.key(0)))
    row = prompt
    one = jax.jit(lambda model, window: model(window)[0][:, -1].argmax(-1))
    for _ in range(12):  # past the context, in which the model sees the last 8 tokens
        row = jnp.concatenate([row, one(model, row[:, -context:])[:, None]], 1)
    np.testing.assert_array_equal(out, row)
    np.testing.assert_array_equal(out[:, :3], prompt)


def test_sampling_is_a_function_of_its_key():
    model = made(MODELS["gpt"])
    prompt = jnp.array([[1, 2], [1, 2]])
    first, again, other = (sample(model, prompt, 20, 1.0, 8, jax.random.key(k)) for k in (0, 0, 1))
    assert first.shape == (2, 22)
    same_bits(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # rows have randomness of their own
    assert ((first >= 0) & (first < 13)).all()


def test_sampling_follows_the_models_chances():
    chances = np.array([0.5, 0.3, 0.2])
    model = Table(np.tile(np.log(chances), (3, 1)))
    drawn = np.asarray(sample(model, jnp.zeros((50, 1), jnp.int32), 60, 1.0, 4, jax.random.key(0)))[:, 1:]
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / drawn.size, chances, atol=0.03)
    sharp = chances**2 / (chances**2).sum()  # temperature 1/2 squares them
    drawn = np.asarray(sample(model, jnp.zeros((50, 1), jnp.int32), 60, 0.5, 4, jax.random.key(0)))[:, 1:]
    np.testing.assert_allclose(np.bincount(drawn.ravel()) / drawn.size, sharp, atol=0.03)


def test_sampling_sees_no_token_that_is_not_drawn_yet():
    """Greedy text does not depend on how much is asked for, though the window is padded by it."""
    model, prompt = made(MODELS["gpt"]), jnp.array([[4, 5, 6]])
    short, long = (sample(model, prompt, n, 1e-6, 8, jax.random.key(0)) for n in (2, 9))
    np.testing.assert_array_equal(short, long[:, :5])


@pytest.mark.parametrize("name", MODELS)
def test_a_loss_in_chunks_is_the_same_and_never_has_all_logits(name):
    rng = np.random.default_rng(0)
    inputs, targets, mask = rng.integers(0, 13, (3, 8)), rng.integers(0, 13, (3, 8)), rng.integers(0, 2, (3, 8))
    graphdef, params = nnx.split(made(MODELS[name]))

    def gradient(chunk):
        def loss(params):
            model = nnx.merge(graphdef, params)
            sums, _ = LanguageModelling(loss_chunk=chunk).loss(
                model, batch(inputs, targets, mask), None, train=True, rngs=nnx.Rngs(dropout=0)
            )
            return sums["loss"]

        step = jax.jit(jax.value_and_grad(loss))
        return step(params), step.lower(params).compile().as_text()

    (whole, program), (chunked, smaller) = gradient(None), gradient(2)
    for a, b in zip(jax.tree.leaves(chunked), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    everything = re.compile(r"\[(3,8,13|24,13|8,3,13|13,3,8|13,8,3|13,24)\]")
    assert everything.search(program) and not everything.search(smaller)


def test_chunks_must_divide_the_context():
    info = {"vocab_size": 13, "context": 8}
    assert LanguageModelling(loss_chunk=4).model_arguments(info)["context"] == 8
    with pytest.raises(ValueError, match="loss_chunk, 3, does not divide the context, 8"):
        LanguageModelling(loss_chunk=3).model_arguments(info)


@pytest.mark.parametrize("options", [{"sample_tokens": 0}, {"sample_temperature": 0.0}, {"loss_chunk": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be positive"):
        LanguageModelling(**options)


def test_figures_of_experts_by_hand():
    sums = {"loss": 2.0, "weight": 10.0, "bytes": 8.0, "balance": 21.0, "expert_tokens": [[5, 5, 10], [1, 1, 18]]}
    figures = TASK.metrics(sums)
    assert figures["balance"] == 2.1
    assert figures["busiest_expert"] == pytest.approx(18 / (20 / 3))
