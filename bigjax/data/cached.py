"""Arrays too large for memory: written piece by piece to a file, and memory-mapped."""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

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
    with writing(path):
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


class Spool:
    """An array [N] that is written piece by piece; a large one to a file without a name, which goes with the process.

    Args:
      dtype: what the pieces have.
    """

    def __init__(self, dtype: type | np.dtype) -> None:
        self.dtype = dtype
        self.folder = cache_folder()
        self.file: BinaryIO = io.BytesIO()

    def append(self, piece: bytes | memoryview | np.ndarray) -> None:
        """Writes what comes next; raises UserError where it cannot."""
        with writing(self.folder):
            self.file.write(piece)
            if isinstance(self.file, io.BytesIO) and self.file.tell() > LARGE:
                self.folder.mkdir(parents=True, exist_ok=True)
                file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  it stays open
                file.write(self.file.getbuffer())
                self.file = file

    def array(self) -> np.ndarray:
        """All that was written, memory-mapped if it is in a file."""
        if isinstance(self.file, io.BytesIO):
            return np.frombuffer(self.file.getvalue(), self.dtype)
        with writing(self.folder):
            self.file.flush()
            return np.asarray(np.memmap(self.file, self.dtype, "r"))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises UserError where writing there fails."""
    try:
        yield
    except OSError as error:
        raise UserError(f"Cannot write to {str(path)!r}: {error.strerror or error}.") from error


def spooled(pieces: Iterable[bytes | memoryview]) -> np.ndarray:
    """What `pieces` make up, uint8 [N], as `Spool` has it."""
    spool = Spool(np.uint8)
    for piece in pieces:
        spool.append(piece)
    return spool.array()
