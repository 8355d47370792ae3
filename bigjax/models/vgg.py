"""VGG-11, -13, -16 and -19: stages of 3x3 convolutions, with or without BatchNorm."""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_choice, check_dropout, check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.dropout import Dropout
from bigjax.models.linear import Linear
from bigjax.models.norms import BatchNorm
from bigjax.models.pooling import adaptive_average_pool, max_pool_2x2

CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # by stage
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nnx.Module):
    """Five stages of 3x3 convolutions, each ending in 2x2 max pooling; two hidden layers; classes.

    Simonyan & Zisserman 2015, as in torchvision: what the stages leave is averaged to 7x7, whatever the images' size.

    Args:
      num_classes: classes, K.
      image_shape: height, width and channels of the images; height and width at least 32.
      depth: how many layers have weights.
      batch_norm: whether each convolution is followed by BatchNorm (Ioffe & Szegedy 2015).
      hidden: width of the two fully connected layers, F; 512 is usual for small images.
      dropout: rate, after each of the two.
      dtype: what is computed in; parameters and BatchNorm's arithmetic are float32.

    Raises:
      ValueError: there is no such depth, the images do not halve five times, or a size is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        depth: Literal[11, 13, 16, 19] = 16,
        batch_norm: bool = False,
        hidden: int = 4096,
        dropout: float = 0.5,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, in_channels = image_shape
        check_choice("depth", depth, CONVS)
        check_sizes(num_classes=num_classes, hidden=hidden)
        check_dropout(dropout)
        if min(height, width) < 32:
            raise ValueError(f"image height and width must be at least 32, and {height}x{width} is smaller")
        stages = []
        for convs, channels in zip(CONVS[depth], CHANNELS, strict=True):
            stage = []
            for _ in range(convs):
                stage.append(ConvNorm(in_channels, channels, batch_norm, dtype=dtype, rngs=rngs))
                in_channels = channels
            stages.append(nnx.List(stage))
        self.stages = nnx.List(stages)

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return Linear(inputs, outputs, kernel_init=nnx.initializers.normal(0.01), dtype=dtype, rngs=rngs)

        self.hidden = nnx.List([linear(7 * 7 * in_channels, hidden), linear(hidden, hidden)])
        self.head = linear(hidden, num_classes)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to logits [B, K]."""
        return self.head(self.features(x, train=train, rngs=rngs))

    def features(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to what the head sees, [B, F]."""
        for stage in self.stages:
            for conv in stage:
                x = nnx.relu(conv(x, train))
            x = max_pool_2x2(x)
        x = adaptive_average_pool(x, 7)
        # Flattened with channels first, as in PyTorch, so that its weights fit ours once transposed.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for layer in self.hidden:
            x = self.dropout(nnx.relu(layer(x)), deterministic=not train, rngs=rngs)
        return x


class ConvNorm(nnx.Module):
    """A 3x3 convolution that keeps height and width, and BatchNorm if wanted."""

    def __init__(self, in_channels: int, out_channels: int, batch_norm: bool, *, dtype: Dtype, rngs: nnx.Rngs) -> None:
        # The paper started its deep networks from trained shallow ones; He et al. 2015 made that needless.
        kernel_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.conv = Conv(in_channels, out_channels, (3, 3), padding=1, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        # Computes in its parameters' float32 and not in `dtype`. momentum is 1 - PyTorch's. Flax averages the biased
        # variance; PyTorch the unbiased one, n / (n - 1) as large.
        self.norm = BatchNorm(out_channels, momentum=0.9, epsilon=1e-5, rngs=rngs) if batch_norm else None

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] to [B, H, W, D]."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x, train=train)
