"""Sentences for arguments that no model can take."""

from collections.abc import Iterable


def check_sizes(**sizes: int | None) -> None:
    """Raises ValueError unless each size is positive (or None, for one that has a default of its own)."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be positive, not {size}")


def check_positive(**numbers: float) -> None:
    """Raises ValueError unless each is a number above 0."""
    for name, number in numbers.items():
        if not isinstance(number, int | float) or not 0 < number < float("inf"):
            raise ValueError(f"{name} must be a number above 0, not {number!r}")


def check_dropout(rate: float, name: str = "dropout") -> None:
    """Raises ValueError unless a dropout rate is at least 0 and below 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {rate}")


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises ValueError unless a value is one of the choices."""
    if value not in (choices := tuple(choices)):
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value}")
