"""Dropout that takes a quarter of the random numbers that flax's does, which are much of what it costs."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.random import threefry2x32_p

from bigjax.models.target import platform

PARTS = 2**16  # of which a rate is so many
KEPT = "kept"  # what a policy of `jax.checkpoint` calls the bools that tell what is not dropped


class Dropout(nnx.Dropout):
    """flax's (Srivastava et al. 2014), but that it drops at a rate rounded to 65,536ths."""

    def __call__(  # type: ignore[override]  # one needs to say all
        self, x: jax.Array, *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> jax.Array:
        """`x` of any shape, of which by chance each element is 0 or grows by as much as keeps the mean."""
        dropped = round(self.rate * PARTS)
        if deterministic or not dropped:
            return x
        assert rngs is not None
        shape = [1 if axis in self.broadcast_dims else size for axis, size in enumerate(x.shape)]
        key = rngs.dropout()

        def drop(x: jax.Array) -> jax.Array:
            keep = checkpoint_name(random_parts(key, shape) >= dropped, KEPT)
            return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)

        if platform() == "cpu":  # which would keep the random numbers for the gradient; on a GPU they take less to read
            drop = jax.checkpoint(drop, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
        return drop(x)


def random_parts(key: jax.Array, shape: list[int]) -> jax.Array:
    """Random numbers from 0 to PARTS - 1, uint32 of `shape`.

    Each Threefry of a row and a column gives 64 bits, for four neighbours: so axes may be cut over devices.
    """
    *rows, width = shape
    some = (*rows, math.ceil(width / 4))
    row = jax.lax.iota(jnp.uint32, math.prod(rows)).reshape(*rows, 1)
    column = jax.lax.broadcasted_iota(jnp.uint32, some, len(rows))
    first, second = jax.random.key_data(key)[:2]
    words = threefry2x32_p.bind(first, second, jnp.broadcast_to(row, some), column)
    parts = jnp.stack([half for word in words for half in (word & (PARTS - 1), word >> 16)], -1)
    return parts.reshape(*rows, -1)[..., :width]
