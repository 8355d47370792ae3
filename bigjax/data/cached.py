"""Arrays too large for memory: written piece by piece to a file, and memory-mapped."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from bigjax.cache import cache_folder
from bigjax.errors import UserError

LARGE = 1 << 24  # bytes of text from which what is made of it lies in a file
DIGEST = hashlib.sha256().digest_size


def cached(key: str, dtype: type, pieces: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """The array [N] that `pieces` make up, memory-mapped from a file in the cache folder; it is written if need be.

    The file ends with a sha256 over the key and what it holds; one that is damaged, or was written for something else,
    is written again. It appears whole or not at all, and processes that write it at once write the same.

    Args:
      key: says what the array is a function of.
      dtype: what `pieces` have.

    Raises:
      UserError: it cannot be written.
    """
    key = hashlib.sha256(f"{key} {np.dtype(dtype)}".encode()).hexdigest()
    path = cache_folder() / "arrays" / f"{key}.bin"
    if (array := opened(path, key, dtype)) is not None:
        return array
    digest = hashlib.sha256(key.encode())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            try:
                for piece in pieces():
                    content = np.ascontiguousarray(piece).data
                    digest.update(content)
                    file.write(content)
                file.write(digest.digest())
                file.flush()  # whole before it has its name
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise UserError(f"Cannot write {str(path)!r}: {error.strerror or error}.") from error
    return mapped(path, dtype)


def opened(path: Path, key: str, dtype: type) -> np.ndarray | None:
    """The array in a file, or None where there is none, or it is not what was written."""
    try:
        if path.stat().st_size < DIGEST or (path.stat().st_size - DIGEST) % np.dtype(dtype).itemsize:
            return None
        with path.open("rb") as file:
            file.seek(-DIGEST, 2)
            ending = file.read()
    except OSError:
        return None
    array = mapped(path, dtype)
    digest = hashlib.sha256(key.encode())
    digest.update(array.data)
    return array if digest.digest() == ending else None


def mapped(path: Path, dtype: type) -> np.ndarray:
    """What stands before the digest."""
    count = (path.stat().st_size - DIGEST) // np.dtype(dtype).itemsize
    return np.memmap(path, dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype)


def spooled(pieces: Iterable[bytes | memoryview]) -> np.ndarray:
    """What `pieces` make up, uint8 [N], memory-mapped from a file without a name that goes with the process.

    Raises:
      UserError: it cannot be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            return np.memmap(file, np.uint8, mode="r") if file.tell() else np.empty(0, np.uint8)
    except OSError as error:
        raise UserError(f"Cannot write to {str(folder)!r}: {error.strerror or error}.") from error
