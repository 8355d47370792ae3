"""What Transformers are made of: blocks, norm before or after, and the MLP of all."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.attention import Attention, KeyValues
from bigjax.models.dropout import Dropout
from bigjax.models.linear import Linear
from bigjax.models.moe import MixtureOfExperts, Routing
from bigjax.models.target import platform


class Block(nnx.Module):
    """Attention and MLP, each on a normalised copy of the residual stream and added back to it."""

    def __init__(
        self,
        norm1: nnx.Module,
        attention: Attention,
        norm2: nnx.Module,
        mlp: "MLP | MixtureOfExperts",
        dropout: float,
        *,
        causal: bool,
    ) -> None:
        self.norm1, self.attention = norm1, attention
        self.norm2, self.mlp = norm2, mlp
        self.dropout = Dropout(dropout)
        self.causal = causal

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array | None = None,
        cache: KeyValues | None = None,
        key: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValues | None, Routing | None]:
        """[B, T, D] to [B, T, D], with dropout where there is a key for it; `mask` is as `Attention` takes it.

        Beside it the cache, where there was one, and what a mixture of experts did.
        """
        rngs = None if key is None else nnx.Rngs(dropout=key)
        y, cache = self.attention(self.norm1(x), mask=mask, causal=self.causal, positions=positions, cache=cache)
        x = x + self.dropout(y, deterministic=rngs is None, rngs=rngs)
        y = self.norm2(x)
        y, routing = self.mlp(y) if isinstance(self.mlp, MixtureOfExperts) else (self.mlp(y), None)
        return x + self.dropout(y, deterministic=rngs is None, rngs=rngs), cache, routing


class PostNormBlock(nnx.Module):
    """Attention and MLP, each added to its input, and the sum normalised (Vaswani et al. 2017)."""

    def __init__(self, attention: Attention, norm1: nnx.Module, mlp: "MLP", norm2: nnx.Module, dropout: float) -> None:
        self.attention, self.norm1 = attention, norm1
        self.mlp, self.norm2 = mlp, norm2
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, key: jax.Array | None = None) -> jax.Array:
        """[B, T, D] to [B, T, D], with dropout where there is a key for it; `mask` is as `Attention` takes it."""
        rngs = None if key is None else nnx.Rngs(dropout=key)
        y, _ = self.attention(x, mask=mask)
        x = self.norm1(x + self.dropout(y, deterministic=rngs is None, rngs=rngs))
        return self.norm2(x + self.dropout(self.mlp(x), deterministic=rngs is None, rngs=rngs))


def over_keys(mask: jax.Array | None) -> jax.Array | None:
    """Which positions are real, bool [B, S], as attention takes it, [B, 1, 1, S]."""
    return None if mask is None else mask[:, None, None, :]


Nonlinearity = Literal["gelu", "exact_gelu", "relu", "swiglu"]


def mlp_width(d_model: int, kind: Nonlinearity) -> int:
    """The usual width of the MLP: 4 D, or where a gate needs a third matrix, 8 D / 3 rounded up to a multiple of 64."""
    return 64 * math.ceil(d_model / 24) if kind == "swiglu" else 4 * d_model


class MLP(nnx.Module):
    """Up, a nonlinearity, down; with SwiGLU a second, gating projection up.

    Args:
      d_model: width of input and output, D.
      d_ff: width between; None is the usual one.
      kind: "gelu" (the tanh approximation), "exact_gelu" (by the error function), "relu", or "swiglu" (Shazeer 2020).
      use_bias: whether the projections have biases.
      kernel_init: initialiser of the projections up.
      out_init: of the projection down.
      dtype: what is computed in; parameters are float32.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None,
        kind: Nonlinearity,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer,
        out_init: nnx.Initializer,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        if d_ff is None:
            d_ff = mlp_width(d_model, kind)
        self.kind = kind
        linear = partial(Linear, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.up = linear(d_model, d_ff, kernel_init=kernel_init)
        self.gate = linear(d_model, d_ff, kernel_init=kernel_init) if kind == "swiglu" else None
        self.down = linear(d_ff, d_model, kernel_init=out_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D]."""
        gate = () if self.gate is None else (self.gate(x),)
        activated: Callable[..., jax.Array] = partial(activate, self.kind)
        if platform() == "cpu":  # which would keep its parts from the gradient of the product down to its own
            activated = jax.checkpoint(activated)

        # Of all between the projections up and the product down the gradient keeps what the former gave.
        @jax.checkpoint
        def down(*up: jax.Array) -> jax.Array:
            return self.down(activated(*up))

        return down(self.up(x), *gate)


def activate(kind: Nonlinearity, x: jax.Array, *gate: jax.Array) -> jax.Array:
    """The nonlinearity of an `MLP`."""
    if gate:
        return nnx.silu(gate[0]) * x
    if kind == "exact_gelu":
        return exact_gelu(x.astype(jnp.float32)).astype(x.dtype)
    return nnx.relu(x) if kind == "relu" else nnx.gelu(x)


@jax.custom_jvp
def exact_gelu(x: jax.Array) -> jax.Array:
    """`x`, float32 of any shape, times the normal distribution's function of it (Hendrycks & Gimpel 2016)."""
    return x * normal(x)


def normal(x: jax.Array) -> jax.Array:
    """The normal distribution's function, [...] to [...]; XLA computes erf twice as fast as erfc, which flax takes."""
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


# JAX's own derivative of erf takes longer, for digits that are lost in this sum.
exact_gelu.defjvps(lambda dx, _, x: dx * (normal(x) + x * jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)))
