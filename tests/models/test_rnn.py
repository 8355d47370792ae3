"""LSTM and GRU: their cells in float64, their carried state, their padding."""

from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, close, made, parameters, same_bits

from bigjax.models.recurrent import GRU, LSTM
from bigjax.models.rnn import RNN

CELLS = {"lstm": LSTM, "gru": GRU}


@cache
def build(cell="lstm", **kwargs):
    return made(lambda rngs: RNN(11, **({"d_model": 6, "num_layers": 2, "cell": cell} | kwargs), rngs=rngs))


def tokens(batch=3, length=8, seed=0):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, 11)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(cell, p, x, carry):
    """One layer, one position at a time, in float64 numpy."""
    p = {name: array.astype(np.float64) for name, array in p.items()}
    outputs = []
    for t in range(x.shape[1]):
        a = x[:, t] @ p["input/kernel"] + p["input/bias"]
        b = carry[0] @ p["recurrent/kernel"] + p.get("recurrent/bias", 0)
        d = b.shape[1] // len(carry) // (2 if cell == "lstm" else 3)
        if cell == "lstm":
            i, f, g, o = (a + b)[:, :d], (a + b)[:, d : 2 * d], (a + b)[:, 2 * d : 3 * d], (a + b)[:, 3 * d :]
            c = sigmoid(f) * carry[1] + sigmoid(i) * np.tanh(g)
            carry = (sigmoid(o) * np.tanh(c), c)
        else:
            r, z = sigmoid((a + b)[:, :d]), sigmoid((a + b)[:, d : 2 * d])
            n = np.tanh(a[:, 2 * d :] + r * b[:, 2 * d :])
            carry = ((1 - z) * n + z * carry[0],)
        outputs.append(carry[0])
    return np.stack(outputs, 1), carry


@pytest.mark.parametrize("cell", CELLS)
def test_layer_equals_a_float64_loop(cell):
    layer = made(lambda rngs: CELLS[cell](3, 5, rngs=rngs))
    rng = np.random.default_rng(0)
    for linear in (layer.input, layer.recurrent):
        if linear.bias is not None:
            linear.bias[...] = jnp.float32(rng.normal(size=linear.bias.shape))
    x = rng.normal(size=(2, 7, 3))
    carry = tuple(rng.normal(size=(2, 5)) for _ in layer.initial_carry(2))
    outputs, after = apply(layer, jnp.float32(x), tuple(map(jnp.float32, carry)))
    expected = reference(cell, parameters(layer), x, carry)
    close((outputs, after), expected, atol=2e-6)


def test_lstm_starts_by_remembering():
    layer = made(lambda rngs: LSTM(3, 4, rngs=rngs))
    np.testing.assert_array_equal(layer.input.bias[...], np.repeat([0, 1, 0, 0], 4))


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_recurrent_kernels_are_orthogonal_gate_by_gate(cell, gates):
    kernel = made(lambda rngs: CELLS[cell](3, 8, rngs=rngs)).recurrent.kernel[...]
    assert kernel.shape == (8, gates * 8)
    blocks = np.split(np.asarray(kernel), gates, axis=1)
    for block in blocks:
        np.testing.assert_allclose(block @ block.T, np.eye(8), atol=1e-6)
    assert all(np.abs(a - b).max() > 0.1 for a, b in pairwise(blocks))


@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_with_their_state_carried_equal_the_whole(cell):
    model, x = build(cell), tokens(length=9)
    whole, after = apply(model, x)
    first, state = apply(model, x[:, :4])
    second, state = apply(model, x[:, 4:], state)
    close((np.concatenate([first, second], 1), state), (whole, after))
    assert np.abs(second - apply(model, x[:, 4:])[0]).max() > 1e-3  # the state matters


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell):
    model, x, lengths = build(cell), tokens(2), jnp.array([8, 5])
    graphdef, params = nnx.split(model, nnx.Param)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params, x, lengths, weight):
        logits, carry = nnx.merge(graphdef, params)(x, None, lengths)
        return (jnp.sin(logits) * weight).sum() + sum((c**2).sum() for c in jax.tree.leaves(carry)), (logits, carry)

    real = np.arange(8) < np.array(lengths)[:, None]
    grads, (logits, carry) = gradient(params, x, lengths, real[..., None])
    alone = [gradient(params, x[row : row + 1, :length], None, 1) for row, length in enumerate((8, 5))]
    close([logits[:1], logits[1:, :5]], [rows for _, (rows, _) in alone])
    close(carry, jax.tree.map(lambda *c: np.concatenate(c), *(state for _, (_, state) in alone)))
    close(grads, jax.tree.map(lambda *g: sum(g), *(g for g, _ in alone)), atol=1e-6, rtol=1e-6)
    # What stands in the padding has no say either.
    _, (others, other_carry) = gradient(params, np.where(real, x, (x + 1) % 11), lengths, real[..., None])
    same_bits((others[0], others[1, :5], other_carry), (logits[0], logits[1, :5], carry))


def test_tied_output_is_the_embedding_transposed():
    model = build()
    logits, state = apply(model, tokens())
    expected = np.asarray(state[-1][0]) @ parameters(model)["embedding/embedding"].T
    np.testing.assert_allclose(logits[:, -1], expected, atol=1e-6)
    assert model.head is None
    untied = nnx.eval_shape(lambda: RNN(11, 6, 2, tied=False, rngs=nnx.Rngs(0)))
    assert untied.head.kernel.shape == (6, 11)


def test_dropout_acts_only_in_training():
    model, plain, x = build(dropout=0.5), build(), tokens()

    @partial(jax.jit, static_argnames="train")
    def logits(model, seed, train):
        return model(x, train=train, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0]

    same_bits(logits(model, 1, train=False), apply(plain, x)[0])
    assert np.abs(logits(model, 1, train=True) - logits(model, 2, train=True)).max() > 1e-3
    same_bits(logits(model, 1, train=True), logits(model, 1, train=True))


@pytest.mark.parametrize("cell", CELLS)
def test_bfloat16_keeps_float32_parameters_and_dtypes_of_the_state(cell):
    model = build(cell, dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    lengths = jnp.array([8, 5, 2])
    logits, carry = apply(model, tokens(), None, lengths)
    assert logits.dtype == jnp.bfloat16
    wanted = [jnp.bfloat16, jnp.float32] if cell == "lstm" else [jnp.bfloat16]
    assert [[c.dtype for c in layer] for layer in carry] == [wanted] * 2
    exact = apply(build(cell), tokens(), None, lengths)[0]
    np.testing.assert_allclose(logits.astype(np.float32), exact, atol=0.03)
