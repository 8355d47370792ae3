"""FLOPs counted from what is traced, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import ROOT

from bigjax.config import experiment_config
from bigjax.models.gpt import GPT
from bigjax.run import read_config
from bigjax.training.flops import count_flops, peak_flops
from bigjax.training.setup import set_up


def flops(function, *shapes):
    return count_flops(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_matrix_products():
    assert flops(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(jnp.matmul, (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("abc,dbc->ad", a, b), (2, 3, 5), (7, 3, 5)) == 2 * 2 * 7 * 15
    assert flops(lambda a: jnp.sin(a) + a, (100,)) == 0


def conv(stride=1, groups=1):
    def function(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
        )

    return function


def test_convolutions_forward():
    assert flops(conv(), (2, 8, 8, 3), (3, 3, 3, 16)) == 2 * (2 * 8 * 8 * 16) * (3 * 3 * 3)
    assert flops(conv(stride=2), (2, 8, 8, 3), (3, 3, 3, 16)) == 2 * (2 * 4 * 4 * 16) * (3 * 3 * 3)
    assert flops(conv(groups=4), (2, 8, 8, 8), (3, 3, 2, 16)) == 2 * (2 * 8 * 8 * 16) * (3 * 3 * 2)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_gradient_is_twice_their_forward(stride):
    forward = flops(conv(stride), (2, 8, 8, 3), (3, 3, 3, 16))
    both = flops(jax.grad(lambda x, k: (conv(stride)(x, k) ** 2).sum(), (0, 1)), (2, 8, 8, 3), (3, 3, 3, 16))
    assert both == 3 * forward


def test_grouped_products_take_each_row_through_one_group():
    def product(x, kernels):
        return jax.lax.ragged_dot(x, kernels, jnp.array([1, 6, 0, 2]))

    forward = flops(product, (9, 5), (4, 5, 7))
    assert forward == 2 * 9 * 5 * 7
    assert flops(jax.grad(lambda *of: (product(*of) ** 2).sum(), (0, 1)), (9, 5), (4, 5, 7)) == 3 * forward


def test_loops_count_as_often_as_they_run():
    def repeated(w, x):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, length=6)[0]

    def nested(w, x):
        return jax.lax.scan(lambda x, _: (repeated(w, x), None), x, length=4)[0]

    assert flops(repeated, (5, 5), (3, 5)) == 6 * 2 * 3 * 5 * 5
    assert flops(nested, (5, 5), (3, 5)) == 4 * 6 * 2 * 3 * 5 * 5


def test_what_is_called_counts_and_of_branches_the_dearest():
    def branching(w, x):
        return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)

    assert flops(branching, (5, 5), (3, 5)) == 2 * 2 * 3 * 5 * 5
    assert flops(jax.jit(jnp.matmul), (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(jax.checkpoint(jnp.matmul), (3, 5), (5, 7)) == 2 * 3 * 5 * 7


def test_gradient_of_linear_layers():
    """A layer's backward pass is twice its forward, less the gradient to an input that needs none."""
    b, d, h, k = 6, 5, 7, 3

    def loss(params, x):
        w, v = params
        return (jnp.tanh(x @ w) @ v).sum() ** 2

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((d, h), (h, k))], jax.ShapeDtypeStruct((b, d), jnp.float32)
    first, second = 2 * b * d * h, 2 * b * h * k
    assert count_flops(jax.make_jaxpr(jax.grad(loss))(*shapes)) == 3 * (first + second) - first
    assert count_flops(jax.make_jaxpr(jax.grad(loss, (0, 1)))(*shapes)) == 3 * (first + second)


EXPERTS = {"num_experts": 5, "experts_per_token": 3}


@pytest.mark.parametrize(
    ("kv_heads", "mlp", "tied", "experts"),
    [(4, "gelu", True, {}), (2, "swiglu", False, {}), (4, "swiglu", True, EXPERTS)],
)
def test_gpt_forward_by_formula(kv_heads, mlp, tied, experts):
    v, t, d, n, b, f = 50, 16, 32, 3, 2, 96
    make = nnx.eval_shape(
        lambda: GPT(
            v, t, d, n, 4, kv_heads, d_ff=f, mlp=mlp, tied=tied, positions="rotary", **experts, rngs=nnx.Rngs(0)
        )
    )
    jaxpr = jax.make_jaxpr(lambda model, tokens: model(tokens)[0])(make, jax.ShapeDtypeStruct((b, t), np.int32))
    projections = 2 * d * d + 2 * d * (d * kv_heads // 4)
    attention = 2 * t * d  # scores and their values, over the whole square
    mlp_size = d * f * (3 if mlp == "swiglu" else 2)
    if experts:
        mlp_size = 3 * mlp_size + d * 5  # three experts for each token, and the router
    assert count_flops(jaxpr) == 2 * b * t * (n * (projections + attention + mlp_size) + d * v)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("TPU v5 lite", 197e12), ("cpu", None)],
)
def test_peaks_by_device_kind(kind, peak):
    assert peak_flops(kind) == peak


def test_what_an_optimizer_multiplies_counts_once():
    sections = experiment_config(str(ROOT / "experiments/digits_cnn.py")).to_dict()
    made = {
        name: set_up(read_config(sections | {"optimizer": {"name": name, "learning_rate": 0.1}}, {}))
        for name in ("sgd", "muon")
    }
    state, optimizer = made["muon"].abstract, made["muon"].program.optimizer
    alone = count_flops(jax.make_jaxpr(optimizer.update)(state.params, state.opt_state, state.params))
    assert alone > 0
    assert made["muon"].step_flops() == made["sgd"].step_flops() + alone
