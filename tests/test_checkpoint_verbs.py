"""`bigjax import`, `export` and `generate`, as they are typed."""

import json
import re
import shutil

import pytest
from helpers import ROOT
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import bigjax
from bigjax.cli import main

DECODERS = ROOT / "tests/fixtures/decoders"


def typed(capsys, *arguments, code=0):
    """What a command prints: to stdout, or where it should fail, to stderr."""
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    assert not (printed.err if code == 0 else printed.out)
    return printed.err if code else printed.out


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A run that was trained on bytes."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("round and round it goes, " * 100)
    config = {
        "model": {"name": "gpt", "d_model": 16, "num_layers": 1, "num_heads": 2, "context": 32},
        "task": {"name": "language_modelling", "sample_tokens": 4},
        "data": {"name": "text_file", "train": str(folder / "text.txt"), "context": 16},
        "optimizer": {"name": "adam", "learning_rate": 0.01},
        "train": {"steps": 60, "batch_size": 8, "log_every": 0},
    }
    return bigjax.train(config, workdir=folder / "run", quiet=True).workdir


@pytest.mark.parametrize("name", sorted(path.name for path in DECODERS.iterdir() if path.is_dir()))
def test_in_and_out_is_the_same_file(name, tmp_path, capsys):
    printed = typed(capsys, "import", DECODERS / name, f"--workdir={tmp_path / 'run'}")
    assert bigjax.load(tmp_path / "run").result["params_sha256"] in printed
    typed(capsys, "export", f"--workdir={tmp_path / 'run'}", "--format=huggingface", f"--output={tmp_path / 'out'}")
    before, after = (load_file(folder / "model.safetensors") for folder in (DECODERS / name, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all((before[key] == after[key]).all() and before[key].dtype == after[key].dtype for key in before)
    given, written = (
        json.loads((folder / "config.json").read_text()) for folder in (DECODERS / name, tmp_path / "out")
    )
    assert given == written


def test_what_else_a_checkpoint_holds_comes_in_and_goes_out(tmp_path, capsys):
    given = shutil.copytree(DECODERS / "gpt2", tmp_path / "given")
    others = {
        "generation_config.json": '{"eos_token_id": [5, 6]}',
        "tokenizer_config.json": '{ "x": 1}',
        "merges.txt": "",
    }
    others["vocab.json"] = json.dumps({"a": 0})
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.enable_truncation(7)
    others["tokenizer.json"] = tokenizer.to_str()
    for name, content in others.items():
        (given / name).write_text(content)
    (given / "modeling.py").write_text("raise SystemExit")
    typed(capsys, "import", given, f"--workdir={tmp_path / 'run'}")
    assert bigjax.load(tmp_path / "run").stop == (5, 6)
    assert bigjax.load(tmp_path / "run").tokenizer.truncation is None
    typed(capsys, "export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}")
    for name, content in others.items():
        assert (tmp_path / "out" / name).read_text() == content
    assert not (tmp_path / "out" / "modeling.py").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "blocks/1/.* is not in its checkpoint as its config.json has it"),
        ({"d_ff": 8}, "blocks/0/mlp/.* is not in its checkpoint as its config.json has it"),
        ({"num_heads": 3}, "num_heads must divide d_model"),
        ({"name": "gtp"}, "There is no model 'gtp'; did you mean 'gpt'"),
        ({"width": 3}, "config.model.width"),
        (None, "is damaged: it is no JSON object"),
    ],
)
def test_a_run_whose_config_is_damaged_is_said_in_a_line(text_model, tmp_path, capsys, changes, message):
    run = shutil.copytree(text_model, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["model"] |= changes or {}
    (run / "config.json").write_text(json.dumps([] if changes is None else config))
    printed = typed(capsys, "export", f"--workdir={run}", f"--output={tmp_path / 'out'}", code=2)
    assert re.search(message, printed) and printed.count("\n") == 1


def test_a_trained_run_is_exported_and_comes_back(text_model, tmp_path, capsys):
    typed(capsys, "export", f"--workdir={text_model}", f"--output={tmp_path / 'out'}")
    typed(capsys, "import", tmp_path / "out", f"--workdir={tmp_path / 'back'}")
    hashes = [bigjax.load(folder).result["params_sha256"] for folder in (text_model, tmp_path / "back")]
    assert hashes[0] == hashes[1]


def test_a_text_goes_on_the_same_way_for_the_same_seed(text_model, capsys):
    def said(*options):
        return typed(capsys, "generate", f"--workdir={text_model}", "--prompt=round and ", "--tokens=12", *options)

    assert said("--seed=1") == said("--seed=1")
    assert len({said(f"--seed={seed}", "--temperature=3") for seed in range(3)}) == 3
    greedy = said("--temperature=0")
    assert greedy == said("--temperature=0", "--seed=5") == said("--top-k=1") == said("--beams=1", "--top-p=0.0001")
    assert len(greedy) == 13  # and the end of the line
    assert len(said("--beams=3")) == 13
    assert said("--temperature=0", "--repetition-penalty=1.5") != greedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt="], "The prompt is empty"),
        (["--prompt=" + "a" * 40], "The prompt has 40 tokens and the model's context is 32"),
        (["--prompt=a", "--tokens=32"], "there is room for 31 more, not 32"),
        (["--prompt=a", "--tokens=0"], "at least 1 new token"),
        (["--prompt=a", "--beams=0"], "1 beam"),
        (["--prompt=a", "--temperature=-1"], "temperature must be"),
        (["--prompt=a", "--top-p=2"], "top_p must be"),
        (["--prompt=a", "--top-k=-1"], "top_k must be"),
        (["--prompt=a", "--repetition-penalty=0"], "repetition_penalty must be"),
    ],
)
def test_what_cannot_be_generated_is_said_in_a_line(text_model, capsys, options, message):
    printed = typed(capsys, "generate", f"--workdir={text_model}", *options, code=2)
    assert message in printed and printed.count("\n") == 1


