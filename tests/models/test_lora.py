"""Low-rank corrections: nothing at first, then a product of two thin matrices, and plain weights when merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import close, same_bits

from bigjax.models.gpt import GPT
from bigjax.models.lora import LoRALinear, add_lora, merge_lora
from bigjax.models.rnn import RNN

TOKENS = jnp.arange(12).reshape(2, 6) % 11


def gpt(**options):
    return GPT(11, 6, d_model=8, num_layers=3, num_heads=2, **options, rngs=nnx.Rngs(params=0))


def moved(model):
    """The model with noise on all of its parameters."""
    graphdef, state = nnx.split(model)
    key = jax.random.key(1)
    return nnx.merge(graphdef, jax.tree.map(lambda p: p + 0.3 * jax.random.normal(key, p.shape), state))


def names(model):
    return {"/".join(map(str, path)): variable.shape for path, variable in nnx.to_flat_state(nnx.state(model))}


@pytest.mark.parametrize(
    "options", [{}, {"scan_layers": True}, {"use_bias": False, "mlp": "swiglu"}], ids=["plain", "scanned", "no biases"]
)
def test_begins_as_the_model_that_it_adapts_and_merges_into_its_arrays(options):
    plain = gpt(**options)
    adapted = add_lora(plain, "query|down", 2, 5.0, rngs=nnx.Rngs(params=2))
    same_bits(adapted(TOKENS)[0], plain(TOKENS)[0])
    adapted = moved(adapted)
    merged = merge_lora(adapted)
    assert names(merged) == names(plain) and nnx.graphdef(merged) == nnx.graphdef(plain)
    assert float(abs(adapted(TOKENS)[0] - plain(TOKENS)[0]).max()) > 0.1
    close(merged(TOKENS)[0], adapted(TOKENS)[0], atol=1e-5)


def test_the_correction_is_alpha_over_r_times_two_thin_matrices():
    layer = moved(LoRALinear(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), 2, 6.0, rngs=nnx.Rngs(1)))
    x = np.random.default_rng(0).normal(size=(3, 5))
    w, b, lora_a, lora_b = (np.float64(p[...]) for p in (layer.kernel, layer.bias, layer.lora_a, layer.lora_b))
    assert lora_a.shape == (5, 2) and lora_b.shape == (2, 4)
    expected = x @ (w + 3 * lora_a @ lora_b) + b
    close(layer(jnp.float32(x)), expected, atol=1e-5)
    close(layer.merged()(jnp.float32(x)), expected, atol=1e-5)


def test_only_the_chosen_layers_have_corrections():
    shapes = names(add_lora(gpt(), r"blocks/[02]/attention/(query|value)$", 2, 1.0, rngs=nnx.Rngs(params=2)))
    found = {name.rpartition("/")[0] for name in shapes if "lora" in name}
    assert found == {f"blocks/{i}/attention/{name}" for i in (0, 2) for name in ("query", "value")}
    stacked = names(add_lora(gpt(scan_layers=True), "value", 2, 1.0, rngs=nnx.Rngs(params=2)))
    assert stacked["blocks/attention/value/lora_a"] == (3, 8, 2)
    assert stacked["blocks/attention/value/lora_b"] == (3, 2, 8)


def test_a_product_that_a_recurrent_layer_takes_itself_is_not_adapted():
    model = RNN(11, d_model=8, num_layers=1, rngs=nnx.Rngs(params=0))
    assert {n for n in names(add_lora(model, "", 1, 1.0, rngs=nnx.Rngs(2))) if n.endswith("lora_a")} == {
        "layers/0/input/lora_a"
    }
    with pytest.raises(ValueError, match="no linear layer is called 'recurrent'; the model's are input"):
        add_lora(model, "recurrent", 1, 1.0, rngs=nnx.Rngs(2))


def test_a_rank_must_be_positive():
    with pytest.raises(ValueError, match="rank must be positive, not 0"):
        add_lora(gpt(), "query", 0, 1.0, rngs=nnx.Rngs(2))
