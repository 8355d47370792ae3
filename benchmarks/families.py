"""How long each model family takes to build, and its training step to compile, at a published size.

python -m benchmarks.families
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bigjax.models import MODELS
from bigjax.models.presets import PRESETS

IMAGES = jax.ShapeDtypeStruct((8, 224, 224, 3), jnp.float32)
TOKENS = jax.ShapeDtypeStruct((8, 128), jnp.int32)
LENGTHS = jax.ShapeDtypeStruct((8,), jnp.int32)
MELS = jax.ShapeDtypeStruct((8, 800, 80), jnp.float32)
CONFORMER = {"name": "conformer", "vocab_size": 29, "num_mels": 80, "subsampling": 4}

WORK: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "CNN of the article": ({"name": "cnn", "num_classes": 10, "image_shape": (24, 24, 3)}, ((8, 24, 24, 3),)),
    "AlexNet": (PRESETS["alexnet"], (IMAGES,)),
    "VGG-16": (PRESETS["vgg16"], (IMAGES,)),
    "ResNet-50": (PRESETS["resnet50"], (IMAGES,)),
    "LSTM, 2 x 650": ({"name": "rnn", "vocab_size": 10000, "d_model": 650}, (TOKENS,)),
    "Transformer, base": (PRESETS["transformer-base"], (TOKENS, TOKENS)),
    "BERT-base": (PRESETS["bert-base"], (TOKENS,)),
    "GPT-2, 124M": (PRESETS["gpt2"], (TOKENS,)),
    "the same, scanned layers": (PRESETS["gpt2"] | {"scan_layers": True}, (TOKENS,)),
    "GPT-2 XL, 48 layers": (PRESETS["gpt2-xl"], (TOKENS,)),
    "the same, scanned": (PRESETS["gpt2-xl"] | {"scan_layers": True}, (TOKENS,)),
    "ViT-B/16": (PRESETS["vit-b16"], (IMAGES,)),
    "Whisper, tiny": (PRESETS["whisper-tiny"], (MELS, TOKENS)),
    "Conformer, S": (CONFORMER, (MELS, LENGTHS)),
    "the same conformer, scanned": (CONFORMER | {"scan_layers": True}, (MELS, LENGTHS)),
}


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    print("| family | parameters | build, abstract | trace the gradient | compile it |\n|---|---|---|---|---|")
    for name, (section, inputs) in WORK.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        kwargs = {key: value for key, value in section.items() if key != "name"}
        make = MODELS[section["name"]]
        inputs = tuple(jax.ShapeDtypeStruct(x, jnp.float32) if isinstance(x, tuple) else x for x in inputs)
        build, model = timed(lambda: nnx.eval_shape(lambda: make(**kwargs, rngs=nnx.Rngs(0))))  # noqa: B023
        graphdef, *state = nnx.split(model, nnx.Param, ...)
        params, rest = map(nnx.to_pure_dict, state)

        def loss(params: Any, rest: Any, *inputs: jax.Array) -> jax.Array:
            out = nnx.merge(graphdef, params, rest)(*inputs, train=True, rngs=nnx.Rngs(dropout=0))  # noqa: B023
            return jnp.square(jax.tree.leaves(out)[0]).mean()

        trace, lowered = timed(lambda: jax.jit(jax.grad(loss)).lower(params, rest, *inputs))  # noqa: B023
        compile, _ = timed(lowered.compile)
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        print(f"| {name} | {count:,} | {build:.2f} s | {trace:.2f} s | {compile:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
