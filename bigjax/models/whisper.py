"""Whisper: an encoder hears a log-mel spectrogram, a decoder writes what was said."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype

from bigjax.models.attention import Attention, KeyValues
from bigjax.models.blocks import MLP, Block
from bigjax.models.checks import check_dropout, check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.dropout import Dropout
from bigjax.models.embedding import Embed, tied_logits
from bigjax.models.norms import LayerNorm
from bigjax.models.sinusoids import sinusoids
from bigjax.models.stacked import Remat, make_layers, through_layers, unstacked_layers


class Decoding(NamedTuple):
    """What the decoder remembers between calls."""

    layers: Sequence[KeyValues | None]  # of the text so far
    source: Sequence[KeyValues]  # of the encoded sound, for each layer
    length: jax.Array  # int32 [B], the tokens seen


class Whisper(nnx.Module):
    """Pre-norm encoder-decoder for speech (Radford et al. 2022, section 2.2).

    The published sizes, as width, layers, heads: tiny (the defaults) 384, 4, 6; base 512, 6, 8; small 768, 12, 12;
    medium 1024, 24, 16; large 1280, 32, 20; large-v3-turbo is large with 4 decoder layers; large-v3 and turbo hear 128
    mels.

    Args:
      vocab_size: tokens, V.
      num_mels: channels of the spectrogram, M.
      source_context: the most positions of the encoder, each of two frames.
      context: the longest text, in tokens.
      d_model: width, D, even.
      num_layers: blocks of the encoder.
      num_decoder_layers: blocks of the decoder; None is as many.
      num_heads: heads of each attention.
      d_ff: width of the MLPs; None is 4 D.
      dropout: rate, on what the first blocks read and on what each block adds.
      scan_layers: the blocks are one stack and compiled once, as in `GPT`.
      remat: what of a block is kept for the backward pass, as in `GPT`.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: sizes are not positive or do not divide, or sound or text are longer than they may be.
    """

    def __init__(
        self,
        vocab_size: int = 51865,
        num_mels: int = 80,
        source_context: int = 1500,
        context: int = 448,
        d_model: int = 384,
        num_layers: int = 4,
        num_decoder_layers: int | None = None,
        num_heads: int = 6,
        d_ff: int | None = None,
        dropout: float = 0.0,
        scan_layers: bool = False,
        remat: Remat = None,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, num_mels=num_mels, source_context=source_context, context=context)
        check_sizes(d_model=d_model, num_layers=num_layers, num_decoder_layers=num_decoder_layers)
        check_sizes(num_heads=num_heads, d_ff=d_ff)
        check_dropout(dropout)
        d_ff = d_ff or 4 * d_model
        sizes = (d_model, num_heads, d_ff, dropout)
        self.encoder = Encoder(num_mels, source_context, num_layers, *sizes, scan_layers, remat, dtype=dtype, rngs=rngs)
        self.context, self.remat = context, remat
        embed = partial(Embed, embedding_init=INIT, dtype=dtype, rngs=rngs)
        self.embedding = embed(vocab_size, d_model)
        self.positions = embed(context, d_model)
        self.blocks = make_layers(
            lambda rngs: DecoderBlock(*sizes, dtype=dtype, rngs=rngs),
            num_decoder_layers or num_layers,
            scan_layers,
            rngs,
        )
        self.norm = make_norm(d_model, dtype, rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self, source: jax.Array, tokens: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Log-mel spectrograms [B, frames, M] and tokens int32 [B, T] to logits of the token after each, [B, T, V]."""
        encoded, positions = self.encode(source, train=train, rngs=rngs), jnp.arange(tokens.shape[1])
        x = self.dropout(self.embed(tokens, positions), deterministic=not train, rngs=rngs)

        def through(block: DecoderBlock, x: jax.Array, encoded: jax.Array, key: jax.Array | None) -> jax.Array:
            return block(x, encoded, positions, key=key)[0]

        x = through_layers(self.blocks, x, through, rngs if train else None, self.remat, encoded)
        return self.logits(self.norm(x))

    def encode(self, source: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Log-mel spectrograms [B, frames, M] to what the decoder listens to, [B, ceil(frames / 2), D]."""
        return self.encoder(source, train=train, rngs=rngs)

    def sources(self, encoded: jax.Array) -> list[KeyValues]:
        """Each decoder block's keys and values of an encoded sound [B, S, D]."""
        return [block.cross_attention.key_values(encoded) for block in unstacked_layers(self.blocks)]

    def start_decoding(self, batch_size: int, length: int, source: jax.Array) -> Decoding:
        """A carry with the sound [B, frames, M], encoded once, and room for `length` tokens.

        Raises:
          ValueError: there is not one spectrogram for each row, or `length` is more than the context.
        """
        if len(source) != batch_size:
            raise ValueError(f"{len(source)} spectrograms are not one for each of {batch_size} rows")
        if length > self.context:
            raise ValueError(f"{length} tokens are more than the model's context, {self.context}")
        layers = [block.attention.empty_cache(batch_size, length) for block in unstacked_layers(self.blocks)]
        return Decoding(layers, self.sources(self.encode(source)), jnp.zeros(batch_size, jnp.int32))

    def features(
        self, tokens: jax.Array, carry: Decoding, lengths: jax.Array | None = None
    ) -> tuple[jax.Array, Decoding]:
        """What the output projection sees.

        Args:
          tokens: int32 [B, T].
          carry: from `start_decoding` or the call before, which `tokens` continue.
          lengths: int32 [B]; tokens from there on are padding, and the next call continues before them.

        Returns:
          [B, T, D], and the carry for the next call.
        """
        positions = carry.length[:, None] + jnp.arange(tokens.shape[1])  # [B, T]
        x, layers = self.embed(tokens, positions), []
        for block, source, cache in zip(unstacked_layers(self.blocks), carry.source, carry.layers, strict=True):
            x, cache = block(x, source, positions, cache)
            layers.append(cache)
        length = carry.length + (tokens.shape[1] if lengths is None else lengths)
        return self.norm(x), carry._replace(layers=layers, length=length)

    def embed(self, tokens: jax.Array, positions: jax.Array) -> jax.Array:
        """Tokens int32 [B, T] at positions [B, T] or [T], as the first block reads them: [B, T, D]."""
        if tokens.shape[1] > self.context:
            raise ValueError(
                f"a sequence of {tokens.shape[1]} tokens is longer than the model's context, {self.context}"
            )
        return self.embedding(tokens) + self.positions(positions)

    def logits(self, x: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, V]."""
        return tied_logits(x, self.embedding)


class Encoder(nnx.Module):
    """Two convolutions over time, the second of which halves it, positions, and blocks that see all of the sound."""

    def __init__(
        self,
        num_mels: int,
        context: int,
        num_layers: int,
        d_model: int,
        num_heads: int,
        d_ff: int,
        dropout: float,
        scan_layers: bool,
        remat: Remat,
        *,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        if d_model < 4 or d_model % 2:
            raise ValueError(f"d_model must be even, and at least 4, for sines and cosines, not {d_model}")
        convolution = partial(Conv, kernel_size=3, padding=1, dtype=dtype, rngs=rngs)
        self.conv1 = convolution(num_mels, d_model)
        self.conv2 = convolution(d_model, d_model, strides=2)
        # Not a parameter, for it is not trained, but state, for checkpoints hold it.
        frequencies = np.geomspace(1, 1e-4, d_model // 2)
        self.positions = nnx.Variable(sinusoids(jnp.arange(context), frequencies))

        def block(rngs: nnx.Rngs) -> Block:
            attention, norm1 = make_attention(d_model, num_heads, dtype, rngs), make_norm(d_model, dtype, rngs)
            mlp, norm2 = make_mlp(d_model, d_ff, dtype, rngs), make_norm(d_model, dtype, rngs)
            return Block(norm1, attention, norm2, mlp, dropout, causal=False)

        self.remat = remat
        self.blocks = make_layers(block, num_layers, scan_layers, rngs)
        self.norm = make_norm(d_model, dtype, rngs)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """[B, frames, M] to [B, ceil(frames / 2), D]."""
        x = gelu(self.conv2(gelu(self.conv1(x))))
        length, context = x.shape[1], self.positions.shape[0]
        if length > context:
            raise ValueError(f"a spectrogram of more than {2 * context} frames is longer than the model's context")
        x = x + self.positions[:length].astype(x.dtype)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        x = through_layers(self.blocks, x, lambda b, x, _, key: b(x, key=key)[0], rngs if train else None, self.remat)
        return self.norm(x)


class DecoderBlock(nnx.Module):
    """As the encoder's `Block`, but causal, and with attention to the sound in between."""

    def __init__(
        self, d_model: int, num_heads: int, d_ff: int, dropout: float, *, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        self.norm1 = make_norm(d_model, dtype, rngs)
        self.attention = make_attention(d_model, num_heads, dtype, rngs)
        self.cross_norm = make_norm(d_model, dtype, rngs)
        self.cross_attention = make_attention(d_model, num_heads, dtype, rngs)
        self.norm2 = make_norm(d_model, dtype, rngs)
        self.mlp = make_mlp(d_model, d_ff, dtype, rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        x: jax.Array,
        source: jax.Array | KeyValues,
        positions: jax.Array,
        cache: KeyValues | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, KeyValues | None]:
        """[B, T, D] to [B, T, D], and the cache with what was added; see `Attention`, and for `key` `Block`."""
        rngs = None if key is None else nnx.Rngs(dropout=key)
        dropout = partial(self.dropout, deterministic=rngs is None, rngs=rngs)
        y, cache = self.attention(self.norm1(x), causal=True, positions=positions, cache=cache)
        x = x + dropout(y)
        y, _ = self.cross_attention(self.cross_norm(x), source)
        x = x + dropout(y)
        return x + dropout(self.mlp(self.norm2(x))), cache


INIT = nnx.initializers.normal(0.02)
gelu = partial(nnx.gelu, approximate=False)


def make_attention(d_model: int, num_heads: int, dtype: Dtype, rngs: nnx.Rngs) -> Attention:
    """Attention whose keys have no bias: it would add as much to all scores of a query, and softmax take it away."""
    biases = (True, False, True, True)
    return Attention(d_model, num_heads, use_bias=biases, kernel_init=INIT, out_init=INIT, dtype=dtype, rngs=rngs)


def make_mlp(d_model: int, d_ff: int, dtype: Dtype, rngs: nnx.Rngs) -> MLP:
    """Up, exact GELU, down."""
    return MLP(d_model, d_ff, "exact_gelu", kernel_init=INIT, out_init=INIT, dtype=dtype, rngs=rngs)


def make_norm(d_model: int, dtype: Dtype, rngs: nnx.Rngs) -> LayerNorm:
    """LayerNorm, with PyTorch's epsilon."""
    return LayerNorm(d_model, epsilon=1e-5, dtype=dtype, rngs=rngs)
