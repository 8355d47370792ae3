"""docs/question_answering.md: its commands run as they stand there, on its own tiny file and a tiny BERT."""

import json
import re
import shlex

import jax
import pytest
from flax import nnx
from helpers import ROOT

import bigjax
from bigjax.cli import main
from bigjax.data.subwords import subword_tokenizer
from bigjax.models.bert import BERT
from bigjax.pretrained.save import save_pretrained

GUIDE = (ROOT / "docs/question_answering.md").read_text()
LINES, TRAIN, ANSWERS = re.findall(r"```(?:json)?\n(.*?)```", GUIDE, re.S)
SMALL = "--config.data.max_length=64 --config.data.stride=16 --config.data.max_query_length=16 --config.train.steps=40 "
SMALL += "--config.train.batch_size=8 --config.optimizer.warmup_steps=4 --config.optimizer.learning_rate=0.01 "
SMALL += "--config.train.checkpoint_every=20 --config.train.eval_every=20 --config.train.log_every=20"
TINY = {"vocab_size": 70, "context": 64, "d_model": 32, "num_layers": 1, "num_heads": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the guide speaks of."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for name in ("train.jsonl", "validation.jsonl"):
        (folder / name).write_text(LINES)
    records = [json.loads(line) for line in LINES.splitlines()]
    asked = [json.dumps({key: record[key] for key in ("question", "context")}) for record in records]
    (folder / "questions.jsonl").write_text("\n".join(asked))
    tokenizer = subword_tokenizer("wordpiece", 70, [LINES] * 3)
    model = jax.jit(lambda: BERT(**TINY, rngs=nnx.Rngs(0)))()
    section = {"d_ff": None, "num_types": 2, "head": "pooler", "num_classes": None, "norm_epsilon": 1e-12}
    save_pretrained(folder / "path/to/bert", model, {"name": "bert", **TINY, **section}, tokenizer=tokenizer)
    return folder


def test_the_guide(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(shlex.split(f"{TRAIN} {SMALL}")[1:]) == 0
    run = bigjax.load("runs/qa")
    figures = run.result["metrics"]["validation"]
    assert figures["exact_match"] == figures["best_f1"] == 100 and run.info["unanswerable"]
    assert "Who liked it?" in (run.workdir / "report.html").read_text()
    capsys.readouterr()
    printed = []
    for command in ANSWERS.splitlines():
        assert main(shlex.split(command)[1:]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0].startswith("Who wrote it?: Ibsen (")
    found = [json.loads(line) for line in printed[1].splitlines()]
    assert [answer["answer"] for answer in found] == ["Ibsen", "1879", ""]
    assert (found[1]["start"], found[1]["end"]) == (33, 37) and "start" not in found[2]
    assert all(0.5 < answer["probability"] <= 1 for answer in found)
    assert "exact_match" in printed[2].replace(" ", "_")
    assert bigjax.load_pretrained("path/to/out").config["head"] == "question_answering"


def test_answers_do_not_depend_on_what_else_is_asked(folder, monkeypatch):
    monkeypatch.chdir(folder)
    passage = " ".join(["The play was written by Ibsen in 1879."] * 9)  # several windows
    asked = [{"question": q, "context": c} for q in ("Who wrote it?", "When?") for c in (passage, passage[:38])] * 5
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, asked)))
    together = [answer for _, answer in bigjax.predict("runs/qa", "many.jsonl")]
    for example, answer in zip(asked[:4], together, strict=False):
        ((_, alone),) = bigjax.predict("runs/qa", example["question"], context=example["context"])
        assert alone["answer"] == answer["answer"] and alone["probability"] == pytest.approx(
            answer["probability"], 1e-4
        )
