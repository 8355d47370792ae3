"""Rotary positions, and the ways to stretch them over longer contexts."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SCALINGS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def rotary_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any] | None = None) -> tuple[float, ...]:
    """By how much each pair of a head turns from one position to the next: theta ** (-2 i / H), perhaps scaled.

    Args:
      head_dim: width of a head, H, even.
      theta: the base (Su et al. 2021, section 3.2.2).
      scaling: None, or a dict with the keys that Hugging Face's configs have: `rope_type` "linear" divides all by
        `factor` (Chen et al. 2023); "llama3" divides the slow ones only (Llama 3.1's config).

    Returns:
      H / 2 numbers, rounded to float32.

    Raises:
      ValueError: an odd width, an unknown `rope_type`, a key that is missing or too many.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head width, not {head_dim}")
    frequencies = np.float32(1) / np.float32(theta) ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    values = dict(scaling or {"rope_type": "default"})
    kind = values.pop("rope_type", None)
    if kind not in SCALINGS:
        raise ValueError(f"rope_scaling has rope_type {kind!r}; there are {', '.join(map(repr, SCALINGS))}")
    if values.keys() != set(SCALINGS[kind]):
        raise ValueError(f"rope_scaling {kind!r} takes {', '.join(SCALINGS[kind])}, not {', '.join(values)}")
    if kind == "linear":
        frequencies = frequencies / np.float32(values["factor"])
    elif kind == "llama3":
        frequencies = llama3(frequencies, **values)
    return tuple(map(float, frequencies.astype(np.float32)))


def llama3(
    frequencies: np.ndarray,
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    original_max_position_embeddings: int,
) -> np.ndarray:
    """Divides by `factor` what turns less than `low_freq_factor` times in the original context.

    What turns more than `high_freq_factor` times stays, and in between the two are mixed.
    """
    turns = original_max_position_embeddings * frequencies / (2 * math.pi)
    mix = np.clip((turns - low_freq_factor) / (high_freq_factor - low_freq_factor), 0, 1)
    return (1 - mix) * frequencies / factor + mix * frequencies


def rotate(x: jax.Array, positions: jax.Array, frequencies: tuple[float, ...]) -> jax.Array:
    """Turns each pair (i, i + H / 2) of a head by its position times its frequency.

    Args:
      x: [B, T, N, H].
      positions: int32 [B, T] or [T].
      frequencies: H / 2 numbers.
    """
    angle = positions[..., None, None].astype(jnp.float32) * jnp.array(frequencies, jnp.float32)  # [(B,) T, 1, H / 2]
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)
    return turned.astype(x.dtype)
