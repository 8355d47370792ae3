"""The Conformer: attention for what is far and convolution for what is near, over speech of varying length."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_choice, check_dropout, check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.dropout import KEPT, Dropout
from bigjax.models.linear import Linear
from bigjax.models.norms import LayerNorm, is_sum
from bigjax.models.rotary import rotary_frequencies
from bigjax.models.sinusoids import sinusoids
from bigjax.models.stacked import Remat, make_layers, through_layers
from bigjax.models.tiles import LEAST, product


class Conformer(nnx.Module):
    """Conformer encoder (Gulati et al. 2020) with a linear head for CTC (Graves et al. 2006).

    The paper's sizes, as width, layers, heads: S (the defaults) 144, 16, 4; M 256, 16, 4; L 512, 17, 8.

    In the convolution module a LayerNorm over channels stands where the paper has a BatchNorm over all frames of the
    batch. With that, what a sentence gives would depend on the others in its batch and on its padding, and training
    would have statistics to carry; here nothing leaves a frame but by attention and convolution, both of which mask.

    Args:
      vocab_size: what the head scores, blank included, V.
      num_mels: features of a frame, F.
      d_model: width, D, even.
      num_layers: blocks.
      num_heads: heads of the attention, N.
      d_ff: width of the feed-forward modules; None is 4 D.
      kernel_size: frames that the depthwise convolutions see, odd; the paper's 32 has no middle.
      dropout: rate, on what the first block reads, inside the feed-forward modules and on what each module adds.
      scan_layers: the blocks are one stack and compiled once, as in `GPT`.
      remat: what of a block is kept for the backward pass, as in `GPT`.
      subsampling: frames for each position, S; 4 in the paper, or 2 for short recordings.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: sizes are not positive or do not divide, or the kernel has no middle.
    """

    def __init__(
        self,
        vocab_size: int,
        num_mels: int,
        d_model: int = 144,
        num_layers: int = 16,
        num_heads: int = 4,
        d_ff: int | None = None,
        kernel_size: int = 31,
        dropout: float = 0.1,
        scan_layers: bool = False,
        remat: Remat = None,
        *,
        subsampling: int,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, num_mels=num_mels, d_model=d_model, num_layers=num_layers)
        check_sizes(num_heads=num_heads, d_ff=d_ff, kernel_size=kernel_size)
        check_dropout(dropout)
        check_choice("subsampling", subsampling, (2, 4))
        if d_model % 2:
            raise ValueError(f"d_model must be even for sines and cosines, not {d_model}")
        if d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model, and {num_heads} does not divide {d_model}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that a frame is in its middle, not {kernel_size}")
        d_ff = d_ff or 4 * d_model
        self.frequencies = rotary_frequencies(d_model, 10000.0)
        self.subsampling = Subsampling(num_mels, d_model, subsampling, dtype=dtype, rngs=rngs)
        sizes = (d_model, num_heads, d_ff, kernel_size, dropout)
        self.remat = remat
        self.blocks = make_layers(lambda rngs: Block(*sizes, dtype=dtype, rngs=rngs), num_layers, scan_layers, rngs)
        self.head = Linear(d_model, vocab_size, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self, features: jax.Array, lengths: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Scores of each label at every S-th frame.

        Args:
          features: log-mel spectrograms [B, T, F].
          lengths: int32 [B]; frames from there on are padding, which changes nothing.

        Returns:
          [B, ceil(T / S), V], and how many positions of each row are real, ceil(lengths / S), int32 [B].
        """
        x, lengths = self.subsampling(features, lengths)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        mask = real(x, lengths)
        distances = jnp.arange(x.shape[1] - 1, -x.shape[1], -1)
        positions = sinusoids(distances, self.frequencies).astype(x.dtype)  # [2 T - 1, D]
        x = through_layers(
            self.blocks,
            x,
            lambda b, x, mask, key: b(x, positions, mask, key),
            rngs if train else None,
            self.remat,
            mask,
        )
        return self.head(x), lengths


