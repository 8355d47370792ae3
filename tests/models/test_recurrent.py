"""Recurrent layers and stacks: both directions, padding, dropouts, and figures that PyTorch computed."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, close, made, parameters, same_bits
from torch_rnns import CONFIGURATIONS, RECORDED, compare

from bigjax.models.recurrent import CELLS, Recurrent

FIXTURE = Path(__file__).parents[1] / "fixtures" / "rnns.npz"
LENGTHS = np.array([5, 1, 5])


@cache
def stack(cell="lstm", **kwargs):
    return made(lambda rngs: Recurrent(3, 4, **({"num_layers": 2, "cell": cell} | kwargs), rngs=rngs))


def inputs(batch=3, length=7, width=3, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=(batch, length, width)))


@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_is_the_same_alone_and_in_a_padded_batch(cell):
    model, x = stack(cell, bidirectional=True), inputs()
    graphdef, params = nnx.split(model)

    @jax.jit
    @partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradient(params, x, lengths):
        out, carry = nnx.merge(graphdef, params)(x, None, lengths)
        return jnp.sin(out).sum() + sum((c**2).sum() for c in jax.tree.leaves(carry)), (out, carry)

    real = (np.arange(7) < LENGTHS[:, None])[..., None]
    (grads, of_x), (out, carry) = gradient(params, x, LENGTHS)
    alone = [gradient(params, x[row : row + 1, :n], None) for row, n in enumerate(LENGTHS)]
    for row, n in enumerate(LENGTHS):
        (_, of_row), (out_row, carry_row) = alone[row]
        close(out[row : row + 1, :n], out_row)
        close(of_x[row : row + 1, :n], of_row, atol=3e-6, rtol=2e-6)
        close(jax.tree.map(lambda c, row=row: c[row : row + 1], carry), carry_row)
    close(grads, jax.tree.map(lambda *g: sum(g), *(g for (g, _), _ in alone)), atol=3e-6, rtol=2e-6)
    assert not np.where(real, 0, out).any()
    assert not np.where(real, 0, of_x).any()
    # Whatever stands in the padding.
    for garbage in (1e6, np.nan):
        same_bits(gradient(params, np.where(real, x, np.float32(garbage)), LENGTHS), ((grads, of_x), (out, carry)))


@pytest.mark.parametrize("cell", CELLS)
def test_the_backward_half_is_a_forward_layer_on_the_reversed_sequence(cell):
    both, x = stack(cell, num_layers=1, bidirectional=True), inputs()
    out, (_, state) = apply(both, x, None, LENGTHS)
    layer = both[1]
    for row, n in enumerate(LENGTHS):
        backwards, after = apply(layer, x[row : row + 1, :n][:, ::-1], layer.initial_carry(1))
        close(out[row, :n, 4:], backwards[0, ::-1])
        close(jax.tree.map(lambda c, row=row: c[row : row + 1], state), after)
    assert np.abs(out[0, :, :4] - out[0, :, 4:]).max() > 1e-3  # the two have parameters of their own


@pytest.mark.parametrize("cell", CELLS)
def test_two_halves_with_their_state_carried_equal_the_whole(cell):
    model, x = stack(cell), inputs(length=9)
    whole, after = apply(model, x)
    first, state = apply(model, x[:, :4])
    second, state = apply(model, x[:, 4:], state)
    close((np.concatenate([first, second], 1), state), (whole, after))


def test_a_row_without_a_token_keeps_its_state():
    model, x = stack(), inputs(2)
    carry = jax.tree.map(lambda c: c + 0.5, model.initial_carry(2))
    out, after = apply(model, x, carry, np.array([7, 0]))
    same_bits(jax.tree.map(lambda c: c[1], after), jax.tree.map(lambda c: c[1], carry))
    assert not out[1].any()


def test_widths_and_names():
    model = stack(num_layers=3, bidirectional=True, out_features=2)
    shapes = {name: array.shape for name, array in parameters(model).items() if name.endswith("kernel")}
    inner = [(f"{i}/{kind}/kernel", shape) for i, kind, shape in [(0, "input", (3, 16)), (1, "input", (3, 16))]]
    inner += [(f"{i}/input/kernel", (8, 16)) for i in (2, 3)] + [(f"{i}/recurrent/kernel", (4, 16)) for i in range(4)]
    last = [(f"{i}/{kind}/kernel", (8 if kind == "input" else 2, 8)) for i in (4, 5) for kind in ("input", "recurrent")]
    assert shapes == dict(inner + last)
    out, carry = apply(model, inputs())
    assert out.shape == (3, 7, 4)
    assert [c.shape for c in jax.tree.leaves(carry)] == [(3, 4)] * 8 + [(3, 2)] * 4


def dropped(model, x, seed=0):
    """Outputs in training."""
    run = jax.jit(lambda model, x, key: model(x, train=True, rngs=nnx.Rngs(dropout=key))[0])
    return np.asarray(run(model, x, jax.random.key(seed)))


class Echo(nnx.Module):
    """A layer that says what it is told."""

    def __call__(self, x, carry, mask, **_):
        return x, carry

    def initial_carry(self, batch_size):
        return ()


@pytest.mark.parametrize("locked", [False, True])
def test_locked_dropout_drops_the_same_features_at_all_time_steps(locked):
    model = Recurrent(5, 5, 2, dropout=0.5, locked_dropout=locked, rngs=nnx.Rngs(0))
    model[0], model[1] = Echo(), Echo()
    masks = dropped(model, np.ones((8, 6, 5), np.float32))
    assert set(np.unique(masks)) == {0, 2}
    assert (masks == masks[:, :1]).all() == locked
    assert (masks != masks[:1]).any()  # rows have masks of their own
    assert (masks != dropped(model, np.ones((8, 6, 5), np.float32), seed=1)).any()
    same_bits(apply(model, masks)[0], masks)  # and none outside training


@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_weight_dropout_is_a_layer_whose_recurrent_kernel_lacks_weights(cell):
    """A mask read off the kernel's gradient, put into the kernel of a layer without dropout, explains all outputs."""
    model, plain = stack(cell, num_layers=1, weight_dropout=0.4), stack(cell, num_layers=1)
    x, key = inputs(), jax.random.key(3)
    graphdef, params = nnx.split(model)

    def loss(params):
        out, _ = nnx.merge(graphdef, params)(x, train=True, rngs=nnx.Rngs(dropout=key))
        return jnp.sin(out + jnp.arange(4.0)).sum()

    kernel = plain[0].recurrent.kernel[...]
    kept = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))[0]["recurrent"]["kernel"] != 0
    assert 0 < kept.mean() < 1
    thinned = nnx.clone(plain)
    thinned[0].recurrent.kernel[...] = jnp.where(kept, kernel / 0.6, 0)
    close(dropped(model, x, seed=3), apply(thinned, x)[0])
    same_bits(apply(model, x)[0], apply(plain, x)[0])


