"""Folders that are whole or not there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bigjax.errors import UserError


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when all is written; where something fails, nothing of it is left.

    Raises:
      UserError: there is something at `path` already, or it cannot be written.
    """
    final = Path(path).resolve()
    temporary = final.with_name(f".{final.name}.tmp")
    try:
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UserError(f"{str(path)!r} is not empty; give a new folder to write to.")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(final)
    except OSError as error:
        raise UserError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
