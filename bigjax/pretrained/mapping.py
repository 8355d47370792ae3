"""How a checkpoint family's tensors are named and laid out, and how ours are: one table for both directions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bigjax.errors import UserError


@dataclass(frozen=True)
class Layout:
    """How one tensor of theirs becomes arrays of ours, and back."""

    into: Callable[[np.ndarray], Sequence[np.ndarray]]
    back: Callable[[Sequence[np.ndarray]], np.ndarray]


def transposed(*axes: int) -> Layout:
    """One array whose axes are theirs in another order."""
    return Layout(lambda t: [t.transpose(axes)], lambda a: a[0].transpose(np.argsort(axes)))


def fused(parts: int, axis: int) -> Layout:
    """Several arrays of the same shape that they keep in one tensor, one after the other along `axis`."""
    return Layout(lambda t: np.split(t, parts, axis), lambda a: np.concatenate(a, axis))


SAME = Layout(lambda t: [t], lambda a: a[0])
LINEAR = transposed(1, 0)  # [out, in] to [in, out]
CONV = transposed(2, 3, 1, 0)  # [out, in, H, W] to [H, W, in, out]


@dataclass(frozen=True)
class Rule:
    """One row of the table; `{i}` (and `{j}`, ...) in the names stand for whole numbers.

    Attributes:
      theirs: a tensor, `h.{i}.attn.c_attn.weight`.
      ours: the array that it becomes, `blocks/{i}/attention/query/kernel`, or several.
      layout: how.
    """

    theirs: str
    ours: str | tuple[str, ...]
    layout: Layout = SAME


@dataclass(frozen=True)
class Family:
    """One architecture of checkpoints.

    Attributes:
      architecture: its name in config.json.
      kind: what holds in `config.model` of all its members, the model's name among it.
      model: from their config to the rest of `config.model`; raises UserError for what bigjax's model cannot do.
      config: from `config.model` to their config.
      rules: the table for a `config.model`.
      unused: tensors of theirs that need no place, as patterns like `Rule.theirs`.
      tied: those of them that are another tensor again, with its name.
      prefix: what their names lack when the model without its head was saved.
    """

    architecture: str
    kind: Mapping[str, Any]
    model: Callable[[Mapping[str, Any]], dict[str, Any]]
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    rules: Callable[[Mapping[str, Any]], Sequence[Rule]]
    unused: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""


@dataclass(frozen=True)
class Place:
    """Where one tensor goes."""

    theirs: str
    ours: tuple[str, ...]
    layout: Layout


class Table:
    """The rules of one family for one model."""

    def __init__(self, family: Family, model: Mapping[str, Any]) -> None:
        self.family = family
        self.rules = [
            (r.theirs, (r.ours,) if isinstance(r.ours, str) else r.ours, r.layout) for r in family.rules(model)
        ]

    def of_theirs(self, name: str) -> Place | None:
        """The place of their tensor `name`; None where it needs none.

        Raises:
          UserError: no rule tells where it goes.
        """
        for full in (name, self.family.prefix + name):
            for theirs, ours, layout in self.rules:
                if (numbers := match(theirs, full)) is not None:
                    return Place(name, tuple(one.format(**numbers) for one in ours), layout)
            if any(match(pattern, full) is not None for pattern in self.family.unused):
                return None
        raise UserError(f"The tensor {name!r} has no place in a {self.family.architecture} as bigjax knows it.")

    def of_ours(self, name: str) -> Place:
        """Which tensor of theirs holds our array `name`.

        Raises:
          UserError: none does.
        """
        for theirs, ours, layout in self.rules:
            for one in ours:
                if (numbers := match(one, name)) is not None:
                    full = theirs.format(**numbers)
                    return Place(full, tuple(other.format(**numbers) for other in ours), layout)
        raise UserError(f"The array {name!r} has no name in a {self.family.architecture}.")


def match(pattern: str, name: str) -> dict[str, str] | None:
    """The numbers for which `pattern` becomes `name`, or None."""
    expression = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(pattern))
    found = re.fullmatch(expression, name)
    return None if found is None else found.groupdict()


def require(config: Mapping[str, Any], key: str, *allowed: Any) -> None:
    """Raises UserError unless their config's `key` is one of `allowed`, the first of which is its default."""
    if config.get(key, allowed[0]) not in allowed:
        words = " or ".join(map(repr, allowed))
        raise UserError(
            f"The checkpoint's config.json has {key}={config[key]!r}; bigjax has this model with {words} only."
        )


def class_count(config: Mapping[str, Any]) -> int:
    """How many classes their config has: two unless it names them."""
    return len(config["id2label"]) if config.get("id2label") else config.get("num_labels", 2)


def class_names(count: int) -> dict[str, Any]:
    """The part of their config from which they count classes, with the names that they give to nameless ones."""
    names = [f"LABEL_{i}" for i in range(count)]
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