def test_weight_dropout_scales_what_it_keeps_and_drops_at_its_rate():
    """On inputs of zero an Elman layer's second output is its recurrent kernel, seen from each row's first output."""
    features = 40
    model = made(lambda rngs: Recurrent(1, features, 1, "elman_relu", weight_dropout=0.25, rngs=rngs))
    kernel = 1.0 + jnp.arange(features**2).reshape(features, features) / 100
    model[0].recurrent.kernel[...] = kernel
    run = jax.jit(lambda model, key: model(jnp.zeros((features, 3, 1)), [(jnp.eye(features),)], train=True, rngs=key))
    out = np.asarray(run(model, nnx.Rngs(dropout=0))[0])
    ratio = out[:, 0] / kernel
    np.testing.assert_allclose(ratio[ratio != 0], 4 / 3, rtol=1e-6)
    assert abs((ratio == 0).mean() - 0.25) < 0.04
    close(out[:, 1], out[:, 0] @ out[:, 0], atol=0, rtol=1e-4)  # the same mask at the next time step, for all rows


@pytest.mark.parametrize("name", RECORDED)
def test_outputs_states_and_gradients_are_pytorchs(name):
    """Figures computed once by `tests/fixtures/make_rnns.py`; `tests/peers/test_rnns.py` asks PyTorch itself."""
    with np.load(FIXTURE, allow_pickle=False) as arrays:
        given = {key.removeprefix(f"{name}/"): arrays[key] for key in arrays if key.startswith(f"{name}/")}
    compare(CONFIGURATIONS[name], given)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"out_features": -1}, "out_features must be positive"),
        ({"dropout": 1.0}, "dropout must be at least 0"),
        ({"weight_dropout": -0.1}, "weight_dropout must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        Recurrent(3, 4, **kwargs, rngs=nnx.Rngs(0))
