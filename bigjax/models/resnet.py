"""Residual networks: ResNet-18, -34, -50, -101 and -152, for ImageNet and for small images."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_choice, check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.linear import Linear
from bigjax.models.norms import BatchNorm
from bigjax.models.pooling import max_pool_3x3

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # by stage
BOTTLENECK = 50  # from this depth on
HE = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")  # He et al. 2015


class ResNet(nnx.Module):
    """A stem, four stages of residual blocks, the average of all pixels, classes (He et al. 2016).

    This is v1.5, as in torchvision: where a bottleneck halves the image, its 3x3 convolution does, not its first 1x1.
    The last scale of each block starts at 0, so that each block starts as its shortcut (Goyal et al. 2017, section
    5.1).

    Args:
      num_classes: classes, K.
      image_shape: height, width and channels of the images; any height and width.
      depth: how many layers have weights; from 50 on, blocks are bottlenecks.
      stem: "imagenet" is a 7x7 convolution and a max pool, which quarter height and width; "cifar" is a 3x3
        convolution that keeps them, for images of about 32x32.
      width: channels of the stem; the stages' 3x3 convolutions have 1, 2, 4 and 8 times as many.
      widths: channels of the stages' 3x3 convolutions; None is 1, 2, 4 and 8 times `width`.
      blocks: how many blocks each stage has; None is as many as make up `depth`.
      dtype: what is computed in; parameters and BatchNorm's arithmetic are float32.

    Raises:
      ValueError: there is no such depth or stem, or a size is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        depth: Literal[18, 34, 50, 101, 152] = 50,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        width: int = 64,
        widths: tuple[int, ...] | None = None,
        blocks: tuple[int, ...] | None = None,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_choice("depth", depth, BLOCKS)
        check_choice("stem", stem, ("imagenet", "cifar"))
        blocks = blocks or BLOCKS[depth]
        widths = widths or tuple(width * 2**i for i in range(len(blocks)))
        check_sizes(num_classes=num_classes, width=width, widths=min(widths), blocks=min(blocks))
        if len(widths) != len(blocks):
            raise ValueError(f"widths {widths} and blocks {blocks} must be of equally many stages")
        conv = partial(ConvNorm, dtype=dtype, rngs=rngs)
        self.pools = stem == "imagenet"
        self.stem = conv(image_shape[2], width, 7, 2) if self.pools else conv(image_shape[2], width, 3)
        stages, channels = [], width
        for i, (count, inner) in enumerate(zip(blocks, widths, strict=True)):
            stage = []
            for j in range(count):
                stride = 2 if i and not j else 1
                if depth < BOTTLENECK:
                    convs = [(3, inner, stride), (3, inner, 1)]
                else:
                    convs = [(1, inner, 1), (3, inner, stride), (1, 4 * inner, 1)]
                stage.append(Block(channels, convs, dtype=dtype, rngs=rngs))
                channels = convs[-1][1]
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)
        kernel_init = nnx.initializers.normal(0.01)
        self.head = Linear(channels, num_classes, kernel_init=kernel_init, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to logits [B, K]."""
        return self.head(self.features(x, train=train, rngs=rngs))

    def features(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to what the head sees, [B, F]: the last of `widths`, or with bottlenecks 4 times that."""
        x = nnx.relu(self.stem(x, train))
        if self.pools:
            x = max_pool_3x3(x, padding=1)
        for stage in self.stages:
            for block in stage:
                x = block(x, train)
        return x.mean((1, 2))


class Block(nnx.Module):
    """Convolutions, and a shortcut around them that is projected where the shape changes."""

    def __init__(
        self, in_channels: int, convs: Sequence[tuple[int, int, int]], *, dtype: Dtype, rngs: nnx.Rngs
    ) -> None:
        """`convs` are kernel side, output channels and stride of each convolution."""
        layers, channels, stride = [], in_channels, 1
        for i, (side, out_channels, step) in enumerate(convs):
            last = i == len(convs) - 1
            scale_init = nnx.initializers.zeros if last else nnx.initializers.ones
            layers.append(ConvNorm(channels, out_channels, side, step, scale_init, dtype=dtype, rngs=rngs))
            channels, stride = out_channels, stride * step
        self.convs = nnx.List(layers)
        same = channels == in_channels and stride == 1
        self.shortcut = None if same else ConvNorm(in_channels, channels, 1, stride, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, H / stride, W / stride, D]."""
        shortcut = x if self.shortcut is None else self.shortcut(x, train)
        *first, last = self.convs
        for conv in first:
            x = nnx.relu(conv(x, train))
        return nnx.relu(last(x, train) + shortcut)


class ConvNorm(nnx.Module):
    """A convolution without bias, padded to keep the image's size at stride 1 unless told otherwise, and BatchNorm."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        side: int,
        stride: int = 1,
        scale_init: nnx.Initializer = nnx.initializers.ones,
        kernel_init: nnx.Initializer = HE,
        *,
        padding: int | None = None,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        self.conv = Conv(
            in_channels,
            out_channels,
            (side, side),
            stride,
            padding=side // 2 if padding is None else padding,
            use_bias=False,
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )
        # Computes in its parameters' float32 and not in `dtype`. momentum is 1 - PyTorch's. Flax averages the biased
        # variance; PyTorch the unbiased one, n / (n - 1) as large.
        self.norm = BatchNorm(out_channels, momentum=0.9, epsilon=1e-5, scale_init=scale_init, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, H / stride, W / stride, D]."""
        return self.normalised(self.conv(x), train)

    def normalised(self, x: jax.Array, train: bool) -> jax.Array:
        """What BatchNorm makes of the convolution's output."""
        return self.norm(x, train=train)
