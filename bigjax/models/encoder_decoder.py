"""The Transformer for translation and the like: an encoder reads a source, a decoder writes the target."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.attention import Attention, KeyValues
from bigjax.models.blocks import MLP, PostNormBlock, over_keys
from bigjax.models.checks import check_dropout, check_sizes
from bigjax.models.dropout import Dropout
from bigjax.models.embedding import Embed, tied_logits
from bigjax.models.norms import LayerNorm
from bigjax.models.rotary import rotary_frequencies
from bigjax.models.sinusoids import sinusoids
from bigjax.models.stacked import Remat, make_layers, through_layers, unstacked_layers


class Source(NamedTuple):
    """What is read."""

    tokens: jax.Array  # int32 [B, S]
    mask: jax.Array  # bool [B, S], false where a token is padding


class Decoding(NamedTuple):
    """What a decoder remembers between calls."""

    layers: Sequence[KeyValues | None]  # of the target so far
    source: Sequence[KeyValues]  # of the encoded source, for each layer
    mask: jax.Array | None  # bool [B, S], which of the source may be looked at; None is all
    length: jax.Array  # int32 [B], the tokens seen


class EncoderDecoder(nnx.Module):
    """The Transformer (Vaswani et al. 2017), one vocabulary and one embedding for source, target and output.

    The paper's sizes, base: the defaults. Big: `d_model=1024, num_heads=16, d_ff=4096, dropout=0.3`.

    Args:
      vocab_size: tokens, V.
      d_model: width, D, even.
      num_layers: blocks of the encoder, and of the decoder.
      num_heads: heads of each attention.
      d_ff: width of the feed-forward layers.
      dropout: rate, on what the first block reads and on what each layer adds.
      scan_layers: the blocks are one stack and compiled once, as in `GPT`.
      remat: what of a block is kept for the backward pass, as in `GPT`.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: sizes are not positive or do not divide.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        num_layers: int = 6,
        num_heads: int = 8,
        d_ff: int = 2048,
        dropout: float = 0.1,
        scan_layers: bool = False,
        remat: Remat = None,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, d_model=d_model, num_layers=num_layers, num_heads=num_heads, d_ff=d_ff)
        check_dropout(dropout)
        if d_model % 2:
            raise ValueError(f"d_model must be even for sines and cosines, not {d_model}")
        self.frequencies = rotary_frequencies(d_model, 10000.0)
        # So that scaled by sqrt(D) it has variance 1, as the positions nearly have, and the output's logits too.
        init = nnx.initializers.normal(d_model**-0.5)
        self.embedding = Embed(vocab_size, d_model, dtype=dtype, embedding_init=init, rngs=rngs)
        sizes = (d_model, num_heads, d_ff, dropout)
        self.remat = remat
        self.encoder_blocks = make_layers(
            lambda rngs: make_encoder_block(*sizes, dtype=dtype, rngs=rngs), num_layers, scan_layers, rngs
        )
        self.decoder_blocks = make_layers(
            lambda rngs: DecoderBlock(*sizes, dtype=dtype, rngs=rngs), num_layers, scan_layers, rngs
        )
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        source: jax.Array,
        target: jax.Array,
        source_mask: jax.Array | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Logits of the token after each of the target's.

        Args:
          source: int32 [B, S].
          target: int32 [B, T], which begins with the token that stands for "begin".
          source_mask: bool [B, S], false where a token is padding; None is none. Padding of the target needs no mask,
            for nothing before it sees it.

        Returns:
          [B, T, V].
        """
        encoded = self.encode(source, source_mask, train=train, rngs=rngs)
        x = self.embed(target, jnp.arange(target.shape[1]), train=train, rngs=rngs)

        def through(block: DecoderBlock, x: jax.Array, rows: Any, key: jax.Array | None) -> jax.Array:
            encoded, source_mask = rows
            return block(x, encoded, source_mask, key=key)[0]

        rows = encoded, source_mask
        return self.logits(through_layers(self.decoder_blocks, x, through, rngs if train else None, self.remat, rows))

    def encode(
        self, source: jax.Array, mask: jax.Array | None = None, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """What the decoder looks at, [B, S, D], of a source int32 [B, S] with its mask, bool [B, S] or None."""
        x = self.embed(source, jnp.arange(source.shape[1]), train=train, rngs=rngs)
        seen = over_keys(mask)
        return through_layers(
            self.encoder_blocks, x, lambda b, *inputs: b(*inputs), rngs if train else None, self.remat, seen
        )

    def sources(self, encoded: jax.Array) -> list[KeyValues]:
        """Each decoder block's keys and values of an encoded source [B, S, D]."""
        return [block.cross_attention.key_values(encoded) for block in unstacked_layers(self.decoder_blocks)]

    def start_decoding(self, batch_size: int, length: int, source: Source) -> Decoding:
        """A carry with the source, encoded once, and room for `length` tokens of the target.

        Raises:
          ValueError: there is not one source for each row.
        """
        if len(source.tokens) != batch_size:
            raise ValueError(f"{len(source.tokens)} sources are not one for each of {batch_size} rows")
        layers = [block.attention.empty_cache(batch_size, length) for block in unstacked_layers(self.decoder_blocks)]
        sources = self.sources(self.encode(*source))
        return Decoding(layers, sources, source.mask, jnp.zeros(batch_size, jnp.int32))

    def features(
        self, tokens: jax.Array, carry: Decoding, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, Decoding]:
        """What the output projection sees of the target's next tokens.

        Args:
          tokens: int32 [B, T].
          carry: from `start_decoding` or the call before, which `tokens` continue.
          lengths: int32 [B]; tokens from there on are padding, and the next call continues before them.

        Returns:
          [B, T, D], and the carry for the next call.
        """
        positions = carry.length[:, None] + jnp.arange(tokens.shape[1])  # [B, T]
        x = self.embed(tokens, positions)
        blocks, layers = unstacked_layers(self.decoder_blocks), []
        for block, source, cache in zip(blocks, carry.source, carry.layers, strict=True):
            x, cache = block(x, source, carry.mask, positions, cache)
            layers.append(cache)
        length = carry.length + (tokens.shape[1] if lengths is None else lengths)
        return x, carry._replace(layers=layers, length=length)

    def embed(
        self, tokens: jax.Array, positions: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Tokens int32 [B, T] at positions [B, T] or [T], as the first block reads them: [B, T, D]."""
        x = self.embedding(tokens)
        x = x * math.sqrt(x.shape[-1]) + sinusoids(positions, self.frequencies).astype(x.dtype)
        return self.dropout(x, deterministic=not train, rngs=rngs)

    def logits(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, V]."""
        return tied_logits(x, self.embedding)


class DecoderBlock(nnx.Module):
    """As the encoder's `PostNormBlock`, but causal, and with attention to the source in between."""

    def __init__(
        self, d_model: int, num_heads: int, d_ff: int, dropout: float, *, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        self.attention = make_attention(d_model, num_heads, dtype, rngs)
        self.norm1 = make_norm(d_model, dtype, rngs)
        self.cross_attention = make_attention(d_model, num_heads, dtype, rngs)
        self.cross_norm = make_norm(d_model, dtype, rngs)
        self.mlp = make_mlp(d_model, d_ff, dtype, rngs)
        self.norm2 = make_norm(d_model, dtype, rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array | KeyValues,
        source_mask: jax.Array | None,
        positions: jax.Array | None = None,
        cache: KeyValues | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """[B, T, D] to [B, T, D], and the cache with what was added; see `Attention`, and for `key` `PostNormBlock`."""
        rngs = None if key is None else nnx.Rngs(dropout=key)
        dropout = partial(self.dropout, deterministic=rngs is None, rngs=rngs)
        y, cache = self.attention(x, causal=True, positions=positions, cache=cache)
        x = self.norm1(x + dropout(y))
        y, _ = self.cross_attention(x, source, mask=over_keys(source_mask))
        x = self.cross_norm(x + dropout(y))
        return self.norm2(x + dropout(self.mlp(x))), cache


KERNEL_INIT = nnx.initializers.glorot_uniform()  # as the paper's authors have it in tensor2tensor


def make_attention(d_model: int, num_heads: int, dtype: Dtype, rngs: nnx.Rngs) -> Attention:
    """Attention with biases."""
    return Attention(d_model, num_heads, kernel_init=KERNEL_INIT, out_init=KERNEL_INIT, dtype=dtype, rngs=rngs)


def make_mlp(d_model: int, d_ff: int, dtype: Dtype, rngs: nnx.Rngs) -> MLP:
    """Up, ReLU, down."""
    return MLP(d_model, d_ff, "relu", kernel_init=KERNEL_INIT, out_init=KERNEL_INIT, dtype=dtype, rngs=rngs)


def make_norm(d_model: int, dtype: Dtype, rngs: nnx.Rngs) -> LayerNorm:
    """LayerNorm, of a layer's input and output added up."""
    return LayerNorm(d_model, epsilon=1e-5, dtype=dtype, rngs=rngs)


def make_encoder_block(
    d_model: int, num_heads: int, d_ff: int, dropout: float, *, dtype: Dtype, rngs: nnx.Rngs
) -> PostNormBlock:
    """Attention and MLP."""
    attention, norm1 = make_attention(d_model, num_heads, dtype, rngs), make_norm(d_model, dtype, rngs)
    mlp, norm2 = make_mlp(d_model, d_ff, dtype, rngs), make_norm(d_model, dtype, rngs)
    return PostNormBlock(attention, norm1, mlp, norm2, dropout)
