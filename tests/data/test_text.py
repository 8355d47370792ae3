"""Text cut into rows: every token predicted exactly once, streams that go on, targets one token ahead."""

import math
from itertools import combinations

import numpy as np
import pytest

from bigjax.data.text import line_rows, text_dataset
from bigjax.data.text_files import pydoc, text_file
from bigjax.errors import UserError

LAYOUTS = ("windows", "lines", "stream")
# Each token occurs once, so that where it is predicted can be told; newlines are the only ones that repeat.
UNIQUE = np.array([t for t in range(256) if t != 10], np.uint8)


def dataset(tokens, layout="windows", context=8, eval_streams=3, **splits):
    texts = {"train": np.asarray(tokens, np.uint8)} | splits
    return text_dataset(texts, context, layout, "bytes", None, eval_streams, "the text")


def evaluation(tokens, layout, context=8, batch_size=4, eval_streams=3, devices=1):
    """All evaluation batches of a split named "test"."""
    data = dataset(np.arange(20), layout, context, eval_streams, test=np.asarray(tokens, np.uint8))
    split = data.splits["test"]
    size = -(-split.eval_batch_size(batch_size) // devices) * devices  # as `evaluate` has it: rows must divide
    return [split.eval_batch(i, size, slice(0, size)) for i in range(split.eval_batches(size))]


def check(batch):
    """What holds for every batch: types, padding, bytes."""
    real = batch["mask"] > 0
    assert {key: value.dtype for key, value in batch.items()} == {
        "inputs": np.int32,
        "targets": np.int32,
        "mask": np.float32,
        "bytes": np.float32,
        "start": bool,
    }
    assert set(np.unique(batch["mask"])) <= {0, 1}
    assert (batch["inputs"][~real] == 0).all() and (batch["targets"][~real] == 0).all()
    np.testing.assert_array_equal(batch["bytes"], real.sum(1))  # a byte is one byte
    assert (np.diff(real.astype(int), axis=1) <= 0).all()  # padding comes last


def shifted(batch):
    """Within each row the targets are the inputs one position on."""
    real = batch["mask"] > 0
    np.testing.assert_array_equal(batch["inputs"][:, 1:][real[:, 1:]], batch["targets"][:, :-1][real[:, 1:]])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_size", [1, 3, 8, 64])
@pytest.mark.parametrize("devices", [1, 2, 16])
@pytest.mark.parametrize("length", [2, 3, 9, 57, 255])
def test_evaluation_predicts_every_token_but_the_first_once(layout, batch_size, devices, length):
    tokens = UNIQUE[:length].copy()
    tokens[5::11] = 10
    pairs = []
    for batch in evaluation(tokens, layout, batch_size=batch_size, devices=devices):
        check(batch)
        shifted(batch)
        real = batch["mask"] > 0
        pairs += zip(batch["inputs"][real].tolist(), batch["targets"][real].tolist(), strict=True)
    assert sorted(pairs) == sorted(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))


@pytest.mark.parametrize("streams", [1, 2, 5, 7])
@pytest.mark.parametrize("length", [11, 64, 255])
def test_streams_go_on_in_the_same_row(streams, length):
    split = dataset(UNIQUE[:length], "stream").splits["train"]
    steps = int(split.steps_per_epoch(streams))
    assert steps == math.ceil(math.ceil((length - 1) / streams) / 8)
    batches = [split.train_batch(0, t, streams, slice(0, streams)) for t in range(steps)]
    assert [batch["start"].all() for batch in batches] == [True] + [False] * (len(batches) - 1)
    assert [batch["start"].any() for batch in batches] == [True] + [False] * (len(batches) - 1)
    streamed = []
    for row in range(streams):
        real = [batch["mask"][row] > 0 for batch in batches]
        inputs, targets = (
            np.concatenate([b[key][row][r] for b, r in zip(batches, real, strict=True)])
            for key in ("inputs", "targets")
        )
        np.testing.assert_array_equal(inputs[1:], targets[:-1])
        streamed.append(targets)
    np.testing.assert_array_equal(np.concatenate(streamed), UNIQUE[1:length])
    again = split.train_batch(0, len(batches), streams, slice(0, streams))
    assert again["start"].all()
    np.testing.assert_array_equal(again["inputs"], batches[0]["inputs"])


def test_evaluation_streams_do_not_depend_on_the_batch_size():
    split = dataset(UNIQUE, "stream", eval_streams=3).splits["train"]
    assert split.eval_batch_size(1) == split.eval_batch_size(100) == 3
    exact, padded = (split.eval_batch(1, size, slice(0, size)) for size in (3, 8))
    for key, value in exact.items():
        np.testing.assert_array_equal(padded[key][:3], value)
    assert not padded["mask"][3:].any()


