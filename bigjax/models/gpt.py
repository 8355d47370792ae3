"""A decoder-only Transformer: GPT-2 by default, Llama style by choice of positions, norm, MLP and heads."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.sharding import PartitionSpec as P

from bigjax.models.attention import Attention
from bigjax.models.checks import check_dropout, check_sizes

SHARDING = (
    (r"(query|key|value|up|gate)/kernel", P("fsdp", "tensor")),
    (r"(out|down)/kernel", P("tensor", "fsdp")),
    (r"(embedding|head)/(embedding|kernel)", P("tensor", "fsdp")),
)


class GPT(nnx.Module):
    """Pre-norm Transformer decoder (Radford et al. 2019; Touvron et al. 2023 for the other choices).

    Args:
      vocab_size: tokens, V.
      context: the longest sequence, T; learned positions have as many rows.
      d_model: width, D.
      num_layers: blocks.
      num_heads: query heads.
      num_kv_heads: key and value heads; None is one for each query head.
      d_ff: width of the MLP; None is 4 D, or with SwiGLU 8 D / 3 rounded up to a multiple of 64.
      positions: "learned", or "rotary".
      norm: "layernorm", or "rmsnorm" (Zhang & Sennrich 2019).
      mlp: "gelu" (tanh approximation, as in GPT-2), or "swiglu" (Shazeer 2020).
      use_bias: whether projections and LayerNorms have biases.
      tied: the output projection is the embedding's transpose.
      dropout: rate, on the embedding and on what each block adds.
      rope_theta: base of the rotary positions.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: sizes are not positive or do not divide, or a sequence is longer than the context.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        num_kv_heads: int | None = None,
        d_ff: int | None = None,
        positions: Literal["learned", "rotary"] = "learned",
        norm: Literal["layernorm", "rmsnorm"] = "layernorm",
        mlp: Literal["gelu", "swiglu"] = "gelu",
        use_bias: bool = True,
        tied: bool = True,
        dropout: float = 0.0,
        rope_theta: float = 10000.0,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, context=context, d_model=d_model, num_layers=num_layers, d_ff=d_ff)
        check_sizes(num_heads=num_heads, num_kv_heads=num_kv_heads)
        check_dropout(dropout)
        normal = nnx.initializers.normal
        self.context = context
        self.embedding = nnx.Embed(vocab_size, d_model, dtype=dtype, embedding_init=normal(0.02), rngs=rngs)
        learned = positions == "learned"
        self.positions = (
            nnx.Embed(context, d_model, dtype=dtype, embedding_init=normal(0.02), rngs=rngs) if learned else None
        )
        make_norm: Callable[[], nnx.Module]
        if norm == "rmsnorm":
            make_norm = partial(nnx.RMSNorm, d_model, epsilon=1e-6, dtype=dtype, rngs=rngs)
        else:
            make_norm = partial(nnx.LayerNorm, d_model, epsilon=1e-5, use_bias=use_bias, dtype=dtype, rngs=rngs)
        # GPT-2 scales what is added to the residual stream by its depth.
        inits = {"kernel_init": normal(0.02), "out_init": normal(0.02 / (2 * num_layers) ** 0.5)}

        def block() -> Block:
            theta = rope_theta if positions == "rotary" else None
            attention = Attention(
                d_model, num_heads, num_kv_heads or num_heads, theta, use_bias, **inits, dtype=dtype, rngs=rngs
            )
            return Block(
                make_norm(),
                attention,
                make_norm(),
                MLP(d_model, d_ff, mlp, use_bias, **inits, dtype=dtype, rngs=rngs),
                dropout,
            )

        self.blocks = nnx.List(block() for _ in range(num_layers))
        self.norm = make_norm()
        self.head = (
            None
            if tied
            else nnx.Linear(d_model, vocab_size, use_bias=False, kernel_init=normal(0.02), dtype=dtype, rngs=rngs)
        )
        self.dropout = nnx.Dropout(dropout)

    def __call__(
        self, tokens: jax.Array, carry: None = None, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, None]:
        """Tokens int32 [B, T] to logits of the next token [B, T, V]; nothing is carried to the next batch."""
        if tokens.shape[1] > self.context:
            raise ValueError(
                f"a sequence of {tokens.shape[1]} tokens is longer than the model's context, {self.context}"
            )
        x = self.embedding(tokens)  # [B, T, D]
        if self.positions is not None:
            x = x + self.positions(jnp.arange(tokens.shape[1]))
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        for block in self.blocks:
            x = block(x, train=train, rngs=rngs)
        x = self.norm(x)
        return (self.embedding.attend(x) if self.head is None else self.head(x)), None


class Block(nnx.Module):
    """Attention and MLP, each on a normalised copy of the residual stream and added back to it."""

    def __init__(self, norm1: nnx.Module, attention: Attention, norm2: nnx.Module, mlp: "MLP", dropout: float) -> None:
        self.norm1, self.attention = norm1, attention
        self.norm2, self.mlp = norm2, mlp
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, T, D] to [B, T, D]."""
        x = x + self.dropout(self.attention(self.norm1(x)), deterministic=not train, rngs=rngs)
        return x + self.dropout(self.mlp(self.norm2(x)), deterministic=not train, rngs=rngs)


class MLP(nnx.Module):
    """Up, a nonlinearity, down; with SwiGLU a second, gating projection up."""

    def __init__(
        self,
        d_model: int,
        d_ff: int | None,
        kind: Literal["gelu", "swiglu"],
        use_bias: bool,
        *,
        kernel_init: nnx.Initializer,
        out_init: nnx.Initializer,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        if d_ff is None:
            d_ff = 4 * d_model if kind == "gelu" else 64 * math.ceil(d_model / 24)
        linear = partial(nnx.Linear, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.up = linear(d_model, d_ff, kernel_init=kernel_init)
        self.gate = linear(d_model, d_ff, kernel_init=kernel_init) if kind == "swiglu" else None
        self.down = linear(d_ff, d_model, kernel_init=out_init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D]."""
        up = self.up(x)
        up = nnx.gelu(up, approximate=True) if self.gate is None else nnx.silu(self.gate(x)) * up
        return self.down(up)
