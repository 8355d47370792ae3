"""Cross-entropy over a vocabulary."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


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

    def of(x: jax.Array, targets: jax.Array) -> jax.Array:
        logits = model.logits(x).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    if chunk is None or chunk >= x.shape[1]:
        return of(x, targets)
    if x.shape[1] % chunk:
        raise ValueError(f"chunk, {chunk}, does not divide {x.shape[1]} positions")

    # Every so many positions, not one after the other: so each device of a mesh's `sequence` has its share of a chunk.
    def cut(a: jax.Array) -> jax.Array:
        return jnp.moveaxis(a.reshape(a.shape[0], chunk, -1, *a.shape[2:]), 2, 0)  # [T / chunk, B, chunk, ...]

    losses = jax.lax.map(jax.checkpoint(lambda pair: of(*pair)), (cut(x), cut(targets)))
    return jnp.moveaxis(losses, 0, 2).reshape(targets.shape)
