"""PyTorch's recurrent layers in our names, without PyTorch: what the fixture's test and the live comparison share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import made

from bigjax.models.recurrent import Recurrent


class Configuration(NamedTuple):
    """A stack, and the lengths of a batch for it."""

    cell: str
    in_features: int
    features: int
    num_layers: int
    bidirectional: bool
    lengths: tuple[int, ...]


CONFIGURATIONS = {
    "elman": Configuration("elman", 3, 5, 1, False, (4, 7, 1)),
    "elman_3_both": Configuration("elman", 7, 3, 3, True, (5, 2, 3, 5, 1)),
    "relu_2": Configuration("elman_relu", 5, 7, 2, False, (3, 9)),
    "relu_both": Configuration("elman_relu", 2, 5, 1, True, (6, 1, 5)),
    "lstm_2": Configuration("lstm", 5, 3, 2, False, (7, 3, 1, 5)),
    "lstm_3_both": Configuration("lstm", 3, 5, 3, True, (2, 9, 5)),
    "lstm_both": Configuration("lstm", 7, 7, 1, True, (11, 1)),
    "gru_3": Configuration("gru", 3, 7, 3, False, (1, 8, 3)),
    "gru_2_both": Configuration("gru", 5, 3, 2, True, (9, 9, 2, 7)),
}
RECORDED = ("elman_3_both", "relu_2", "lstm_both", "gru_2_both")  # those in fixtures/rnns.npz


def ours(configuration, arrays, gradients=False):
    """Parameters, or their gradients, by PyTorch's names to ours.

    PyTorch adds two biases wherever we add one; then one's gradient is the other's.
    """
    tree = {}
    directions = 2 if configuration.bidirectional else 1
    for index in range(configuration.num_layers * directions):
        suffix = f"l{index // directions}" + ("_reverse" if index % directions else "")
        layer = {"input": {"kernel": arrays[f"weight_ih_{suffix}"].T}}
        layer["recurrent"] = {"kernel": arrays[f"weight_hh_{suffix}"].T}
        first, second = arrays[f"bias_ih_{suffix}"], arrays[f"bias_hh_{suffix}"]
        if configuration.cell == "gru":
            layer["input"]["bias"], layer["recurrent"]["bias"] = first, second
        else:
            layer["input"]["bias"] = first if gradients else first + second
        tree[index] = layer
    return tree


def compare(configuration, given):
    """Asserts that our stack computes what PyTorch did.

    Args:
      configuration: the stack.
      given: arrays of `fixtures/make_rnns.py`: "x" [B, T, C], "before/h" (and "before/c") [L, B, D], "params/..." by
        PyTorch's names; what PyTorch made of them, "out" and "after/..."; "weight" [B, T, D], and the gradients
        "grads/..." of `(sin(out) * weight).sum() + (after ** 2).sum()`.

    Returns:
      The largest differences: of outputs and states, and of gradients relative to the largest of their array.
    """
    cell, in_features, features, num_layers, bidirectional, lengths = configuration
    model = made(lambda rngs: Recurrent(in_features, features, num_layers, cell, bidirectional, rngs=rngs))
    graphdef, _ = nnx.split(model)

    def under(prefix):
        return {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}

    before, after = (
        list(zip(*under("before/").values(), strict=True)),
        list(zip(*under("after/").values(), strict=True)),
    )

    @jax.jit
    def run(params, x):
        def loss(params, x):
            out, carry = nnx.merge(graphdef, params)(x, before, jnp.array(lengths))
            total = (jnp.sin(out) * given["weight"]).sum() + sum((c**2).sum() for c in jax.tree.leaves(carry))
            return total, (out, carry)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    (of_params, of_x), forward = run(ours(configuration, under("params/")), given["x"])
    grads = under("grads/")
    expected = ours(configuration, grads, gradients=True)
    for pair in (forward, (given["out"], after)), ((of_params, of_x), (expected, grads["x"])):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6, rtol=1e-5), *pair)
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), forward, (given["out"], after))
    relative = jax.tree.map(
        lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), (of_params, of_x), (expected, grads["x"])
    )
    return max(jax.tree.leaves(apart)), max(jax.tree.leaves(relative))
