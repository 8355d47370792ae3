"""Checkpoints with torchvision's names: PyTorch's logits (recorded), out again, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, apply, parameters
from safetensors.numpy import load_file, save_file
from seeded import seeded_image, seeded_weights

from bigjax.errors import UserError
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.save import save_pretrained

CASES = [(name, i) for name in ("alexnet", "vgg", "resnet") for i in (0, 1)]


def recorded(name, index):
    """Our config.model, PyTorch's tensors and its logits; see tests/fixtures/make_cnns.py."""
    with np.load(ROOT / f"tests/fixtures/{name}.npz", allow_pickle=False) as file:
        section, shapes = (json.loads(str(file[f"{index}/{key}"])) for key in ("section", "shapes"))
        return section, seeded_weights(shapes), file[f"{index}/logits"]


def small_resnet():
    return recorded("resnet", 0)[1]


@pytest.mark.parametrize("name, index", CASES)
def test_logits_are_pytorchs_and_the_way_back_is_exact(name, index, tmp_path):
    section, weights, logits = recorded(name, index)
    save_file(weights, tmp_path / "theirs.safetensors")
    loaded = load_pretrained(tmp_path / "theirs.safetensors")
    shape = section.pop("image_shape")
    assert section.items() <= loaded.config.items()
    np.testing.assert_allclose(apply(loaded.model, seeded_image(shape)), logits, rtol=1e-5, atol=1e-4)
    save_pretrained(tmp_path / "ours", loaded.model, loaded.config, documents=loaded.documents)
    saved = load_file(tmp_path / "ours/model.safetensors")
    assert saved.keys() == weights.keys()
    for name in saved:
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(saved[name], weights[name])
    again = load_pretrained(tmp_path / "ours")  # now a folder with a config.json
    assert again.config == loaded.config


def test_a_timm_folder_has_torchvisions_names_and_a_config_of_its_own(tmp_path):
    save_file(small_resnet(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "num_classes": 7}))
    loaded = load_pretrained(tmp_path)
    assert (loaded.config["name"], loaded.config["depth"]) == ("resnet", 18)
    assert json.loads(loaded.documents["config.json"])["architecture"] == "resnet18"
    for name in ("resnetblur18", "resnetaa18.a1_in1k"):  # the same tensors, another network
        (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
        with pytest.raises(UserError, match=f"timm's '{name}'"):
            load_pretrained(tmp_path)


def test_shapes_that_cannot_be(tmp_path):
    save_file(small_resnet() | {"conv1.weight": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="their shapes cannot be"):
        load_pretrained(tmp_path / "model.safetensors")


def test_in_bfloat16_statistics_stay_in_float32(tmp_path):
    save_file(small_resnet(), tmp_path / "model.safetensors")
    model = load_pretrained(tmp_path / "model.safetensors", dtype="bfloat16").model
    assert {p.dtype for p in parameters(model).values()} == {jnp.dtype(jnp.bfloat16)}
    assert model.stem.norm.var.dtype == jnp.float32
    assert apply(model, seeded_image((33, 47, 3))).dtype == jnp.bfloat16


def changed(weights, **changes):
    """`weights` with other tensors; None takes one away, `__` stands for a point."""
    weights = dict(weights) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    return {name: tensor for name, tensor in weights.items() if tensor is not None}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"layer4__1__conv1__weight": None}, r"\(2, 2, 2, 1\) basic blocks"),
        (
            {"layer1__0__conv2__weight": None},
            "lacks 'layer1.0.conv2.weight', which is 'stages/0/0/convs/1/conv/kernel' here",
        ),
        ({"layer1__0__se__weight": np.zeros(3)}, "'layer1.0.se.weight' has no place"),
        ({"conv1__weight": np.zeros((8, 3, 5, 5))}, "5x5 stem"),
        ({"fc__weight": np.zeros((7, 63))}, r"'fc.weight' has shape \(7, 63\)"),
        ({"fc__weight": None}, "no known architecture"),
    ],
)
def test_other_resnets_are_refused(changes, words, tmp_path):
    save_file(changed(small_resnet(), **changes), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=words):
        load_pretrained(tmp_path / "model.safetensors")


def test_vggs_of_another_depth_are_refused(tmp_path):
    weights = changed(recorded("vgg", 1)[1], features__0__weight=np.zeros((64, 1, 3, 3)), features__2__weight=None)
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="VGG with 9 convolutions"):
        load_pretrained(tmp_path / "model.safetensors")
