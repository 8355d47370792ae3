"""Pooling of images, with gradients that are quick on a CPU and deterministic on a GPU.

The gradient of a windowed maximum is select-and-scatter, which takes most of a small CNN's step on a CPU and has no
deterministic form on a GPU. So maxima are written as reshapes and slices. Where several pixels of a window are the
largest they share the gradient; PyTorch gives it to the first. After a relu the two do not differ, since the ties are
zeros, which pass no gradient on.

That gradient goes to the pixels that equal the maximum. Without the barriers XLA may compute these again by other
roundings, so that none does: of maxima over a BatchNorm's output up to a third of the gradient was lost.
"""

from functools import reduce

import jax
import jax.numpy as jnp


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """Windows 2x2, [B, H, W, C] to [B, H // 2, W // 2, C]; an odd last row or column is left out."""
    b, h, w, c = x.shape
    x = jax.lax.optimization_barrier(x)[:, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))


def global_max(x: jax.Array) -> jax.Array:
    """The largest pixel of each channel, [B, H, W, C] to [B, C]."""
    return jax.lax.optimization_barrier(x).max((1, 2))


def max_pool_3x3(x: jax.Array, padding: int = 0) -> jax.Array:
    """Windows 3x3 at every second pixel, [B, H, W, C] to [B, (H - 3) // 2 + 1, (W - 3) // 2 + 1, C].

    Before that, H and W grow by `padding` on every side.
    """
    x = jax.lax.optimization_barrier(x)
    if padding:
        x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-jnp.inf)
    top, left = ((n - 3) // 2 * 2 for n in x.shape[1:3])  # of the last window
    return reduce(jnp.maximum, (x[:, i : top + i + 1 : 2, j : left + j + 1 : 2] for i in range(3) for j in range(3)))


def adaptive_average_pool(x: jax.Array, size: int) -> jax.Array:
    """PyTorch's AdaptiveAvgPool2d, [B, H, W, C] to [B, size, size, C].

    Window i of n pixels in a row starts at floor(i n / size) and ends before ceil((i + 1) n / size): windows overlap
    where the size does not divide n, and repeat pixels where n is smaller.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        windows = [(i * n // size, -(-(i + 1) * n // size)) for i in range(size)]
        if n != size:
            x = jnp.stack([jax.lax.slice_in_dim(x, *window, axis=axis).mean(axis) for window in windows], axis)
    return x
