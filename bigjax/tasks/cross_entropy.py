"""Cross-entropy over a vocabulary."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from bigjax.models.target import ROWS, axis_size


@jax.custom_vjp
def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The negative logarithm of each target's softmax, in float32.

    The gradient is one pass over the logits, in their dtype. By itself JAX would scatter the targets into zeros of
    float32: with GPT-2's vocabulary a fifth of all that a GPU's step in bfloat16 reads and writes.

    Args:
      logits: [..., V].
      targets: int32 [...].
    """
    return cross_entropy_forward(logits, targets)[0]


def cross_entropy_forward(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """And what the gradient needs."""
    total = jax.nn.logsumexp(logits.astype(jnp.float32), -1)
    of_target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return total - of_target.astype(jnp.float32), (logits, targets, total)


def cross_entropy_backward(saved: tuple[jax.Array, ...], grad: jax.Array) -> tuple[jax.Array, None]:
    """That of the logits: the softmax, less 1 for the target."""
    logits, targets, total = saved
    softmax = jnp.exp(logits.astype(jnp.float32) - total[..., None])
    is_target = targets[..., None] == jnp.arange(logits.shape[-1])
    logits_grad = (grad[..., None] * (softmax - is_target)).astype(logits.dtype)
    return jax.lax.optimization_barrier(logits_grad), None  # or XLA's CPU computes it for each reader


cross_entropy.defvjp(cross_entropy_forward, cross_entropy_backward)


def token_losses(model: Any, x: jax.Array, targets: jax.Array, chunk: int | None = None) -> jax.Array:
    """The cross-entropy of each target, float32 [B, T].

    Args:
      model: whose `logits` is asked.
      x: what that takes, [B, T, D].
      targets: int32 [B, T].
      chunk: positions whose logits are in memory at once, in the backward pass too, which computes them again; None is
        all.

    Raises:
      ValueError: `chunk` does not divide T.
    """

    batch, length = targets.shape
    if chunk is None or chunk >= length:
        return losses_at_once(model, x, targets)
    if length % chunk:
        raise ValueError(f"chunk, {chunk}, does not divide {length} positions")
    shared = (*ROWS, "pipeline")
    rows, positions = math.prod(map(axis_size, shared)), axis_size("sequence")
    if rows * positions == 1 or batch % rows or chunk % positions:
        return losses_in_chunks(model, x, targets, chunk)

    # Each device loops over its own positions, with the head gathered before and its gradient reduced after, both
    # whole in float32 meanwhile: the compiler by itself would send them at every turn. It drops the other weights.
    graphdef, weights = nnx.split(model)
    laid = P(shared, "sequence")

    @partial(jax.shard_map, in_specs=(P(), laid, laid), out_specs=laid, axis_names={*shared, "sequence"})
    def local(weights: Any, x: jax.Array, targets: jax.Array) -> jax.Array:
        weights = jax.lax.pcast(weights, (*shared, "sequence"), to="varying")
        return losses_in_chunks(nnx.merge(graphdef, weights), x, targets, chunk // positions)

    return local(weights, x, targets)


def losses_at_once(model: Any, x: jax.Array, targets: jax.Array) -> jax.Array:
    """As `token_losses` of one chunk."""
    return cross_entropy(model.logits(x), targets)


def losses_in_chunks(model: Any, x: jax.Array, targets: jax.Array, chunk: int) -> jax.Array:
    """As `token_losses`, of chunks one after the other."""

    def cut(a: jax.Array) -> jax.Array:
        return jnp.moveaxis(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]), 1, 0)  # [T / chunk, B, chunk, ...]

    losses = jax.lax.map(jax.checkpoint(lambda pair: losses_at_once(model, *pair)), (cut(x), cut(targets)))
    return jnp.moveaxis(losses, 0, 1).reshape(targets.shape)
