"""Checkpoints that cannot be read: one sentence that names the thing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models

from bigjax.errors import UserError
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.save import save_pretrained

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "decoders" / "llama3"


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "checkpoint"))


def configured(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def changed(folder, **tensors):
    """Replaces tensors, or drops those that are None."""
    content = load_file(folder / "model.safetensors") | tensors
    save_file({k: v for k, v in content.items() if v is not None}, folder / "model.safetensors")


def refused(folder, *words):
    with pytest.raises(UserError) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_no_folder(tmp_path):
    refused(tmp_path / "nowhere", "There is no folder", "nowhere")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "has no config.json")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", "not")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "has no model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "weights.pt"])
def test_a_pickle_is_not_opened_but_told_how_to_convert(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, name, "pickle", "save_pretrained")


def test_truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(folder, "model.safetensors", "is damaged")


def test_an_index_cannot_lead_out_of_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "secret.safetensors")
    index = {"weight_map": {"lm_head.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, "lacks secret.safetensors")


def test_an_architecture_that_is_not_known(folder):
    configured(folder, architectures=["MambaForCausalLM"])
    refused(folder, "MambaForCausalLM", "bigjax has BertModel", "GPT2LMHeadModel, LlamaForCausalLM", "torchvision.VGG")


def test_an_option_that_is_not_known(folder):
    configured(folder, hidden_act="relu")
    refused(folder, "hidden_act='relu'", "'silu'")


def test_a_rope_scaling_that_is_not_known(folder):
    configured(folder, rope_parameters={"rope_type": "yarn", "factor": 2.0})
    refused(folder, "'yarn'", "'llama3'")


def test_a_config_that_lacks_a_size(folder):
    configured(folder, hidden_size=None)
    refused(folder, "config.json", "lacks 'hidden_size'")


def test_a_tensor_of_another_shape(folder):
    changed(folder, **{"model.norm.weight": np.ones(23, np.float32)})
    refused(folder, "model.norm.weight", "(23,)", "(24,)")


def test_a_tensor_without_a_place(folder):
    changed(folder, **{"model.layers.0.self_attn.q_proj.bias": np.ones(24, np.float32)})
    refused(folder, "model.layers.0.self_attn.q_proj.bias", "no place")


def test_a_layer_too_many(folder):
    changed(folder, **{"model.layers.2.mlp.up_proj.weight": np.ones((20, 24), np.float32)})
    refused(folder, "model.layers.2.mlp.up_proj.weight", "does not have")


def test_a_tensor_that_is_missing(folder):
    changed(folder, **{"model.layers.1.mlp.up_proj.weight": None})
    refused(folder, "lacks 'model.layers.1.mlp.up_proj.weight', which is 'blocks/1/mlp/up/kernel' here.")
    changed(folder, **{"lm_head.weight": None})
    refused(folder, "and none for 1 more arrays")


@pytest.mark.parametrize("dtype", [np.int8, np.dtype("float8_e4m3fn"), np.complex64])
def test_a_tensor_of_a_dtype_that_needs_more_than_a_cast(folder, dtype):
    changed(folder, **{"model.norm.weight": np.ones(24, dtype)})
    refused(folder, "The tensor 'model.norm.weight' is", "bigjax reads F64, F32, F16, BF16")


def test_more_layers_than_tensors(folder):
    configured(folder, num_hidden_layers=10**9)  # before a billion of them are built
    refused(folder, "tensors, too few for 1000000000 layers")


def test_a_file_that_is_no_safetensors(folder):
    for name, words in (("model.bin", "is a pickle"), ("config.json", "neither a folder nor a safetensors file")):
        (folder / name).touch()
        refused(folder / name, name, words)


def test_a_damaged_generation_config(folder):
    (folder / "generation_config.json").write_text("[")
    refused(folder, "generation_config.json", "JSON")


def test_a_tokenizer_with_more_tokens_than_the_model(folder):
    words = {str(i): i for i in range(38)}
    Tokenizer(models.WordLevel(words, unk_token="0")).save(str(folder / "tokenizer.json"))
    refused(folder, "The tokenizer has 38 tokens, but the model only 37")


def test_an_export_writes_over_nothing(tmp_path):
    given = load_pretrained(FOLDER)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        save_pretrained(tmp_path, given.model, given.config)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_export_of_what_no_architecture_has(tmp_path):
    given = load_pretrained(FOLDER)
    with pytest.raises(UserError, match=r"No Hugging Face architecture has a model 'gpt' with these options"):
        save_pretrained(tmp_path / "out", given.model, given.config | {"positions": "learned"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [{"hidden_size": "32"}, {"num_hidden_layers": None}, {"rope_parameters": [1]}, {"rms_norm_eps": -1.0}]
    + [{"architectures": "LlamaForCausalLM"}, {"architectures": [1]}],
)
def test_values_of_the_wrong_kind(folder, changes):
    configured(folder, **changes)
    refused(folder, "config.json")


def test_a_second_output_matrix_where_it_should_be_tied(folder):
    configured(folder, tie_word_embeddings=True)
    refused(folder, "'lm_head.weight' differs from 'model.embed_tokens.weight'")


@pytest.mark.parametrize("content", ["{}", "nope"])
def test_a_damaged_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    refused(folder, "is no tokenizer")