def test_what_cannot_be_imported_or_exported_is_said_in_a_line_and_leaves_nothing(text_model, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(DECODERS / "gpt2", broken)
    content = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(content[: len(content) // 2])
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("")
    new = tmp_path / "new"
    wrong = [
        (["import", tmp_path / "gone", f"--workdir={new}"], "There is no folder"),
        (["import", broken, f"--workdir={new}"], "damaged"),
        (["import", DECODERS / "gpt2", f"--workdir={full}"], "is not empty"),
        (["export", f"--workdir={tmp_path / 'gone'}", f"--output={new}"], "holds no run"),
        (["export", f"--workdir={text_model}", f"--output={full}"], "is not empty"),
    ]
    for arguments, message in wrong:
        printed = typed(capsys, *arguments, code=2)
        assert message in printed and printed.count("\n") == 1
        assert not new.exists()
    assert [path.name for path in full.iterdir()] == ["file"]


def test_an_import_that_is_interrupted_leaves_the_folder_free(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    arguments = ["import", DECODERS / "gpt2", f"--workdir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr("bigjax.run.params_sha256", interrupt)
        assert typed(capsys, *arguments, code=130) == "bigjax: interrupted.\n"
    assert not list(tmp_path.iterdir())
    typed(capsys, *arguments)


def test_where_nothing_can_be_written_is_said_in_a_line(text_model, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for target in ("file", "file/below"):
        for arguments in (
            ["import", DECODERS / "gpt2", f"--workdir={tmp_path / target}"],
            ["export", f"--workdir={text_model}", f"--output={tmp_path / target}"],
        ):
            assert typed(capsys, *arguments, code=2).count("\n") == 1


def test_whisper_does_not_go_on_with_a_text(tmp_path, capsys):
    typed(capsys, "import", ROOT / "tests/fixtures/whisper", f"--workdir={tmp_path / 'run'}")
    printed = typed(capsys, "generate", f"--workdir={tmp_path / 'run'}", "--prompt=hello", code=2)
    assert "A Whisper writes about a source" in printed


def test_an_imported_run_has_nothing_to_evaluate(tmp_path, capsys):
    typed(capsys, "import", DECODERS / "gpt2", f"--workdir={tmp_path / 'run'}")
    assert "no data to evaluate on" in typed(capsys, "evaluate", f"--workdir={tmp_path / 'run'}", code=2)
