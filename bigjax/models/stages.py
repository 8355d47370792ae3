"""A stack of layers in stages, each on devices of its own: the mesh's axis `pipeline`.

The rows of a batch go from stage to stage in microbatches (Huang et al. 2019, "GPipe"), as one program of all devices
(Xu et al. 2021, "GSPMD", section 3.3): at every tick each stage computes what it holds and hands it on to the next. Of
the ticks of M microbatches in S stages, M + S - 1, a stage spends S - 1 on nothing.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bigjax.models.target import ROWS, axis_size, laid


def num_microbatches(stages: int, rows: int) -> int:
    """As many as divide the rows that each device has of a batch, and no more than 4 for each stage."""
    return max(n for n in range(1, 4 * stages + 1) if rows % n == 0)


def through_stages(
    layer: Callable[[Any, jax.Array, Any, jax.Array | None], jax.Array],
    params: Any,
    x: jax.Array,
    rows: Any,
    keys: jax.Array | None,
) -> jax.Array:
    """What comes out of the last layer, [B, ...], its rows shared out over the stages, too, where they divide them.

    Args:
      layer: of one layer's arrays, what goes into it, what else it reads of these rows, and its key for dropout: what
        comes out, of equal shape and dtype.
      params: arrays of all L layers, [L, ...]; the stages divide them.
      x: what goes into the first, [B, ...].
      rows: what else each layer reads, a tree of arrays of all B rows, [B, ...].
      keys: [L], or None; each microbatch drops by a key of its own.
    """
    stages = axis_size("pipeline")
    count = num_microbatches(stages, x.shape[0] // math.prod(map(axis_size, ROWS)))

    # Every so many rows, so that each device keeps its own; then what only pushes the last out of the later stages.
    def cut(a: jax.Array) -> jax.Array:
        a = jnp.swapaxes(a.reshape(-1, count, *a.shape[1:]), 0, 1)
        return jnp.concatenate([a, jnp.zeros((stages - 1, *a.shape[1:]), a.dtype)])

    def stage(layers: Any, keys: Any, x: jax.Array, rows: Any, microbatch: jax.Array) -> jax.Array:
        def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
            params, key = inputs
            return layer(params, x, rows, None if key is None else jax.random.fold_in(key, microbatch)), None

        return jax.lax.scan(body, x, (layers, keys))[0]

    layers, layer_keys = jax.tree.map(lambda a: a.reshape(stages, -1, *a.shape[1:]), (params, keys))
    all_stages = jax.vmap(stage, spmd_axis_name="pipeline")

    def tick(held: Any, entering: Any) -> tuple[Any, jax.Array]:
        first, number = entering
        held = jax.tree.map(lambda a, new: laid(a.at[0].set(new), P("pipeline", ROWS)), held, first)
        x, rows = held
        x = all_stages(layers, layer_keys, x, rows, number - jnp.arange(stages))
        return jax.tree.map(lambda a: jnp.roll(a, 1, axis=0), (x, rows)), x[-1]

    entering = jax.tree.map(cut, (x, rows))
    nothing = jax.tree.map(lambda a: jnp.zeros((stages, *a.shape[1:]), a.dtype), entering)
    _, out = jax.lax.scan(tick, nothing, (entering, jnp.arange(count + stages - 1)))
    x = jnp.swapaxes(out[stages - 1 :], 0, 1).reshape(x.shape)
    shared = (*ROWS, "pipeline")  # or every stage would compute all of what follows
    return laid(x, P(shared)) if x.shape[0] % math.prod(map(axis_size, shared)) == 0 else x
