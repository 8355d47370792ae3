"""The content of many files as one sha256, without reading again what has not changed since it was read."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bigjax.cache import cache_folder
from bigjax.data.decoding import blocks
from bigjax.errors import UserError

BLOCK = 1024  # files that are read before what was found is kept


def files_sha256(root: Path, names: Sequence[str], doing: str) -> str:
    """A sha256 over the names and contents of files below `root`.

    What a file's content was is remembered in the cache folder by its path, and believed while its size, its inode and
    the times of its last change, of content and of entry, are the same; a changed byte changes the latter even where
    somebody has set the former back.

    Args:
      doing: says on a terminal what takes so long.

    Raises:
      UserError: a file cannot be read.
    """
    paths = [os.path.realpath(root / name) for name in names]
    digest = hashlib.sha256()
    with contextlib.closing(known_files()) as known, ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in blocks(len(paths), BLOCK, doing):
            some = paths[block.start : block.stop]
            try:
                states = [state(path) for path in some]
                old = [remembered(known, *pair) for pair in zip(some, states, strict=True)]
                found = list(pool.map(lambda path, sha: sha or sha256_of(path), some, old))
            except OSError as error:
                raise UserError(f"{error.filename or str(root)!r} cannot be read: {error.strerror}.") from error
            with contextlib.suppress(sqlite3.Error), known:  # a full disk, or another process: next time
                new = [row for row, was in zip(zip(some, states, found, strict=True), old, strict=True) if was is None]
                known.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", new)
            for index, sha in zip(block, found, strict=True):
                digest.update(f"{names[index]}\0{sha}\0".encode())
    return digest.hexdigest()


def known_files() -> sqlite3.Connection:
    """The table of what was read before; one that is damaged begins anew, one that cannot be kept is forgotten."""
    file = cache_folder() / "files.sqlite"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return table(str(file))
    except sqlite3.OperationalError:  # no room, or no permission
        return table(":memory:")
    except sqlite3.DatabaseError:
        file.unlink()
        return table(str(file))
    except OSError:
        return table(":memory:")


def remembered(known: sqlite3.Connection, path: str, state: str) -> str | None:
    """The sha256 of a file in this state, where it is known."""
    try:
        row = known.execute("SELECT sha FROM files WHERE path = ? AND state = ?", (path, state)).fetchone()
    except sqlite3.Error:  # damaged behind its beginning
        return None
    return row and row[0]


def table(path: str) -> sqlite3.Connection:
    """A connection to the table in a file, which is made where it is not there."""
    connection = sqlite3.connect(path, timeout=30)
    connection.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, state TEXT, sha TEXT)")
    return connection


def state(path: str) -> str:
    """What of a file's entry changes when its content does."""
    entry = Path(path).stat()
    return f"{entry.st_size} {entry.st_ino} {entry.st_mtime_ns} {entry.st_ctime_ns}"


def sha256_of(path: str) -> str:
    """Of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
