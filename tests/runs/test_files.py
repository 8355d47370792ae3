"""What a run leaves behind, and what its folder is good for afterwards."""

import hashlib
import json
import shutil

import jax
import numpy as np
import pytest

import bigjax as door
from bigjax.training.checkpoint import saved_steps
from tests.runs.conftest import bigjax, losses, result, words

pytestmark = pytest.mark.slow


def test_exactly_the_files_of_the_contract(finished):
    names = {path.name for path in finished("cnn").iterdir()}
    assert names == {"config.json", "manifest.json", "metrics.jsonl", "checkpoints", "result.json", "report.html"}


def test_rows_and_result(finished):
    workdir = finished("gpt")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    addresses = [(row["split"], row["step"]) for row in rows]
    assert addresses == sorted(set(addresses), key=addresses.index)  # no address twice
    assert [step for split, step in addresses if split == "train"] == list(range(5, 41, 5))
    assert [step for split, step in addresses if split == "validation"] == [20, 40]
    assert [step for split, step in addresses if split == "test"] == [40]
    end = result(workdir)
    assert end["status"] == "completed" and end["step"] == 40 and end["wall_seconds"] > 0
    assert end["metrics"]["validation"]["bits_per_byte"] == rows[-2]["bits_per_byte"]
    for split, figures in end["metrics"].items():
        assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"])), split


def test_params_sha256_is_over_names_dtypes_shapes_and_bytes(finished):
    """Computed again from the model, as DESIGN promises it."""
    from flax import nnx

    run = door.load(finished("rnn"))
    params = nnx.to_pure_dict(nnx.state(run.model, nnx.Param))
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for name, array in sorted((jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + np.asarray(array).tobytes())
    assert digest.hexdigest() == run.result["params_sha256"]


def test_config_is_whole_and_manifest_says_what_bits_depend_on(finished):
    config = json.loads((finished("gpt") / "config.json").read_text())
    assert config["model"]["vocab_size"] == 256 and config["model"]["rope_theta"] == 10000
    assert config["optimizer"]["eps"] == 1e-8
    manifest = json.loads((finished("gpt") / "manifest.json").read_text())
    assert manifest["versions"]["jax"] == jax.__version__
    assert len(manifest["data_fingerprint"]) == 64
    assert manifest["mesh"] == dict.fromkeys(["pipeline", "data", "fsdp", "expert", "sequence", "tensor"], 1)
    assert {"python", "platform", "devices", "xla_flags", "git"} <= manifest.keys()


def test_keeps_the_last_and_the_best(finished, tmp_path):
    workdir = tmp_path / "run"
    # Steps of this size lose what the first 10 steps learned, so that the best is not among the last.
    bigjax(
        "train",
        *words(
            "cnn", "train.steps=50", "train.eval_every=10", "optimizer.learning_rate=0.02", "train.keep_checkpoints=2"
        ),
        f"--workdir={workdir}",
    )
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    accuracy = {row["step"]: row["accuracy"] for row in rows if row["split"] == "validation"}
    top = max(accuracy.values())
    best = [step for step in accuracy if accuracy[step] == top]
    steps = saved_steps(workdir / "checkpoints")
    assert steps[-2:] == [40, 50]
    assert set(steps) - {40, 50} <= set(best) and set(steps) & set(best)


def test_the_same_command_on_a_completed_run_changes_nothing(finished):
    workdir = finished("cnn")
    before = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}
    bigjax("train", *words("cnn", "train.steps=40"), f"--workdir={workdir}")
    assert before == {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}


def test_evaluate_gives_the_logged_figures_whatever_batch_and_devices(finished, tmp_path):
    for name, batch, devices in (("cnn", 7, 1), ("gpt", 5, 8), ("rnn", 3, 8)):
        workdir = tmp_path / name
        shutil.copytree(finished(name), workdir)
        config = json.loads((workdir / "config.json").read_text())
        config["train"]["eval_batch_size"] = batch
        (workdir / "config.json").write_text(json.dumps(config))
        logged = result(workdir)["metrics"]["test"]
        again = bigjax("evaluate", f"--workdir={workdir}", devices=devices)
        assert again.startswith(f"test: loss {logged['loss']:.4f}")


def test_a_figure_that_was_logged_after_the_checkpoint_is_logged_once(finished, tmp_path):
    """A run killed between two checkpoints has rows that the resumed run writes again, and maybe half a row."""
    workdir = tmp_path / "run"
    shutil.copytree(finished("cnn"), workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "checkpoints" / "40")
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "spl')
    bigjax("train", *words("cnn", "train.steps=40"), f"--workdir={workdir}")
    assert losses(workdir) == losses(finished("cnn"))
    assert result(workdir)["params_sha256"] == result(finished("cnn"))["params_sha256"]


def test_bpe_is_kept_with_the_run_and_decodes_its_samples(tmp_path):
    workdir = tmp_path / "run"
    bigjax(
        "train",
        *words("rnn", "train.steps=2", "data.tokenizer=bpe", "data.vocab_size=300", "optimizer.warmup_steps=0"),
        f"--workdir={workdir}",
    )
    import tokenizers

    assert tokenizers.Tokenizer.from_file(str(workdir / "tokenizer.json")).get_vocab_size() == 300
    assert json.loads((workdir / "config.json").read_text())["model"]["vocab_size"] == 300
