"""A classifier of texts begins from checkpoints of an encoder with another head, or with none."""

import json

import numpy as np
import pytest
from helpers import ROOT
from safetensors.numpy import load_file, save_file

import bigjax
from bigjax.errors import UserError
from bigjax.training.checkpoint import flatten
from bigjax.training.setup import resolve, set_up

ENCODERS = ROOT / "tests" / "fixtures" / "encoders"


@pytest.fixture
def begin(tmp_path):
    """The parameters of a classifier of three classes that begins from a checkpoint."""
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "a b\tx\nb a\ty\na a\tz\n" * 2)
    data = {"name": "text_table", "train": str(tmp_path / "a.tsv"), "vocab_size": 9, "max_length": 8, "holdout": 0.2}

    def run(folder, pool="first", **finetune):
        config = {
            "model": bigjax.model_config(folder)
            | {"head": "sequence_classification", "num_classes": None, "pool": pool},
            "task": {"name": "sequence_classification"},
            "data": data,
            "optimizer": {"name": "adamw", "learning_rate": 0.01},
            "train": {"steps": 3, "batch_size": 4},
            "finetune": {"init_from": str(folder)} | finetune,
        }
        return flatten(set_up(resolve(config)).initial_state().params)

    return run


def without_pooler(folder):
    """The checkpoint of a bare encoder, saved without what projects its first token."""
    folder.mkdir()
    source = ENCODERS / "BertModel"
    (folder / "config.json").write_text((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, folder / "model.safetensors")
    return folder


def test_from_a_bare_encoder_with_its_pooler(begin):
    params = begin(ENCODERS / "BertModel", replace="^head/")
    tensors = load_file(ENCODERS / "BertModel" / "model.safetensors")
    np.testing.assert_array_equal(params["pooler/kernel"], tensors["pooler.dense.weight"].T)
    np.testing.assert_array_equal(params["embedding/embedding"], tensors["embeddings.word_embeddings.weight"])
    assert params["head/kernel"].shape[1] == 3


@pytest.mark.parametrize("pool", ["first", "mean"])
@pytest.mark.parametrize("kind", ["BertForMaskedLM", "no pooler"])
def test_from_one_without_a_pooler(begin, tmp_path, pool, kind):
    folder = ENCODERS / kind if kind == "BertForMaskedLM" else without_pooler(tmp_path / "encoder")
    if pool == "first":
        with pytest.raises(UserError, match=r"lacks .*pooler/bias.* of the model; config.finetune.replace says"):
            begin(folder, replace="^head/")
    params = begin(folder, replace="^(head|pooler)/", pool=pool)
    assert ("pooler/kernel" in params) == (pool == "first")
    (words,) = (
        t for name, t in load_file(folder / "model.safetensors").items() if name.endswith("word_embeddings.weight")
    )
    np.testing.assert_array_equal(params["embedding/embedding"], words)


def test_a_classifier_of_other_classes_begins_its_head_anew(begin):
    folder = ENCODERS / "BertForSequenceClassification"
    classes = len(json.loads((folder / "config.json").read_text())["id2label"])
    assert begin(folder, replace="^head/")["head/kernel"].shape[1] == 3
    if classes != 3:
        with pytest.raises(UserError, match="head/"):
            begin(folder)
