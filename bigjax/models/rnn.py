"""A recurrent language model, its state carried or fresh, with all that AWD-LSTM regularises it by."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_dropout, check_sizes
from bigjax.models.dropout import Dropout
from bigjax.models.embedding import Embed, look_up, tied_logits
from bigjax.models.linear import Linear
from bigjax.models.recurrence import Carry
from bigjax.models.recurrent import Cell, Recurrent


class RNN(nnx.Module):
    """Embedding, recurrent layers with dropout between them, and a softmax over the vocabulary (Zaremba et al. 2014).

    What stands after `tied` makes it an AWD-LSTM (Merity et al. 2017). Its authors' code trains on Penn Treebank with
    d_model=400, d_hidden=1150, num_layers=3, dropout=0.4, input_dropout=0.4, hidden_dropout=0.25,
    embedding_dropout=0.1, weight_dropout=0.5, locked_dropout=True, alpha=2, beta=1.

    Args:
      vocab_size: tokens, V.
      d_model: width of the embedding, D.
      num_layers: recurrent layers.
      cell: "elman", "elman_relu", "lstm" or "gru".
      dropout: rate, on the embedded tokens and on each layer's output.
      tied: the output projection is the embedding's transpose (Press & Wolf 2017), and the last layer D wide.
      d_hidden: width of the layers; None is D.
      input_dropout: rate, on the embedded tokens; None is `dropout`.
      hidden_dropout: rate, between layers; None is `dropout`.
      embedding_dropout: rate at which a token is dropped wherever it stands in the batch (Gal & Ghahramani 2016).
      weight_dropout: rate, on the recurrent kernels.
      locked_dropout: `dropout`, `input_dropout` and `hidden_dropout` drop the same features at all time steps of a row.
      alpha: factor of the mean square of the last layer's output, after dropout, which training adds to the loss.
      beta: likewise of the mean square of its change from one position to the next, before dropout.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: a size is not positive, a dropout not a rate, or a cost negative.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 256,
        num_layers: int = 2,
        cell: Cell = "lstm",
        dropout: float = 0.0,
        tied: bool = True,
        d_hidden: int | None = None,
        input_dropout: float | None = None,
        hidden_dropout: float | None = None,
        embedding_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        locked_dropout: bool = False,
        alpha: float = 0.0,
        beta: float = 0.0,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, d_model=d_model, num_layers=num_layers, d_hidden=d_hidden)
        rates = {
            "dropout": dropout,
            "input_dropout": dropout if input_dropout is None else input_dropout,
            "hidden_dropout": dropout if hidden_dropout is None else hidden_dropout,
            "embedding_dropout": embedding_dropout,
            "weight_dropout": weight_dropout,
        }
        for name, rate in rates.items():
            check_dropout(rate, name)
        if min(alpha, beta) < 0:
            raise ValueError(f"alpha and beta must be 0 or more, not {alpha} and {beta}")
        hidden = d_hidden or d_model
        out = d_model if tied else hidden
        self.embedding = Embed(
            vocab_size, d_model, dtype=dtype, embedding_init=nnx.initializers.normal(d_model**-0.5), rngs=rngs
        )
        self.layers = Recurrent(
            d_model,
            hidden,
            num_layers,
            cell,
            out_features=out,
            dropout=rates["hidden_dropout"],
            locked_dropout=locked_dropout,
            weight_dropout=weight_dropout,
            dtype=dtype,
            rngs=rngs,
        )
        self.head = None if tied else Linear(out, vocab_size, dtype=dtype, rngs=rngs)
        time = (1,) if locked_dropout else ()
        self.embedding_dropout = Dropout(embedding_dropout, broadcast_dims=(1,))  # whole rows
        self.input_dropout = Dropout(rates["input_dropout"], broadcast_dims=time)
        self.output_dropout = Dropout(dropout, broadcast_dims=time)
        self.alpha, self.beta = alpha, beta

    def __call__(
        self,
        tokens: jax.Array,
        carry: list[Carry] | None = None,
        lengths: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, list[Carry]]:
        """Logits of the next token at every position, [B, T, V], and the state to go on with; see `features`."""
        x, carry = self.features(tokens, carry, lengths, train=train, rngs=rngs)
        return self.logits(x), carry

    def features(
        self,
        tokens: jax.Array,
        carry: list[Carry] | None = None,
        lengths: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, list[Carry]]:
        """What the output projection sees.

        Args:
          tokens: int32 [B, T].
          carry: the state to start from, one per layer; None is zeros.
          lengths: int32 [B]; positions from there on are padding, and the state stays as it was at the last real one.

        Returns:
          [B, T, D], and the state after each row's last token.
        """
        table = self.embedding_dropout(self.embedding.embedding[...], deterministic=not train, rngs=rngs)
        x = look_up(self.embedding.num_embeddings, table.astype(self.embedding.dtype), tokens)
        x = self.input_dropout(x, deterministic=not train, rngs=rngs)
        raw, carry = self.layers(x, carry, lengths, train=train, rngs=rngs)
        x = self.output_dropout(raw, deterministic=not train, rngs=rngs)
        if train and (self.alpha or self.beta):
            self.penalty = nnx.Intermediate(self.alpha * mean_square(x) + self.beta * mean_square(change(raw)))
        return x, carry

    def logits(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, V]."""
        return tied_logits(x, self.embedding) if self.head is None else self.head(x)

    def initial_carry(self, batch_size: int) -> list[Carry]:
        """Zero state for `batch_size` rows."""
        return self.layers.initial_carry(batch_size)

    def start_decoding(self, batch_size: int, length: int) -> list[Carry]:
        """Zero state too: it has room for any length."""
        return self.initial_carry(batch_size)


def mean_square(x: jax.Array) -> jax.Array:
    """[B, T, D] to float32 [B, T]."""
    return jnp.square(x.astype(jnp.float32)).mean(-1)


def change(x: jax.Array) -> jax.Array:
    """x[:, t] - x[:, t - 1], and zero where there is none before."""
    return jnp.diff(x, axis=1, prepend=x[:, :1])
