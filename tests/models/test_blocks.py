"""The blocks of Transformers: what is normalised, what is dropped, what is added to what."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made

from bigjax.models.attention import Attention
from bigjax.models.blocks import MLP, Block, PostNormBlock, exact_gelu, mlp_width

INIT = nnx.initializers.normal(0.5)
RATE = 0.25


class Same(nnx.Module):
    """In place of a norm, so that what is added can be seen."""

    def __call__(self, x):
        return x


def build(kind, without=None, **options):
    """A block of width 8 whose `without`, "attention" or "mlp", gives zeros."""

    def make(rngs):
        parts = {"kernel_init": INIT, "dtype": jnp.float32, "rngs": rngs}
        inits = {name: nnx.initializers.zeros if name == without else INIT for name in ("attention", "mlp")}
        attention = Attention(8, 2, out_init=inits["attention"], **parts)
        mlp = MLP(8, None, "gelu", out_init=inits["mlp"], **parts)
        if kind == "post":
            return PostNormBlock(attention, Same(), mlp, Same(), RATE)
        return Block(Same(), attention, Same(), mlp, RATE, causal=False)

    return made(make)


def train(block, x, seed=0):
    if isinstance(block, PostNormBlock):
        return jax.jit(lambda b, x: b(x, key=jax.random.key(seed)))(block, x)
    return jax.jit(lambda b, x: b(x, key=jax.random.key(seed))[0])(block, x)


@pytest.mark.parametrize("kind", ["pre", "post"])
@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_what_each_branch_adds_is_dropped_at_the_rate_and_scaled(kind, branch):
    block = build(kind, without={"attention": "mlp", "mlp": "attention"}[branch])
    x = np.random.default_rng(0).normal(size=(16, 32, 8)).astype(np.float32)
    out = apply(block, x)
    added = np.asarray(out if kind == "post" else out[0]) - x
    dropped = np.asarray(train(block, x)) - x
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], added[kept] / (1 - RATE), rtol=1e-3, atol=1e-5)
    assert abs(1 - kept.mean() - RATE) < 0.03  # of 4,096
    assert np.any(np.asarray(train(block, x, seed=1)) != dropped + x)


def test_norms_come_before_or_after():
    x = np.random.default_rng(0).normal(3, 2, size=(2, 5, 8)).astype(np.float32)

    def with_norms(rngs):
        parts = {"kernel_init": INIT, "out_init": INIT, "dtype": jnp.float32, "rngs": rngs}
        attention, mlp = Attention(8, 2, **parts), MLP(8, None, "gelu", **parts)
        norm = nnx.LayerNorm(8, rngs=rngs)
        return (
            Block(norm, attention, norm, mlp, 0.0, causal=False),
            PostNormBlock(attention, norm, mlp, norm, 0.0),
            attention,
            mlp,
            norm,
        )

    pre, post, attention, mlp, norm = made(with_norms)
    middle = x + attention(norm(x))[0]
    np.testing.assert_allclose(pre(x)[0], middle + mlp(norm(middle)), atol=1e-5)
    middle = norm(x + attention(x)[0])
    np.testing.assert_allclose(post(x), norm(middle + mlp(middle)), atol=1e-5)


@pytest.mark.parametrize("kind", ["gelu", "exact_gelu", "relu", "swiglu"])
def test_the_mlp_by_its_formula(kind):
    mlp = made(lambda rngs: MLP(6, None, kind, kernel_init=INIT, out_init=INIT, dtype=jnp.float32, rngs=rngs))
    assert mlp.up.out_features == mlp_width(6, kind) == (64 if kind == "swiglu" else 24)
    x = np.random.default_rng(0).normal(size=(2, 3, 6))
    weights = {name: np.float64(getattr(mlp, name).kernel[...]) for name in ("up", "down")}
    up = x @ weights["up"]
    if kind == "swiglu":
        gate = x @ np.float64(mlp.gate.kernel[...])
        up = up * gate / (1 + np.exp(-gate))
    elif kind == "relu":
        up = np.maximum(up, 0)
    elif kind == "gelu":
        up = up / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    else:
        up = up / 2 * (1 + np.float64(jax.scipy.special.erf(up / np.sqrt(2))))
    np.testing.assert_allclose(apply(mlp, jnp.float32(x)), up @ weights["down"], rtol=1e-5, atol=1e-4)


def test_exact_gelu_and_its_derivative_are_those_of_float64():
    x = np.linspace(-12, 12, 4801, dtype=np.float32)
    wide = x.astype(np.float64)
    normal = np.array([math.erfc(-number / math.sqrt(2)) / 2 for number in wide])
    value, slope = jax.vmap(jax.value_and_grad(exact_gelu))(x)
    np.testing.assert_allclose(value, wide * normal, rtol=2e-7, atol=7e-7)
    np.testing.assert_allclose(slope, normal + wide * np.exp(-(wide**2) / 2) / math.sqrt(2 * math.pi), atol=2e-7)
