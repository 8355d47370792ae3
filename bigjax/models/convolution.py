"""The convolution of every model; on a CPU, in the form that is quick there."""

import math
from functools import partial, reduce
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from bigjax.models.target import over_batch, platform

IMAGES = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], ...]


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`; on a CPU plain and depthwise ones are done in the form that is quick for their sizes.

    XLA's CPU is slow where a kernel [I, J, C, D] is larger than the cache of a core (on 16 images of 2x2, 60 times as
    slow as a matrix product), in gradients, and with a kernel [I, 1, C] of its own for each channel.
    """
    groups = options.get("feature_group_count")
    sides, (depth, width) = kernel.shape[:-2], kernel.shape[-2:]
    whole = {"lhs_dilation": (1,) * len(sides), "rhs_dilation": (1,) * len(sides), "precision": None}
    plain, depthwise = groups == 1 and len(sides) == 2, groups == width == x.shape[-1] and len(sides) == 1
    if not (platform() == "cpu" and (plain or depthwise) and whole.items() <= options.items()):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], sides, strides, padding)
    how = tuple(strides), tuple(map(tuple, padding))
    if depthwise:
        return reduce(jnp.add, map(jnp.multiply, shifted(x, sides, *how), kernel[:, 0]))
    shape = lax.conv_general_shape_tuple(x.shape, kernel.shape, strides, padding, IMAGES)
    pixels, patch = math.prod(shape[:3]), math.prod(kernel.shape[:3])
    if sides == (1, 1) or ((patch <= 32 or kernel.size >= 2**18) and pixels * patch <= 2**22):
        return multiply_patches(x, kernel, *how)
    if depth >= 32 if how[0] != (1, 1) else width > depth or (width >= 96 and pixels >= 4096):
        return with_quick_gradient(x, kernel, *how)
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=IMAGES)


def shifted(x: jax.Array, sides: tuple[int, ...], strides: tuple[int, ...], padding: Pads) -> list[jax.Array]:
    """For each place of a kernel of size `sides`, the pixels [B, H', W', C] that it meets."""
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pads, 0) for pads in padding), (0, 0, 0)))
    last = [n - side for n, side in zip(x.shape[1:-1], sides, strict=True)]
    places = product(*map(range, sides))
    return [
        x[:, *(slice(i, i + end + 1, stride) for i, end, stride in zip(place, last, strides, strict=True))]
        for place in places
    ]


def multiply_patches(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pads) -> jax.Array:
    """The convolution as one product of patches [B * H' * W', I * J * C] and the kernel."""
    patches = jnp.concatenate(shifted(x, kernel.shape[:2], strides, padding), -1)
    rows = patches.reshape(-1, patches.shape[-1])
    return (rows @ kernel.reshape(-1, kernel.shape[-1])).reshape(*patches.shape[:-1], -1)


def add_products(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pads) -> jax.Array:
    """The convolution as the sum of a product for each place of the kernel."""
    places = shifted(x, kernel.shape[:2], strides, padding)
    taps = kernel.reshape(-1, *kernel.shape[2:])
    return reduce(jnp.add, map(partial(jnp.einsum, "bhwc,cd->bhwd"), places, taps))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def with_quick_gradient(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pads) -> jax.Array:
    """Images [B, H, W, C] and a kernel [I, J, C, D] to [B, H', W', D].

    The gradient of the kernel is a convolution, too, of the images by the output's gradient, with channels in the
    place of rows. XLA's CPU takes 2 to 3 times as long for it as for I * J products of shifted images, where there
    are many channels, or as for the convolution of the output's gradient by the images, which gives the same upside
    down, where D is larger than C. The gradient of the images takes longer than products where there are strides.
    """
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=IMAGES)


@with_quick_gradient.defjvp
def with_quick_gradient_jvp(strides: Any, padding: Pads, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """Each term of the tangent is one whose transpose is quick."""
    (x, kernel), (x_tangent, kernel_tangent) = primals, tangents
    y = with_quick_gradient(x, kernel, strides, padding)
    if strides != (1, 1):
        of_x, of_kernel = (add_products(*pair, strides, padding) for pair in ((x_tangent, kernel), (x, kernel_tangent)))
        return y, of_x + of_kernel

    def turned(g: jax.Array) -> jax.Array:
        pads = [(size - 1 - low, size - 1 - high) for size, (low, high) in zip(kernel.shape, padding, strict=False)]
        upside_down = lax.conv_general_dilated(g, x, (1, 1), pads, dimension_numbers=("CHWN", "IHWO", "NHWC"))
        return upside_down[:, ::-1, ::-1].transpose(1, 2, 3, 0)  # from [D, I, J, C]

    if kernel.shape[-1] >= 96:
        of_kernel = add_products(x, kernel_tangent, strides, padding)
    else:
        (of_kernel,) = jax.linear_transpose(turned, y)(kernel_tangent)
    return y, with_quick_gradient(x_tangent, kernel, strides, padding) + of_kernel


def convolve_rows(*args: Any, **options: Any) -> jax.Array:
    """`convolve`, whose rows stay on their devices."""
    return over_batch(convolve(*args, **options))


Conv = partial(nnx.Conv, conv_general_dilated=convolve_rows)
