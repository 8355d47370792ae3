"""In bfloat16 every product that costs something is one of bfloat16 numbers, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.models import MODELS
from bigjax.training.flops import inner_jaxprs

TOKENS, IMAGE = np.zeros((2, 8), np.int32), np.zeros((2, 64, 64, 3), np.float32)
SPEECH, LENGTHS = np.zeros((2, 16, 8), np.float32), np.full(2, 16, np.int32)
SIZES = {"d_model": 16, "num_layers": 1, "num_heads": 2}
LLAMA = {
    "positions": "rotary",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "use_bias": False,
    "num_kv_heads": 1,
    "qk_norm": True,
}
CASES = {
    "alexnet": ({"num_classes": 5, "image_shape": (64, 64, 3), "hidden": 16}, (IMAGE,)),
    "bert": ({"vocab_size": 11, "head": "masked_lm"} | SIZES, (TOKENS, TOKENS > 0)),
    "cnn": ({"num_classes": 5, "image_shape": (64, 64, 3)}, (IMAGE,)),
    "conformer": ({"vocab_size": 11, "num_mels": 8, "subsampling": 4} | SIZES, (SPEECH, LENGTHS)),
    "encoder_decoder": ({"vocab_size": 11, "d_ff": 32} | SIZES, (TOKENS, TOKENS, TOKENS > 0)),
    "gpt": ({"vocab_size": 11, "context": 8} | SIZES, (TOKENS,)),
    "gpt, llama": ({"vocab_size": 11, "context": 8, "tied": False} | SIZES | LLAMA, (TOKENS,)),
    "quick_cnn": ({"num_classes": 5, "image_shape": (64, 64, 3), "widths": (8, 8)}, (IMAGE,)),
    "resnet": ({"num_classes": 5, "image_shape": (64, 64, 3), "width": 4}, (IMAGE,)),
    "rnn": ({"vocab_size": 11, "d_model": 8}, (TOKENS,)),
    "rnn, gru": ({"vocab_size": 11, "d_model": 8, "cell": "gru", "tied": False}, (TOKENS,)),
    "rnn_classifier": ({"vocab_size": 11, "num_classes": 5, "d_model": 8}, (TOKENS, TOKENS > 0)),
    "speech_lstm": ({"vocab_size": 11, "num_mels": 8, "d_hidden": 8, "subsampling": 2}, (SPEECH, LENGTHS)),
    "vgg": ({"num_classes": 5, "image_shape": (64, 64, 3), "depth": 11, "hidden": 16}, (IMAGE,)),
    "vit": ({"num_classes": 5, "image_shape": (64, 64, 3)} | SIZES, (IMAGE,)),
    "whisper": ({"vocab_size": 11, "num_mels": 8} | SIZES, (SPEECH, TOKENS)),
}
PRODUCTS = ("dot_general", "conv_general_dilated")


def products(jaxpr):
    """The dtypes of the two factors of every product in a jaxpr, and in those that it calls."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name in PRODUCTS:
            yield tuple(str(v.aval.dtype) for v in equation.invars[:2])
        for value in equation.params.values():
            for inner in inner_jaxprs(value):
                yield from products(inner)


def test_every_model_is_here():
    assert {name.split(",")[0] for name in CASES} == MODELS.keys()


@pytest.mark.parametrize("case", CASES)
def test_products_are_of_bfloat16_forward_and_backward(case):
    section, inputs = CASES[case]

    def loss(params, dtype):
        def make():
            return MODELS[case.split(",")[0]](**section, dtype=dtype, rngs=nnx.Rngs(0))

        graphdef, _, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
        rest = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), rest)
        model = nnx.merge(graphdef, params, rest)
        return sum(y.astype(jnp.float32).sum() for y in jax.tree.leaves(model(*inputs)))

    abstract = nnx.eval_shape(lambda: MODELS[case.split(",")[0]](**section, rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    found = {
        dtype: set(products(jax.make_jaxpr(jax.grad(lambda p, dtype=dtype: loss(p, dtype)))(params).jaxpr))
        for dtype in (jnp.float32, jnp.bfloat16)
    }
    assert found[jnp.float32] == {("float32", "float32")}
    # Scores of attention are summed in float32, and so is their gradient, which meets keys and queries.
    attends = {("float32", "bfloat16")} if "num_heads" in section else set()
    assert found[jnp.bfloat16] == {("bfloat16", "bfloat16")} | attends
