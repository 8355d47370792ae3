"""A recurrent language model of LSTM or GRU layers, over sequences of different lengths, its state carried or fresh."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_dropout, check_sizes

Carry = tuple[jax.Array, ...]  # one layer's state, [B, D] each: (h, c) of an LSTM, (h,) of a GRU


class RNN(nnx.Module):
    """Embedding, recurrent layers with dropout between them, and a softmax over the vocabulary (Zaremba et al. 2014).

    Args:
      vocab_size: tokens, V.
      d_model: width of the embedding and of every layer, D.
      num_layers: recurrent layers.
      cell: "lstm" (Hochreiter & Schmidhuber 1997) or "gru" (Cho et al. 2014).
      dropout: rate, applied to the embedding and to each layer's output.
      tied: the output projection is the embedding's transpose (Press & Wolf 2017).
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: a size is not positive, or the dropout not a rate.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 256,
        num_layers: int = 2,
        cell: Literal["lstm", "gru"] = "lstm",
        dropout: float = 0.0,
        tied: bool = True,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, d_model=d_model, num_layers=num_layers)
        check_dropout(dropout)
        layer = {"lstm": LSTM, "gru": GRU}[cell]
        self.embedding = nnx.Embed(
            vocab_size, d_model, dtype=dtype, embedding_init=nnx.initializers.normal(d_model**-0.5), rngs=rngs
        )
        self.layers: nnx.List = nnx.List(layer(d_model, d_model, dtype=dtype, rngs=rngs) for _ in range(num_layers))
        self.head = None if tied else nnx.Linear(d_model, vocab_size, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self,
        tokens: jax.Array,
        carry: list[Carry] | None = None,
        lengths: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, list[Carry]]:
        """Logits of the next token at every position.

        Args:
          tokens: int32 [B, T].
          carry: the state to start from, one per layer; None is zeros.
          lengths: int32 [B]; positions from there on are padding, and the state stays as it was at the last real one.

        Returns:
          Logits [B, T, V], and the state after each row's last token.
        """
        if carry is None:
            carry = self.initial_carry(tokens.shape[0])
        mask = None if lengths is None else jnp.arange(tokens.shape[1]) < lengths[:, None]
        x = self.dropout(self.embedding(tokens), deterministic=not train, rngs=rngs)
        after = []
        for layer, state in zip(self.layers, carry, strict=True):
            x, state = layer(x, state, mask)
            x = self.dropout(x, deterministic=not train, rngs=rngs)
            after.append(state)
        logits = self.embedding.attend(x) if self.head is None else self.head(x)
        return logits, after

    def initial_carry(self, batch_size: int) -> list[Carry]:
        """Zero state for `batch_size` rows."""
        return [layer.initial_carry(batch_size) for layer in self.layers]


class LSTM(nnx.Module):
    """One LSTM layer, with gates in the order input, forget, cell, output; its state is (h, c)."""

    def __init__(self, in_features: int, features: int, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs) -> None:
        self.features = features
        self.dtype = dtype
        self.input = nnx.Linear(in_features, 4 * features, dtype=dtype, bias_init=remember, rngs=rngs)
        self.recurrent = nnx.Linear(
            features, 4 * features, use_bias=False, kernel_init=orthogonal, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array, carry: Carry, mask: jax.Array | None = None) -> tuple[jax.Array, Carry]:
        """Inputs [B, T, C] and state to outputs [B, T, D] and state; where `mask` [B, T] is false the state stays."""

        def step(carry: Carry, x: jax.Array) -> Carry:
            i, f, g, o = jnp.split(x + self.recurrent(carry[0]), 4, axis=-1)
            c = nnx.sigmoid(f) * carry[1] + nnx.sigmoid(i) * jnp.tanh(g)
            h = nnx.sigmoid(o) * jnp.tanh(c)
            return h.astype(self.dtype), c.astype(jnp.float32)

        return scan_time(step, self.input(x), carry, mask)

    def initial_carry(self, batch_size: int) -> Carry:
        """Zero output [B, D] and cell [B, D]; the cell, a long sum, is float32 whatever is computed in."""
        shape = (batch_size, self.features)
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, jnp.float32)


class GRU(nnx.Module):
    """One GRU layer, with gates in the order reset, update, new; its state is (h,).

    The reset gate multiplies the projected state, as cuDNN and PyTorch have it.
    """

    def __init__(self, in_features: int, features: int, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs) -> None:
        self.features = features
        self.dtype = dtype
        self.input = nnx.Linear(in_features, 3 * features, dtype=dtype, rngs=rngs)
        self.recurrent = nnx.Linear(features, 3 * features, kernel_init=orthogonal, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, carry: Carry, mask: jax.Array | None = None) -> tuple[jax.Array, Carry]:
        """Inputs [B, T, C] and state to outputs [B, T, D] and state; where `mask` [B, T] is false the state stays."""

        def step(carry: Carry, x: jax.Array) -> Carry:
            (h,) = carry
            reset, update, new = zip(jnp.split(x, 3, axis=-1), jnp.split(self.recurrent(h), 3, axis=-1), strict=True)
            candidate = jnp.tanh(new[0] + nnx.sigmoid(sum(reset)) * new[1])
            z = nnx.sigmoid(sum(update))
            return ((1 - z) * candidate + z * h,)

        return scan_time(step, self.input(x), carry, mask)

    def initial_carry(self, batch_size: int) -> Carry:
        """Zero output [B, D]."""
        return (jnp.zeros((batch_size, self.features), self.dtype),)


def scan_time(
    step: Callable[[Carry, jax.Array], Carry], x: jax.Array, carry: Carry, mask: jax.Array | None
) -> tuple[jax.Array, Carry]:
    """Runs `step` along time over inputs that were projected all at once, so that a step multiplies only the state.

    Args:
      step: the next state from the state and x[:, t].
      x: [B, T, C].
      carry: the first state, whose first array is the output.
      mask: bool [B, T] or None; where it is false the state stays as it was.

    Returns:
      Outputs [B, T, D] and the last state.
    """

    def body(carry: Carry, inputs: tuple[jax.Array, jax.Array | None]) -> tuple[Carry, jax.Array]:
        x, real = inputs
        after = step(carry, x)
        if real is not None:
            after = jax.tree.map(lambda new, old: jnp.where(real[:, None], new, old), after, carry)
        return after, after[0]

    carry, out = jax.lax.scan(body, carry, jax.tree.map(lambda a: a.swapaxes(0, 1), (x, mask)))
    return out.swapaxes(0, 1), carry


def orthogonal(key: jax.Array, shape: tuple[int, int], dtype: Dtype, out_sharding: Any = None) -> jax.Array:
    """A [D, gates * D] kernel of orthogonal blocks, one per gate, which keep the state's norm (Saxe et al. 2014)."""
    rows, width = shape
    block = nnx.initializers.orthogonal()
    return jnp.concatenate([block(k, (rows, rows), dtype) for k in jax.random.split(key, width // rows)], axis=1)


def remember(key: jax.Array, shape: tuple[int], dtype: Dtype, out_sharding: Any = None) -> jax.Array:
    """An LSTM's bias of zeros, but ones for the forget gate (Jozefowicz et al. 2015)."""
    return jnp.zeros(shape, dtype).reshape(4, -1).at[1].set(1).reshape(shape)
