"""Where bigjax keeps what it can make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/bigjax`, by default `~/.cache/bigjax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bigjax"
