"""Files of text, folders and JSONL as documents, and the protocol of Penn Treebank."""

import json

import numpy as np
import pytest

from bigjax.data import cached, text, tokenizer, tokens
from bigjax.data.text_files import text_file, word_files
from bigjax.data.tokenizer import not_utf8
from bigjax.data.tokens import make_tokenizer
from bigjax.errors import UserError

ALL = slice(None)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def folder_of(path, **files):
    path.mkdir()
    for name, content in files.items():
        (path / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def decoded(data, name):
    return data.info["decode"](np.asarray(data.splits[name].text.tokens))


def targets(split):
    """Inputs and targets of an evaluation batch by batch, flat, where they count."""
    size = split.eval_batch_size(4)
    batches = [split.eval_batch(i, size, slice(0, size)) for i in range(split.eval_batches(size))]
    real = [b["mask"] > 0 for b in batches]

    def flat(key):
        return np.concatenate([b[key][r] for b, r in zip(batches, real, strict=True)]).tolist()

    return flat("inputs"), flat("targets")


# Penn Treebank's protocol, counted by hand: "the cat <unk>" "a cat" and "the dog" with no newline at the end.
TRAIN, VALID, TEST = " the cat <unk> \n a cat \n", " a zebra \n\n the cat \n", "cat the\n"


def penn(path, train=TRAIN, valid=VALID, test=TEST):
    path.mkdir()
    for name, content in (("train", train), ("valid", valid), ("test", test)):
        (path / f"ptb.{name}.txt").write_text(content)
    return str(path)


def test_penn_treebank_counts_every_token_once(tmp_path):
    data = word_files(penn(tmp_path / "ptb"), context=3)
    # <eos> the cat <unk> a: in order of appearance
    assert data.info["vocab_size"] == 5
    inputs, outputs = targets(data.splits["train"])
    assert outputs == [1, 2, 3, 0, 4, 2, 0]  # 5 words, 2 newlines
    assert inputs == [0, 1, 2, 3, 0, 4, 2]
    inputs, outputs = targets(data.splits["validation"])
    assert outputs == [4, 3, 0, 0, 1, 2, 0]  # zebra is <unk>; an empty line is one <eos>
    assert inputs == [0, 4, 3, 0, 0, 1, 2]
    assert targets(data.splits["test"]) == ([0, 2, 1], [2, 1, 0])


def test_the_stream_is_one_and_goes_on(tmp_path):
    split = word_files(penn(tmp_path / "ptb"), context=3).splits["validation"]
    assert split.eval_batch_size(20) == 1
    starts = [split.eval_batch(i, 1, ALL)["start"].tolist() for i in range(split.eval_batches(1))]
    assert starts == [[True], [False], [False]]


def test_bytes_of_words(tmp_path):
    """A word and a space, or a newline: those of the file but for the space at the beginning of each line."""
    split = word_files(penn(tmp_path / "ptb"), context=7).splits["train"]
    batch = split.eval_batch(0, 1, slice(0, 1))
    assert batch["bytes"].sum() == len(TRAIN) - 2


def test_a_word_out_of_the_vocabulary(tmp_path):
    folder = penn(tmp_path / "ptb", train="the cat \n a dog \n")
    with pytest.raises(UserError, match=r"ptb\.valid\.txt' line 1: the word 'zebra' is not in the training text"):
        word_files(folder, context=3)
    folder = penn(tmp_path / "late", train="the cat \n a dog \n", valid="the\n\ncat a\ndog wolf\n")
    with pytest.raises(UserError, match=r"line 4: the word 'wolf'"):
        word_files(folder, context=3)


def test_words_there_and_back():
    words = make_tokenizer("words", None, np.frombuffer(TRAIN.encode(), np.uint8))
    from tokenizers import Tokenizer

    kept = Tokenizer.from_str(words.files["tokenizer.json"])
    assert kept.encode("the cat\na dog").ids == [1, 2, 0, 4, 3]
    assert words.decode([1, 2, 0, 4, 3]) == kept.decode([1, 2, 0, 4, 3]) == "the cat\na <unk>"
    assert kept.decode([1, 2, 0, 4])[len(kept.decode([1, 2])) :] == "\na"


def test_characters_there_and_back():
    raw = "Grüße, 日本\n\tend"
    chars = make_tokenizer("chars", None, np.frombuffer(raw.encode(), np.uint8))
    from tokenizers import Tokenizer

    kept = Tokenizer.from_str(chars.files["tokenizer.json"])
    ids = chars.encode(np.frombuffer(raw.encode(), np.uint8))
    assert kept.encode(raw).ids == ids.tolist()
    assert kept.decode(ids.tolist()) == chars.decode(ids.tolist()) == raw
    assert len(chars.token_bytes) == len(set(raw))
    assert chars.token_bytes[ids].sum() == len(raw.encode())
    assert [raw[i] for i in np.flatnonzero(chars.newline[ids])] == ["\n"]
    with pytest.raises(UserError, match=r"The text line 2: the character 'X' is not in the training text"):
        chars.encode(np.frombuffer(b"end\n,X", np.uint8))
    with pytest.raises(UserError, match=r"line 1: the character 'X'"):
        chars.encode(np.frombuffer(b"X", np.uint8))
    for kind in ("chars", "words"):
        with pytest.raises(UserError, match="what the training text has; leave it out"):
            make_tokenizer(kind, 100, np.frombuffer(raw.encode(), np.uint8))


def test_a_folder_is_documents_in_order(tmp_path):
    folder = folder_of(tmp_path / "docs", b="second", a="first", c="thïrd", d="4th, held out")
    (tmp_path / "docs" / ".hidden.txt").write_text("no")
    (tmp_path / "docs" / "other.md").write_text("no")
    data = text_file(folder, context=4, holdout=0.3)
    assert decoded(data, "train") == "\0first\0second\0thïrd\0"
    assert decoded(data, "validation") == "\x004th, held out\0"


def test_a_folder_is_read_with_those_below_it(tmp_path):
    folder = folder_of(tmp_path / "docs", a="first", c="fourth, held out")
    folder_of(tmp_path / "docs" / "b", x="second")
    folder_of(tmp_path / "docs" / "b" / "y", a="third")
    folder_of(tmp_path / "docs" / ".b", x="no")
    data = text_file(folder, context=4, holdout=0.4)
    assert decoded(data, "train") == "\0first\0second\0third\0"
    assert decoded(data, "validation") == "\0fourth, held out\0"


def test_a_split_in_the_folder_of_another(tmp_path):
    folder = folder_of(tmp_path / "docs", a="first document", b="second document")
    inner = folder_of(tmp_path / "docs" / "valid", x="third document")
    for validation in (inner, f"{folder}/b.txt"):
        with pytest.raises(UserError, match=r"\(config.data.validation\) lies in .* \(config.data.train\)"):
            text_file(folder, validation, context=4)
    (tmp_path / "docs" / "valid.jsonl").write_text(json.dumps({"text": "fourth document"}))
    data = text_file(folder, f"{folder}/valid.jsonl", context=4)
    assert decoded(data, "train") == "\0first document\0second document\0third document\0"
    assert decoded(data, "validation") == "\0fourth document\0"


@pytest.mark.parametrize("kind", ["bytes", "chars"])
def test_lines_of_a_text_that_are_not_utf8(tmp_path, kind):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good line\n" * 3 + b"caf\xe9\n" * 5 + "größer\n\nthe last".encode())
    options = {"validation": str(path), "context": 4, "tokenizer": kind}
    data = text_file(str(path), **options, on_error="skip")
    assert decoded(data, "train") == decoded(data, "validation") == "good line\n" * 3 + "größer\n\nthe last"
    (note,) = data.notes
    assert (
        note.startswith(f"skipped 10 bad records: {str(path)!r} line 4: not UTF-8 at byte 3") and note[-5:] == "; ..."
    )
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"The train split is empty: .* \(skipped 2 bad records: "):
        text_file(str(path), **options, on_error="skip")


