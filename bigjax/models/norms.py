"""Norms whose gradient keeps of large arrays their input alone: what they cost is memory."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def is_sum(primitive: Any, *_: Any, **__: Any) -> bool:
    """What `jax.checkpoint` is to keep."""
    return primitive.name == "reduce_sum"


class LayerNorm(nnx.LayerNorm):
    """flax's (Ba et al. 2016)."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # it takes no mask
        """[..., D] to [..., D]."""
        return jax.checkpoint(super().__call__, policy=is_sum)(x)


class RMSNorm(nnx.RMSNorm):
    """flax's (Zhang & Sennrich 2019)."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # it takes no mask
        """[..., D] to [..., D]."""
        return jax.checkpoint(super().__call__, policy=is_sum)(x)


class BatchNorm(nnx.BatchNorm):
    """flax's (Ioffe & Szegedy 2015), written as one factor and one summand for each channel: they need `x` alone."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # type: ignore[override]  # it takes no mask
        """[..., D] to [..., D]; in training by the mean and variance of `x`, which the running ones then follow."""
        wide = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.var[...]
        if train:
            old, axes = (mean, variance), tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            variance = jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0)
            for running, before, now in zip((self.mean, self.var), old, (mean, variance), strict=True):
                running[...] = self.momentum * before + (1 - self.momentum) * now
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        return (wide * factor + (self.bias[...] - mean * factor)).astype(x.dtype)
