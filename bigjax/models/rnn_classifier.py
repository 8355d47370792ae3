"""A recurrent classifier of sequences of tokens."""

import typing
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_choice, check_dropout, check_sizes
from bigjax.models.dropout import Dropout
from bigjax.models.embedding import Embed
from bigjax.models.linear import Linear
from bigjax.models.recurrent import Cell, Recurrent

Pool = Literal["last", "mean", "max"]


class RNNClassifier(nnx.Module):
    """Embedding, recurrent layers, one vector of all time steps, and a linear layer.

    Args:
      vocab_size: tokens, V.
      num_classes: K.
      d_model: width of the embedding.
      d_hidden: width of each layer, D; None is `d_model`.
      num_layers: recurrent layers.
      cell: "elman", "elman_relu", "lstm" or "gru".
      bidirectional: each layer reads both ways (Schuster & Paliwal 1997), and says 2 D.
      pool: the vector is the last state ("last", both ways the forward one at the end and the backward one at the
        beginning), or of each feature the mean or, as of Conneau et al. 2017, the maximum over the sequence.
      dropout: rate, on the embedded tokens, between layers, and on the vector.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: a size is not positive, a dropout not a rate, or a choice is none.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        d_model: int = 128,
        d_hidden: int | None = None,
        num_layers: int = 1,
        cell: Cell = "lstm",
        bidirectional: bool = True,
        pool: Pool = "max",
        dropout: float = 0.0,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, num_classes=num_classes, d_model=d_model, d_hidden=d_hidden)
        check_choice("pool", pool, typing.get_args(Pool))
        check_dropout(dropout)
        width = d_hidden or d_model
        init = nnx.initializers.normal(d_model**-0.5)
        self.embedding = Embed(vocab_size, d_model, embedding_init=init, dtype=dtype, rngs=rngs)
        self.layers = Recurrent(
            d_model, width, num_layers, cell, bidirectional, dropout=dropout, dtype=dtype, rngs=rngs
        )
        self.head = Linear(self.layers.directions * width, num_classes, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.pool = pool

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Logits.

        Args:
          tokens: int32 [B, T].
          mask: bool [B, T]; False from where a row is padding, which changes nothing. None is all True.

        Returns:
          [B, K].
        """
        if mask is None:
            mask = jnp.ones(tokens.shape, bool)
        x = self.dropout(self.embedding(tokens), deterministic=not train, rngs=rngs)  # [B, T, d_model]
        lengths = mask.sum(1)
        x, states = self.layers(x, None, lengths, train=train, rngs=rngs)  # [B, T, D]
        if self.pool == "last":
            x = jnp.concatenate([state[0] for state in states[-self.layers.directions :]], axis=-1)
        elif self.pool == "mean":
            x = x.sum(1) / jnp.maximum(lengths, 1)[:, None].astype(x.dtype)  # outputs are 0 in padding
        else:
            x = jnp.where(mask[..., None], x, -jnp.inf).max(1)
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs))
