"""The commands of docs/language_modelling.md run as they stand there, on tiny files and with tiny models."""

import json
import re
from pathlib import Path

import pytest

from bigjax.cli import main
from bigjax.config import experiment_config

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "language_modelling.md").read_text()
SECTIONS = dict(section.split("\n", 1) for section in GUIDE.split("\n## ")[1:])
SENTENCE = "The king of <unk> said that the queen would not come \n"
TINY = {
    "data.context": 16,
    "model.num_layers": 1,
    "model.d_model": 16,
    "train.steps": 2,
    "train.batch_size": 4,
    "train.precision": "float32",
    "optimizer.warmup_steps": 0,
}
FEW = {"task.sample_tokens": 4}
OF = {
    "text_gpt": {"model.num_heads": 2, **FEW},
    "shakespeare_gpt": {"model.num_heads": 2, **FEW},
    "shakespeare_gpt:bpe": {"model.num_heads": 2, "data.vocab_size": 280, **FEW},
    "bert_pretraining": {"model.num_heads": 2, "data.vocab_size": 60},
    "ptb_lstm": FEW,
    "ptb_lstm:awd": {"model.d_hidden": 12, **FEW},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with the experiments, and all files that the guide names."""
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    (tmp_path / "book.txt").write_text(SENTENCE * 40)
    (tmp_path / "books").mkdir()
    for number in range(20):
        (tmp_path / "books" / f"{number}.txt").write_text(SENTENCE)
    lines = [json.dumps({"text": SENTENCE}) for _ in range(20)]
    (tmp_path / "records.jsonl").write_text("\n".join([*lines, '{"text": 3}', "no JSON"]))
    for name, files in (("ptb", "ptb.{}.txt"), ("wikitext-2", "wiki.{}.tokens")):
        (tmp_path / name).mkdir()
        for split in ("train", "valid", "test"):
            (tmp_path / name / files.format(split)).write_text(SENTENCE * 20)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(heading):
    """The commands below a heading, each as its words; those of training with what makes them tiny."""
    found = []
    for line in "".join(re.findall(r"```\n(.*?)```", SECTIONS[heading], re.S)).splitlines():
        words = [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*")+', line)]
        assert words.pop(0) == "bigjax"
        if words[0] == "train":
            name = words[1].removeprefix("--config=experiments/").replace(".py", "")
            words += [f"--config.{key}={value}" for key, value in (TINY | OF[name]).items()]
        found.append(words)
    return found


@pytest.mark.parametrize(
    "heading",
    [
        "A text file",
        "Documents: a folder, or JSONL",
        "Penn Treebank and WikiText",
        "Masked language modelling",
    ],
)
def test_the_guides_commands_run(folder, heading, capsys):
    for words in commands(heading):
        assert main(words) == 0, words
    printed = capsys.readouterr().out
    assert "params_sha256" in printed
    if "records.jsonl" in SECTIONS[heading]:
        assert "skipped 2 bad records" in printed


def test_the_config_for_one_billion_words_is_whole(folder, monkeypatch):
    """The data cannot be had here."""
    (block,) = re.findall(r"```python\n(.*?)```", SECTIONS["One Billion Words"], re.S)
    given = {}
    monkeypatch.setattr("bigjax.train", lambda config, workdir: given.update(config.to_dict()))
    exec(block, {})
    assert given["data"]["dataset"] == "lm1b"
    from bigjax.training.setup import resolve

    assert resolve(given)["data"]["text_key"] == "text"
    assert experiment_config("experiments/text_gpt.py").model.to_dict() == given["model"]
