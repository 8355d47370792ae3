"""What fine-tuned runs begin from and what of them moves, through the one door, on tiny models."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import close, same_bits
from orbax.checkpoint import v1 as ocp

import bigjax
from bigjax.errors import UserError
from bigjax.models.gpt import GPT
from bigjax.pretrained.save import save_pretrained
from bigjax.training.checkpoint import flatten, newest_weights
from bigjax.training.setup import resolve, set_up

GPT_MODEL = {"name": "gpt", "vocab_size": 256, "context": 8, "d_model": 16, "num_layers": 2, "num_heads": 2}
TRAIN = {"steps": 3, "batch_size": 4, "log_every": 0, "eval_every": 0, "checkpoint_every": 0}


def config(text, steps=3, **sections):
    """A GPT's on bytes."""
    return {
        "model": dict(GPT_MODEL),
        "task": {"name": "language_modelling", "sample_tokens": 4},
        "data": {"name": "text_file", "train": str(text), "context": 8},
        "optimizer": {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1},
        "train": TRAIN | {"steps": steps},
    } | sections


def arrays(run):
    """The parameters of a run's last checkpoint."""
    return {name: np.asarray(a) for name, a in newest_weights(run.workdir)[0].items()}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("the quick brown fox jumps over the lazy dog.\n" * 40)
    return file


@pytest.fixture(scope="module")
def first(text, tmp_path_factory):
    """A run to begin from."""
    return bigjax.train(config(text), workdir=tmp_path_factory.mktemp("runs") / "first", quiet=True)


@pytest.fixture
def tune(text, first, tmp_path):
    """Trains on from `first`, with the options of `config.finetune`."""

    def run(name="run", steps=3, changes=None, **options):
        options = {"init_from": str(first.workdir)} | options
        sections = {"finetune": options}
        if changes:
            sections["model"] = GPT_MODEL | changes
        return bigjax.train(config(text, steps, **sections), workdir=tmp_path / name, quiet=True)

    return run


def test_begins_with_the_weights_of_a_run_and_all_of_them_move(first, tune):
    before, after = arrays(first), arrays(tune())
    assert before.keys() == after.keys()
    assert all(np.any(before[name] != after[name]) for name in before)
    close(after, before, atol=0.05)  # three steps of 0.01


@pytest.mark.parametrize("scan_layers", [False, True])
def test_begins_with_the_weights_of_a_checkpoint_whether_layers_are_scanned_or_not(first, tune, tmp_path, scan_layers):
    bigjax.export_checkpoint(first.workdir, tmp_path / "checkpoint")
    run = tune("scan", changes={"scan_layers": scan_layers}, init_from=str(tmp_path / "checkpoint"))
    there = tune("same")
    close(run.model(np.arange(8)[None])[0], there.model(np.arange(8)[None])[0], atol=1e-5)
    # And a run with scanned layers is one to begin from, and to export.
    again = tune("again", init_from=str(run.workdir))
    bigjax.export_checkpoint(run.workdir, tmp_path / "out")
    exported = tune("exported", init_from=str(tmp_path / "out"))
    same_bits(arrays(again), arrays(exported))


