"""What a classifier of texts answers, through the command, without the data it was trained on."""

import json

import numpy as np
import pytest

import bigjax
from bigjax.cli import main
from bigjax.errors import UserError
from bigjax.prediction.sequence_classification import SequencePredictor

GOOD, BAD = ("fine", "lovely", "great"), ("dull", "awful", "poor")
TRAIN = {"steps": 30, "batch_size": 8, "log_every": 0, "eval_every": 0, "checkpoint_every": 0}


def sentence(i, words):
    return f"a {words[i % 3]} film" + " , indeed" * (i % 4)


def train(folder, rows, header, **data):
    table = folder / "train.tsv"
    table.write_text("\n".join("\t".join(row) for row in (header, *rows)) + "\n")
    config = {
        "model": {"name": "rnn_classifier", "d_model": 8},
        "task": {"name": "sequence_classification"},
        "data": {"name": "text_table", "train": str(table), "vocab_size": 80, "buckets": 1, "max_length": 14} | data,
        "optimizer": {"name": "adam", "learning_rate": 0.03},
        "train": TRAIN,
    }
    run = bigjax.train(config, workdir=folder / "run", quiet=True)
    table.unlink()  # nobody needs it any more
    return run


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Good and bad films."""
    rows = [(sentence(i, words), label) for i in range(24) for words, label in ((GOOD, "good"), (BAD, "bad"))]
    return train(tmp_path_factory.mktemp("single"), rows, ("text", "label"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """The second text alone decides."""
    rows = [("a film", sentence(i, w), label) for i in range(24) for w, label in ((GOOD, "yes"), (BAD, "no"))]
    folder, header = tmp_path_factory.mktemp("pairs"), ("text", "second", "label")
    return train(folder, rows, header, pair_column="second")


def ask(capsys, run, *words):
    """The answers of `bigjax predict --json`."""
    assert main(["predict", *map(str, words), f"--workdir={run.workdir}", "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_typed_text_has_a_label_and_all_probabilities(capsys, single):
    assert single.result["metrics"]["validation"]["accuracy"] == 1
    (answer,) = ask(capsys, single, "a lovely film")
    assert answer["answer"] == "good" and answer["probability"] > 0.8
    (other,) = answer["alternatives"]
    assert other["answer"] == "bad" and other["probability"] + answer["probability"] == pytest.approx(1, abs=1e-6)
    assert main(["predict", "a dull film", f"--workdir={single.workdir}"]) == 0
    assert capsys.readouterr().out.startswith("a dull film: bad (")


def test_a_folder_and_a_jsonl_answer_as_one_text_after_another(capsys, single, tmp_path):
    texts = ["a great film", "an awful film , indeed", "a poor film"]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text + "\n")
    lines = [json.dumps({"text": text, "id": 7}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines) + "\n")
    alone = [ask(capsys, single, text)[0] for text in texts]
    assert [a["answer"] for a in alone] == ["good", "bad", "bad"]
    for source in (tmp_path, tmp_path / "texts.jsonl"):
        together = ask(capsys, single, source)
        assert [a["answer"] for a in together] == [a["answer"] for a in alone]
        np.testing.assert_allclose([a["probability"] for a in together], [a["probability"] for a in alone], atol=1e-6)


def test_a_long_text_is_cut_as_in_training(single):
    whole, cut = SequencePredictor(single)([{"text": "a dull film" + " film" * n} for n in (60, 9)])
    assert whole == cut


def test_a_pair_takes_its_second_text_from_the_context(capsys, pairs, tmp_path):
    (answer,) = ask(capsys, pairs, "a film", "--context=a lovely film")
    assert answer["answer"] == "yes"
    (tmp_path / "pairs.jsonl").write_text(
        '{"text": "a film", "context": "a poor film"}\n{"text": "a film", "context": "a great film"}\n'
    )
    assert [a["answer"] for a in ask(capsys, pairs, tmp_path / "pairs.jsonl")] == ["no", "yes"]


def test_the_columns_of_training_are_those_of_prediction(capsys, pairs, tmp_path):
    (tmp_path / "pairs.tsv").write_text("label\tsecond\ttext\n?\ta poor film\ta film\n?\ta great film\ta film\n")
    found = ask(capsys, pairs, tmp_path / "pairs.tsv")
    assert [(a["context"], a["answer"]) for a in found] == [("a poor film", "no"), ("a great film", "yes")]


def test_what_is_missing_is_told(capsys, single, pairs):
    assert main(["predict", "a film", f"--workdir={pairs.workdir}"]) == 2
    assert "An input has no context (--context)" in capsys.readouterr().err
    assert main(["predict", "a film", "--context=x", f"--workdir={single.workdir}"]) == 2
    assert "This task has no 'context'" in capsys.readouterr().err
    (single.workdir / "tokenizer.json").rename(single.workdir / "away.json")
    try:
        with pytest.raises(UserError, match="has lost its tokenizer"):
            SequencePredictor(bigjax.load(single.workdir))([{"text": "a film"}])
    finally:
        (single.workdir / "away.json").rename(single.workdir / "tokenizer.json")


def test_the_report_and_the_folder_say_what_was_learned(single):
    assert single.info["class_names"] == ["bad", "good"] and single.info["pairs"] is False
    assert {"accuracy", "macro_f1", "loss"} <= single.result["metrics"]["validation"].keys()
    report = (single.workdir / "report.html").read_text()
    assert "predictions are wrong" in report and "film" in report