def test_a_text_that_is_utf8_stays_mapped(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("all of ït\n" * 3)
    split = text_file(str(path), validation=str(path), context=4, on_error="skip").splits["train"]
    assert split.text.tokens.filename == path


def test_jsonl_is_documents(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {i}\n"}) + "\n" for i in range(10)))
    data = text_file(str(path), context=4, text_key="body")
    assert decoded(data, "train") == "\0" + "".join(f"text {i}\n\0" for i in range(8))
    assert decoded(data, "validation") == "\0text 8\n\0text 9\n\0"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"ab\xffcd", "not UTF-8 at byte 2"),
        ("日本".encode()[:-1], "not UTF-8 at byte 3"),
        (b"abc\0d", "a NUL at byte 3"),
    ],
)
def test_bad_documents(tmp_path, content, words):
    folder = folder_of(tmp_path / "docs", a="good one", b=content, c="another good one", d="last")
    with pytest.raises(UserError, match=rf"b\.txt'.*{words}.*on_error='skip'"):
        text_file(folder, context=4)
    data = text_file(folder, context=4, on_error="skip")
    assert decoded(data, "train") == "\0good one\0another good one\0"
    assert len(data.notes) == 1 and "skipped 1 bad record" in data.notes[0] and words in data.notes[0]


def test_bad_lines(tmp_path):
    path = tmp_path / "records.jsonl"
    good = json.dumps({"text": "a good one"}) + "\n"
    path.write_text(good + '{"text": 7}\n{"text": "\\ud800"}\n{"other": "x"}\n' + 3 * good)
    with pytest.raises(UserError, match=r"records\.jsonl' line 2: 'text' is no text"):
        text_file(str(path), context=4)
    (note,) = text_file(str(path), context=4, on_error="skip").notes
    assert "skipped 3 bad records" in note and "line 3: a \\ud... escape" in note


