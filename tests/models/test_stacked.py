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
    "gpt, experts": ({"vocab_size": 11, "context": 8, "num_experts": 3} | LLAMA, (TOKENS,)),
    "vit": ({"num_classes": 5, "image_shape": (8, 8, 3), "patch_size": 4}, (IMAGE,)),
    "whisper": ({"vocab_size": 11, "num_mels": 8, "num_decoder_layers": 2}, (SPEECH, TOKENS)),
}


def build(case, scan_layers, **options):
    section = CASES[case][0] | SIZES | {"scan_layers": scan_layers} | options
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
    ("case", "remat", "scan_layers"),
    [*((case, "nothing_saveable", True) for case in CASES if case != "gpt, llama"), ("gpt", "dots_saveable", False)],
)
def test_computing_layers_again_changes_no_number(case, remat, scan_layers):
    plain, again = build(case, scan_layers), build(case, scan_layers, remat=remat)
    (out, grads, flops), (same_out, same_grads, same_flops) = (run(m, CASES[case][1], True) for m in (again, plain))
    close(out, same_out, atol=1e-5)
    for name, grad in same_grads.items():
        np.testing.assert_allclose(grads[name], grad, rtol=1e-4, atol=1e-5 * max(1, np.abs(grad).max()), err_msg=name)
    # Products are what counts: to keep theirs computes none again, to keep nothing nearly a third more.
    assert flops == same_flops if remat == "dots_saveable" else 1.15 * same_flops < flops < 1.34 * same_flops


def test_the_backward_pass_keeps_what_it_is_told():
    def temporaries(**options):
        model = MODELS["gpt"](11, 64, d_model=32, num_layers=8, num_heads=2, rngs=nnx.Rngs(0), **options)
        graphdef, params = nnx.split(model)
        loss = jax.jit(jax.grad(lambda params: nnx.merge(graphdef, params)(jnp.zeros((4, 64), int))[0].sum()))
        return loss.lower(params).compile().memory_analysis().temp_size_in_bytes

    everything, products, nothing = (
        temporaries(scan_layers=True, remat=remat)
        for remat in (None, "dots_with_no_batch_dims_saveable", "nothing_saveable")
    )
    assert nothing < products < everything
    assert nothing < everything / 2


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
