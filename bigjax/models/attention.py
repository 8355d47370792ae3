"""Multi-head attention of every model: self or cross, causal, padded, cached, grouped queries, rotary positions."""

import math
import warnings
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.linear import Linear
from bigjax.models.norms import RMSNorm
from bigjax.models.ring import ring_attend
from bigjax.models.rotary import rotate
from bigjax.models.target import axis_size, platform, target
from bigjax.models.tiles import LEAST, attend_in_tiles


class KeyValues(NamedTuple):
    """The keys and values of one layer, as decoding remembers them; slot i holds those of position i."""

    key: jax.Array  # [B, K, S, H]
    value: jax.Array  # [B, K, S, H]


class Attention(nnx.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2).

    Args:
      d_model: width of input and output, D.
      num_heads: query heads, N.
      num_kv_heads: key and value heads, K, each shared by N / K query heads (Ainslie et al. 2023); None is N.
      head_dim: width of a head, H; None is D / N.
      frequencies: of the rotary positions (`bigjax.models.rotary`), H / 2 numbers, or None for none.
      qk_norm: queries and keys pass through an RMSNorm over each head (Henry et al. 2020), as in Qwen 3.
      use_bias: whether the projections of query, key, value and the output have biases; one bool holds for all.
      epsilon: of the RMSNorms.
      out_init: initialiser of the output projection.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: the heads do not divide the width, or each other.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        *,
        frequencies: tuple[float, ...] | None = None,
        qk_norm: bool = False,
        use_bias: bool | tuple[bool, bool, bool, bool] = True,
        epsilon: float = 1e-6,
        kernel_init: nnx.Initializer,
        out_init: nnx.Initializer,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        num_kv_heads = num_kv_heads or num_heads
        if head_dim is None and d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model, and {num_heads} does not divide {d_model}")
        if num_heads % num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads, and {num_kv_heads} does not divide {num_heads}")
        self.head_dim = head_dim or d_model // num_heads
        self.frequencies = frequencies
        biases = use_bias if isinstance(use_bias, tuple) else (use_bias,) * 4

        def projection(heads: int, bias: bool) -> nnx.Linear:
            return Linear(
                d_model, heads * self.head_dim, use_bias=bias, kernel_init=kernel_init, dtype=dtype, rngs=rngs
            )

        self.query = projection(num_heads, biases[0])
        self.key = projection(num_kv_heads, biases[1])
        self.value = projection(num_kv_heads, biases[2])
        norm = RMSNorm(self.head_dim, epsilon=epsilon, dtype=dtype, rngs=rngs) if qk_norm else None
        self.query_norm = norm
        self.key_norm = nnx.clone(norm) if norm else None
        self.out = Linear(
            num_heads * self.head_dim, d_model, use_bias=biases[3], kernel_init=out_init, dtype=dtype, rngs=rngs
        )

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array | KeyValues | None = None,
        *,
        mask: jax.Array | None = None,
        causal: bool = False,
        positions: jax.Array | None = None,
        cache: KeyValues | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """Mixes into each position of `x` what it looks at.

        Args:
          x: [B, T, D].
          source: what is looked at, [B, S, D], or its keys and values from `key_values`; None is `x` itself.
          mask: bool, broadcast to [B, N, T, S]: which positions may be looked at. With `cache` S is its length.
          causal: a position sees itself and those before it.
          positions: int32 [B, T] or [T]; None is 0 to T - 1.
          cache: what to remember the keys and values of `x` in, at `positions`; the queries then look at all of it, as
            far as their own position. Implies `causal`. Positions must be within its length, which nothing checks.

        Returns:
          [B, T, D], and the cache with what was added.
        """
        if positions is None:
            positions = jnp.arange(x.shape[1])
        query = self.heads(self.query, self.query_norm, x, positions)
        if isinstance(source, KeyValues):
            remembered = source
        else:
            remembered = self.key_values(x if source is None else source, positions)
        if cache is not None:
            positions = jnp.broadcast_to(positions, x.shape[:2])
            rows = jnp.arange(x.shape[0])[:, None]
            cache = jax.tree.map(
                lambda old, new: old.at[rows, :, positions].set(new.swapaxes(1, 2), mode="promise_in_bounds"),
                cache,
                remembered,
            )
            # Without the barrier XLA's CPU fuses the update into its reader, and must copy the cache to keep both.
            remembered = cache = jax.lax.optimization_barrier(cache)
            seen = jnp.arange(cache.key.shape[2]) <= positions[:, None, :, None]  # [B, 1, T, S]
            mask, causal = seen if mask is None else mask & seen, False
        y = attend(query, remembered, mask, causal)
        return self.out(y.reshape(*y.shape[:2], -1)), cache

    def key_values(self, source: jax.Array, positions: jax.Array | None = None) -> KeyValues:
        """The keys and values of `source` [B, S, D] for all queries to come."""
        if positions is None:
            positions = jnp.arange(source.shape[1])
        key = self.heads(self.key, self.key_norm, source, positions)
        return KeyValues(key.swapaxes(1, 2), self.heads(self.value, None, source, None).swapaxes(1, 2))

    def heads(
        self, projection: nnx.Linear, norm: RMSNorm | None, x: jax.Array, positions: jax.Array | None
    ) -> jax.Array:
        """[B, T, D] projected to heads [B, T, N, H], normalised and turned by position where that is wanted."""
        y = projection(x)
        y = y.reshape(*y.shape[:2], -1, self.head_dim)
        if norm is not None:
            y = norm(y)
        if self.frequencies is not None and positions is not None:
            y = rotate(y, positions, self.frequencies)
        return y

    def empty_cache(self, batch_size: int, length: int) -> KeyValues:
        """Room for the keys and values of `length` positions."""
        dtype = self.key.dtype or jnp.float32
        heads = self.key.out_features // self.head_dim
        zeros = jnp.zeros((batch_size, heads, length, self.head_dim), dtype)
        return KeyValues(zeros, zeros)


