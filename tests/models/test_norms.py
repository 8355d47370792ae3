"""Norms, MLPs and the like: that their gradients are those of what they compute, and what they keep for them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.models.attention import Attention
from bigjax.models.blocks import MLP
from bigjax.models.conformer import Convolution, FeedForward
from bigjax.models.dropout import Dropout
from bigjax.models.norms import BatchNorm, LayerNorm, RMSNorm

LAYERS, ROWS, WIDTH = 16, 512, 64
recomputes = pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA's CPU undid it")


@pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])
def test_norms_are_flaxs(kind):
    ours, theirs = ({"LayerNorm": LayerNorm, "RMSNorm": RMSNorm}[kind], getattr(nnx, kind))
    x = np.random.default_rng(0).normal(size=(3, 4, WIDTH)).astype(np.float32)

    def sines(norm, x):
        return jnp.sin(norm(x)).sum()

    of_sines = jax.jit(jax.value_and_grad(sines, (0, 1)))
    ours, theirs = (of_sines(norm(WIDTH, rngs=nnx.Rngs(0)), x) for norm in (ours, theirs))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)


def test_batch_norm_is_flaxs_and_its_statistics_follow():
    x = np.random.default_rng(0).normal(2, 3, size=(30, 5, 5, WIDTH)).astype(np.float32)

    def sines(state, graphdef, call):
        norm = nnx.merge(graphdef, state)
        loss = jnp.sin(call(norm)).sum()
        return loss, nnx.to_pure_dict(nnx.state(norm, nnx.BatchStat))

    found = []
    calls = {
        BatchNorm: (lambda norm: norm(x, train=True), lambda norm: norm(x, train=False)),
        nnx.BatchNorm: (lambda norm: norm(x), lambda norm: norm(x, use_running_average=True)),
    }
    for kind, (train, evaluate) in calls.items():
        graphdef, state = nnx.split(kind(WIDTH, rngs=nnx.Rngs(0)))
        state = nnx.to_pure_dict(state)
        of_sines = jax.jit(jax.value_and_grad(sines, has_aux=True), static_argnums=(1, 2))
        (loss, statistics), grads = of_sines(state, graphdef, train)
        grads = {key: grads[key] for key in ("scale", "bias")}
        found.append((loss, statistics, grads, of_sines(state | statistics, graphdef, evaluate)[0]))
    for mine, other in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found[0][1]["mean"], 0.01 * x.mean((0, 1, 2)), rtol=1e-4)


def kept(layer, width):
    """Arrays of [ROWS, width] that the gradient of a stack holds at once, for each layer."""

    def of_stack(layers, x):
        for one in layers:
            x = layer(one, x)
        return x.sum()

    def measure(make):
        layers = [make(nnx.Rngs(i)) for i in range(LAYERS)]
        compiled = jax.jit(jax.grad(of_stack)).lower(layers, jnp.ones((ROWS, WIDTH))).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * ROWS * width * LAYERS)

    return measure


@recomputes
@pytest.mark.parametrize("norm", [LayerNorm, RMSNorm])
def test_of_a_norm_its_input_is_kept(norm):
    kernel = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    measure = kept(lambda norm, x: x + jnp.sin(norm(x) @ kernel), WIDTH)
    assert measure(lambda rngs: norm(WIDTH, rngs=rngs)) < 2.5  # with what the norm gave, for the kernel; flax's keep 4


@recomputes
@pytest.mark.parametrize(("kind", "arrays"), [("gelu", 1), ("swiglu", 2)])
def test_of_an_mlp_its_projections_are_kept(kind, arrays):
    inits = {"kernel_init": nnx.initializers.normal(0.1), "out_init": nnx.initializers.normal(0.1)}
    found = kept(lambda mlp, x: mlp(x), 16 * WIDTH)(
        lambda rngs: MLP(WIDTH, 16 * WIDTH, kind, dtype=jnp.float32, rngs=rngs, **inits)
    )
    assert found < arrays + 0.5


@recomputes
def test_of_dropout_a_bool_is_kept():
    def through(dropout, x):
        return dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=0))

    assert kept(through, WIDTH)(lambda rngs: Dropout(0.5)) < 0.5  # an array of bools is a quarter


@recomputes
def test_of_attention_what_its_averages_were_sums_of_is_not_kept():
    def through(attention, x):
        return attention(x[None])[0][0]

    inits = {"kernel_init": nnx.initializers.normal(0.1), "out_init": nnx.initializers.normal(0.1)}
    found = kept(through, WIDTH)(lambda rngs: Attention(WIDTH, 1, dtype=jnp.float32, rngs=rngs, **inits))
    assert found < 14  # 8 of weights, 4 of queries, keys, values and averages, 1 of inputs


@recomputes
def test_of_a_conformers_module_its_projection_is_kept_and_what_was_dropped():
    def through(module, x):
        return module(x[None], nnx.Rngs(dropout=0))[0]

    found = kept(through, 8 * WIDTH)(lambda rngs: FeedForward(WIDTH, 8 * WIDTH, 0.5, dtype=jnp.float32, rngs=rngs))
    assert found < 1.5  # a bool is a quarter


@recomputes
def test_of_a_conformers_convolution_no_nonlinearity_is_kept():
    def through(module, x):
        return module(x[None], jnp.ones((1, ROWS), bool))[0]

    found = kept(through, WIDTH)(lambda rngs: Convolution(WIDTH, 5, dtype=jnp.float32, rngs=rngs))
    assert found < 6
