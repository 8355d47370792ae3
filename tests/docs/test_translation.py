"""The commands of docs/translation.md run as they stand there, on tiny files."""

import json
import re
import shlex

import numpy as np
import pytest
import tiny_builders.builders  # noqa: F401  (importing them registers them)
from helpers import ROOT, apply

import bigjax
from bigjax.cli import main, parse_overrides
from bigjax.data.numerals import english, french
from bigjax.data.prepare import prepare
from bigjax.errors import UserError
from bigjax.inference.beam import beam_search
from bigjax.models.encoder_decoder import Source
from bigjax.run import read_config
from bigjax.training.setup import set_up

GUIDE = (ROOT / "docs" / "translation.md").read_text()
COMMANDS = re.findall(r"^bigjax .*$", GUIDE, re.M)
QUICK = [
    *("--config.train.steps=20", "--config.optimizer.warmup_steps=5", "--config.train.batch_size=8"),
    *("--config.train.eval_batch_size=16", "--config.model.d_model=8", "--config.model.num_layers=1"),
    *("--config.model.num_heads=2", "--config.model.d_ff=8", "--config.data.vocab_size=280", "--config.data.buckets=1"),
    "--config.task.max_new_tokens=6",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All that the commands name, with the run of the small experiment."""
    path = tmp_path_factory.mktemp("guide")
    (path / "experiments").symlink_to(ROOT / "experiments")
    for name, numbers in (("train", range(40)), ("test", range(40, 50))):
        rows = "".join(f"{english(n)}\t{french(n)}\n" for n in numbers)
        (path / f"{name}.tsv").write_text(f"source\ttarget\n{rows}")
    (path / "texts.jsonl").write_text('{"text": "twenty-one"}\n{"text": "seven"}\n')
    (train,) = [command for command in COMMANDS if command.startswith("bigjax train") and "runs/small" in command]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main([*shlex.split(train)[1:], *QUICK]) == 0
    return path


def test_the_commands_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    printed = []
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        if words[0] in ("evaluate", "predict"):
            assert main(words) == 0, capsys.readouterr().err
            printed.append(capsys.readouterr().out)
    assert "bleu" in printed[0] and "chrf" in printed[0]
    assert printed[1].startswith("Where is the station?: ") and "token probability" in printed[1]
    assert [json.loads(line)["text"] for line in printed[2].splitlines()] == ["twenty-one", "seven"]
    result = json.loads((folder / "runs/small/result.json").read_text())
    assert {"loss", "perplexity", "accuracy", "bleu", "chrf"} == result["metrics"]["test"].keys()
    assert "tok:13a" in (folder / "runs/small/report.html").read_text()


def test_the_papers_experiments_are_ones():
    experiments = [re.search(r"--config=(\S+)", command)[1] for command in COMMANDS if "wmt_transformer" in command]
    configs = [read_config(str(ROOT / experiment), None) for experiment in experiments]
    assert [config["data"]["name"] for config in configs] == ["translation_pairs", "tfds_translation"]
    assert all(config["model"] == configs[0]["model"] for config in configs)
    assert configs[1]["optimizer"]["learning_rate"] == pytest.approx(6.99e-4, rel=1e-3)


def papers_experiment(name, *overrides):
    """The command that trains on the data set `name`, set up with small sizes."""
    commands = [shlex.split(command)[2:] for command in COMMANDS if "wmt_transformer" in command]
    (config, *given) = next(words for words in commands if words[0].endswith(".py:files") == (name == "files"))
    given = [word for word in (*given, *QUICK, *overrides) if word.startswith("--config.")]
    return set_up(read_config(config.partition("=")[2], parse_overrides(given, takes_config=True)))


def trace_step(experiment):
    """As far as a step's program: compiling these models would take long."""
    batch = experiment.dataset.splits["train"].train_batch(0, 0, 8, slice(None))
    experiment.train_step.trace(experiment.abstract, batch)


def test_the_papers_experiment_on_files(folder, monkeypatch):
    monkeypatch.chdir(folder)
    experiment = papers_experiment("files")
    assert set(experiment.dataset.splits) == {"train", "validation", "test"}
    trace_step(experiment)
    (folder / "bad.tsv").write_text("source\ttarget\nseven\tsept\neight\t\n")
    with pytest.raises(UserError, match=r"bad\.tsv' line 3"):
        papers_experiment("files", "--config.data.train=bad.tsv")


def test_the_papers_experiment_on_tfds(folder, monkeypatch):
    monkeypatch.chdir(folder)
    prepare("tiny_translations/de-en", "tfds")
    tiny = {"dataset": "tiny_translations/de-en", "data_dir": "tfds", "validation_split": "test", "vocab_size": 270}
    experiment = papers_experiment("tfds", *(f"--config.data.{key}={value}" for key, value in tiny.items()))
    assert len(experiment.dataset.splits["train"]) == 9  # one of ten is bad
    trace_step(experiment)


def test_answers_are_the_beams_with_their_probabilities(folder):
    run = bigjax.load(folder / "runs/small")
    answers = [answer for _, answer in bigjax.predict(run.workdir, str(folder / "texts.jsonl"))]
    begin, end = run.info["begin"], run.info["end"]
    source = np.array([[*run.tokenizer.encode("seven", add_special_tokens=False).ids, end]], np.int32)
    options = {"source": Source(source, np.ones(source.shape, bool)), "stop": [end]}
    (best,) = beam_search(run.model, [[begin]], 6, 4, length_penalty=0.6, length_offset=5.0, **options)
    answer = answers[1]
    assert answer["answer"] == run.tokenizer.decode(best)
    logits = np.asarray(apply(run.model, source, np.array([[begin, *best[:-1]]], np.int32))[0], np.float64)
    chances = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = chances[np.arange(len(best)), best].sum()
    assert answer["probability"] == pytest.approx(np.exp(total), rel=1e-3)
    assert answer["token_probability"] == pytest.approx(np.exp(total / len(best)), rel=1e-4)
    assert 1 <= len(answer["alternatives"]) <= 3
    ((_, typed),) = bigjax.predict(run.workdir, " seven ")
    assert typed["probability"] == pytest.approx(answer["probability"], rel=1e-3)


def test_generate_points_to_predict(folder, capsys):
    assert main(["generate", f"--workdir={folder / 'runs/small'}", "--prompt=seven"]) != 0
    assert "writes about a source" in (error := capsys.readouterr().err) and "`bigjax predict`" in error
