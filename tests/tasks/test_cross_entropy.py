"""Cross-entropy and its gradient against closed forms in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.tasks.cross_entropy import cross_entropy


def rows(scale, seed=0):
    """Logits [2, 5, 7], targets and what the losses are multiplied by."""
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(2, 5, 7)), rng.integers(0, 7, (2, 5)), rng.normal(size=(2, 5))


def expected(logits, targets, weights):
    """Losses, and the gradient of their weighted sum."""
    shifted = logits - logits.max(-1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    one_hot = np.eye(logits.shape[-1])[targets]
    return -(log_softmax * one_hot).sum(-1), weights[..., None] * (np.exp(log_softmax) - one_hot)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 3000.0])
def test_losses_and_gradient_are_those_of_the_closed_form(scale):
    logits, targets, weights = rows(scale)
    logits = np.float32(logits).astype(np.float64)
    losses, gradient = jax.jit(lambda x: jax.vjp(lambda x: cross_entropy(x, targets), x))(jnp.float32(logits))
    of_losses, of_logits = expected(logits, targets, weights)
    np.testing.assert_allclose(losses, of_losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient(jnp.float32(weights))[0], of_logits, atol=1e-5)


def test_a_logit_that_cannot_be_has_no_gradient():
    logits = jnp.array([1.0, -jnp.inf, 2.0])
    loss, gradient = jax.value_and_grad(cross_entropy)(logits, jnp.int32(0))
    assert loss == pytest.approx(np.log(1 + np.e), rel=1e-6)
    np.testing.assert_allclose(gradient, [-np.e / (1 + np.e), 0, np.e / (1 + np.e)], rtol=1e-6)


def test_logits_of_bfloat16_are_added_up_in_float32():
    logits, targets, weights = rows(4.0)
    logits = jnp.bfloat16(logits)
    losses, gradient = jax.vjp(lambda x: cross_entropy(x, targets), logits)
    of_losses, of_logits = expected(np.float64(logits), targets, weights)
    (found,) = gradient(jnp.float32(weights))
    assert (losses.dtype, found.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(losses, of_losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.float64(found), of_logits, rtol=2**-8, atol=1e-6)


def test_its_gradient_has_a_derivative():
    logits, targets, weights = map(jnp.asarray, rows(1.0))
    logits, tangent = jnp.float32(logits), jnp.float32(rows(1.0, seed=1)[0])

    def total(x):
        return (weights * cross_entropy(x, targets)).sum()

    found = jax.jvp(jax.grad(total), (logits,), (tangent,))[1]
    p = jax.nn.softmax(logits)
    hessian = weights[..., None] * p * (tangent - (p * tangent).sum(-1, keepdims=True))
    np.testing.assert_allclose(found, hessian, atol=1e-5)
