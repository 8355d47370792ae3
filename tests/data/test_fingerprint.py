"""A fingerprint of files: every byte counts, and nothing is read twice."""

import hashlib
import os

import pytest

from bigjax.data import fingerprint
from bigjax.data.fingerprint import files_sha256
from bigjax.errors import UserError

NAMES = ["a.bin", "b/c.bin", "d.bin"]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "b").mkdir()
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(bytes([number]) * 1000)
    return tmp_path


@pytest.fixture
def reads(monkeypatch):
    """The paths that are read."""
    paths, real = [], fingerprint.sha256_of

    def sha256_of(path):
        paths.append(path)
        return real(path)

    monkeypatch.setattr(fingerprint, "sha256_of", sha256_of)
    return paths


def test_is_over_names_and_contents(files):
    expected = hashlib.sha256()
    for number, name in enumerate(NAMES):
        expected.update(f"{name}\0{hashlib.sha256(bytes([number]) * 1000).hexdigest()}\0".encode())
    assert files_sha256(files, NAMES, "") == expected.hexdigest()
    assert files_sha256(files, NAMES[:2], "") != expected.hexdigest()


def test_reads_again_only_what_changed(files, reads):
    first = files_sha256(files, NAMES, "")
    assert files_sha256(files, NAMES, "") == first and len(reads) == 3
    # One byte, the size and even the time of the last change as they were.
    path = files / "d.bin"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files_sha256(files, NAMES, "") != first
    assert reads[3:] == [str(path)]
    content[500] ^= 1
    path.write_bytes(content)
    assert files_sha256(files, NAMES, "") == first


def test_a_damaged_or_unwritable_cache_is_no_error(files, reads, monkeypatch):
    first = files_sha256(files, NAMES, "")
    (files / "cache" / "bigjax" / "files.sqlite").write_bytes(b"no database, but long enough to be looked at" * 50)
    assert files_sha256(files, NAMES, "") == first
    assert files_sha256(files, NAMES, "") == first and len(reads) == 6
    database = files / "cache" / "bigjax" / "files.sqlite"
    content = database.read_bytes()
    database.write_bytes(content[:4096] + b"?" * (len(content) - 4096))  # damaged behind its beginning
    assert files_sha256(files, NAMES, "") == first
    (files / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(files / "file"))
    assert files_sha256(files, NAMES, "") == first


def test_a_missing_file_is_named(files):
    with pytest.raises(UserError, match=r"gone\.bin' cannot be read: No such file"):
        files_sha256(files, ["gone.bin"], "")
