"""Equal layers one after the other: a list, or where they are to be scanned, one layer with a stack of arrays.

Of a list the arrays are called `blocks/0/norm1/scale` and so on, of a stack `blocks/norm1/scale`, [L, ...].
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from bigjax.models.stages import through_stages
from bigjax.models.target import axis_size, over_positions

Module = TypeVar("Module", bound=nnx.Module)
Remat = Literal["nothing_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable"] | None
Layers = Any  # nnx.List[Module], or a Module that is a stack of them


def make_layers(make: Callable[[nnx.Rngs], Module], num_layers: int, scan: bool, rngs: nnx.Rngs) -> Layers:
    """`num_layers` of what `make` makes, each with a key of its own: a list, or with `scan` a stack."""
    keys = jax.random.split(rngs.params(), num_layers)

    def one(key: jax.Array) -> Module:
        return make(nnx.Rngs(params=key))

    return nnx.vmap(one)(keys) if scan else nnx.List(one(key) for key in keys)


def unstacked_layers(layers: Layers) -> list[Any]:
    """The layers one by one."""
    if isinstance(layers, nnx.List):
        return list(layers)
    graphdef, params = nnx.split(layers)
    return [nnx.merge(graphdef, jax.tree.map(lambda p, i=i: p[i], params)) for i in range(depth(params))]


def through_layers(
    layers: Layers,
    x: jax.Array,
    call: Callable[[Any, jax.Array, Any, jax.Array | None], jax.Array],
    rngs: nnx.Rngs | None,
    remat: Remat = None,
    rows: Any = None,
) -> jax.Array:
    """What comes out of the last layer; a stack is compiled once for all of it, and may be cut into stages.

    Args:
      layers: from `make_layers`.
      x: what goes into the first.
      call: takes a layer, what goes into it, `rows`, and a key for its dropout or None; gives what comes out, of equal
        shape.
      rngs: where the keys come from; None is no dropout.
      remat: what of a layer is kept for the backward pass, which computes the rest again: the name of one of
        `jax.checkpoint_policies`; None keeps all that it needs.
      rows: what else of each row a layer reads, such as a mask: a tree of arrays [B, ...].
    """
    return through_noting(layers, x, lambda *inputs: (call(*inputs), None), rngs, remat, rows)[0]


def through_noting(
    layers: Layers,
    x: jax.Array,
    call: Callable[[Any, jax.Array, Any, jax.Array | None], tuple[jax.Array, Any]],
    rngs: nnx.Rngs | None,
    remat: Remat = None,
    rows: Any = None,
) -> tuple[jax.Array, Any]:
    """As `through_layers`, where `call` also gives what to note of each layer, a tree of arrays: here [L, ...].

    Of stages nothing is noted.
    """

    def remembering(layer: Any) -> tuple[Callable[[Any, jax.Array, Any, jax.Array | None], tuple[jax.Array, Any]], Any]:
        graphdef, params = nnx.split(layer)

        def through(params: Any, x: jax.Array, rows: Any, key: jax.Array | None) -> tuple[jax.Array, Any]:
            x, note = call(nnx.merge(graphdef, params), x, rows, key)
            return over_positions(x), note

        if remat is not None:
            through = jax.checkpoint(through, policy=getattr(jax.checkpoint_policies, remat))
        return through, params

    x = over_positions(x)
    if isinstance(layers, nnx.List):
        keys = None if rngs is None else jax.random.split(rngs.dropout(), len(layers))
        notes = []
        for i, layer in enumerate(layers):
            key = None if keys is None else keys[i]
            if remat is None:
                x, note = call(layer, x, rows, key)
                x = over_positions(x)
            else:
                through, params = remembering(layer)
                x, note = through(params, x, rows, key)
            notes.append(note)
        return x, jax.tree.map(lambda *notes: jnp.stack(notes), *notes) if notes else None
    through, params = remembering(layers)
    keys = None if rngs is None else jax.random.split(rngs.dropout(), depth(params))
    if axis_size("pipeline") > 1:
        return through_stages(lambda *inputs: through(*inputs)[0], params, x, rows, keys), None

    def body(x: jax.Array, layer: tuple[Any, jax.Array | None]) -> tuple[jax.Array, Any]:
        return through(layer[0], x, rows, layer[1])

    return jax.lax.scan(body, x, (params, keys))


def depth(params: Any) -> int:
    """How many layers a stack's parameters are of."""
    return jax.tree.leaves(params)[0].shape[0]


def is_stacked(name: str) -> bool:
    """Whether the array has a first axis of layers."""
    return re.search(STACK, name) is not None


STACK = r"((?:^|/)\w*blocks)/(?=\D)"  # a name, and no number


def layer_names(name: str, shape: Sequence[int]) -> list[str]:
    """What the arrays of a stack are called one by one; of an array that is none, the name that it has."""
    if not is_stacked(name):
        return [name]
    return [re.sub(STACK, rf"\1/{i}/", name) for i in range(shape[0])]


def unstacked(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by name, those of stacks one by one."""
    single: dict[str, Any] = {}
    for name, array in arrays.items():
        single |= zip(layer_names(name, array.shape), array if is_stacked(name) else [array], strict=True)
    return single
