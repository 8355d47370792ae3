"""A decoder-only Transformer: GPT-2 by default, Llama style by choice of positions, norm, MLP and heads."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.sharding import PartitionSpec as P

from bigjax.models.attention import Attention, KeyValues
from bigjax.models.blocks import MLP, Block, mlp_width
from bigjax.models.checks import check_choice, check_dropout, check_positive, check_sizes
from bigjax.models.dropout import Dropout
from bigjax.models.embedding import Embed, tied_logits
from bigjax.models.linear import Linear
from bigjax.models.moe import MixtureOfExperts
from bigjax.models.norms import LayerNorm, RMSNorm
from bigjax.models.rotary import rotary_frequencies
from bigjax.models.stacked import Remat, make_layers, through_noting, unstacked_layers

SHARDING = (
    (r"(query|key|value|up|gate)/kernel", P("fsdp", "tensor")),
    (r"(out|down)/kernel", P("tensor", "fsdp")),
    (r"embedding/embedding", P("tensor", "fsdp"), P(None, "fsdp")),  # a vocabulary is of any size
    (r"head/kernel", P("fsdp", "tensor"), P("fsdp", None)),
    (r"mlp/(up|gate)$", P("expert", "fsdp", "tensor")),  # of a mixture of experts
    (r"mlp/down$", P("expert", "tensor", "fsdp")),
)


class Decoding(NamedTuple):
    """What a decoder remembers between calls: the keys and values of each layer, and how many tokens it has seen."""

    layers: list[KeyValues]
    length: jax.Array  # int32 [B]


class GPT(nnx.Module):
    """Pre-norm Transformer decoder (Radford et al. 2019; Touvron et al. 2023 for the other choices).

    Args:
      vocab_size: tokens, V.
      context: the longest sequence, T; learned positions have as many rows.
      d_model: width, D.
      num_layers: blocks.
      num_heads: query heads.
      num_kv_heads: key and value heads; None is one for each query head.
      head_dim: width of a head; None is D / num_heads.
      d_ff: width of the MLP; None is 4 D, or with SwiGLU 8 D / 3 rounded up to a multiple of 64.
      positions: "learned", or "rotary".
      norm: "layernorm", or "rmsnorm" (Zhang & Sennrich 2019).
      norm_epsilon: of all norms; None is 1e-5 for LayerNorms and 1e-6 for RMSNorms.
      qk_norm: queries and keys are normalised too, as in Qwen 3.
      mlp: "gelu" (tanh approximation, as in GPT-2), or "swiglu" (Shazeer 2020).
      use_bias: whether projections and LayerNorms have biases.
      tied: the output projection is the embedding's transpose.
      dropout: rate, on the embedding and on what each block adds.
      rope_theta: base of the rotary positions.
      rope_scaling: how they are stretched, as `bigjax.models.rotary.rotary_frequencies` takes it.
      scan_layers: the blocks' parameters are stacked and one block is compiled for all: the same numbers, less to
        compile. An optimizer that looks at whole arrays (LAMB, LARS, Adafactor) sees the stack as one.
      remat: what of a block is kept for the backward pass, which computes the rest again: "nothing_saveable",
        "dots_saveable" (what products give) or "dots_with_no_batch_dims_saveable" (those with parameters); None keeps
        all that it needs.
      num_experts: SwiGLU MLPs of each block, E, among which a router chooses for each token; None is no choice. They
        have no biases.
      experts_per_token: how many of them a token goes through, k, each `d_ff` wide.
      balance_weight: what a step adds to its loss, in nats per token, is this times the sum over blocks of the loss
        that keeps experts in use (Fedus et al. 2021, section 2.2; `bigjax.models.moe.balance`); each microbatch has
        its own.
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
        head_dim: int | None = None,
        d_ff: int | None = None,
        positions: Literal["learned", "rotary"] = "learned",
        norm: Literal["layernorm", "rmsnorm"] = "layernorm",
        norm_epsilon: float | None = None,
        qk_norm: bool = False,
        mlp: Literal["gelu", "swiglu"] = "gelu",
        use_bias: bool = True,
        tied: bool = True,
        dropout: float = 0.0,
        rope_theta: float = 10000.0,
        rope_scaling: dict[str, Any] | None = None,
        scan_layers: bool = False,
        remat: Remat = None,
        num_experts: int | None = None,
        experts_per_token: int = 2,
        balance_weight: float = 0.01,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, context=context, d_model=d_model, num_layers=num_layers, d_ff=d_ff)
        check_sizes(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
        check_dropout(dropout)
        check_choice("positions", positions, ("learned", "rotary"))
        check_choice("norm", norm, ("layernorm", "rmsnorm"))
        check_choice("mlp", mlp, ("gelu", "swiglu"))
        if positions == "learned" and rope_scaling is not None:
            raise ValueError("rope_scaling is for rotary positions, and positions are learned")
        if num_experts is not None and mlp != "swiglu":
            raise ValueError(f"num_experts is for mlp 'swiglu', and mlp is {mlp!r}")
        if balance_weight < 0:
            raise ValueError(f"balance_weight must be 0 or more, not {balance_weight}")
        normal = nnx.initializers.normal
        self.context, self.remat, self.balance_weight = context, remat, balance_weight
        self.embedding = Embed(vocab_size, d_model, dtype=dtype, embedding_init=normal(0.02), rngs=rngs)
        rotary = positions == "rotary"
        self.positions = (
            None if rotary else Embed(context, d_model, dtype=dtype, embedding_init=normal(0.02), rngs=rngs)
        )
        width = head_dim or d_model // num_heads
        frequencies = rotary_frequencies(width, rope_theta, rope_scaling) if rotary else None
        epsilon = (1e-6 if norm == "rmsnorm" else 1e-5) if norm_epsilon is None else norm_epsilon
        check_positive(norm_epsilon=epsilon, rope_theta=rope_theta)

        def make_norm(rngs: nnx.Rngs) -> nnx.Module:
            if norm == "rmsnorm":
                return RMSNorm(d_model, epsilon=epsilon, dtype=dtype, rngs=rngs)
            return LayerNorm(d_model, epsilon=epsilon, use_bias=use_bias, dtype=dtype, rngs=rngs)

        def block(rngs: nnx.Rngs) -> Block:
            # GPT-2 scales what is added to the residual stream by its depth.
            parts: dict[str, Any] = {"kernel_init": normal(0.02), "out_init": normal(0.02 / (2 * num_layers) ** 0.5)}
            parts |= {"dtype": dtype, "rngs": rngs}
            width = d_ff or mlp_width(d_model, mlp)
            attention = Attention(
                d_model,
                num_heads,
                num_kv_heads,
                head_dim,
                frequencies=frequencies,
                qk_norm=qk_norm,
                epsilon=epsilon,
                use_bias=use_bias,
                **parts,
            )
            mlp_part = (
                MLP(d_model, width, mlp, use_bias=use_bias, **parts)
                if num_experts is None
                else MixtureOfExperts(d_model, width, num_experts, experts_per_token, **parts)
            )
            return Block(make_norm(rngs), attention, make_norm(rngs), mlp_part, dropout, causal=True)

        self.blocks = make_layers(block, num_layers, scan_layers, rngs)
        self.norm = make_norm(rngs)
        self.head = (
            None
            if tied
            else Linear(d_model, vocab_size, use_bias=False, kernel_init=normal(0.02), dtype=dtype, rngs=rngs)
        )
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        tokens: jax.Array,
        carry: Decoding | None = None,
        lengths: jax.Array | None = None,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Decoding | None]:
        """Logits of the next token at every position, [B, T, V], and what to go on with; see `features`."""
        x, carry = self.features(tokens, carry, lengths, segments, positions, train=train, rngs=rngs)
        return self.logits(x), carry

    def features(
        self,
        tokens: jax.Array,
        carry: Decoding | None = None,
        lengths: jax.Array | None = None,
        segments: jax.Array | None = None,
        positions: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[jax.Array, Decoding | None]:
        """What the output projection sees.

        Args:
          tokens: int32 [B, T].
          carry: from `start_decoding` or the call before, which `tokens` continue; None starts and remembers nothing.
          lengths: int32 [B]; tokens from there on are padding, and the next call continues before them.
          segments: int32 [B, T]; a token sees those of its own segment only. For documents packed into one row, and
            not with a carry.
          positions: int32 [B, T], of each token in its document; None is that in the row, after what the carry has.

        Returns:
          [B, T, D], and the carry for the next call. In training a mixture of experts leaves `routing`, an
          `nnx.Intermediate` of a `Routing` whose arrays begin with the axis of blocks.
        """
        start = jnp.zeros((), jnp.int32) if carry is None else carry.length[:, None]
        if tokens.shape[1] > self.context:
            raise ValueError(
                f"a sequence of {tokens.shape[1]} tokens is longer than the model's context, {self.context}"
            )
        if positions is None:
            positions = start + jnp.arange(tokens.shape[1])  # [T] or [B, T]
        mask = None if segments is None else (segments[:, :, None] == segments[:, None, :])[:, None]  # [B, 1, T, T]
        x = self.embedding(tokens)  # [B, T, D]
        if self.positions is not None:
            x = x + self.positions(positions)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        if carry is None:

            def through(block: Block, x: jax.Array, rows: Any, key: jax.Array | None) -> tuple[jax.Array, Any]:
                own, mask = rows
                x, _, routing = block(x, positions if own is None else own, key=key, mask=mask)
                return x, routing

            rows = None if positions.ndim == 1 else positions, mask
            x, routing = through_noting(self.blocks, x, through, rngs if train else None, self.remat, rows)
            if train and routing is not None:
                self.routing = nnx.Intermediate(routing)
            return self.norm(x), None
        layers = []
        for block, cache in zip(unstacked_layers(self.blocks), carry.layers, strict=True):
            x, cache, _ = block(x, positions, cache)
            layers.append(cache)
        return self.norm(x), Decoding(layers, carry.length + (tokens.shape[1] if lengths is None else lengths))

    def logits(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, V]."""
        return tied_logits(x, self.embedding) if self.head is None else self.head(x)

    def start_decoding(self, batch_size: int, length: int) -> Decoding:
        """An empty carry with room for `length` tokens.

        Raises:
          ValueError: `length` is more than the context.
        """
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the model's context, {self.context}")
        layers = [block.attention.empty_cache(batch_size, length) for block in unstacked_layers(self.blocks)]
        return Decoding(layers, jnp.zeros(batch_size, jnp.int32))