class Subsampling(nnx.Module):
    """Two 3x3 convolutions over time and frequency, each of which halves both, and a projection to the width.

    With a `subsampling` of 2 instead of 4 the second leaves time as it is.
    """

    def __init__(self, num_mels: int, d_model: int, subsampling: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        # Padded alike on both sides: "SAME" pads by the length, so that padding would move the frames.
        convolution = partial(Conv, kernel_size=(3, 3), padding=1, dtype=dtype, rngs=rngs)
        self.strides = (2, subsampling // 2)  # over time
        self.conv1 = convolution(1, d_model, strides=(self.strides[0], 2))
        self.conv2 = convolution(d_model, d_model, strides=(self.strides[1], 2))
        self.out = Linear(d_model * math.ceil(num_mels / 4), d_model, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T, F] and int32 [B] to [B, ceil(T / S), D] and int32 [B]."""
        x = x[..., None]
        for convolution, stride in zip((self.conv1, self.conv2), self.strides, strict=True):
            x = jnp.where(real(x, lengths)[:, :, None, None], x, 0)  # what a convolution sees beyond the end
            x, lengths = nnx.relu(convolution(x)), -(-lengths // stride)
        return self.out(x.reshape(*x.shape[:2], -1)), lengths


class Block(nnx.Module):
    """Half a feed-forward module, attention, convolution, the other half, and a norm."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        kernel_size: int,
        dropout: float,
        *,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        norm = partial(LayerNorm, d_model, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm1, self.mlp1 = norm(), FeedForward(d_model, d_ff, dropout, dtype=dtype, rngs=rngs)
        self.norm2, self.attention = norm(), RelativeAttention(d_model, num_heads, dtype=dtype, rngs=rngs)
        self.norm3, self.convolution = norm(), Convolution(d_model, kernel_size, dtype=dtype, rngs=rngs)
        self.norm4, self.mlp2 = norm(), FeedForward(d_model, d_ff, dropout, dtype=dtype, rngs=rngs)
        self.norm = norm()
        self.dropout = Dropout(dropout)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, D] to [B, T, D], with dropout where there is a key for it.

        It is given sinusoids of distances [2 T - 1, D] and which frames are real, bool [B, T].
        """
        rngs = None if key is None else nnx.Rngs(dropout=key)
        dropout = partial(self.dropout, deterministic=rngs is None, rngs=rngs)
        x = x + dropout(self.mlp1(self.norm1(x), rngs)) / 2
        x = x + dropout(self.attention(self.norm2(x), positions, mask))
        x = x + dropout(self.convolution(self.norm3(x), mask))
        x = x + dropout(self.mlp2(self.norm4(x), rngs)) / 2
        return self.norm(x)


class FeedForward(nnx.Module):
    """Up, swish, down."""

    def __init__(self, d_model: int, d_ff: int, dropout: float, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.up = Linear(d_model, d_ff, dtype=dtype, rngs=rngs)
        self.down = Linear(d_ff, d_model, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
        """[B, T, D] to [B, T, D], with dropout where there is randomness for it."""
        key = None if rngs is None else rngs.dropout()

        # As in `MLP`: the gradient keeps what the projection up gave, and what was dropped.
        @partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
        def down(up: jax.Array, key: jax.Array | None) -> jax.Array:
            rngs = None if key is None else nnx.Rngs(dropout=key)
            return self.down(self.dropout(nnx.silu(up), deterministic=rngs is None, rngs=rngs))

        return down(self.up(x), key)


class RelativeAttention(nnx.Module):
    """Self-attention that knows how far away each frame is (Dai et al. 2019, section 3.3).

    The score of query i and key j is (q_i + u) k_j + (q_i + v) r_{i - j}, where r is a projection of the sinusoids.
    """

    def __init__(self, d_model: int, num_heads: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        linear = partial(Linear, d_model, d_model, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()
        self.distance = linear(use_bias=False)
        heads = (num_heads, d_model // num_heads)
        self.content_bias = nnx.Param(jnp.zeros(heads))  # u
        self.distance_bias = nnx.Param(jnp.zeros(heads))  # v

    def __call__(self, x: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D], given sinusoids of distances [2 T - 1, D] and which frames are real, bool [B, T]."""

        def heads(x: jax.Array) -> jax.Array:  # heads come first: so XLA's CPU need transpose no scores
            return jnp.moveaxis(x.reshape(*x.shape[:-1], self.num_heads, -1), -2, 0)

        def plus(bias: jax.Array) -> jax.Array:
            return query + bias[:, None, None].astype(x.dtype)

        query, key, value = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))  # [N, B, T, H]
        distance = heads(self.distance(positions))  # [N, 2 T - 1, H]
        scores = shifted(product("nbth,nrh->nbtr", plus(self.distance_bias[...]), distance))
        scores = (scores + product("nbth,nbsh->nbts", plus(self.content_bias[...]), key)) / math.sqrt(query.shape[-1])
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, LEAST)).astype(x.dtype)
        return self.out(jnp.einsum("nbts,nbsh->btnh", weights, value).reshape(x.shape))


class Convolution(nnx.Module):
    """Pointwise convolution with a gate, depthwise convolution, norm, swish, pointwise convolution."""

    def __init__(self, d_model: int, kernel_size: int, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        self.up = Linear(d_model, 2 * d_model, use_bias=False, dtype=dtype, rngs=rngs)
        self.depthwise = Conv(
            d_model, d_model, kernel_size, feature_group_count=d_model, use_bias=False, dtype=dtype, rngs=rngs
        )
        self.norm = LayerNorm(d_model, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.down = Linear(d_model, d_model, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[B, T, D] to [B, T, D], given which frames are real, bool [B, T]."""

        @jax.checkpoint  # as in `MLP`
        def gated(up: jax.Array) -> jax.Array:
            return jnp.where(mask[..., None], nnx.glu(up), 0)

        @partial(jax.checkpoint, policy=is_sum)
        def down(x: jax.Array) -> jax.Array:
            return self.down(nnx.silu(self.norm(x)))

        return down(self.depthwise(gated(self.up(x))))


def shifted(scores: jax.Array) -> jax.Array:
    """Scores by distance, from T - 1 to 1 - T, [N, B, T, 2 T - 1], as scores by key, [N, B, T, T].

    Row i of the result begins T - 1 - i further on; with one more column, rows of the flat array do so by themselves.
    """
    n, b, t, r = scores.shape
    scores = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0))).reshape(n, b, r + 1, t)
    return scores[:, :, 1:].reshape(n, b, t, r)[..., :t]


def real(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """Which positions of `x` [B, T, ...] come before the end of their row, bool [B, T]."""
    return jnp.arange(x.shape[1]) < lengths[:, None]