def test_what_is_frozen_keeps_its_bits_and_has_no_optimizer_state(first, tune):
    run = tune(freeze=r"^embedding|blocks/0/")
    before, after = arrays(first), arrays(run)
    for name in before:
        frozen = name.startswith(("embedding", "blocks/0/"))
        assert np.array_equal(before[name], after[name]) == frozen, name
    saved = ocp.metadata((run.workdir / "checkpoints" / "3").absolute()).metadata["opt_state"]
    held = {"/".join(str(getattr(k, "key", k)) for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(saved)}
    assert any("blocks/1/mlp" in name for name in held)
    assert not any("embedding/embedding" in name or "blocks/0" in name for name in held)


def test_lora_learns_nothing_but_the_corrections_and_merges_on_export(first, tune, tmp_path):
    run = tune(lora_layers="query|up", lora_rank=2, lora_alpha=4.0)
    before, after = arrays(first), arrays(run)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    new = sorted(after.keys() - before.keys())
    assert len(new) == 8 and all("/lora_" in name for name in new)
    assert all(np.any(after[name] != 0) for name in new)
    bigjax.export_checkpoint(run.workdir, tmp_path / "merged")
    loaded = bigjax.load_pretrained(tmp_path / "merged")
    tokens = np.arange(16).reshape(2, 8)
    close(loaded.model(tokens)[0], run.model(tokens)[0], atol=1e-5)
    assert float(abs(loaded.model(tokens)[0] - first.model(tokens)[0]).max()) > 1e-4


def test_lora_learns_what_begins_anew_too(first, tune):
    run = tune(lora_layers="query", replace=r"^norm/")
    before, after = arrays(first), arrays(run)
    moved = {name for name in before if np.any(before[name] != after[name])}
    assert moved == {"norm/scale", "norm/bias"}


def test_corrections_go_on_or_are_refused_but_never_lost(tune):
    lora = {"lora_layers": "query|up", "lora_rank": 2}
    one = tune("one", **lora)
    again = tune("again", init_from=str(one.workdir), **lora)
    before, after = arrays(one), arrays(again)
    assert before.keys() == after.keys()
    for name in before:
        assert np.array_equal(before[name], after[name]) == ("/lora_" not in name), name
        close(after[name], before[name], atol=0.05)  # three more steps of 0.01, not from zero
    with pytest.raises(UserError, match=r"The model lacks .*/lora_a.* bigjax export merges the corrections"):
        tune("plain", init_from=str(one.workdir))


def test_resuming_does_not_need_what_the_run_began_from(text, tmp_path):
    source = bigjax.train(config(text), workdir=tmp_path / "source", quiet=True)
    sections = {"finetune": {"init_from": str(source.workdir)}}
    sections["train"] = TRAIN | {"steps": 6, "checkpoint_every": 3}
    whole = bigjax.train(config(text, **sections), workdir=tmp_path / "whole", quiet=True)
    (tmp_path / "again").mkdir()
    stopped = bigjax.train(config(text, **sections), workdir=tmp_path / "stopped", quiet=True)
    for part in ("result.json", "checkpoints/6"):
        (stopped.workdir / part).rename(tmp_path / part.replace("/", "-"))
    source.workdir.rename(tmp_path / "gone")
    resumed = bigjax.train(config(text, **sections), workdir=stopped.workdir, quiet=True)
    assert resumed.result["params_sha256"] == whole.result["params_sha256"]


def test_what_a_checkpoint_holds_besides_its_weights_stays_with_a_run_of_the_same_model(first, tune, tmp_path):
    folder = tmp_path / "checkpoint"
    bigjax.export_checkpoint(first.workdir, folder)
    given = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 10, "note": "mine"}
    (folder / "config.json").write_text(json.dumps(given))
    run = tune("same", init_from=str(folder))
    again = tune("again", init_from=str(run.workdir))
    assert run.stop == again.stop == (10,)
    bigjax.export_checkpoint(again.workdir, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == given
    assert tune("other", init_from=str(folder), replace="^norm").stop == ()


def test_the_moving_average_begins_with_the_weights_too(text, first):
    sections = {"optimizer": {"name": "adamw", "learning_rate": 0.01, "ema_decay": 0.9}}
    sections["finetune"] = {"init_from": str(first.workdir)}
    state = set_up(resolve(config(text, **sections))).initial_state()
    same_bits(flatten(state.params), arrays(first))
    same_bits(state.ema, state.params)
    assert state.ema["norm"]["scale"] is not state.params["norm"]["scale"]  # both are donated


def test_tokens_must_mean_what_they_meant(text, first, tmp_path):
    def run(name, tokens, **options):
        data = {"name": "text_file", "train": str(text), "context": 8} | tokens
        sections = {"data": data, "finetune": options, "model": GPT_MODEL | {"vocab_size": 300}}
        return bigjax.train(config(text, **sections), workdir=tmp_path / name, quiet=True).workdir

    bpe = run("bpe", {"tokenizer": "bpe", "vocab_size": 260})
    for tokens in ({}, {"tokenizer": "bpe", "vocab_size": 261}):
        with pytest.raises(UserError, match=r"other tokens than .*bpe was trained on: set it to the tokenizer.json of"):
            run("other", tokens, init_from=str(bpe))
    with pytest.raises(UserError, match=r"other tokens than .*first was trained on: set it to 'bytes'"):
        run("other", {"tokenizer": "bpe", "vocab_size": 260}, init_from=str(first.workdir))
    run("same", {"tokenizer": str(bpe / "tokenizer.json")}, init_from=str(bpe))
    run("anew", {}, init_from=str(bpe), replace="embedding")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": "attn"}, "config.finetune.freeze='attn' is found in no parameter's name"),
        ({"replace": "haed"}, "config.finetune.replace='haed' is found in no array's name"),
        ({"freeze": ""}, "leaves no parameter to learn"),
        ({"freeze": "("}, "config.finetune: freeze is no regular expression"),
        ({"lora_layers": "conv"}, "no linear layer is called 'conv'; the model's are down, key, out, query, up, value"),
        ({"lora_layers": "key", "lora_rank": 0}, "config.finetune: lora_rank must be positive"),
        ({"lora_layers": "key", "lora_alpha": -1.0}, "config.finetune: lora_alpha must be a number above 0"),
        ({"changes": {"num_heads": 4}}, "config.model.num_heads is 4, but .* was trained with 2"),
        ({"init_from": "nowhere"}, "There is no folder 'nowhere'"),
        ({"changes": {"num_layers": 3}}, r"lacks blocks/2/.* and \d+ more of the model; config.finetune.replace says"),
        ({"changes": {"num_layers": 1}}, r"The model lacks blocks/1/.* of .*; config.finetune.replace says"),
        ({"changes": {"d_ff": 32}}, r"blocks/0/mlp/\w+/\w+ is \(.*\) in .*, but \(.*\) here"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_folder_free(tune, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        tune(**options)
    tune(changes={})  # the same folder can be used at once


@pytest.mark.slow
def test_a_classifier_with_another_head_begins_from_the_features_and_their_statistics(tmp_path):
    sections = {
        "task": {"name": "image_classification"},
        "data": {"name": "digits", "image_size": 8},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": TRAIN,
    }
    model = {"name": "resnet", "depth": 18, "stem": "cifar", "width": 4}
    old = bigjax.train(sections | {"model": model}, {}, tmp_path / "old", quiet=True)
    new = sections | {"model": model | {"num_classes": 12}, "finetune": {"init_from": str(old.workdir)}}
    with pytest.raises(UserError, match=r"head/\w+ is \(.*10,?\) in .*, but \(.*12,?\) here"):
        set_up(resolve(new)).initial_state()
    state = set_up(resolve(new, {"finetune.replace": "^head/"})).initial_state()
    for before, after in zip(newest_weights(old.workdir), (state.params, state.statistics), strict=True):
        features = {name for name in before if not name.startswith("head")}
        after = flatten(after)
        same_bits({name: after[name] for name in features}, {name: before[name] for name in features})
        assert before.keys() == after.keys() and len(features) >= 40
    assert state.params["head"]["bias"].shape == (12,)


def test_the_config_of_a_checkpoint_is_one_to_go_on_from(first, tmp_path):
    assert bigjax.model_config(first.workdir) == first.config["model"]
    section = {key: value for key, value in GPT_MODEL.items() if key != "name"}
    model = GPT(**section, rngs=nnx.Rngs(params=0))
    save_pretrained(tmp_path / "checkpoint", model, first.config["model"])
    config = bigjax.model_config(tmp_path / "checkpoint")
    assert {key: config[key] for key in GPT_MODEL} == GPT_MODEL