def attend(query: jax.Array, source: KeyValues, mask: jax.Array | None, causal: bool) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value: by cuDNN on a GPU where it can, in a ring where positions are cut.

    Args:
      query: [B, T, N, H].
      source: keys and values.
      mask: bool, broadcast to [B, N, T, S], or None.
      causal: query t sees keys 0 to t.

    Returns:
      [B, T, N, H].
    """
    if query.shape[1] == 1 and not causal:
        return attend_one(query, source, mask)
    ring = axis_size("sequence")
    if ring > 1 and query.shape[1] % ring == source.key.shape[2] % ring == 0:
        return ring_attend(query, *source, mask, causal)
    if platform() == "gpu":
        key, value = (x.swapaxes(1, 2) for x in source)  # [B, S, K, H]
        if not (reason := no_cudnn(query, target().compute_capability)):
            return attend_by_cudnn(query, key, value, mask, causal)
        warn_of_fallback(reason)
    return attend_in_tiles(query, *source, mask, causal)


def attend_one(query: jax.Array, source: KeyValues, mask: jax.Array | None) -> jax.Array:
    """Likewise for one query each, [B, 1, N, H], as when decoding: reads keys and values once, where they lie."""
    batch, _, num_heads, width = query.shape
    num_kv_heads = source.key.shape[1]
    query = query.reshape(batch, num_kv_heads, num_heads // num_kv_heads, width)  # [B, K, N / K, H]
    scores = jnp.einsum("bkgh,bksh->bkgs", query, source.key, preferred_element_type=jnp.float32) / math.sqrt(width)
    if mask is not None:
        mask = jnp.broadcast_to(mask, (batch, num_heads, 1, scores.shape[-1])).reshape(scores.shape)
        scores = jnp.where(mask, scores, LEAST)
    weights = jax.nn.softmax(scores).astype(query.dtype)
    return jnp.einsum("bkgs,bksh->bkgh", weights, source.value).reshape(batch, 1, num_heads, width)


def attend_by_cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    """`attend` with keys and values [B, S, K, H]. Trained, cuDNN's lengths are even: odd ones are filled up."""
    batch, length, source_length = *query.shape[:2], key.shape[1]
    odd, source_odd = length % 2, source_length % 2
    seen = source_seen = None
    if mask is not None:
        mask = jnp.broadcast_to(mask, (*mask.shape[:2], length, source_length))  # which it does not do itself
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, odd), (0, source_odd)))
    elif odd or source_odd:
        seen, source_seen = (jnp.full(batch, size, jnp.int32) for size in (length, source_length))
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0)))
        for x, more in ((query, odd), (key, source_odd), (value, source_odd))
    )
    y = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        is_causal=causal,
        query_seq_lengths=seen,
        key_value_seq_lengths=source_seen,
        implementation="cudnn",
    )
    return y[:, :length]


def no_cudnn(query: jax.Array, capability: str) -> str:
    """Why cuDNN's attention cannot be used on a GPU of this compute capability, such as "9.0"; empty where it can."""
    width = query.shape[-1]
    if capability.startswith("gfx") or float(capability) < 8:  # gfx is AMD's
        return f"it needs an NVIDIA GPU of compute capability 8.0 or more, not {capability}"
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not {query.dtype.name} (train.precision)"
    if width % 8 or width > 128:
        return f"its heads are a multiple of 8 and at most 128 wide, not {width}"
    return ""


@cache
def warn_of_fallback(reason: str) -> None:
    """Says once that attention will take longer than it could."""
    warnings.warn(f"Attention does without cuDNN, which would be quicker: {reason}.", stacklevel=2)
