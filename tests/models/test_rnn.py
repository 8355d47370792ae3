"""LSTM and GRU: their cells in float64, their carried state, their padding; the language model's regularisers."""

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


AWD = {
    "num_layers": 3,
    "d_hidden": 10,
    "dropout": 0.4,
    "input_dropout": 0.2,
    "hidden_dropout": 0.3,
    "embedding_dropout": 0.1,
    "weight_dropout": 0.5,
    "locked_dropout": True,
    "alpha": 2.0,
    "beta": 1.0,
}


def test_names_of_parameters_are_a_contract():
    names = ["embedding/embedding"]
    names += [f"layers/{i}/{name}" for i in (0, 1) for name in ("input/bias", "input/kernel", "recurrent/kernel")]
    assert list(parameters(build())) == names


@pytest.mark.parametrize(("tied", "last"), [(True, 6), (False, 10)])
def test_hidden_layers_may_be_wider_than_the_embedding(tied, last):
    model = build(**AWD, tied=tied)
    shapes = {name: array.shape for name, array in parameters(model).items()}
    assert [shapes[f"layers/{i}/recurrent/kernel"] for i in range(3)] == [(10, 40), (10, 40), (last, 4 * last)]
    assert shapes["layers/0/input/kernel"] == (6, 40)
    logits, carry = apply(model, tokens())
    assert logits.shape == (3, 8, 11)
    assert [state[1].shape for state in carry] == [(3, 10), (3, 10), (3, last)]


class Silent(nnx.Module):
    """Layers that hand on what they read."""

    def __call__(self, x, carry, lengths, **_):
        return x, carry


def training(model, x, seed=0, **changes):
    """Features in training, and the penalty or None, of a model with some attributes changed."""

    @jax.jit
    def run(model, x, key):
        features, _ = model.features(x, train=True, rngs=nnx.Rngs(dropout=key))
        return features, nnx.to_pure_dict(nnx.pop(model, nnx.Intermediate)).get("penalty")

    model = nnx.clone(model)
    for name, value in changes.items():
        setattr(model, name, value)
    return jax.device_get(run(model, x, jax.random.key(seed)))


@pytest.mark.parametrize("rate", ["input_dropout", "dropout"])
@pytest.mark.parametrize("locked", [False, True])
def test_inputs_and_outputs_are_dropped_with_one_mask_for_all_time_steps(rate, locked):
    others = {"input_dropout": 0.0} if rate == "dropout" else {}
    model = build(**others, **{rate: 0.5}, locked_dropout=locked)
    x = tokens(length=20)
    plain = np.asarray(model.embedding(x))
    masks = training(model, x, layers=Silent())[0] / plain
    assert set(np.unique(masks)) == {0, 2}
    assert (masks == masks[:, :1]).all() == locked
    assert (masks[0] != masks[1]).any()


def test_a_dropped_token_is_dropped_wherever_it_stands():
    model, x = build(embedding_dropout=0.5), jnp.tile(jnp.arange(11), (3, 4))
    share = training(model, x, layers=Silent())[0] / np.asarray(model.embedding(x))
    rows = share[0, :11, :1]
    np.testing.assert_array_equal(share, np.tile(rows, (3, 4, 6)))
    assert set(np.unique(rows)) == {0, 2}
    assert (training(model, x, 1, layers=Silent())[0][0, :11, :1] != 0).tolist() != (rows != 0).tolist()


def test_the_penalty_is_of_dropped_outputs_and_of_changes_of_plain_ones():
    x = tokens(length=5)
    features, penalty = training(build(dropout=0.5, input_dropout=0.0, hidden_dropout=0.0, alpha=2.0, beta=3.0), x)
    raw, _ = training(build(), x)
    assert np.unique(features == 0).size == 2
    expected = 2 * (features**2).mean(-1)
    expected[:, 1:] += 3 * ((raw[:, 1:] - raw[:, :-1]) ** 2).mean(-1)
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)


def test_only_training_leaves_a_penalty_and_only_where_one_is_wanted():
    assert training(build(), tokens())[1] is None
    model = nnx.clone(build(**AWD))
    model(tokens())
    assert not jax.tree.leaves(nnx.state(model, nnx.Intermediate))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"d_hidden": 0}, "d_hidden must be positive"),
        ({"embedding_dropout": 1.0}, "embedding_dropout must be at least 0 and below 1"),
        ({"input_dropout": -0.5}, "input_dropout must be"),
        ({"beta": -1.0}, "alpha and beta must be 0 or more"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        RNN(11, 6, **kwargs, rngs=nnx.Rngs(0))
