"""How the next token is chosen from its logits."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Sampling:
    """The options, in the order in which they work.

    Attributes:
      repetition_penalty: above 1, tokens that the text already has become less likely (Keskar et al. 2019).
      temperature: what logits are divided by; 0 always takes the likeliest token.
      top_k: only the k likeliest tokens stay; 0 keeps all.
      top_p: only the fewest tokens that together have this probability stay (Holtzman et al. 2020).

    Raises:
      ValueError: one of them is out of its range.
    """

    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or 1e-30 < self.temperature < math.inf):
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(f"repetition_penalty must be positive, not {self.repetition_penalty}")


GREEDY = Sampling(temperature=0.0)


def penalised(logits: jax.Array, seen: jax.Array, penalty: float) -> jax.Array:
    """Logits [B, V] with those of tokens that were `seen`, bool [B, V], moved down."""
    if penalty == 1:
        return logits
    return jnp.where(seen, jnp.where(logits < 0, logits * penalty, logits / penalty), logits)


def choose(logits: jax.Array, keys: jax.Array, sampling: Sampling) -> jax.Array:
    """The next token of each row.

    Args:
      logits: float32 [B, V].
      keys: a random key per row, [B].

    Returns:
      int32 [B].
    """
    if sampling.temperature == 0:
        # Not argmax: with it XLA makes of a whole loop over tokens one function that runs on one core of a CPU.
        return jax.lax.top_k(logits, 1)[1][:, 0]
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        logits = nucleus(logits, sampling.top_p)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)


def nucleus(logits: jax.Array, top_p: float) -> jax.Array:
    """Logits [B, V] of the likeliest tokens up to and with the one that reaches `top_p`; -inf for the others."""
    ordered = jnp.sort(logits, -1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(ordered, -1), -1) - jax.nn.softmax(ordered, -1)  # what likelier ones have
    least = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)
