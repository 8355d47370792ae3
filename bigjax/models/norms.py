"""Norms whose gradient keeps their input and its sums, and computes the rest again: what they cost is memory."""

from typing import Any

import jax
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
    """flax's (Ioffe & Szegedy 2015)."""

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:  # type: ignore[override]  # it takes no mask
        """[..., D] to [..., D]; in training by the mean and variance of `x`, which the running ones then follow."""
        normalise = nnx.BatchNorm.__call__
        if not train:
            return normalise(self, x, use_running_average=True)
        return nnx.remat(lambda self, x: normalise(self, x), policy=is_sum)(self, x)
