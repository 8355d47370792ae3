"""`bigjax reproduce`: identical, or where the bits part and which recorded condition is another."""

import json
import shutil
import signal

import pytest

import bigjax
from bigjax.cli import main
from bigjax.errors import UserError
from bigjax.training import loop
from bigjax.training.interrupt import Stopped

TEXT = "".join(f"line {i}: {'abcdefgh'[i % 8] * (i % 13)} and so on\n" for i in range(60))


def config(text, **train):
    return {
        "model": {"name": "gpt", "d_model": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1},
        "task": {"name": "language_modelling", "sample_tokens": 4},
        "data": {"name": "text_file", "train": str(text), "context": 16},
        "optimizer": {"name": "adamw", "learning_rate": 0.003, "schedule": "cosine"},
        "train": {"steps": 12, "batch_size": 8, "log_every": 2, "eval_every": 6, "checkpoint_every": 4} | train,
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    (folder / "text.txt").write_text(TEXT)
    bigjax.train(config(folder / "text.txt"), workdir=folder / "run", quiet=True)
    return folder


@pytest.fixture
def run(original, tmp_path):
    """A copy, with its own text."""
    shutil.copytree(original / "run", tmp_path / "run")
    return tmp_path / "run"


def edit(run, name, change):
    content = json.loads((run / name).read_text())
    change(content)
    (run / name).write_text(json.dumps(content))


def test_an_untouched_run_is_identical_and_stays_untouched(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["reproduce", f"--workdir={run}"]) == 0
    assert "identical: 8 lines of figures and 2 checkpoints" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_prefix_ends_early(run):
    verdict = bigjax.reproduce(run, steps=8, quiet=True)
    assert verdict.differences == [] and verdict.compared == "5 lines of figures and 1 checkpoints"
    with pytest.raises(UserError, match="nothing to compare with up to step 1"):
        bigjax.reproduce(run, steps=1, quiet=True)


def test_a_run_that_did_not_end_is_compared_as_far_as_it_came(run):
    (run / "result.json").unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] < 10))
    shutil.rmtree(run / "checkpoints" / "12")
    verdict = bigjax.reproduce(run, quiet=True)
    assert verdict.differences == [] and verdict.compared == "5 lines of figures and 1 checkpoints"


def test_a_config_value_is_named(run, capsys):
    edit(run, "config.json", lambda config: config["optimizer"].update(learning_rate=0.004))
    assert main(["reproduce", f"--workdir={run}"]) == 1
    out = capsys.readouterr().out
    assert "step 2, train figures: " in out and "step 8, checkpoint: params/" in out
    assert "config.optimizer.learning_rate was 0.003 and is now 0.004" in out


def test_one_byte_of_the_data_is_noticed(original, run, tmp_path):
    changed = bytearray(TEXT.encode())
    changed[700] ^= 1
    (tmp_path / "text.txt").write_bytes(changed)
    edit(run, "config.json", lambda config: config["data"].update(train=str(tmp_path / "text.txt")))
    edit(run, "manifest.json", lambda manifest: manifest["config"]["data"].update(train=str(tmp_path / "text.txt")))
    verdict = bigjax.reproduce(run, quiet=True)
    assert len(verdict.conditions) == 1 and verdict.conditions[0].startswith("data_fingerprint was ")
    assert verdict.differences


def test_another_version_and_other_initial_parameters_are_named(run):
    def change(manifest):
        manifest["versions"]["jax"] = "0.9.0"
        manifest["initial_sha256"] = "0" * 64

    edit(run, "manifest.json", change)
    verdict = bigjax.reproduce(run, steps=4, quiet=True)
    assert verdict.differences == ["step 0: the initial parameters are others"]
    assert [line.split(" and is now")[0] for line in verdict.conditions] == ["versions.jax was '0.9.0'"]


def test_other_parameters_at_the_end_are_noticed(run):
    edit(run, "result.json", lambda result: result.update(params_sha256="f" * 64))
    shutil.rmtree(run / "checkpoints")
    (difference,) = bigjax.reproduce(run, quiet=True).differences
    assert difference.startswith(f"step 12: params_sha256 was {'f' * 64} and is now ")


def test_what_changed_at_a_resume_is_kept(original, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(original / "run", workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "12")
    edit(workdir, "manifest.json", lambda manifest: manifest.update(cpu="another"))
    bigjax.train(config(original / "text.txt"), workdir=workdir, quiet=True)
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["cpu"] == "another"
    assert [entry["step"] for entry in manifest["resumed"]] == [8]
    assert manifest["resumed"][0]["changed"][0].startswith("cpu was 'another' and is now ")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("manifest.json", {"resumed": 3}),
        ("manifest.json", {"resumed": [{"step": "1"}]}),
        ("manifest.json", {"config": None}),
        ("manifest.json", {"data": [1]}),
        ("result.json", {"params_sha256": None}),
    ],
)
def test_damage_is_told_before_anything_is_trained(run, name, change, monkeypatch):
    monkeypatch.setattr(loop, "fit", lambda *_: pytest.fail("trained"))
    edit(run, name, lambda content: content.update(change))
    with pytest.raises(UserError, match=f"{name} is damaged"):
        bigjax.reproduce(run, quiet=True)


def test_a_manifest_that_is_none_stops_a_resume_before_it_writes(original, run):
    (run / "result.json").unlink()
    edit(run, "manifest.json", lambda manifest: manifest.update(resumed=3))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        bigjax.train(config(original / "text.txt"), workdir=run, quiet=True)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_ctrl_c_does_not_say_that_anything_is_saved(monkeypatch, capsys):
    def stopped(*_):
        raise Stopped(signal.SIGINT, 3)

    monkeypatch.setattr(bigjax, "reproduce", stopped)
    assert main(["reproduce", "--workdir=run"]) == 130
    assert capsys.readouterr().err == "bigjax: stopped by SIGINT after step 3.\n"


def test_there_must_be_a_run(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        bigjax.reproduce(tmp_path)