def test_texts_that_cannot_be(tmp_path):
    folder = folder_of(tmp_path / "none")
    (tmp_path / "none" / "folder.txt").mkdir()
    with pytest.raises(UserError, match="has no documents"):
        text_file(folder)
    with pytest.raises(UserError, match=r"no document in its first part; set config\.data\.validation"):
        text_file(folder_of(tmp_path / "one", a="only"), context=2)
    path = tmp_path / "latin.txt"
    path.write_bytes(b"line\nline\ncaf\xe9 line\n" * 5)
    with pytest.raises(UserError, match=r"is not UTF-8 at byte 13 \(line 3\)"):
        text_file(str(path), context=4, tokenizer="chars")
    path.write_text("no documents here " * 9)
    with pytest.raises(UserError, match=r"packing='within' needs documents"):
        text_file(str(path), context=4, tokenizer="chars", packing="within")


def test_not_utf8_across_pieces(monkeypatch):
    monkeypatch.setattr(tokenizer, "CHUNK", 4)
    raw = np.frombuffer("abc日本語 ü".encode(), np.uint8)
    assert not_utf8(raw) is None
    for end in (4, 5, 7, len(raw) - 1):
        with pytest.raises(UnicodeDecodeError) as caught:
            raw[:end].tobytes().decode()
        assert not_utf8(raw[:end]) == caught.value.start


def test_a_long_line_is_cut_at_spaces(monkeypatch):
    monkeypatch.setattr(tokenizer, "CHUNK", 20)
    line = ("word " * 500).encode()
    pieces = list(tokens.chunks(np.frombuffer(line, np.uint8)))
    assert "".join(pieces).encode() == line
    assert len(pieces) > 5 and all(piece.strip().replace("word", "").isspace() for piece in pieces)
    solid = "日" * 500
    assert "".join(tokens.chunks(np.frombuffer(solid.encode(), np.uint8))) == solid


