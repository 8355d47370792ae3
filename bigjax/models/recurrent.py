"""Recurrent layers (Elman, LSTM, GRU) and stacks of them, over sequences of different lengths, one way or both ways."""

from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_choice, check_dropout, check_sizes
from bigjax.models.dropout import Dropout
from bigjax.models.linear import Linear
from bigjax.models.recurrence import Carry, recur
from bigjax.models.target import over_batch, replicated


def orthogonal(key: jax.Array, shape: tuple[int, int], dtype: Dtype, out_sharding: Any = None) -> jax.Array:
    """A [D, gates * D] kernel of orthogonal blocks, one per gate, which keep the state's norm (Saxe et al. 2014)."""
    rows, width = shape
    block = nnx.initializers.orthogonal()
    return jnp.concatenate([block(k, (rows, rows), dtype) for k in jax.random.split(key, width // rows)], axis=1)


def identity(key: jax.Array, shape: tuple[int, int], dtype: Dtype, out_sharding: Any = None) -> jax.Array:
    """A [D, D] kernel that hands the state on as it is."""
    return jnp.eye(*shape, dtype=dtype)


def remember(key: jax.Array, shape: tuple[int], dtype: Dtype, out_sharding: Any = None) -> jax.Array:
    """An LSTM's bias of zeros, but ones for the forget gate (Jozefowicz et al. 2015)."""
    return jnp.zeros(shape, dtype).reshape(4, -1).at[1].set(1).reshape(shape)


class Recurrence(nnx.Linear):
    """The product with the state; a layer reads its arrays once and not at every step, so it is never called."""


class Layer(nnx.Module):
    """What the layers share; a subclass adds its equations, `step`.

    Args:
      in_features: width of the inputs, C.
      features: width of the outputs and of the state, D.
      weight_dropout: rate on the recurrent kernel, one mask for all rows and time steps (Merity et al. 2017).
      dtype: what is computed in; parameters are float32.
    """

    gates: ClassVar[int] = 1
    bias_init: ClassVar[Any] = staticmethod(nnx.initializers.zeros)
    recurrent_init: ClassVar[Any] = staticmethod(orthogonal)
    recurrent_bias: ClassVar[bool] = False  # a second bias matters only where a gate comes between it and the first

    def __init__(
        self,
        in_features: int,
        features: int,
        weight_dropout: float = 0.0,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.features = features
        self.dtype = dtype
        width = self.gates * features
        self.input = Linear(in_features, width, dtype=dtype, bias_init=self.bias_init, rngs=rngs)
        self.recurrent = Recurrence(
            features,
            width,
            use_bias=self.recurrent_bias,
            kernel_init=self.recurrent_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.dropout = Dropout(weight_dropout)

    def __call__(
        self,
        x: jax.Array,
        carry: Carry,
        mask: jax.Array | None = None,
        *,
        reverse: bool = False,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Runs along time.

        The inputs are projected for all time steps at once, so that a step multiplies only the state.

        Args:
          x: [B, T, C].
          carry: the state to start from.
          mask: bool [B, T] or None; where it is false the state stays as it was, and the output is zero.
          reverse: from the last position to the first. A row padded on its right starts at its own last one, as the
            state stays what it was until there.

        Returns:
          Outputs [B, T, D], and the last state.
        """
        kernel = replicated(self.recurrent.kernel[...].astype(self.dtype))
        kernel = self.dropout(kernel, deterministic=not train, rngs=rngs)
        x = over_batch(self.input(over_batch(x))).transpose(1, 2, 0)
        mask = None if mask is None else mask.swapaxes(0, 1)
        carry = jax.tree.map(jnp.transpose, carry)
        if self.recurrent.bias is None:
            out, carry = recur(self.step, reverse, kernel, carry, x, None, mask)
        else:
            bias = jnp.broadcast_to(self.recurrent.bias[...].astype(self.dtype)[:, None], x.shape)
            out, carry = recur(self.step, reverse, kernel, carry, bias, x, mask)
        if mask is not None:
            out = jnp.where(mask[:, None], out, 0)
        return over_batch(out.transpose(2, 0, 1)), jax.tree.map(jnp.transpose, carry)

    @classmethod
    def step(cls, h: jax.Array, x: jax.Array | None, carry: Carry) -> Carry:
        """The next state.

        Args:
          h: the projected output with its bias or, in a layer that has no such bias, with the projected input,
            [gates * D, B].
          x: the projected input, likewise; None where it is in `h`.
          carry: the state, [D, B] each.
        """
        raise NotImplementedError

    def initial_carry(self, batch_size: int) -> Carry:
        """Zero output [B, D]."""
        return (jnp.zeros((batch_size, self.features), self.dtype),)


class Elman(Layer):
    """One layer of the simple recurrent network (Elman 1990), with tanh; its state is (h,)."""

    activation: ClassVar[Any] = staticmethod(jnp.tanh)

    @classmethod
    def step(cls, h: jax.Array, x: jax.Array | None, carry: Carry) -> Carry:
        """h' = tanh(W x + U h + b)."""
        return (cls.activation(h),)


class ElmanReLU(Elman):
    """Likewise with relu, and the identity for a first recurrent kernel (Le et al. 2015)."""

    recurrent_init = staticmethod(identity)
    activation: ClassVar[Any] = staticmethod(nnx.relu)


class LSTM(Layer):
    """One LSTM layer (Hochreiter & Schmidhuber 1997), gates in the order input, forget, cell, output, as PyTorch's.

    Its state is (h, c).
    """

    gates = 4
    bias_init = staticmethod(remember)

    @classmethod
    def step(cls, h: jax.Array, x: jax.Array | None, carry: Carry) -> Carry:
        """c' = f c + i g, and h' = o tanh(c')."""
        i, f, g, o = jnp.split(h, 4)
        c = nnx.sigmoid(f) * carry[1] + nnx.sigmoid(i) * jnp.tanh(g)
        return (nnx.sigmoid(o) * jnp.tanh(c)).astype(h.dtype), c.astype(jnp.float32)

    def initial_carry(self, batch_size: int) -> Carry:
        """Zero output [B, D] and cell [B, D]; the cell, a long sum, is float32 whatever is computed in."""
        return *super().initial_carry(batch_size), jnp.zeros((batch_size, self.features), jnp.float32)


class GRU(Layer):
    """One GRU layer (Cho et al. 2014), gates in the order reset, update, new, as PyTorch's; its state is (h,).

    The reset gate multiplies the projected state, as cuDNN and PyTorch have it.
    """

    gates = 3
    recurrent_bias = True

    @classmethod
    def step(cls, h: jax.Array, x: jax.Array | None, carry: Carry) -> Carry:
        """h' = (1 - z) n + z h, where n = tanh(W x + r (U h))."""
        assert x is not None
        reset, update, new = zip(jnp.split(x, 3), jnp.split(h, 3), strict=True)
        candidate = jnp.tanh(new[0] + nnx.sigmoid(sum(reset)) * new[1])
        z = nnx.sigmoid(sum(update))
        return ((1 - z) * candidate + z * carry[0],)


Cell = Literal["elman", "elman_relu", "lstm", "gru"]
CELLS: dict[str, type[Layer]] = {"elman": Elman, "elman_relu": ElmanReLU, "lstm": LSTM, "gru": GRU}


class Recurrent(nnx.List):
    """A stack of recurrent layers: the list of them, the forward before the backward one where they go both ways.

    A padded position changes nothing: a sequence has the same outputs, last state and gradients alone and in a batch.

    Args:
      in_features: width of the inputs, C.
      features: width of each layer, D.
      num_layers: layers, L.
      cell: "elman", "elman_relu", "lstm" or "gru".
      bidirectional: a second layer reads each sequence from its last position to its first (Schuster & Paliwal 1997);
        what the two say goes on side by side, 2 D wide.
      out_features: width of the last layer; None is D.
      dropout: rate, between layers.
      locked_dropout: one mask for all time steps (Gal & Ghahramani 2016).
      weight_dropout: rate on the recurrent kernels, one mask for all rows and time steps (Merity et al. 2017).
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: a size is not positive, or a dropout not a rate.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        num_layers: int = 1,
        cell: Cell = "lstm",
        bidirectional: bool = False,
        out_features: int | None = None,
        dropout: float = 0.0,
        locked_dropout: bool = False,
        weight_dropout: float = 0.0,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(in_features=in_features, features=features, num_layers=num_layers, out_features=out_features)
        check_choice("cell", cell, CELLS)
        check_dropout(dropout)
        check_dropout(weight_dropout, "weight_dropout")
        super().__init__()
        self.directions = 2 if bidirectional else 1
        for width in [features] * (num_layers - 1) + [out_features or features]:
            for _ in range(self.directions):
                self.append(CELLS[cell](in_features, width, weight_dropout, dtype=dtype, rngs=rngs))
            in_features = self.directions * width
        self.dropout = Dropout(dropout, broadcast_dims=(1,) if locked_dropout else ())

    def __call__(
        self,
        x: jax.Array,
        carry: list[Carry] | None = None,
        lengths: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, list[Carry]]:
        """Runs the layers one after the other.

        Args:
          x: [B, T, C].
          carry: the state to start from, one per layer and direction; None is zeros.
          lengths: int32 [B]; positions from there on are padding, and their outputs zero.

        Returns:
          Outputs of the last layer [B, T, D] or, both ways, [B, T, 2 D]; and each layer's last state, which of a
          backward one is that at the first position.
        """
        if carry is None:
            carry = self.initial_carry(x.shape[0])
        mask = None
        if lengths is not None:
            mask = jnp.arange(x.shape[1]) < lengths[:, None]
            x = jnp.where(mask[..., None], x, 0)  # or a NaN there would reach the gradient of the kernels
        layers = list(zip(self, carry, strict=True))
        after = []
        for first in range(0, len(layers), self.directions):
            if first:
                x = self.dropout(x, deterministic=not train, rngs=rngs)
            outputs = []
            for backward, (layer, state) in enumerate(layers[first : first + self.directions]):
                y, state = layer(x, state, mask, reverse=backward == 1, train=train, rngs=rngs)
                outputs.append(y)
                after.append(state)
            x = jnp.concatenate(outputs, axis=-1)
        return x, after

    def initial_carry(self, batch_size: int) -> list[Carry]:
        """Zero state for `batch_size` rows."""
        return [layer.initial_carry(batch_size) for layer in self]
