"""The convolution of every model."""

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax import lax

IMAGES = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`, whose gradient of a kernel that widens images is made another way on a CPU."""
    plain = {"lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "precision": None}
    widens = kernel.ndim == 4 and kernel.shape[3] > kernel.shape[2] and tuple(strides) == (1, 1)
    if not (jax.default_backend() == "cpu" and widens and plain.items() <= options.items()):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return widen(x, kernel, tuple(padding))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def widen(x: jax.Array, kernel: jax.Array, padding: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """Images [B, H, W, C] and a kernel [I, J, C, D] to [B, H', W', D].

    The gradient of the kernel is a convolution, too, of the images by the output's gradient, with channels in the
    place of rows. XLA's CPU takes 2 to 3 times as long for it where D is much larger than C than for the convolution
    of the output's gradient by the images, which gives the same, upside down.
    """
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=IMAGES)


@widen.defjvp
def widen_jvp(padding: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The term of the kernel's tangent is the transpose of the gradient that we want, so that its transpose is that."""
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    y = widen(x, kernel, padding)

    def gradient(g: jax.Array) -> jax.Array:
        pads = [(size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel.shape, padding, strict=False)]
        turned = lax.conv_general_dilated(g, x, (1, 1), pads, dimension_numbers=("CHWN", "IHWO", "NHWC"))
        return turned[:, ::-1, ::-1].transpose(1, 2, 3, 0)  # from [D, I, J, C]

    (of_kernel,) = jax.linear_transpose(gradient, y)(kernel_tangent)
    return y, widen(x_tangent, kernel, padding) + of_kernel


Conv = partial(nnx.Conv, conv_general_dilated=convolve)
