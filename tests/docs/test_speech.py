"""The commands of docs/speech.md run as they stand there, on tones."""

import json
import re
import shlex

import pytest
from helpers import ROOT
from sounds import manifest, record, words

from bigjax.cli import main, parse_overrides
from bigjax.run import read_config
from bigjax.training.setup import set_up

COMMANDS = re.findall(r"^bigjax .*$", (ROOT / "docs" / "speech.md").read_text(), re.M)
QUICK = {"train.steps": 2, "train.batch_size": 4, "optimizer.warmup_steps": 1, "data.buckets": 1, "data.hop": 5}
SMALL = {
    "speech": {"model.d_hidden": 64, "model.num_layers": 1, "model.dropout": 0.0, "data.subsampling": 2}
    | {"data.num_mels": 16, "data.sample_rate": 8000, "data.speeds": "(1.0,)", "data.hop": 10}
    | {"data.time_masks": 0, "data.frequency_masks": 0}
    | {"optimizer.learning_rate": 0.01, "optimizer.warmup_steps": 20, "train.steps": 120, "train.batch_size": 16},
    "speech:conformer": {"model.d_model": 8, "model.num_layers": 1, "data.num_mels": 16},
    "librispeech_conformer": {"model.d_model": 8, "model.num_layers": 1, "data.vocab_size": 262},
    "speech_commands_conformer": {"model.d_model": 8, "model.num_layers": 1},
    "fsdd_lstm": {"model.d_hidden": 8, "model.num_layers": 1},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with all that the commands name."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    manifest(folder, "train", words(60))
    manifest(folder, "test", words(8, seed=1))
    (folder / "clips").mkdir()
    record(folder / "clips" / "0001.wav", "ab", rate=16000)
    record(folder / "clips" / "0002.flac", "c")
    (folder / "recordings.jsonl").write_text(json.dumps({"audio": "clips/0001.wav"}) + "\n")
    path = folder / "path" / "to"
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        chapter = path / "LibriSpeech" / part / "1" / "2"
        names = [f"1-2-{number:04}" for number in range(4)]
        for name in names:
            record(chapter / f"{name}.flac", "abc", rate=16000)
        (chapter / "1-2.trans.txt").write_text("".join(f"{name} AB C\n" for name in names))
    commands = path / "speech_commands_v0.02"
    for number in range(4):
        record(commands / "ab" / f"{number}.wav", "ab", rate=16000)
        for index in (0, 5, 10):
            record(path / "recordings" / f"{number}_jane_{index}.wav", "abcabc")
    (commands / "validation_list.txt").write_text("ab/0.wav\n")
    (commands / "testing_list.txt").write_text("ab/1.wav\n")
    return folder


def run(command, capsys):
    assert main(made_small(shlex.split(command, comments=True)[1:])) == 0
    return capsys.readouterr().out


def made_small(arguments):
    """The arguments of a command, with small sizes where it trains."""
    if experiment := re.search(r"experiments/(\S+)", " ".join(arguments)):
        keys = QUICK | SMALL[experiment[1].replace(".py", "")]
        arguments += [f"--config.{key}={value}" for key, value in keys.items()]
    return arguments


def test_own_recordings(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    train, evaluate, one, folder, several = [c for c in COMMANDS if "runs/speech" in c]
    assert "word_error_rate" in run(train, capsys)
    figures = run(evaluate, capsys)
    assert "character_error_rate" in figures
    assert float(re.search(r"word_error_rate ([\d.]+)", figures)[1]) < 0.5  # tones are easy
    assert "said" in (files / "runs" / "speech" / "report.html").read_text()
    first = run(one, capsys)
    assert re.match(r"clips/0001\.wav: \w+ \([\d.]+%\)\n", first)
    found = [json.loads(line) for line in run(folder, capsys).splitlines()]
    assert [answer["audio"] for answer in found] == ["clips/0001.wav", "clips/0002.flac"]
    for answer in found:
        chances = [answer["probability"], *(other["probability"] for other in answer["alternatives"])]
        assert chances == sorted(chances, reverse=True) and 0 < sum(chances) <= 1 + 1e-5
    assert run(several, capsys).split(": ")[1] == first.split(": ")[1]


def test_own_recordings_by_a_conformer(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    (train,) = [c for c in COMMANDS if "runs/conformer" in c]
    assert "word_error_rate" in run(train, capsys)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "path/to" in c], ids=lambda c: c.split()[2])
def test_data_of_others(files, monkeypatch, command):
    """As far as a step's program: compiling these models would take long."""
    monkeypatch.chdir(files)
    config, *overrides = made_small(shlex.split(command)[2:])
    experiment = set_up(read_config(config.partition("=")[2], parse_overrides(overrides, takes_config=True)))
    splits = experiment.dataset.splits
    assert set(splits) == {"train", "validation", "test"}
    experiment.train_step.trace(experiment.abstract, splits["train"].train_batch(0, 0, 4, slice(None)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.num_mels": 80, "data.num_mels": 16}, "config.model.num_mels is 80, but the data need 16"),
        ({"model.subsampling": 4}, "config.model.subsampling is 4, but the data need 2"),
        ({"model.name": "cnn"}, "There is no key 'config.model.d_hidden' in model 'cnn'"),
        ({"task.beams": 0}, "config.task: beams must be positive"),
    ],
)
def test_what_does_not_fit_is_told(files, monkeypatch, capsys, change, words):
    monkeypatch.chdir(files)
    keys = {"data.train": "train.jsonl"} | QUICK | SMALL["speech"] | change
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    assert main(["train", "--config=experiments/speech.py", *overrides]) == 2
    assert words in capsys.readouterr().err


def test_a_recording_that_cannot_be_read_is_told(files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    (files / "bad.wav").write_text("no sound")
    if not (files / "runs" / "speech").exists():
        run(next(c for c in COMMANDS if "runs/speech" in c), capsys)
    assert main(["predict", "bad.wav", "--workdir=runs/speech"]) == 2
    assert "'bad.wav': no audio that can be read" in capsys.readouterr().err
