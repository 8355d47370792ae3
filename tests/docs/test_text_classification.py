"""The commands of docs/text_classification.md run as they stand there, on tiny files."""

import json
import re
import shlex

import jax
import pytest
from flax import nnx
from helpers import ROOT

from bigjax.cli import main, parse_overrides
from bigjax.data.subwords import subword_tokenizer
from bigjax.models.bert import BERT
from bigjax.pretrained.save import save_pretrained
from bigjax.run import read_config

GUIDE = (ROOT / "docs" / "text_classification.md").read_text()
COMMANDS = re.findall(r"^bigjax .*$", GUIDE, re.M)
GOOD, BAD = "a stirring and moving film .", "dull from start to end ."
QUICK = (
    "train.epochs=2",
    "train.batch_size=8",
    "data.buckets=1",
    "optimizer.warmup_steps=2",
    "optimizer.learning_rate=0.01",
)
SMALL = {
    "sst2_minilm": (),
    "sst2_lstm": ("model.d_model=8", "data.vocab_size=90"),
    "sst2_lstm:transformer": ("model.d_model=8", "model.num_layers=1", "model.num_heads=2", "data.vocab_size=90"),
}


def checkpoint(folder):
    """A tiny BERT without a head, as a Hugging Face folder with a tokenizer."""
    tokenizer = subword_tokenizer("wordpiece", 60, [GOOD, BAD])
    model = {"vocab_size": tokenizer.get_vocab_size(), "context": 128, "d_model": 8, "num_layers": 1, "num_heads": 2}
    bert = jax.jit(lambda: BERT(**model, rngs=nnx.Rngs(0)))()
    section = {"name": "bert", "head": "pooler", "d_ff": None, "num_types": 2, "norm_epsilon": 1e-12, "dropout": 0.1}
    save_pretrained(folder, bert, section | {"num_classes": None} | model, tokenizer=tokenizer)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with all that the commands name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "path" / "to").mkdir(parents=True)
    checkpoint(tmp_path / "path" / "to" / "checkpoint")
    rows = [(GOOD, "positive"), (BAD, "negative")] * 12
    for name in ("train", "dev", "test"):
        lines = ["text\tlabel", *("\t".join(row) for row in rows)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    pairs = [{"premise": GOOD, "hypothesis": text, "label": label} for text, label in rows]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)) + "\n")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": GOOD}) + "\n" + json.dumps({"text": BAD}) + "\n")
    return tmp_path


def test_the_commands_run(files, capsys):
    done = []
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        experiment = re.search(r"experiments/(\w+)\.py(:transformer)?", command)
        if "tfds" in command:
            continue  # needs a prepared data set: see the next test
        if experiment:
            overrides = (*QUICK, *SMALL[experiment[1] + (experiment[2] or "")])
            words += [f"--config.{override}" for override in overrides]
        assert main(words) == 0, capsys.readouterr().err
        done.append((words[0], capsys.readouterr().out))
    assert [verb for verb, _ in done] == ["train"] * 4 + ["evaluate"] + ["predict"] * 3
    for folder in ("tuned", "lstm", "transformer", "pairs"):
        result = json.loads((files / "runs" / folder / "result.json").read_text())
        assert result["status"] == "completed" and "macro_f1" in result["metrics"]["validation"]
    assert "macro_f1" in done[4][1]
    assert len([json.loads(line) for line in done[6][1].splitlines()]) == 2
    assert "It rained all day." in done[7][1]


def test_the_experiment_on_tfds_is_one():
    (command,) = [command for command in COMMANDS if "tfds" in command]
    config = read_config(str(ROOT / re.search(r"--config=(\S+)", command)[1]), None)
    assert config["data"]["dataset"] == "glue/sst2" and config["data"]["text_key"] == "sentence"


def test_the_keys_for_imdb_reviews_are_ones():
    (words,) = re.findall(r"`(--config\.data\.dataset=imdb_reviews[^`]*)`", GUIDE)
    overrides = parse_overrides(shlex.split(words), takes_config=True)
    data = read_config(f"{ROOT}/experiments/sst2_lstm.py:tfds", overrides)["data"]
    assert (data["dataset"], data["text_key"], data["max_length"]) == ("imdb_reviews", "text", 400)
    assert (data["train_split"], data["validation_split"]) == ("train[:90%]", "train[90%:]")
