"""Layers that are one stack, to be scanned, give what a list of them gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import close, parameters

from bigjax.models import MODELS
from bigjax.models.stacked import is_stacked, layer_names, unstacked
from bigjax.training.flops import count_flops

RNG = np.random.default_rng(0)
TOKENS, MASK = RNG.integers(0, 11, (2, 8)), np.arange(8) < np.array([[8], [5]])
IMAGE, SPEECH = RNG.normal(size=(2, 8, 8, 3)).astype(np.float32), RNG.normal(size=(2, 16, 8)).astype(np.float32)
SIZES = {"d_model": 16, "num_layers": 3, "num_heads": 2, "dropout": 0.2}
LLAMA = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "use_bias": False,
    "num_kv_heads": 1,
    "qk_norm": True,
}
CASES = {
    "bert": ({"vocab_size": 11, "context": 8, "head": "masked_lm"}, (TOKENS, MASK)),
    "conformer": ({"vocab_size": 11, "num_mels": 8, "kernel_size": 3, "subsampling": 4}, (SPEECH, np.array([16, 9]))),
    "encoder_decoder": ({"vocab_size": 11, "d_ff": 32}, (TOKENS, TOKENS, MASK)),
    "gpt": ({"vocab_size": 11, "context": 8}, (TOKENS,)),
    "gpt, llama": ({"vocab_size": 11, "context": 8} | LLAMA, (TOKENS,)),
    "vit": ({"num_classes": 5, "image_shape": (8, 8, 3), "patch_size": 4}, (IMAGE,)),
    "whisper": ({"vocab_size": 11, "num_mels": 8, "num_decoder_layers": 2}, (SPEECH, TOKENS)),
}


def build(case, scan_layers):
    section = CASES[case][0] | SIZES | {"scan_layers": scan_layers}
    model = jax.jit(lambda: MODELS[case.split(",")[0]](**section, rngs=nnx.Rngs(0)))()
    if case == "vit":
        model.head.kernel[...] = jnp.sin(jnp.arange(80.0)).reshape(16, 5)  # it begins at zero
    return model


def run(model, inputs, train):
    """Outputs, gradients of their sum of squares by name, and the products that it takes."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params):
        rngs = nnx.Rngs(dropout=1) if train else None
        out = jax.tree.leaves(nnx.merge(graphdef, params, rest)(*inputs, train=train, rngs=rngs))[0]
        return jnp.square(out).sum(), out

    step = jax.jit(jax.grad(loss, has_aux=True))
    grads, out = step(params)
    return out, unstacked(parameters(nnx.merge(graphdef, grads, rest))), count_flops(step.trace(params).jaxpr)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_stack_gives_what_a_list_gives(case, train):
    listed, stacked = build(case, False), build(case, True)
    assert any(is_stacked(name) for name in parameters(stacked))
    close(unstacked(parameters(stacked)), parameters(listed), atol=0)
    (out, grads, flops), (same_out, same_grads, same_flops) = (run(m, CASES[case][1], train) for m in (stacked, listed))
    close(out, same_out, atol=1e-5)
    assert grads.keys() == same_grads.keys()
    for name, grad in same_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-4, atol=1e-5 * max(1, np.abs(grad).max()), err_msg=name)
    assert flops == same_flops > 0


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("blocks/norm1/scale", ["blocks/0/norm1/scale", "blocks/1/norm1/scale"]),
        ("encoder/blocks/mlp/up/kernel", ["encoder/blocks/0/mlp/up/kernel", "encoder/blocks/1/mlp/up/kernel"]),
        ("decoder_blocks/norm1/scale", ["decoder_blocks/0/norm1/scale", "decoder_blocks/1/norm1/scale"]),
        ("blocks/0/norm1/scale", ["blocks/0/norm1/scale"]),
        ("norm/scale", ["norm/scale"]),
    ],
)
def test_names(name, names):
    assert layer_names(name, (2, 7)) == names
    assert is_stacked(name) == (len(names) == 2)