@pytest.mark.parametrize("layout", ["windows", "lines", "stream"])
@pytest.mark.parametrize("kind", ["bytes", "bpe", "words", "chars"])
def test_a_large_text_is_the_same_from_the_cache(tmp_path, monkeypatch, layout, kind):
    """The same batches and fingerprints, whether arrays are in memory, being written, or read again."""
    rng = np.random.default_rng(0)
    words = ["the", "cat", "of", "Käse", "x"]
    lines = [" ".join(rng.choice(words, rng.integers(0, 9))) for _ in range(400)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    options = {"context": 8, "layout": layout, "tokenizer": kind, "holdout": 0.3}
    options |= {"vocab_size": 270} if kind == "bpe" else {}

    def summary():
        data = text_file(str(path), **options)
        train, validation = data.splits["train"], data.splits["validation"]
        batches = [train.train_batch(1, 5, 8, ALL), validation.eval_batch(1, 8, slice(0, 8))]
        return data.fingerprint(), batches, data.files

    expected = summary()
    monkeypatch.setattr(text, "BLOCK", 100)
    monkeypatch.setattr(tokenizer, "CHUNK", 50)
    monkeypatch.setattr(cached, "LARGE", 10)
    monkeypatch.setattr(tokens, "LARGE", 10)
    for _ in range(2):
        fingerprint, batches, files = summary()
        assert fingerprint == expected[0] and files == expected[2]
        for batch, other in zip(batches, expected[1], strict=True):
            for key, value in batch.items():
                np.testing.assert_array_equal(value, other[key])


def test_a_bpe_learns_from_the_beginning_of_a_large_text(monkeypatch):
    raw = np.frombuffer(("abab " * 100 + "cdcd " * 100).encode(), np.uint8)
    assert "cd" in make_tokenizer("bpe", 260, raw).files["tokenizer.json"]
    monkeypatch.setattr(tokens, "SAMPLE", 500)
    learned = make_tokenizer("bpe", 258, raw)
    assert '"ab"' in learned.files["tokenizer.json"] and '"cd"' not in learned.files["tokenizer.json"]
    assert learned.decode(learned.encode(raw)) == raw.tobytes().decode()


@pytest.mark.parametrize("layout", ["windows", "stream"])
@pytest.mark.parametrize("tokenizer", ["bytes", "bpe", "chars", "words"])
def test_packed_documents(tmp_path, layout, tokenizer):
    """Every token is predicted once, and from its own document or the token that begins it alone."""
    texts = ["one two", "three", "four five six seven eight nine", "ten", "eleven twelve"] * 4
    folder = folder_of(tmp_path / "docs", **{f"{i:02}": t for i, t in enumerate(texts)})
    options = {"vocab_size": 280} if tokenizer == "bpe" else {}
    data = text_file(folder, folder, context=16, tokenizer=tokenizer, layout=layout, packing="within", **options)
    split = data.splits["validation"]
    end, size = split.text.end, split.eval_batch_size(4)
    seen = 0
    for index in range(split.eval_batches(size)):
        batch = split.eval_batch(index, size, slice(0, size))
        assert batch["segments"].dtype == batch["positions"].dtype == np.int32
        for inputs, mask, segments, positions in zip(
            *(batch[key] for key in ("inputs", "mask", "segments", "positions")), strict=True
        ):
            segment = position = 0
            for t in np.flatnonzero(mask):
                if inputs[t] == end:
                    segment, position = segment + 1, 0
                assert (segments[t], positions[t]) == (segment, position)
                position += 1
        seen += int(batch["mask"].sum())
    assert seen == len(split.text.tokens) - 1
    assert (np.asarray(split.text.tokens) == end).sum() == len(texts) + 1
    training = data.splits["train"].train_batch(0, 1, 8, ALL)
    halves = [data.splits["train"].train_batch(0, 1, 8, rows) for rows in (slice(0, 4), slice(4, 8))]
    for key, value in training.items():
        np.testing.assert_array_equal(value, np.concatenate([half[key] for half in halves]))


def test_a_checkpoints_own_end_of_text(tmp_path):
    from tokenizers import Tokenizer

    raw = np.frombuffer(b"one two three " * 20, np.uint8)
    bpe = Tokenizer.from_str(make_tokenizer("bpe", 262, raw).files["tokenizer.json"])
    bpe.add_special_tokens(["<|endoftext|>"])
    bpe.save(str(tmp_path / "tokenizer.json"))
    folder = folder_of(tmp_path / "docs", a="one two", b="three", c="two")
    data = text_file(folder, folder, context=4, tokenizer=str(tmp_path), packing="within")
    assert data.splits["train"].text.end == 262
    assert (np.asarray(data.splits["train"].text.tokens) == 262).sum() == 4


@pytest.mark.parametrize("kind", ["chars", "words"])
def test_a_runs_own_tokenizer_goes_on(tmp_path, kind):
    raw = np.frombuffer(TRAIN.encode(), np.uint8)
    first = make_tokenizer(kind, None, raw)
    (tmp_path / "tokenizer.json").write_text(first.files["tokenizer.json"])
    again = make_tokenizer(str(tmp_path), None, raw[:0])
    np.testing.assert_array_equal(again.encode(raw), first.encode(raw))
    np.testing.assert_array_equal(again.token_bytes, first.token_bytes)
    assert again.identity == first.identity and again.end == first.end
