"""Questions from every kind of file, and each way in which one can be bad."""

import json

import numpy as np
import pytest
import tiny_builders.builders  # noqa: F401  (importing them registers them)

from bigjax.data.prepare import prepare
from bigjax.data.questions import Question, read_questions
from bigjax.data.records import BadRecords
from bigjax.data.squad import squad, tfds_squad
from bigjax.errors import UserError

PASSAGE = "Zoé lives in Bonn; she was born in Köln, not in Bonn."
WHO = {"id": "a", "question": "Who lives in Bonn?", "answers": [{"text": "Zoé", "answer_start": 0}]}
BORN = {"id": "b", "question": "Where was she born?", "answers": [{"text": "Köln", "answer_start": 35}]}
WHY = {"id": "c", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": [{"text": "x"}]}


def article(*questions, title="Zoé", context=PASSAGE):
    return {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}


def save(path, *articles):
    path.write_text(json.dumps({"version": "1.1", "data": articles}, ensure_ascii=False), encoding="utf-8")
    return str(path)


def read(source, on_error="stop"):
    bad = BadRecords(on_error)
    return read_questions(source, "train", bad), bad


def test_articles_and_parts_of_them(tmp_path):
    path = save(tmp_path / "a[1].json", article(WHO), article(BORN, WHY), article(WHO))
    whole, _ = read(path)
    assert whole[:3] == [
        Question("Who lives in Bonn?", PASSAGE, ("Zoé",), 0),
        Question("Where was she born?", PASSAGE, ("Köln",), 35),
        Question("Why?", PASSAGE, (), -1),
    ]
    assert [len(read(path + part)[0]) for part in ("[:1]", "[1:]", "[-2:]", "[1:2]", "[:-1]", "[:]")] == [
        1,
        3,
        3,
        2,
        3,
        4,
    ]
    with pytest.raises(UserError, match="The test split is empty"):
        squad(path, test=path + "[3:]", vocab_size=60)


@pytest.mark.parametrize(
    "record",
    [
        {"answer": "Köln"},
        {"answer": "Köln", "answer_start": 35},
        {"answers": ["Köln", "in Köln"]},
        {"answers": [{"text": "Köln", "answer_start": 35}]},
        {"answers": [{"text": "Köln"}]},
        {"answers": {"text": ["Köln"], "answer_start": [35]}},
    ],
)
def test_lines_of_many_forms(tmp_path, record):
    path = tmp_path / "a.jsonl"
    about = {"question": "Where?", "context": PASSAGE}
    path.write_text(json.dumps(about | record) + "\n" + json.dumps(about | {"answer": ""}))
    (first, second), _ = read(str(path))
    assert first[2][0] == "Köln" and first.start == 35
    assert second == Question("Where?", PASSAGE, (), -1)
    assert len(read(f"{path}[:1]")[0]) == 1


def test_tables(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(f"question\tcontext\tanswer\tanswer_start\nWhere?\t{PASSAGE}\tBonn\t48\nWho?\t{PASSAGE}\tZoé\t\n")
    assert [q.start for q in read(str(path))[0]] == [48, 0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answers": [{"text": "Koln", "answer_start": 35}]}, "'Koln' does not stand at character 35 of its passage"),
        ({"answers": [{"text": "Köln", "answer_start": -18}]}, "does not stand at character -18"),
        ({"answers": [{"text": "Bonn"}]}, "'Bonn' stands 2 times in its passage; 'answer_start' must say where"),
        ({"answers": [{"text": "Rome"}]}, "'Rome' stands 0 times"),
        ({"answers": [{"text": "Köln", "answer_start": "x"}]}, "'answer_start' is no whole number but 'x'"),
        ({"answers": [{"text": "Köln", "answer_start": np.inf}]}, "'answer_start' is no whole number but inf"),
        ({"answers": [{"text": " ", "answer_start": 3}]}, "an answer has no text"),
        (
            {"answers": [BORN["answers"][0], {"text": "Bonn", "answer_start": 0}]},
            "'Bonn' does not stand at character 0",
        ),
        ({"answers": "Köln"}, "'answers' is no list"),
        ({"answers": {"text": "Köln", "answer_start": 35}}, "must be lists of the same length"),
        ({"answers": {"text": ["Köln"], "answer_start": [35, 0]}}, "must be lists of the same length"),
        ({"answers": []}, "it has 0 answers, but 'is_impossible' is false"),
        ({"is_impossible": True}, "it has 1 answers, but 'is_impossible' is true"),
        ({"question": " "}, "'question' has no text"),
        ({"context": None}, "'context' has no text"),
    ],
)
def test_a_bad_question_stops_the_run_or_is_skipped(tmp_path, change, problem):
    path = save(tmp_path / "a.json", article(WHO, BORN | change))
    with pytest.raises(UserError) as told:
        read(path)
    assert str(told.value).startswith(f"{path!r} question 'b' in article 'Zoé': ") and problem in str(told.value)
    questions, bad = read(path, "skip")
    assert [q.text for q in questions] == [WHO["question"]]
    assert bad.notes[0].startswith("skipped 1 bad record: ")


@pytest.mark.parametrize("part", [{"title": "x"}, 3, {"title": "x", "paragraphs": [{"context": "y"}]}])
def test_an_article_that_is_none(tmp_path, part):
    path = save(tmp_path / "a.json", article(WHO), part)
    with pytest.raises(UserError, match="no list of 'paragraphs' with 'context' and a list of 'qas'"):
        read(path)
    assert len(read(path, "skip")[0]) == 1


def test_half_a_character_is_a_bad_question(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [article(WHO, BORN | {"question": "Who is \ud83d?"})]}))
    with pytest.raises(UserError, match=r"question 'b' .* 'question' has a .* escape that is half a character"):
        read(str(path))
    assert len(read(str(path), "skip")[0]) == 1


