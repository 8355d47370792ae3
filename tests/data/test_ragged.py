"""Rows of different lengths, and texts, in memory and in files."""

import numpy as np
import pytest

from bigjax.data import cached
from bigjax.data.ragged import RaggedSpool, TextSpool

TEXTS = ["Zoé", "", "a b", "語" * 30]


@pytest.fixture(autouse=True, params=[0, 1 << 20])
def large(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cached, "LARGE", request.param)


def test_texts_are_as_a_list_has_them():
    spool = TextSpool()
    for text in TEXTS:
        spool.append(text)
    texts = spool.texts()
    assert list(texts) == TEXTS and len(texts) == 4
    assert texts[-1] == TEXTS[-1] and texts[1:3] == TEXTS[1:3] and texts[3:9] == TEXTS[3:]
    assert list(texts.take(np.array([2, 0, 2]))) == ["a b", "Zoé", "a b"]
    with pytest.raises(IndexError):
        texts[4]
    assert list(TextSpool().texts()) == []


@pytest.mark.parametrize("dtype", [np.uint16, np.int8, np.int32])
def test_rows_are_padded_and_cut(dtype):
    spool = RaggedSpool(dtype)
    for row in ([1, 2, 3], [], [4], [5, 6]):
        spool.append(np.array(row, dtype))
    rows = spool.rows()
    assert len(rows) == 4 and rows.values.dtype == dtype and rows.lengths.tolist() == [3, 0, 1, 2]
    padded = rows.padded(np.array([3, 1, 0, 0]), 2)
    assert padded.dtype == np.int32
    np.testing.assert_array_equal(padded, [[5, 6], [0, 0], [1, 2], [1, 2]])
    np.testing.assert_array_equal(rows.padded(np.array([2]), 3), [[4, 0, 0]])
