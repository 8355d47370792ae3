"""Layer norms whose gradient keeps their input alone and computes the rest again: what they cost is reading memory."""

import jax
from flax import nnx


class LayerNorm(nnx.LayerNorm):
    """flax's (Ba et al. 2016)."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # it takes no mask
        """[..., D] to [..., D]."""
        return jax.checkpoint(super().__call__)(x)


class RMSNorm(nnx.RMSNorm):
    """flax's (Zhang & Sennrich 2019)."""

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # it takes no mask
        """[..., D] to [..., D]."""
        return jax.checkpoint(super().__call__)(x)
