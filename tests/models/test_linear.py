"""The linear layer against Flax's own, and how XLA differentiates it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.models.linear import Linear


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (2, 4, 3, 5)])
def test_gives_what_flax_gives(shape):
    ours, theirs = Linear(5, 7, rngs=nnx.Rngs(0)), nnx.Linear(5, 7, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), shape)

    def gradients(model, x):
        return nnx.grad(lambda model, x: jnp.sin(model(x)).sum(), argnums=(0, 1))(model, x)

    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-6)
    ours, theirs = (jax.tree.leaves(gradients(model, x)) for model in (ours, theirs))
    assert len(ours) == 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_the_gradient_transposes_no_operand():
    """The kernel's gradient is x^T g as it is, not (g^T x)^T with g copied first."""

    def loss(model, x):
        return jnp.tanh(model(x)).sum()

    model, x = Linear(128, 512, use_bias=False, rngs=nnx.Rngs(0)), jnp.ones((12, 64, 128))
    text = jax.jit(nnx.grad(loss)).lower(model, x).compile().as_text()
    assert re.search(r"= f32\[128,512\]\{1,0\} dot\(", text)
    assert "f32[512,768]" not in text