@pytest.mark.parametrize("length", [9, 17, 40, 255])
def test_training_windows_are_whole_and_shift_together(length):
    split = dataset(UNIQUE[:length]).splits["train"]
    size, shifts = len(split), set()
    place = np.zeros(256, int)
    place[UNIQUE] = np.arange(255)
    for epoch in range(40):
        batch = split.train_batch(0, epoch, size, slice(0, size))
        check(batch)
        shifted(batch)
        assert batch["mask"].all() and batch["start"].all()
        firsts = np.sort(place[batch["targets"][:, 0]])
        shifts.add(int(firsts[0]) - 1)
        np.testing.assert_array_equal(np.diff(firsts), np.full(size - 1, 8))
        assert place[batch["targets"][:, -1]].max() < length
    assert min(shifts) >= 0
    assert shifts == set(range(min(8, length - 8)))


def test_lines_end_with_their_newline_and_long_ones_are_cut():
    text = b"ab\ncdefghijklmn\n\nop"
    data = dataset(np.frombuffer(text, np.uint8), "lines", context=6)
    lines = line_rows(data.splits["train"].text, np.arange(256) == 10)
    starts, lengths = lines.take(np.arange(len(lines)))
    rows = [text[s : s + n] for s, n in zip(starts, lengths, strict=True)]
    assert rows == [b"b\n", b"cdefgh", b"ijklmn", b"\n", b"\n", b"op"]


def test_training_on_lines_has_each_once_an_epoch():
    text = np.frombuffer(b"".join(b"%d\n" % n for n in range(30)), np.uint8)
    split = dataset(text, "lines").splits["train"]
    assert split.steps_per_epoch(10) == 3
    epochs = []
    for epoch in range(2):
        batches = [split.train_batch(0, 3 * epoch + t, 10, slice(0, 10)) for t in range(3)]
        for batch in batches:
            check(batch)
            shifted(batch)
        rows = [
            bytes(row[m > 0].astype(np.uint8)) for b in batches for row, m in zip(b["targets"], b["mask"], strict=True)
        ]
        epochs.append(rows)
    # The first line has lost its first token, which nothing predicts.
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted([b"\n"] + [b"%d\n" % n for n in range(1, 30)])
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_that_are_too_short_are_refused(layout):
    with pytest.raises(UserError, match=r"has 8 tokens, too short for config\.data\.context=8"):
        dataset(np.arange(8), layout)
    for tokens in ([], [1]):
        with pytest.raises(UserError, match="test split of the text is empty"):
            dataset(np.arange(9), layout, test=np.array(tokens, np.uint8))
    with pytest.raises(UserError, match="must be positive"):
        dataset(np.arange(9), layout, context=0)


def write(folder, text, name="train.txt"):
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def whole(split):
    """The text of a split, decoded from its tokens."""
    return bytes(np.asarray(split.text.tokens))


def test_text_file_holds_out_the_end(tmp_path):
    text = "0123456789" * 30
    splits = text_file(write(tmp_path, text), holdout=0.25, context=8).splits
    assert {name: whole(split).decode() for name, split in splits.items()} == {
        "train": text[:225],
        "validation": text[225:],
    }


def test_text_file_takes_files_of_ones_own(tmp_path):
    paths = [write(tmp_path, name * 20, name) for name in ("train", "validation", "test")]
    splits = text_file(*paths, context=8).splits
    assert {name: whole(split).decode() for name, split in splits.items()} == {n: n * 20 for n in splits}
    assert list(splits) == ["train", "validation", "test"]


def test_text_file_never_cuts_a_character(tmp_path):
    path = write(tmp_path, "日本語テキスト" * 40)
    for holdout in (0.1, 0.11, 0.12, 0.13):
        splits = text_file(path, holdout=holdout, context=8, tokenizer="bpe", vocab_size=258).splits
        assert len(splits) == 2


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_text_files_that_cannot_be_are_refused(tmp_path, tokenizer):
    options = {"context": 8, "tokenizer": tokenizer, "vocab_size": 258 if tokenizer == "bpe" else None}
    good, empty = write(tmp_path, "ab " * 100), write(tmp_path, "", "empty.txt")
    with pytest.raises(UserError, match=r"no text file 'nowhere.txt' \(config.data.train\)"):
        text_file("nowhere.txt", **options)
    with pytest.raises(UserError, match=r"no text file .*config\.data\.test"):
        text_file(good, test=str(tmp_path / "nowhere"), **options)
    with pytest.raises(UserError, match="validation split is empty"):
        text_file(good, validation=empty, **options)
    for holdout in (0.0, 1.0, -0.5):
        with pytest.raises(UserError, match="holdout must be between 0 and 1"):
            text_file(good, holdout=holdout, **options)


def test_pydoc_splits_share_no_paragraph():
    data = pydoc()
    paragraphs = {
        name: {p.strip("\n") for p in whole(split).decode().split("\n\n")} for name, split in data.splits.items()
    }
    assert set(paragraphs) == {"train", "validation", "test"}
    for a, b in combinations(paragraphs, 2):
        assert not paragraphs[a] & paragraphs[b] - {""}
    assert len(data.splits["train"].text.tokens) > 200_000
    assert data.info["vocab_size"] == 256
    assert data.fingerprint() == pydoc().fingerprint()
