"""Cross-entropy over a vocabulary."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import PartitionSpec as P

from bigjax.models.target import ROWS, axis_size


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
    return optax.softmax_cross_entropy_with_integer_labels(model.logits(x).astype(jnp.float32), targets)


def losses_in_chunks(model: Any, x: jax.Array, targets: jax.Array, chunk: int) -> jax.Array:
    """As `token_losses`, of chunks one after the other."""

    def cut(a: jax.Array) -> jax.Array:
        return jnp.moveaxis(a.reshape(a.shape[0], -1, chunk, *a.shape[2:]), 1, 0)  # [T / chunk, B, chunk, ...]

    losses = jax.lax.map(jax.checkpoint(lambda pair: losses_at_once(model, *pair)), (cut(x), cut(targets)))
    return jnp.moveaxis(losses, 0, 1).reshape(targets.shape)
