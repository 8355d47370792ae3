"""GPT-2, Llama 3 and Qwen 3 checkpoints as transformers wrote them, and what transformers computes with them."""

import json
import shutil
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import run_python
from safetensors.numpy import load_file, save_file

from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.pretrained import FAMILIES
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.save import save_pretrained

FOLDER = Path(__file__).resolve().parents[1] / "fixtures" / "decoders"
NAMES = ("gpt2", "llama3", "qwen3")
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11]]


@cache
def loaded(name):
    return load_pretrained(FOLDER / name)


def expected(key):
    with np.load(FOLDER / "expected.npz", allow_pickle=False) as arrays:
        return arrays[key]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name):
    logits = jax.jit(lambda model, tokens: model(tokens)[0])(loaded(name).model, expected("tokens"))
    wanted = expected(f"{name}/logits")
    assert np.abs(wanted).max() > 3
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_and_beam_search_say_what_those_of_transformers_say(name):
    model = loaded(name).model
    assert generate(model, PROMPTS, 64, GREEDY) == expected(f"{name}/beams1").tolist()
    assert beam_search(model, PROMPTS, 64, 4) == expected(f"{name}/beams4").tolist()


def test_options_that_are_left_out_are_theirs(tmp_path):
    for name, head_dim in (("llama3", 6), ("qwen3", 128)):
        config = json.loads((FOLDER / name / "config.json").read_text())
        config |= {"hidden_size": 24, "num_attention_heads": 4}
        del config["head_dim"]
        family = FAMILIES[config["architectures"][0]]
        assert family.model(config)["head_dim"] == head_dim
        scaling = {"type": "linear", "factor": 2.0, "original_max_position_embeddings": 8}
        assert family.model(config | {"rope_scaling": scaling})["rope_scaling"] == {
            "rope_type": "linear",
            "factor": 2.0,
        }


@pytest.mark.parametrize("name", NAMES)
def test_what_came_in_goes_out_as_the_same_files(name, tmp_path):
    given = loaded(name)
    save_pretrained(tmp_path / "out", given.model, given.config, documents=given.documents)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (FOLDER / name / file).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_a_config_written_by_us_describes_the_same_model(name, tmp_path):
    """As for a model that was trained here and has no config.json of its own."""
    given = loaded(name)
    save_pretrained(tmp_path / "out", given.model, given.config)
    again = load_pretrained(tmp_path / "out")
    assert again.config == given.config
    logits = jax.jit(lambda model, tokens: model(tokens)[0])(again.model, expected("tokens"))
    np.testing.assert_allclose(logits, expected(f"{name}/logits"), rtol=1e-5, atol=1e-4)


def test_bfloat16_goes_in_and_out_to_the_bit(tmp_path):
    shutil.copytree(FOLDER / "llama3", tmp_path / "in")
    tensors = {k: v.astype(jnp.bfloat16) for k, v in load_file(FOLDER / "llama3" / "model.safetensors").items()}
    save_file(tensors, tmp_path / "in" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "in" / "config.json").read_text()) | {"dtype": "bfloat16"}
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    for dtype in ("float32", "bfloat16"):
        given = load_pretrained(tmp_path / "in", dtype=dtype)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(given.model)} == {dtype}
        save_pretrained(tmp_path / dtype, given.model, given.config, documents=given.documents)
        written = tmp_path / dtype / "model.safetensors"
        assert written.read_bytes() == (tmp_path / "in" / "model.safetensors").read_bytes()


def test_shards_go_in_and_out(tmp_path, monkeypatch):
    from bigjax.pretrained import save

    monkeypatch.setattr(save, "SHARD_BYTES", 6000)
    given = loaded("qwen3")
    save_pretrained(tmp_path / "out", given.model, given.config, documents=given.documents)
    shards = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    again = load_pretrained(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, again.model, given.model)
    (tmp_path / "out" / shards[1]).unlink()
    with pytest.raises(Exception, match=rf"lacks {shards[1]}, a shard that its index names"):
        load_pretrained(tmp_path / "out")


def test_older_names_without_the_prefix_and_with_masks(tmp_path):
    """As the first GPT-2 files have them."""
    shutil.copytree(FOLDER / "gpt2", tmp_path / "in")
    tensors = load_file(FOLDER / "gpt2" / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare |= {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 80, 80), np.float32)) for i in range(2)}
    save_file(bare, tmp_path / "in" / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, load_pretrained(tmp_path / "in").model, loaded("gpt2").model)


def test_laid_over_a_mesh_the_weights_are_the_same():
    code = f"""
import jax, numpy as np
from bigjax.parallel.mesh import make_mesh
from bigjax.pretrained import FAMILIES
from bigjax.pretrained.load import load_pretrained
alone = load_pretrained({str(FOLDER / "llama3")!r})
spread = load_pretrained({str(FOLDER / "llama3")!r}, mesh=make_mesh(data=1, fsdp=4, tensor=2))
jax.tree.map(np.testing.assert_array_equal, alone.model, spread.model)
kernel = spread.model.blocks[0].mlp.up.kernel[...]
print(tuple(kernel.sharding.spec), kernel.addressable_shards[0].data.shape, kernel.shape)
"""
    assert run_python(code, devices=8).strip() == "('fsdp', 'tensor') (6, 10) (24, 20)"
