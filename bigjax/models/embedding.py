"""The embedding of every model, and the output projection that is its transpose."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx


class Embed(nnx.Embed):
    """flax's, but that no memory is taken for its gradient before that is due."""

    def __call__(self, indices: jax.Array) -> jax.Array:  # type: ignore[override]  # it takes no sharding
        """The rows of these indices, which may have any shape: [...] to [..., D]."""
        return look_up(self.num_embeddings, self.embedding[...].astype(self.dtype), indices)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def look_up(size: int, table: jax.Array, indices: jax.Array) -> jax.Array:
    """Rows of a table [V, D], V being `size`: of indices [...] it gives [..., D], NaN for those not below V."""
    return jnp.take(table, indices, axis=0)


def look_up_forward(size: int, table: jax.Array, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """And what the gradient needs."""
    return jnp.take(table, indices, axis=0), indices


def look_up_backward(size: int, indices: jax.Array, grad: jax.Array) -> tuple[jax.Array, None]:
    """The sums of each row's gradients. They begin with zeros, which XLA would make when nothing else is to be done."""
    zero, grad = jax.lax.optimization_barrier((jnp.zeros((), grad.dtype), grad))
    return jnp.full((size, grad.shape[-1]), zero).at[indices].add(grad), None


look_up.defvjp(look_up_forward, look_up_backward)


def tied_logits(x: jax.Array, embedding: Embed) -> jax.Array:
    """Features [B, T, D] to logits [B, T, V] (Press & Wolf 2017).

    As `nnx.Embed.attend`, which transposes the embedding first: XLA's CPU then copies it for every token it generates.
    """
    return jnp.einsum("vd,btd->btv", embedding.embedding[...].astype(x.dtype), x)
