"""What changes from step to step, as a pytree of plain arrays."""

from typing import Any, NamedTuple

import jax
import optax

Tree = Any  # nested dicts of arrays


class TrainState(NamedTuple):
    """All that training changes; data and randomness are addressed by `step`, so nothing else is needed to go on."""

    step: jax.Array  # int32 []: how many updates the parameters have had
    seed: jax.Array  # uint32 []: the root of all randomness
    params: Tree  # the model's trainable arrays
    statistics: Tree  # the model's other arrays: BatchNorm's running mean and variance
    opt_state: optax.OptState
    ema: Tree  # exponential moving average of params, or {}
    carry: Tree  # recurrent state handed from batch to batch, or None
    bad: jax.Array  # int32 []: how many steps had a loss or a gradient that is not finite, and so changed nothing


def random_key(seed: jax.Array | int, stream: str, step: jax.Array | int = 0) -> jax.Array:
    """The key of one stream of randomness at one step: addressed, never threaded.

    Args:
      seed: uint32 [], the run's seed.
      stream: which use: "init", "dropout", ....
      step: int32 [].
    """
    address = int.from_bytes(stream.encode(), "little") % (2**31 - 1)
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), address), step)
