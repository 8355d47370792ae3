"""The convolution of every model; on a CPU, in the form that is quick there."""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bigjax.models.target import over_batch, platform

IMAGES = ("NHWC", "HWIO", "NHWC")
Pads = tuple[tuple[int, int], ...]


def convolve(x: jax.Array, kernel: jax.Array, strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`; on a CPU in the form that is quick where XLA's is not.

    XLA's CPU takes 50 times as long as a matrix product where what comes out is 2x2 or smaller, and 10 times as long as
    sums of shifted frames with a kernel [I, 1, C] of its own for each channel.
    """
    groups = options.get("feature_group_count")
    sides = kernel.shape[:-2]
    whole = {"lhs_dilation": (1,) * len(sides), "rhs_dilation": (1,) * len(sides), "precision": None}
    plain = groups == 1 and len(sides) == 2
    depthwise = groups == kernel.shape[-1] == x.shape[-1] and len(sides) == 1 and tuple(strides) == (1,)
    if not (platform() == "cpu" and (plain or depthwise) and whole.items() <= options.items()):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:-1], sides, strides, padding)
    padding = tuple(map(tuple, padding))
    if depthwise:
        return convolve_channels(padding[0], x, kernel[:, 0])
    _, height, width, _ = lax.conv_general_shape_tuple(x.shape, kernel.shape, strides, padding, IMAGES)
    if sides == (1, 1) or height * width <= 4:
        return multiply_patches(x, kernel, tuple(strides), padding)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def multiply_patches(x: jax.Array, kernel: jax.Array, strides: tuple[int, ...], padding: Pads) -> jax.Array:
    """The convolution as one product of patches [B * H' * W', I * J * C] and the kernel."""
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pads, 0) for pads in padding), (0, 0, 0)))
    last = [n - side for n, side in zip(x.shape[1:-1], kernel.shape, strict=False)]
    places = (
        x[:, i : i + last[0] + 1 : strides[0], j : j + last[1] + 1 : strides[1]]
        for i, j in np.ndindex(kernel.shape[:2])
    )
    patches = jnp.concatenate(list(places), -1)
    rows = patches.reshape(-1, patches.shape[-1])
    return (rows @ kernel.reshape(-1, kernel.shape[-1])).reshape(*patches.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve_channels(padding: tuple[int, int], x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each channel of frames [B, T, C] by its own kernel, of [I, C], to [B, T', C].

    It has no forward-mode derivatives.
    """
    x = lax.optimization_barrier(pad_frames(x, padding))  # else what makes it is computed anew for each tap
    length = x.shape[1] - len(kernel) + 1
    return reduce(jnp.add, (x[:, i : i + length] * tap for i, tap in enumerate(kernel)))


def convolve_channels_forward(padding: tuple[int, int], x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
    """And what the gradient needs."""
    return convolve_channels.fun(padding, x, kernel), (x, kernel)


def convolve_channels_backward(padding: tuple[int, int], saved: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient of the frames is such a convolution, too; that of the kernel is computed tap by tap."""
    x, kernel = saved
    frames, grad = lax.optimization_barrier((pad_frames(x, padding), grad))

    def of_tap(i: jax.Array) -> jax.Array:
        return (lax.dynamic_slice_in_dim(frames, i, grad.shape[1], axis=1) * grad).sum(1)

    of_kernel = lax.map(of_tap, jnp.arange(len(kernel))).sum(1)  # over a batch that devices may share: not in the loop
    around = len(kernel) - 1 - padding[0], len(kernel) - 1 - padding[1]
    return convolve_channels.fun(around, grad, kernel[::-1]), of_kernel


convolve_channels.defvjp(convolve_channels_forward, convolve_channels_backward)


def pad_frames(x: jax.Array, padding: tuple[int, int]) -> jax.Array:
    """Zeros before and after frames [B, T, C]; fewer than none cut them off."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*padding, 0), (0, 0, 0)))


def convolve_rows(*args: Any, **options: Any) -> jax.Array:
    """`convolve`, whose rows stay on their devices."""
    return over_batch(convolve(*args, **options))


Conv = partial(nnx.Conv, conv_general_dilated=convolve_rows)
