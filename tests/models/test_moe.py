"""The mixture of experts, token by token in float64."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, filled, made, parameters

from bigjax.models.blocks import MLP
from bigjax.models.moe import MixtureOfExperts, Routing, balance, mixed


@cache
def build(num_experts=6, experts_per_token=2, d_model=8, d_ff=12, dtype=jnp.float32):
    init = nnx.initializers.normal(0.5)
    return made(
        lambda rngs: MixtureOfExperts(
            d_model, d_ff, num_experts, experts_per_token, kernel_init=init, out_init=init, dtype=dtype, rngs=rngs
        )
    )


def reference(p, x, k):
    """[S, D] to [S, D], and how often each expert was chosen."""
    p = {name: array.astype(np.float64) for name, array in p.items()}
    rows, chosen = [], np.zeros(p["up"].shape[0])
    for token in x:
        scores = np.exp(token @ p["router/kernel"])
        probabilities = scores / scores.sum()
        best = np.argsort(-probabilities)[:k]
        chosen[best] += 1
        row = 0
        for expert in best:
            gate, up = token @ p["gate"][expert], token @ p["up"][expert]
            row += (
                probabilities[expert]
                / probabilities[best].sum()
                * (gate / (1 + np.exp(-gate)) * up)
                @ p["down"][expert]
            )
        rows.append(row)
    return np.array(rows), chosen


@pytest.mark.parametrize(("num_experts", "k"), [(6, 2), (5, 1), (3, 3), (1, 1)])
def test_output_and_loss_equal_a_float64_reference(num_experts, k):
    model, x = build(num_experts, k), np.random.default_rng(0).normal(size=(3, 7, 8))
    p = parameters(model)
    expected, chosen = reference(p, x.reshape(-1, 8), k)
    actual, routing = apply(model, jnp.float32(x))
    loss, tokens = balance(routing, jnp.ones((3, 7)))
    np.testing.assert_array_equal(tokens, chosen)
    np.testing.assert_allclose(actual.reshape(-1, 8), expected, atol=2e-5)
    probabilities = jax.nn.softmax(x.reshape(-1, 8) @ p["router/kernel"])
    np.testing.assert_allclose(loss, num_experts * (chosen / 21 * probabilities.mean(0)).sum(), rtol=1e-5)


def test_no_token_is_dropped_when_all_want_the_same_expert():
    model, x = build(), np.random.default_rng(0).normal(size=8).astype(np.float32)
    one = apply(model, x[None, None])[0]
    many = apply(model, np.tile(x, (2, 30, 1)))[0]
    np.testing.assert_allclose(many, np.broadcast_to(one, many.shape), atol=1e-6)


def test_a_token_does_not_depend_on_the_others():
    model, x = build(), np.random.default_rng(0).normal(size=(2, 9, 8)).astype(np.float32)
    changed = x.copy()
    changed[:, 4:] = -changed[:, 4:]
    np.testing.assert_allclose(apply(model, x)[0][:, :4], apply(model, changed)[0][:, :4], atol=1e-6)


def test_experts_that_are_not_here_add_nothing():
    """What half of them add and what the other half adds is what all add, in the gradient too."""
    rng = np.random.default_rng(0)
    x, weights, *kernels = (
        jnp.float32(rng.normal(size=shape)) for shape in ((2, 9, 8), (2, 9, 3), (6, 8, 12), (6, 8, 12), (6, 12, 8))
    )
    experts = jnp.array(rng.permuted(np.tile(np.arange(6), (2, 9, 1)), axis=-1)[..., :3])

    @jax.jit
    def both(x, weights, kernels):
        halves = [mixed(x, weights, experts - n, *(kernel[n : n + 3] for kernel in kernels)) for n in (0, 3)]
        whole = mixed(x, weights, experts, *kernels)
        return jnp.stack([sum(halves), whole])

    np.testing.assert_allclose(*both(x, weights, kernels), atol=1e-4)
    halved, whole = (
        jax.jit(jax.grad(lambda *of, n=n: (both(*of)[n] ** 2).sum(), (0, 1, 2)))(x, weights, kernels) for n in (0, 1)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-2), halved, whole)


def test_equal_experts_that_are_all_chosen_are_one_mlp():
    p = parameters(build(4, 4))
    equal = filled(build(4, 4), p | {name: np.tile(p[name][:1], (4, 1, 1)) for name in ("up", "gate", "down")})
    init = nnx.initializers.normal()
    make = {"kernel_init": init, "out_init": init, "dtype": jnp.float32, "use_bias": False}
    dense = filled(
        made(lambda rngs: MLP(8, 12, "swiglu", **make, rngs=rngs)),
        {f"{name}/kernel": p[name][0] for name in ("up", "gate", "down")},
    )
    x = np.random.default_rng(0).normal(size=(2, 9, 8)).astype(np.float32)
    np.testing.assert_allclose(apply(equal, x)[0], apply(dense, x), rtol=1e-5, atol=1e-5)


def test_balance_is_least_where_all_are_alike():
    turns = jnp.array([[[0, 1], [2, 3]] * 3] * 2)  # two of four experts for each of twelve tokens
    chances, everyone = jnp.full((2, 6, 4), 0.25), jnp.ones((2, 6))
    loss, tokens = balance(Routing(chances, turns), everyone)
    assert (loss, tokens.tolist()) == (2, [6, 6, 6, 6])
    loss, tokens = balance(Routing(jnp.tile(jnp.array([0.5, 0.5, 0, 0]), (2, 6, 1)), 0 * turns + turns[0, 0]), everyone)
    assert (loss, tokens.tolist()) == (4, [12, 12, 0, 0])
    loss, tokens = balance(Routing(chances, turns), everyone.at[:, 1:].set(0))  # what does not count
    assert (loss, tokens.tolist()) == (2, [2, 2, 0, 0])


def test_gradients_equal_differences():
    """Of output and loss, for the router and the experts alike."""
    model, x = build(), jnp.float32(np.random.default_rng(0).normal(size=(1, 5, 8)))
    graphdef, params = nnx.split(model)
    params = nnx.to_pure_dict(params)

    @jax.jit
    def loss(params):
        y, routing = nnx.merge(graphdef, params)(x)
        return (y**2).mean() + balance(routing, jnp.ones((1, 5)))[0]

    grads = jax.jit(jax.grad(loss))(params)
    rng = np.random.default_rng(1)
    for name in ("router", "up", "gate", "down"):
        step = jax.tree.map(lambda p: 0 * p, params)
        step[name] = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params[name])
        ahead, behind = (loss(jax.tree.map(lambda p, s: p + sign * 1e-3 * s, params, step)) for sign in (1, -1))  # noqa: B023
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, s: (g * s).sum(), grads, step)))
        np.testing.assert_allclose((ahead - behind) / 2e-3, slope, rtol=0.02, atol=2e-3)
        assert abs(slope) > 1e-3


def test_parameter_count_by_formula():
    assert sum(array.size for array in parameters(build()).values()) == 8 * 6 + 6 * 3 * 8 * 12


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    model, x = build(dtype=jnp.bfloat16), np.random.default_rng(0).normal(size=(2, 9, 8)).astype(np.float32)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    y, routing = apply(model, x)
    assert (y.dtype, routing.probabilities.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(y.astype(np.float32), apply(build(), x)[0], atol=0.3)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="experts_per_token, 3, is more than num_experts, 2"):
        build(2, 3)
    with pytest.raises(ValueError, match="d_ff must be positive, not 0"):
        build(d_ff=0)
