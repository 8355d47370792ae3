"""The Vision Transformer against transformers: logits, gradients, in and out."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import apply, parameters

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fixtures.make_encoders import images, random_vit, vit_outputs
from safetensors.numpy import load_file

from bigjax.pretrained import FAMILIES
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.mapping import Table
from bigjax.pretrained.save import save_pretrained

ODD = [
    {
        "hidden_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 5,
        "intermediate_size": 33,
        "image_size": (12, 20),
        "patch_size": 4,
        "num_labels": 7,
    },
    {
        "hidden_size": 63,
        "num_hidden_layers": 2,
        "num_attention_heads": 7,
        "intermediate_size": 130,
        "image_size": 35,
        "patch_size": [5, 5],
        "num_channels": 1,
        "layer_norm_eps": 1e-6,
    },
]


@pytest.fixture(params=range(len(ODD)), scope="module")
def both(request, tmp_path_factory):
    """Their random model, ours from its folder, and the folder."""
    folder = tmp_path_factory.mktemp("theirs")
    theirs = random_vit(**ODD[request.param])
    theirs.save_pretrained(folder)
    return theirs, load_pretrained(folder), folder


def test_logits(both):
    theirs, loaded, _ = both
    x = images(*loaded.config["image_shape"])
    expected = vit_outputs(theirs, x).detach().numpy()
    actual = apply(loaded.model, x)
    assert expected.std() > 0.1
    print("largest difference", np.abs(actual - expected).max(), "of", np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_gradients(both):
    theirs, loaded, _ = both
    x = images(*loaded.config["image_shape"])
    logits = vit_outputs(theirs, x)
    weight = np.random.default_rng(1).normal(size=logits.shape).astype(np.float32)
    theirs.zero_grad()
    (logits * torch.tensor(weight)).sum().backward()

    graphdef, params = nnx.split(loaded.model)
    loss = jax.jit(jax.grad(lambda params: (nnx.merge(graphdef, params)(x) * weight).sum()))
    grads = parameters(nnx.merge(graphdef, loss(params)))
    ours = dict(theirs.named_parameters())  # transformers 5 saves with names other than these
    renamed = {"encoder.layer": "layers", "output.dense": "mlp.fc2", "intermediate.dense": "mlp.fc1"}
    renamed = {"attention.output.dense": "attention.o_proj"} | renamed
    renamed |= {f"attention.attention.{name}": f"attention.{name[0]}_proj" for name in ("query", "key", "value")}
    table = Table(FAMILIES["ViTForImageClassification"], loaded.config)
    worst = 0.0
    for name in grads:
        place = table.of_ours(name)
        now = place.theirs
        for old, new in renamed.items():
            now = now.replace(old, new)
        expected = ours.pop(now).grad.numpy()
        actual = place.layout.back([grads[one] for one in place.ours])
        # A bias of all keys moves no softmax: what is left there is rounding.
        scale = 1.0 if "k_proj.bias" in now else np.abs(expected).max()
        worst = max(worst, np.abs(actual - expected).max() / scale)
    print("largest difference relative to each tensor's largest", worst)
    assert worst < 1e-4
    assert not ours


def test_out_and_in_again(both, tmp_path):
    theirs, loaded, folder = both
    save_pretrained(tmp_path / "ours", loaded.model, loaded.config)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "ours"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])
    again, notes = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(notes.values())
    x = images(*loaded.config["image_shape"])
    torch.testing.assert_close(vit_outputs(again.eval(), x), vit_outputs(theirs, x), rtol=0, atol=0)
