"""Sinusoidal positions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def sinusoids(positions: jax.Array, frequencies: Sequence[float] | np.ndarray) -> jax.Array:
    """Positions as sines, then cosines, of their multiples with each frequency (Vaswani et al. 2017, section 3.5).

    The paper's formula takes sines and cosines in turn; its authors' code has all sines first, as here. To a model
    that learns what to make of each channel it is the same.

    Args:
      positions: integers [...], also negative ones.
      frequencies: D / 2 numbers, in radians per position.

    Returns:
      float32 [..., D].
    """
    angles = positions[..., None].astype(jnp.float32) * jnp.array(frequencies, jnp.float32)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
