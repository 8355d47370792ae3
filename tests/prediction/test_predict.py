"""What `bigjax predict` takes for an input, and how it prints answers."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import bigjax
from bigjax.cli import main
from bigjax.data.digits import digits
from bigjax.errors import UserError
from bigjax.prediction.image_classification import ImagePredictor
from bigjax.prediction.predict import inputs, readable
from bigjax.prediction.predictor import Predictor


class Texts(Predictor):
    fields = ("text", "context")


class Images(Predictor):
    fields = ("image",)
    suffixes = (".png", ".jpg")


PLAIN = SimpleNamespace(config={"data": {}})
TEXTS, IMAGES = Texts(PLAIN), Images(PLAIN)
CONTEXT = {"context": "c"}


def test_a_text_is_itself():
    long = "A sentence of many words. " * 20
    for text in ("Who?", long, "two\nlines", "~nobody knows", "what is in notes.txt", "a\0b"):
        assert inputs(TEXTS, text, CONTEXT) == [{"text": text, "context": "c"}]


def test_a_file_and_a_folder_of_texts(tmp_path):
    (tmp_path / "b.txt").write_text("\ufeffsecond\n")
    (tmp_path / "a.TXT").write_text(" first\n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "other.md").write_text("no")
    assert inputs(TEXTS, str(tmp_path / "b.txt"), CONTEXT) == [{"text": "second", "context": "c"}]
    assert [example["text"] for example in inputs(TEXTS, str(tmp_path), CONTEXT)] == ["first", "second"]


def test_a_file_of_another_kind_is_not_taken_for_a_text(tmp_path):
    (tmp_path / "notes.md").write_text("no")
    with pytest.raises(UserError, match=r"notes.md' must end in one of .txt, .tsv, .csv, .jsonl, or be a folder"):
        inputs(TEXTS, str(tmp_path / "notes.md"), CONTEXT)


def test_a_jsonl_of_texts(tmp_path):
    file = tmp_path / "a.jsonl"
    lines = [{"context": "own", "text": "one\u2028line", "id": 3}, {"text": "other"}]
    file.write_text("\n" + "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    found = inputs(TEXTS, str(file), CONTEXT)
    assert found == [{"text": "one\u2028line", "context": "own"}, {"text": "other", "context": "c"}]
    assert [list(example) for example in found] == [["text", "context"]] * 2


def test_tables_have_the_columns_of_training(tmp_path):
    data = {"text_column": "premise", "pair_column": "text", "label_column": "label"}  # "text" is another field, too
    predictor = Texts(SimpleNamespace(config={"data": data}))
    expected = [{"text": 'a "b', "context": "c, d"}, {"text": "e", "context": "f"}]
    (tmp_path / "a.tsv").write_text('text\tid\tpremise\nc, d\t1\ta "b\nf\t2\te\n')
    (tmp_path / "a.CSV").write_text('premise,text,context\n"a ""b","c, d",no\ne,f,no\n')
    rows = [{"premise": 'a "b', "text": "c, d", "label": 3}, {"text": "e", "context": "f"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("a.tsv", "a.CSV", "a.jsonl"):
        assert inputs(predictor, str(tmp_path / name), {}) == expected
    (tmp_path / "half.tsv").write_text("premise\na\n")
    assert inputs(predictor, str(tmp_path / "half.tsv"), CONTEXT) == [{"text": "a", "context": "c"}]
    with pytest.raises(UserError, match=r"half.tsv' has no column 'text' in its first line"):
        inputs(predictor, str(tmp_path / "half.tsv"), {})


@pytest.mark.parametrize(
    ("data", "columns"),
    [
        ({"text_column": "sentence", "pair_column": None}, {"text": "sentence", "context": "context"}),
        ({"source_column": "en", "target_column": "fr"}, {"text": "en", "context": "context"}),
        ({"text_key": "premise", "pair_key": "hypothesis"}, {"text": "premise", "context": "hypothesis"}),
    ],
)
def test_the_columns_are_those_that_the_data_name(data, columns):
    assert Texts(SimpleNamespace(config={"data": data})).columns == columns


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("sentence\na\n", "a.tsv' has no column 'text' in its first line"),
        ("text\n", "a.tsv' is empty"),
        ("text\tid\na\t1\n\nb\n", r"a.tsv' line 4: 1 columns, but the first line names 2\.$"),
        ("text\tid\na\t1\n \t2\n", "a.tsv' line 3 has no text"),
    ],
)
def test_what_is_wrong_with_a_tsv_is_named(tmp_path, content, sentence):
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(UserError, match=sentence):
        inputs(TEXTS, str(tmp_path / "a.tsv"), CONTEXT)


def test_a_file_that_a_table_lists_and_is_missing_is_named_with_its_line(tmp_path):
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "list.csv").write_text("id,image\n1,b.png\n2,c.png\n")
    (tmp_path / "list.jsonl").write_text('{"image": "b.png"}\n\n{"image": "c.png"}\n')
    for name in ("list.csv", "list.jsonl"):
        with pytest.raises(UserError, match=rf"{name}' line 3: there is no file '{tmp_path}/c.png'\.$"):
            inputs(IMAGES, str(tmp_path / name), {})
    (tmp_path / "list.jsonl").write_text('{"image": ""}\n')
    with pytest.raises(UserError, match=r"list.jsonl' line 1 has no image"):
        inputs(IMAGES, str(tmp_path / "list.jsonl"), {})


def test_files_of_images(tmp_path):
    for name in ("b.png", "a.jpg", "c.txt"):
        (tmp_path / name).write_bytes(b"")
    assert inputs(IMAGES, str(tmp_path), {}) == [{"image": str(tmp_path / name)} for name in ("a.jpg", "b.png")]
    (tmp_path / "list.jsonl").write_text('{"image": "b.png"}\n')
    assert inputs(IMAGES, str(tmp_path / "list.jsonl"), {}) == [{"image": str(tmp_path / "b.png")}]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "a.jsonl' is empty"),
        (b"\n\n", "a.jsonl' is empty"),
        (b'{"text": "a"}\n{"text": \n', "a.jsonl' line 2: no JSON: "),
        (b'{"text": "a"}\n' + b"[" * 100_000, "a.jsonl' line 2: no JSON: "),
        (b'\n{"text": "a \\ud83d"}\n', "a.jsonl' line 2: a .* that is half a character"),
        (b'\n\n["text"]\n', "a.jsonl' line 3: no JSON object"),
        (b'{"text": 3}\n', "a.jsonl' line 1 must be an object with texts: text, context"),
        (b'{"sentence": "a"}\n', "a.jsonl' line 1 must be an object with texts: text, context"),
        (b'{"text": "a"}\n{"text": " "}\n', "a.jsonl' line 2 has no text"),
        (b'{"context": "a"}\n', "a.jsonl' line 1 has no text"),
        (b'{"text": "\xff"}\n', "a.jsonl' line 1: not UTF-8 at byte 10"),
    ],
)
def test_what_is_wrong_with_a_jsonl_is_named(tmp_path, content, sentence):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        inputs(TEXTS, str(tmp_path / "a.jsonl"), CONTEXT)


@pytest.mark.parametrize(
    ("predictor", "source", "options", "sentence"),
    [
        (TEXTS, "a", {}, r"An input has no context \(--context\)"),
        (TEXTS, " ", CONTEXT, "An input has no text"),
        (TEXTS, "a", {"passage": "b"}, "This task has no 'passage'; an input has text, context"),
        (IMAGES, "a.png", CONTEXT, "This task has no 'context'; an input has image"),
        (TEXTS, "a \udcff", CONTEXT, "An input has half a character in its text"),
        (IMAGES, "a dog", {}, "'a dog' must end in one of .png, .jpg, .tsv, .csv, .jsonl, or be a folder"),
        (IMAGES, "a dog.png", {}, r"There is no file 'a dog.png'\.$"),
        *(
            (TEXTS, name, CONTEXT, rf"There is no file '{name}'\.$")
            for name in ("no.json", "no.jsonl", "no/no.txt", "no.tsv", "NO.CSV", "dog.jpg", "no.wav", "no.flac")
        ),
        (TEXTS, "reviews/", CONTEXT, r"There is no folder 'reviews/'\.$"),
    ],
)
def test_what_cannot_be_an_input_is_named(predictor, source, options, sentence):
    with pytest.raises(UserError, match=sentence):
        inputs(predictor, source, options)


def test_files_with_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match=r"has no files that end in .txt"):
        inputs(TEXTS, str(tmp_path), CONTEXT)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(UserError, match=r"a.txt' has no text"):
        inputs(TEXTS, str(tmp_path / "a.txt"), CONTEXT)
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"a.txt' cannot be read as UTF-8 text"):
        inputs(TEXTS, str(tmp_path), CONTEXT)


def test_an_answer_for_a_person():
    answer = {"answer": "cat", "probability": 0.75, "score": 1.5, "alternatives": [{"answer": "", "probability": 0.25}]}
    shown = readable({"image": "x" * 70}, answer).splitlines()
    assert shown == ["x" * 57 + "...: cat (75.0%)", "    (no answer) (25.0%)", "    score: 1.5"]
    assert readable({"text": "a  b\nc"}, {"answer": "tab\t"}) == r"a b c: 'tab\t'"


def test_an_image_is_read_as_evaluation_reads_it(tmp_path):
    options = {"image_size": 28, "crop": 24}
    whole, read = digits(), digits(**options)
    Image.fromarray(whole.splits["test"].eval_batch(0, 1, slice(None))["image"][0, :, :, 0]).save(tmp_path / "0.png")
    run = SimpleNamespace(config={"data": {"name": "digits", **options}}, info=read.info)
    pixels = read.splits["test"].eval_batch(0, 1, slice(None))["image"][0]
    np.testing.assert_array_equal(ImagePredictor(run).read(str(tmp_path / "0.png")), pixels)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = {
        "model": {"name": "cnn"},
        "task": {"name": "image_classification"},
        "data": {"name": "digits"},
        "optimizer": {"name": "sgd", "learning_rate": 0.01},
        "train": {"steps": 1, "batch_size": 8},
    }
    return bigjax.train(config, workdir=tmp_path_factory.mktemp("run") / "digits", quiet=True)


def test_the_command_answers_for_people_and_machines(run, tmp_path, capsys):
    height, width, _ = run.info["image_shape"]
    for number in range(2):
        Image.fromarray(np.full((height, width), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    assert main(["predict", str(tmp_path), f"--workdir={run.workdir}"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(" ".join(str(tmp_path / "0.png").split())[:57]) and printed.count("%)") == 10
    assert main(["predict", str(tmp_path), f"--workdir={run.workdir}", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(tmp_path / f"{number}.png") for number in range(2)]
    for line in lines:
        assert line["answer"] in run.info["class_names"] and 0 < line["probability"] <= 1
        assert len(line["alternatives"]) == 4
    assert main(["predict", str(tmp_path), f"--workdir={run.workdir}", "--context=x"]) != 0
    assert "This task has no 'context'; an input has image" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "2.png"), f"--workdir={run.workdir}"]) != 0
    assert "There is no file" in capsys.readouterr().err


def test_a_damaged_file_is_told_after_the_answers_to_those_before_it(run, tmp_path, capsys):
    height, width, _ = run.info["image_shape"]
    for number in range(4):
        Image.fromarray(np.full((height, width), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    assert main(["predict", str(tmp_path), f"--workdir={run.workdir}", "--json"]) == 2
    printed = capsys.readouterr()
    names = [json.loads(line)["image"] for line in printed.out.splitlines()]
    assert names == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    assert f"{str(tmp_path / '2.png')!r} is damaged or not an image" in printed.err
