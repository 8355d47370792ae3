"""Names of arrays where equal layers are one stack, `blocks/norm1/scale` [L, ...], to be scanned."""

import re
from collections.abc import Mapping, Sequence
from typing import Any


def is_stacked(name: str) -> bool:
    """Whether the array has a first axis of layers; one by one they are called `blocks/0/norm1/scale` and so on."""
    return re.match(r"blocks/\D", name) is not None


def layer_names(name: str, shape: Sequence[int]) -> list[str]:
    """What the arrays of a stack are called one by one; of an array that is none, the name that it has."""
    if not is_stacked(name):
        return [name]
    return [f"blocks/{i}/{name.removeprefix('blocks/')}" for i in range(shape[0])]


def unstacked(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays by name, those of stacks one by one."""
    single: dict[str, Any] = {}
    for name, array in arrays.items():
        single |= zip(layer_names(name, array.shape), array if is_stacked(name) else [array], strict=True)
    return single