def test_a_line_without_answer_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "Who?", "context": PASSAGE}))
    with pytest.raises(UserError, match="line 1: it has neither 'answer' nor 'answers'"):
        read(str(path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", None, r"There is no file .* \(config.data.train\)"),
        ("a.json", "{", "is no JSON in UTF-8"),
        ("a.json", "[" * 100_000 + "]" * 100_000, "is no JSON in UTF-8: nested too deeply to be read"),
        ("a.json", "[]", "is not like SQuAD's files"),
        ("a.txt", "x", "must end in .tsv, .csv or .jsonl"),
    ],
)
def test_a_wrong_file(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=sentence):
        read(str(tmp_path / name), "skip")


def test_the_data_set(tmp_path):
    path = save(tmp_path / "a.json", article(WHO, BORN), article(WHO))
    data = squad(path, test=f"{path}[1:]", vocab_size=60, max_length=48, stride=8, max_query_length=16)
    assert data.info == {"vocab_size": 60, "context": 48, "num_types": 2, "unanswerable": False}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "test": 1}
    assert '"[CLS]"' in data.files["tokenizer.json"]
    both = save(tmp_path / "b.json", article(WHO, WHY))
    changed = squad(both, vocab_size=60, max_length=48, stride=8, max_query_length=16, on_error="skip")
    assert changed.info["unanswerable"] and changed.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stride": 0}, "must be positive"),
        ({"max_length": 30, "stride": 12}, "has room for 11 tokens of a passage behind a question of 16"),
        ({"max_length": 8}, "has room for 0 tokens"),
        ({"buckets": 0}, "config.data.buckets must be positive"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, options, sentence):
    path = save(tmp_path / "a.json", article(WHO))
    sizes = {"vocab_size": 60, "max_length": 48, "stride": 8, "max_query_length": 16}
    with pytest.raises(UserError, match=sentence):
        squad(path, **sizes | options)


def test_a_question_of_tfds_that_is_not_utf8(tmp_path):
    prepare("tiny_bad_squad", str(tmp_path))
    options = {"dataset": "tiny_bad_squad", "data_dir": str(tmp_path), "validation_split": None, "vocab_size": 60}
    with pytest.raises(
        UserError, match=r"Example \d of 'train' of 'tiny_bad_squad': a text of it is not UTF-8 at byte 1"
    ):
        tfds_squad(**options)
    data = tfds_squad(**options, on_error="skip")
    assert [q.answers for q in data.splits["train"].references.questions] == [("Zoé", "Zoé lives")]
    assert data.notes[0].startswith("skipped 1 bad record: Example ")


def test_from_tfds_as_from_files(tmp_path):
    for name in ("tiny_squad", "tiny_squad2", "tiny_texts"):
        prepare(name, str(tmp_path))
    one = tfds_squad("tiny_squad", data_dir=str(tmp_path), vocab_size=60)
    questions = sorted(one.splits["train"].references.questions)
    assert [(q.answers, q.start) for q in questions] == [(("Köln",), 35), (("Zoé", "Zoé lives"), 0)]
    two = tfds_squad("tiny_squad2", validation_split=None, data_dir=str(tmp_path), vocab_size=60)
    assert [q.start for q in sorted(two.splits["train"].references.questions)] == [-1, 0]
    assert (one.info["unanswerable"], two.info["unanswerable"]) == (False, True)
    np.testing.assert_array_equal(*(d.splits["train"].references.passage for d in (one, two)))
    with pytest.raises(UserError, match=r"tiny_texts/1.0.0 \(config.data.dataset\) is not like SQuAD: it has no 'id'"):
        tfds_squad("tiny_texts", data_dir=str(tmp_path), vocab_size=60)
