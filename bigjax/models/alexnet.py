"""AlexNet in its one-tower form: five convolutions and three fully connected layers."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_dropout, check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.dropout import Dropout
from bigjax.models.linear import Linear
from bigjax.models.pooling import adaptive_average_pool, max_pool_3x3

# Output channels, kernel side, stride, padding, bias at the start, and whether max pooling follows.
CONVS = (
    (64, 11, 4, 2, 0, True),
    (192, 5, 1, 2, 1, True),
    (384, 3, 1, 1, 0, False),
    (256, 3, 1, 1, 1, False),
    (256, 3, 1, 1, 1, True),
)


class AlexNet(nnx.Module):
    """Convolutions and 3x3 max pooling, two hidden layers behind dropout, classes.

    Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", as in torchvision: no local
    response normalisation, and what the convolutions leave is averaged to 6x6, whatever the images' size. Initialised
    as Krizhevsky et al. 2012 (section 5): normals of deviation 0.01, and biases of 1 where relus need a start.

    Args:
      num_classes: classes, K.
      image_shape: height, width and channels of the images; height and width at least 63.
      hidden: width of the two fully connected layers, F.
      dropout: rate, before each of the two.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: the images are too small for the third max pooling, or a size is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        hidden: int = 4096,
        dropout: float = 0.5,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, in_channels = image_shape
        check_sizes(num_classes=num_classes, hidden=hidden)
        check_dropout(dropout)
        if min(height, width) < 63:
            raise ValueError(f"image height and width must be at least 63, and {height}x{width} is smaller")
        normal, constant = nnx.initializers.normal(0.01), nnx.initializers.constant
        convs = []
        for channels, side, stride, padding, bias, _ in CONVS:
            convs.append(
                Conv(
                    in_channels,
                    channels,
                    (side, side),
                    stride,
                    padding=padding,
                    kernel_init=normal,
                    bias_init=constant(bias),
                    dtype=dtype,
                    rngs=rngs,
                )
            )
            in_channels = channels
        self.convs = nnx.List(convs)

        def linear(inputs: int, outputs: int, bias: int) -> nnx.Linear:
            return Linear(inputs, outputs, kernel_init=normal, bias_init=constant(bias), dtype=dtype, rngs=rngs)

        self.hidden = nnx.List([linear(6 * 6 * in_channels, hidden, 1), linear(hidden, hidden, 1)])
        self.head = linear(hidden, num_classes, 0)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to logits [B, K]."""
        return self.head(self.features(x, train=train, rngs=rngs))

    def features(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to what the head sees, [B, F]."""
        for conv, (*_, pool) in zip(self.convs, CONVS, strict=True):
            x = nnx.relu(conv(x))
            if pool:
                x = max_pool_3x3(x)
        x = adaptive_average_pool(x, 6)
        # Flattened with channels first, as in PyTorch, so that its weights fit ours once transposed.
        x = x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
        for layer in self.hidden:
            x = nnx.relu(layer(self.dropout(x, deterministic=not train, rngs=rngs)))
        return x
