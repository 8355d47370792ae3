"""FLOPs of every family's forward pass, against formulas by hand and against published counts."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from bigjax.models import MODELS
from bigjax.models.presets import PRESETS
from bigjax.training.flops import count_flops

B, T, S, V, D, F, H = 2, 16, 12, 50, 32, 96, 24


def forward(section, *inputs):
    """FLOPs of a model on inputs of these shapes and dtypes."""
    make = MODELS[section["name"]]
    model = nnx.eval_shape(lambda: make(**{k: v for k, v in section.items() if k != "name"}, rngs=nnx.Rngs(0)))
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in inputs]
    return count_flops(jax.make_jaxpr(lambda model, *inputs: jax.tree.leaves(model(*inputs)))(model, *shapes))


# As torchvision prints them for each of its weights, in billions of multiply-adds for an image of 224 x 224.
PUBLISHED = {
    "alexnet": 0.71,
    "vgg11": 7.61,
    "vgg16": 15.47,
    "resnet18": 1.81,
    "resnet34": 3.66,
    "resnet50": 4.09,
    "vit-b16": 17.56,
    "vit-b32": 4.41,
    "vit-l16": 61.55,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_image_models(name):
    assert forward(PRESETS[name], ((1, 224, 224, 3), jnp.float32)) == pytest.approx(2e9 * PUBLISHED[name], rel=0.007)


def test_cnn():
    found = forward({"name": "cnn", "num_classes": 10, "image_shape": (8, 8, 3)}, ((B, 8, 8, 3), jnp.float32))
    assert found == 2 * B * (64 * 9 * 3 * 32 + 16 * 9 * 32 * 64 + 4 * 64 * 128 + 128 * 10)


@pytest.mark.parametrize(("cell", "gates"), [("elman", 1), ("gru", 3), ("lstm", 4)])
def test_rnn(cell, gates):
    section = {"name": "rnn", "vocab_size": V, "d_model": D, "d_hidden": H, "cell": cell, "tied": False}
    layers = gates * H * (D + H) + gates * H * (H + H)
    assert forward(section, ((B, T), jnp.int32)) == 2 * B * T * (layers + H * V)


def test_bert():
    section = {"name": "bert", "vocab_size": V, "d_model": D, "num_layers": 3, "num_heads": 4, "d_ff": F}
    blocks = 3 * (4 * D * D + 2 * T * D + 2 * D * F)
    assert forward(section | {"head": "masked_lm"}, ((B, T), jnp.int32)) == 2 * B * T * (blocks + D * D + D * V)


def test_encoder_decoder():
    section = {"name": "encoder_decoder", "vocab_size": V, "d_model": D, "num_layers": 3, "num_heads": 4, "d_ff": F}
    block = 4 * D * D + 2 * D * F
    encoder = S * (block + 2 * S * D)
    decoder = T * (block + 2 * T * D + 2 * D * D + 2 * S * D) + S * 2 * D * D  # and its look at the source
    assert forward(section, ((B, S), jnp.int32), ((B, T), jnp.int32)) == 2 * B * (3 * (encoder + decoder) + T * D * V)


def test_speech_lstm_grows_with_its_frames():
    section = {"name": "speech_lstm", "vocab_size": V, "num_mels": 8, "subsampling": 4, "d_hidden": H}
    short, long = (forward(section, ((B, n, 8), jnp.float32), ((B,), jnp.int32)) for n in (64, 128))
    assert long == 2 * short


@pytest.mark.parametrize(("causal", "share"), [(True, 0.5), (False, 1)])
def test_attention_by_cudnn(causal, share, monkeypatch):
    """It is one primitive, which traces on any machine once cuDNN is believed to be there."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 92000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)

    def attend(query, key, value):
        kwargs = {"is_causal": causal, "implementation": "cudnn"}
        return jax.nn.dot_product_attention(query, key, value, **kwargs).astype(jnp.float32).sum()

    query, key = (jax.ShapeDtypeStruct((B, n, heads, 64), jnp.bfloat16) for n, heads in ((T, 4), (S, 2)))
    square = 2 * B * 4 * T * S * 64  # of one of its two products
    assert count_flops(jax.make_jaxpr(attend)(query, key, key)) == 2 * square * share
    assert count_flops(jax.make_jaxpr(jax.grad(attend, (0, 1, 2)))(query, key, key)) == 6 * square * share
