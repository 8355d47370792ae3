"""Causal multi-head attention with grouped queries and rotary positions."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype


class Attention(nnx.Module):
    """Causal self-attention (Vaswani et al. 2017, section 3.2).

    Args:
      d_model: width of input and output, D.
      num_heads: query heads, N; each is D / N wide.
      num_kv_heads: key and value heads, shared by groups of query heads (Ainslie et al. 2023).
      rope_theta: base of the rotary positions (Su et al. 2021), or None for none.
      use_bias: whether the four projections have biases.
      out_init: initialiser of the output projection.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: the heads do not divide the width, or each other.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int,
        rope_theta: float | None,
        use_bias: bool,
        *,
        kernel_init: nnx.Initializer,
        out_init: nnx.Initializer,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model, and {num_heads} does not divide {d_model}")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads, and {num_kv_heads} does not divide {num_heads}")
        self.head_dim = d_model // num_heads
        self.rope_theta = rope_theta
        if rope_theta is not None and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head width, not {self.head_dim}")

        def projection(heads: int) -> nnx.Linear:
            return nnx.Linear(
                d_model, heads * self.head_dim, use_bias=use_bias, kernel_init=kernel_init, dtype=dtype, rngs=rngs
            )

        self.query = projection(num_heads)
        self.key = projection(num_kv_heads)
        self.value = projection(num_kv_heads)
        self.out = nnx.Linear(d_model, d_model, use_bias=use_bias, kernel_init=out_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D]; a position sees itself and those before it."""
        split = (*x.shape[:2], -1, self.head_dim)
        query, key, value = (f(x).reshape(split) for f in (self.query, self.key, self.value))  # [B, T, N or K, H]
        if self.rope_theta is not None:
            query, key = rotary(query, self.rope_theta), rotary(key, self.rope_theta)
        y = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.reshape(x.shape))


def rotary(x: jax.Array, theta: float) -> jax.Array:
    """Rotates each pair (i, i + H / 2) of a head by an angle that grows with its position.

    Args:
      x: [B, T, N, H], positions 0 to T - 1.
      theta: pair i turns by position * theta ** (-2 i / H).
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None] * frequency  # [T, 1, H / 2]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)
    return turned.astype(x.dtype)
