"""Arrays in files: written once, whole, and written again where the file is not what it should be."""

import threading
from pathlib import Path

import numpy as np
import pytest

from bigjax.data import cached
from bigjax.errors import UserError

PARTS = [np.arange(5, dtype=np.uint16), np.arange(3, dtype=np.uint16)]
WHOLE = np.concatenate(PARTS)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bigjax" / "arrays"


def get(key="a", calls=None):
    def pieces():
        if calls is not None:
            calls.append(key)
        return iter(PARTS)

    return cached.cached(key, np.uint16, pieces)


def test_it_is_computed_once(folder):
    calls = []
    for _ in range(3):
        array = get(calls=calls)
        assert array.dtype == np.uint16 and isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, WHOLE)
    assert calls == ["a"]
    get("b", calls)
    assert calls == ["a", "b"]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:-2],
        lambda data: b"",
        lambda data: b"x" + data[1:],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"something else entirely, in that place",
    ],
)
def test_a_damaged_file_is_written_again(folder, damage):
    get()
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    calls = []
    np.testing.assert_array_equal(get(calls=calls), WHOLE)
    assert calls == ["a"]
    assert file.read_bytes() == whole


def test_a_file_of_another_key_is_written_again(folder):
    get("a")
    (first,) = folder.iterdir()
    get("b")
    (second,) = set(folder.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    calls = []
    get("b", calls)
    assert calls == ["b"]


def test_nothing_is_left_of_what_failed(folder):
    def pieces():
        yield PARTS[0]
        raise UserError("the text ends here")

    with pytest.raises(UserError, match="ends here"):
        cached.cached("a", np.uint16, pieces)
    assert not list(folder.iterdir())


def test_writing_at_once():
    arrays = []
    barrier = threading.Barrier(4)

    def pieces():
        barrier.wait()
        return iter(PARTS)

    threads = [threading.Thread(target=lambda: arrays.append(cached.cached("a", np.uint16, pieces))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(arrays) == 4
    for array in arrays:
        np.testing.assert_array_equal(array, WHOLE)


def test_has_its_name_only_when_whole(monkeypatch):
    sizes = []
    rename = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (sizes.append(path.stat().st_size), rename(path, to))[1])
    array = get()
    assert sizes == [array.nbytes + cached.DIGEST]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "LARGE", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="Cannot write"):
        get()
    with pytest.raises(UserError, match="Cannot write"):
        cached.spooled([b"a"])


@pytest.mark.parametrize("large", [0, 4, 100])
def test_spools(tmp_path, monkeypatch, large):
    monkeypatch.setattr(cached, "LARGE", large)
    np.testing.assert_array_equal(cached.spooled([b"ab", memoryview(b"c")]), [97, 98, 99])
    assert len(cached.spooled([])) == 0
    spool = cached.Spool(np.uint16)
    for part in PARTS:
        spool.append(part)
    array = spool.array()
    assert array.dtype == np.uint16 and isinstance(array.base, np.memmap) == (large < WHOLE.nbytes)
    np.testing.assert_array_equal(array, WHOLE)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
