"""Sentences for arguments that no model can take."""


def check_sizes(**sizes: int | None) -> None:
    """Raises ValueError unless each size is positive (or None, for one that has a default of its own)."""
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} must be positive, not {size}")


def check_dropout(rate: float, name: str = "dropout") -> None:
    """Raises ValueError unless a dropout rate is at least 0 and below 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, not {rate}")
