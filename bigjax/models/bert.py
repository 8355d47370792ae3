"""BERT: a bidirectional encoder of tokens, with the heads that its paper pre-trains and fine-tunes."""

import typing
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.sharding import PartitionSpec as P

from bigjax.models.attention import Attention
from bigjax.models.blocks import MLP, PostNormBlock, over_keys
from bigjax.models.checks import check_choice, check_dropout, check_positive, check_sizes
from bigjax.models.dropout import Dropout
from bigjax.models.embedding import Embed, tied_logits
from bigjax.models.linear import Linear
from bigjax.models.norms import LayerNorm
from bigjax.models.stacked import Remat, make_layers, through_layers

SHARDING = (
    (r"(query|key|value|up)/kernel", P("fsdp", "tensor")),
    (r"(out|down)/kernel", P("tensor", "fsdp")),
    (r"embedding/embedding", P("tensor", "fsdp"), P(None, "fsdp")),  # a vocabulary is of any size
)

Pool = Literal["first", "mean"]
Head = Literal["pooler", "sequence_classification", "token_classification", "question_answering", "masked_lm"]


class BERT(nnx.Module):
    """Post-norm Transformer encoder (Devlin et al. 2019).

    Args:
      vocab_size: tokens, V.
      context: the longest sequence, T.
      d_model: width, D.
      num_layers: blocks.
      num_heads: attention heads.
      d_ff: width of the MLP; None is 4 D.
      num_types: token types; the two sentences of a pair have types 0 and 1.
      head: what the model is for; see `__call__`.
      num_classes: K, of the two classification heads; the others have none.
      pool: what the head of sequence classification sees: the pooler's projection of the first token, or the mean over
        the tokens, without a pooler, for encoders that were trained with it (Reimers & Gurevych 2019).
      norm_epsilon: of all LayerNorms.
      dropout: rate, on the embedding, on what each block adds, and before the classification heads.
      scan_layers: the blocks are one stack and compiled once, as in `GPT`.
      remat: what of a block is kept for the backward pass, as in `GPT`.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: sizes are not positive or do not divide, or a head lacks its number of classes.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int = 512,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        d_ff: int | None = None,
        num_types: int = 2,
        head: Head = "pooler",
        num_classes: int | None = None,
        pool: Pool = "first",
        norm_epsilon: float = 1e-12,
        dropout: float = 0.1,
        scan_layers: bool = False,
        remat: Remat = None,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, context=context, d_model=d_model, num_layers=num_layers, d_ff=d_ff)
        check_sizes(num_heads=num_heads, num_types=num_types, num_classes=num_classes)
        check_dropout(dropout)
        check_positive(norm_epsilon=norm_epsilon)
        check_choice("head", head, typing.get_args(Head))
        check_choice("pool", pool, typing.get_args(Pool))
        if pool == "mean" and head != "sequence_classification":
            raise ValueError(f"pool='mean' is for head='sequence_classification', not {head!r}")
        if head.endswith("classification") != (num_classes is not None):
            raise ValueError(f"num_classes is for the classification heads, and head={head!r} has {num_classes}")
        init = nnx.initializers.truncated_normal(0.02)
        parts: dict[str, Any] = {"dtype": dtype, "rngs": rngs}

        def norm(rngs: nnx.Rngs) -> LayerNorm:
            return LayerNorm(d_model, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)

        def block(rngs: nnx.Rngs) -> PostNormBlock:
            inits: dict[str, Any] = {"kernel_init": init, "out_init": init, "dtype": dtype, "rngs": rngs}
            attention, mlp = Attention(d_model, num_heads, **inits), MLP(d_model, d_ff, "exact_gelu", **inits)
            return PostNormBlock(attention, norm(rngs), mlp, norm(rngs), dropout)

        self.context = context
        self.kind = head
        self.embedding = Embed(vocab_size, d_model, embedding_init=init, **parts)
        self.positions = Embed(context, d_model, embedding_init=init, **parts)
        self.types = Embed(num_types, d_model, embedding_init=init, **parts)
        self.norm = norm(rngs)
        self.remat = remat
        self.blocks = make_layers(block, num_layers, scan_layers, rngs)
        self.pool = pool
        pooled = head in ("pooler", "sequence_classification") and pool == "first"
        self.pooler = Linear(d_model, d_model, kernel_init=init, **parts) if pooled else None
        self.head: nnx.Module | None
        if head == "pooler":
            self.head = None
        elif head == "masked_lm":
            self.head = MaskedLMHead(vocab_size, d_model, norm(rngs), kernel_init=init, **parts)
        else:
            self.head = Linear(d_model, num_classes or 2, kernel_init=init, **parts)
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        types: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """What the head says; the arguments are those of `features`.

        Returns:
          "pooler": tanh of a projection of the first token, [B, D].
          "sequence_classification": logits [B, K].
          "token_classification": logits [B, T, K].
          "question_answering": logits [B, T, 2] of an answer's first and last token.
          "masked_lm": logits [B, T, V].
        """
        x = self.features(tokens, mask, types, train=train, rngs=rngs)
        if self.pool == "mean":
            x = mean_of_tokens(x, mask)  # [B, D]
        elif self.pooler is not None:
            x = jnp.tanh(self.pooler(x[:, 0]))  # [B, D]
        if self.head is None:
            return x
        if isinstance(self.head, MaskedLMHead):
            return self.head(x, self.embedding)
        if self.kind.endswith("classification"):
            x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)

    def features(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        types: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """What the heads see.

        Args:
          tokens: int32 [B, T].
          mask: bool [B, T]; False where a token is padding, which no other token looks at. None is all True.
          types: int32 [B, T]; None is all 0.

        Returns:
          [B, T, D].

        Raises:
          ValueError: a sequence is longer than the context.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(f"a sequence of {length} tokens is longer than the model's context, {self.context}")
        x = self.embedding(tokens) + self.positions(jnp.arange(length))
        x = x + self.types(jnp.zeros_like(tokens) if types is None else types)  # [B, T, D]
        x = self.dropout(self.norm(x), deterministic=not train, rngs=rngs)
        seen = over_keys(mask)
        return through_layers(self.blocks, x, lambda b, *inputs: b(*inputs), rngs if train else None, self.remat, seen)


def mean_of_tokens(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The mean of [B, T, D] over the positions that are real, bool [B, T], or all: [B, D]."""
    if mask is None:
        return x.mean(1)
    total = jnp.where(mask[..., None], x, 0).sum(1)
    return total / jnp.maximum(mask.sum(1, keepdims=True), 1).astype(x.dtype)


class MaskedLMHead(nnx.Module):
    """Which token stands at each position: a projection, GELU, LayerNorm, the embedding's transpose and a bias."""

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        norm: LayerNorm,
        *,
        kernel_init: nnx.Initializer,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.transform = Linear(d_model, d_model, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.norm = norm
        self.bias = nnx.Param(jnp.zeros(vocab_size))

    def __call__(self, x: jax.Array, embedding: Embed) -> jax.Array:
        """[B, T, D] to [B, T, V]."""
        x = self.norm(nnx.gelu(self.transform(x), approximate=False))
        return tied_logits(x, embedding) + self.bias.astype(x.dtype)
