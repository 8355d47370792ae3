"""Every family with rules of its own lies on a mesh as they say, and computes what it does on one device."""

from helpers import run_python

CODE = """
import numpy as np
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from bigjax.models import MODELS, SHARDING
from bigjax.parallel.mesh import make_mesh, name_of, state_shardings

rng = np.random.default_rng(0)
tokens = rng.integers(0, 64, (4, 8))
image, speech = rng.normal(size=(4, 16, 16, 3)), rng.normal(size=(4, 16, 8))
sizes = {"d_model": 32, "num_layers": 2, "num_heads": 4}
llama = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "num_kv_heads": 2, "qk_norm": True, "tied": False}
words = {"vocab_size": 64, "context": 8} | sizes
cases = [
    ("bert", words | {"head": "masked_lm"}, (tokens,)),
    ("encoder_decoder", {"vocab_size": 64, "d_ff": 64} | sizes, (tokens, tokens)),
    ("gpt", words, (tokens,)),
    ("gpt", words | llama, (tokens,)),
    ("gpt", words | llama | {"scan_layers": True}, (tokens,)),
    ("gpt", words | llama | {"scan_layers": True, "num_experts": 4}, (tokens,)),
    ("vit", {"num_classes": 10, "image_shape": (16, 16, 3), "patch_size": 4} | sizes, (jnp.float32(image),)),
    ("whisper", {"vocab_size": 64, "num_mels": 8} | sizes, (jnp.float32(speech), tokens)),
]
assert {name for name, *_ in cases} == SHARDING.keys()
mesh = make_mesh(data=2, fsdp=2, tensor=2)
for name, section, inputs in cases:
    model = jax.jit(lambda: MODELS[name](**section, rngs=nnx.Rngs(0)))()
    if name == "vit":
        model.head.kernel[...] = jnp.sin(jnp.arange(320.0)).reshape(32, 10)  # it begins at zero
    graphdef, state = nnx.split(model)
    state = nnx.to_pure_dict(state)
    shardings = state_shardings(mesh, state, SHARDING[name])
    for path, sharding in jax.tree_util.tree_leaves_with_path(shardings):
        words = name_of(path).split("/")
        layers = [None] if words[0] == "blocks" and not words[1].isdigit() else []
        if words[-1] == "kernel" and words[-2] in ("query", "key", "value", "up", "gate"):
            assert sharding.spec == P(*layers, "fsdp", "tensor"), (name, words, sharding.spec)
        if words[-1] == "kernel" and words[-2] in ("out", "down"):
            assert sharding.spec == P(*layers, "tensor", "fsdp"), (name, words, sharding.spec)
        if words[-2:] == ["mlp", "up"]:
            assert sharding.spec == P(*layers, "expert", "fsdp", "tensor"), sharding.spec
        if words[-2:] == ["mlp", "down"]:
            assert sharding.spec == P(*layers, "expert", "tensor", "fsdp"), sharding.spec
        if words == ["head", "kernel"] and name == "gpt":
            assert sharding.spec == P("fsdp", "tensor"), sharding.spec
        if words == ["embedding", "embedding"]:
            assert sharding.spec == P("tensor", "fsdp"), sharding.spec
    run = jax.jit(lambda state, inputs: jax.tree.leaves(nnx.merge(graphdef, state)(*inputs))[0])
    alone, laid = run(state, inputs), run(jax.device_put(state, shardings), inputs)
    assert np.abs(alone).max() > 0.1, name
    np.testing.assert_allclose(laid, alone, rtol=1e-5, atol=1e-5, err_msg=name)
    print(name)
"""


def test_parameters_lie_by_the_rules_and_give_the_same_numbers():
    assert len(run_python(CODE, devices=8).split()) == 8
