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
        assert self.scale is not None and self.bias is not None
        wide, mean, variance = x.astype(jnp.float32), self.mean[...], self.var[...]
        if train:
            axes, new = tuple(range(x.ndim - 1)), 1 - self.momentum
            mean = wide.mean(axes)
            variance = jnp.maximum(jnp.square(wide).mean(axes) - jnp.square(mean), 0)
            self.mean[...] = self.momentum * self.mean[...] + new * mean
            self.var[...] = self.momentum * self.var[...] + new * variance
        factor = self.scale[...] * jax.lax.rsqrt(variance + self.epsilon)
        return (wide * factor + (self.bias[...] - mean * factor)).astype(x.dtype)
