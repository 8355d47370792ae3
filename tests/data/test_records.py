"""Tables of the user's own: what is read, and each way in which a record can be bad."""

import json

import pytest

from bigjax.data.records import BadRecords, read_table
from bigjax.errors import UserError

FILES = {
    ".tsv": 'sentence\tlabel\nhe said "no\t0\n\nfine, really\t1\n',
    ".csv": 'label,sentence\n0,"he said ""no"\n1,"fine, really"\n',
    ".jsonl": '{"sentence": "he said \\"no", "label": 0}\n\n{"sentence": "fine, really", "label": 1, "more": 2}\n',
}


def read(path, columns=("sentence", "label"), on_error="stop"):
    bad = BadRecords(on_error)
    return list(read_table(str(path), "train", columns, bad)), bad


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_gives_the_same_records(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    path.write_text("\ufeff" + FILES[kind])  # as some editors begin a file
    records, bad = read(path)
    assert [(r.values["sentence"], int(r.values["label"])) for r in records] == [
        ('he said "no', 0),
        ("fine, really", 1),
    ]
    assert records[0].where == f"{str(path)!r} line {1 if kind == '.jsonl' else 2}"
    assert bad.notes == ()


@pytest.mark.parametrize(
    ("name", "content", "where", "problem"),
    [
        ("a.tsv", b"sentence\tlabel\ngood\t1\n \t0\n", "line 3", "nothing in 'sentence'"),
        ("a.tsv", b"sentence\tlabel\ngood\t1\nbad\n", "line 3", "1 columns, but the first line names 2"),
        ("a.tsv", b"sentence\tlabel\ngood\t1\nb\xffd\t0\n", "line 3", "not UTF-8 at byte 1"),
        ("a.jsonl", b'{"sentence": "good", "label": 1}\n{"sentence": 3,\n', "line 2", "no JSON"),
        ("a.jsonl", b'{"sentence": "good", "label": 1}\n[1, 2]\n', "line 2", "no JSON object"),
        ("a.jsonl", b'{"sentence": "good", "label": 1}\n{"sentence": "b"}\n', "line 2", "nothing in 'label'"),
        (
            "a.jsonl",
            b'{"sentence": "good", "label": 1}\n' + b"[" * 100_000 + b"]" * 100_000,
            "line 2",
            "no JSON: nested too deeply to be read",
        ),
        (
            "a.jsonl",
            b'{"sentence": "good", "label": 1}\n{"sentence": "\\uD83D", "label": 1}\n',
            "line 2",
            "half a character",
        ),
        ("a.csv", b'sentence,label\ngood,1\n"bad,0\n', "line 3", "cannot be cut into columns"),
        ("a.csv", b'label,sentence\n1,good\n0,"bad\n1,fine\n', "line 3", "cannot be cut into columns"),
        ("a.csv", b'label,sentence\n1,good\n0,"bad" or not\n', "line 3", "cannot be cut into columns"),
    ],
)
def test_a_bad_record_stops_the_run_or_is_skipped(tmp_path, name, content, where, problem):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError) as told:
        read(path)
    assert f"{str(path)!r} {where}" in str(told.value) and problem in str(told.value)
    records, bad = read(path, on_error="skip")
    assert [r.values["sentence"] for r in records] == ["good"]
    (note,) = bad.notes
    assert note.startswith("skipped 1 bad record: ") and problem in note


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.tsv", None, "There is no file"),
        ("a.tsv", b"", "is empty"),
        ("a.txt", b"x", "must end in .tsv, .csv or .jsonl"),
        ("a.csv", b"sentnce,label\nx,1\n", "has no column 'sentence' in its first line; did you mean 'sentnce'?"),
        ("a.csv", b"sentence,label,label\nx,1,1\n", "has several columns 'label' in its first line"),
        ("a.csv", b"sentnce,label\nx,1\n\xff\n", "did you mean 'sentnce'?"),
        ("a.tsv", b"sentence\tlabel\rgood\t1\r", "line 1: it cannot be cut into columns"),
        ("a.tsv", b"sentence\tlabel\xff\ngood\t1\n", "line 1: not UTF-8 at byte 14"),
        ("a.csv", b'"sentence,label\ngood,1\n', "line 1: it cannot be cut into columns"),
        ("a.jsonl", b'no\n\n{"sentnce": "x", "label": 1}\n', "line 3 has no key 'sentence'; did you mean 'sentnce'?"),
        ("a.jsonl", b'{"words": "x", "label": 1}\n', "line 1 has no key 'sentence'; choose from label, words."),
    ],
)
def test_a_wrong_file_stops_even_when_records_are_skipped(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=sentence.replace(".", r"\.").replace("?", r"\?")):
        read(tmp_path / name, on_error="skip")


def test_many_bad_records_are_counted_and_the_first_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"sentence": "good"}\n' + "no\n" * 7)
    records, bad = read(tmp_path / "a.jsonl", ("sentence",), "skip")
    assert len(records) == 1
    assert bad.notes[0].startswith("skipped 7 bad records") and bad.notes[0].count("line") == 6


def test_lines_are_counted_over_those_that_are_skipped(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"sentence\tlabel\nb\xffd\t0\n\ngood\t1\n")
    records, bad = read(tmp_path / "a.tsv", on_error="skip")
    assert [record.where[-6:] for record in records] == ["line 4"] and len(bad.problems) == 1


def test_a_row_of_several_lines_is_where_it_begins(tmp_path):
    (tmp_path / "a.csv").write_text('sentence,label\n"one\ntwo",0\nthree,1\n')
    records, _ = read(tmp_path / "a.csv")
    assert [record.where[-6:] for record in records] == ["line 2", "line 4"]


def test_a_text_may_be_long(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label\n" + "x" * 200_000 + ",1\n")
    assert len(read(tmp_path / "a.csv")[0]) == 1


def test_an_escaped_character_of_two_halves_is_whole(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"sentence": "😀", "label": 0}))
    ((_, values),) = read(tmp_path / "a.jsonl")[0]
    assert values["sentence"] == "😀"


def test_null_is_nothing(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"sentence": null, "label": 0}\n')
    with pytest.raises(UserError, match="line 1: there is nothing in 'sentence'"):
        read(tmp_path / "a.jsonl")
