"""The output projection that is the embedding's transpose."""

import jax
import jax.numpy as jnp
from flax import nnx


def tied_logits(x: jax.Array, embedding: nnx.Embed) -> jax.Array:
    """Features [B, T, D] to logits [B, T, V] (Press & Wolf 2017).

    As `nnx.Embed.attend`, which transposes the embedding first: XLA's CPU then copies it for every token it generates.
    """
    return jnp.einsum("vd,btd->btv", embedding.embedding[...].astype(x.dtype), x)
