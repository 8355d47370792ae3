"""The classic small CNN: two convolutions with pooling, then two fully connected layers."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.linear import Linear
from bigjax.models.pooling import max_pool_2x2


class CNN(nnx.Module):
    """Convolutions 3x3 to 32 and to 64, each with relu and 2x2 max pooling; fully connected 128; classes.

    On 24x24 crops the flattened size is 64 * 6 * 6 = 2304.

    Args:
      num_classes: classes, K.
      image_shape: height, width and channels of the images; height and width divide by 4.
      channels: output channels of each convolution.
      hidden: width of the fully connected layer.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: the images do not halve once for each convolution, or a size is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        channels: tuple[int, ...] = (32, 64),
        hidden: int = 128,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, depth = image_shape
        check_sizes(num_classes=num_classes, channels=min(channels, default=1), hidden=hidden)
        shrink = 2 ** len(channels)
        if height % shrink or width % shrink:
            raise ValueError(f"image height and width must divide by {shrink}, and {height}x{width} does not")
        widths = (depth, *channels)
        self.convolutions = nnx.List(Conv(n, m, (3, 3), dtype=dtype, rngs=rngs) for n, m in pairwise(widths))
        flat = widths[-1] * (height // shrink) * (width // shrink)
        self.hidden = Linear(flat, hidden, dtype=dtype, rngs=rngs)
        self.head = Linear(hidden, num_classes, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to logits [B, K]."""
        for convolution in self.convolutions:
            x = max_pool_2x2(nnx.relu(convolution(x)))
        x = x.reshape(x.shape[0], -1)
        return self.head(nnx.relu(self.hidden(x)))
