"""The decoder: its parameters by name and number, its causality, what it says before it has learned."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, filled, made, parameters

from bigjax.models.gpt import GPT

LLAMA = {"positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "num_kv_heads": 2, "use_bias": False}
SMALL = {"vocab_size": 50, "context": 16, "d_model": 32, "num_layers": 2, "num_heads": 4}


@cache
def build(**kwargs):
    return made(lambda rngs: GPT(**(SMALL | kwargs), rngs=rngs))


def shapes(**kwargs):
    """Parameter shapes by name, with nothing allocated."""
    model = nnx.eval_shape(lambda: GPT(**kwargs, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def tokens(batch=2, length=16, seed=0):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, 50)


@pytest.mark.parametrize("tied", [True, False])
def test_parameter_count_by_formula(tied):
    v, t, d, n = 50, 16, 32, 2
    block = 2 * 2 * d + 4 * (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d)
    assert count(shapes(**SMALL, tied=tied)) == v * d + t * d + n * block + 2 * d + (0 if tied else v * d)


def test_llama_style_has_gates_and_scales_but_no_biases():
    found = shapes(**SMALL, **LLAMA, tied=False)
    block = {
        "norm1/scale": (32,),
        "attention/query/kernel": (32, 32),
        "attention/key/kernel": (32, 16),
        "attention/value/kernel": (32, 16),
        "attention/out/kernel": (32, 32),
        "norm2/scale": (32,),
        "mlp/gate/kernel": (32, 128),  # 8 * 32 / 3, rounded up to a multiple of 64
        "mlp/up/kernel": (32, 128),
        "mlp/down/kernel": (128, 32),
    }
    whole = {f"blocks/{i}/{name}": shape for i in range(2) for name, shape in block.items()}
    assert found == whole | {"embedding/embedding": (50, 32), "norm/scale": (32,), "head/kernel": (32, 50)}


@pytest.mark.parametrize(("d_model", "d_ff"), [(768, 2048), (4096, 10944), (96, 256), (97 * 2, 576)])
def test_swiglu_width_is_eight_thirds_rounded_up(d_model, d_ff):
    sizes = {"vocab_size": 8, "context": 4, "d_model": d_model, "num_layers": 1, "num_heads": 2}
    assert shapes(**sizes, mlp="swiglu")["blocks/0/mlp/up/kernel"] == (d_model, d_ff)
    assert d_ff % 64 == 0
    assert 0 <= d_ff - 8 * d_model / 3 < 64


@pytest.mark.parametrize("options", [{}, LLAMA], ids=["gpt2", "llama"])
def test_a_later_token_changes_nothing_before_it(options):
    model, x = build(**options), tokens()
    changed = x.at[:, 9].set((x[:, 9] + 1) % 50)
    before, after = apply(model, x)[0], apply(model, changed)[0]
    np.testing.assert_array_equal(before[:, :9], after[:, :9])
    assert np.abs(before[:, 9:] - after[:, 9:]).max() > 1e-3
    np.testing.assert_allclose(apply(model, x[:, :9])[0], before[:, :9], atol=1e-6)  # nor does the length


@pytest.mark.parametrize("options", [{}, LLAMA], ids=["gpt2", "llama"])
def test_positions_matter(options):
    """To one layer without positions, the tokens before the last would be a set."""
    model = build(**options, num_layers=1)
    first, second = (apply(model, jnp.array([[*order, 9]]))[0][0, -1] for order in ((7, 8, 7, 8), (8, 7, 7, 8)))
    assert np.abs(first - second).max() > 1e-5


@pytest.mark.parametrize("options", [{}, LLAMA], ids=["gpt2", "llama"])
def test_untrained_loss_is_that_of_guessing(options):
    logits = apply(build(vocab_size=1000, **options), tokens(8))[0]
    losses = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, tokens(8, seed=1)[..., None], -1)[..., 0]
    assert abs(float(losses.mean()) - np.log(1000)) < 0.05


def test_a_block_is_gelu_and_layernorm_as_in_gpt2():
    """One block in float64 but for attention, which has a test of its own."""
    model = jax.tree.map(lambda leaf: 20 * leaf if leaf.ndim == 2 else leaf, build(num_layers=1))  # gelu's bends show
    p = {name: array.astype(np.float64) for name, array in parameters(model).items()}
    x = np.random.default_rng(0).normal(size=(2, 5, 32))
    block = model.blocks[0]

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

    expected = x + np.asarray(jax.jit(lambda m, x: m(x, causal=True)[0])(block.attention, jnp.float32(norm(x))))
    up = norm(expected) @ p["blocks/0/mlp/up/kernel"]
    gelu = up / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    expected = expected + gelu @ p["blocks/0/mlp/down/kernel"]
    actual = jax.jit(lambda block, x: block(x, jnp.arange(5), None, None)[0])(block, jnp.float32(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4)


def test_residual_outputs_start_smaller_with_depth():
    found = parameters(build())  # of two layers, in which four outputs are added
    for name, std in (("mlp/up", 0.02), ("mlp/down", 0.01), ("attention/out", 0.01), ("attention/key", 0.02)):
        assert found[f"blocks/1/{name}/kernel"].std() == pytest.approx(std, rel=0.1)


def test_tied_output_is_the_embedding_transposed():
    model = build(num_layers=1)
    scaled = nnx.clone(model)
    scaled.norm.scale[...] = scaled.norm.scale[...] * 2
    np.testing.assert_allclose(apply(scaled, tokens())[0], 2 * apply(model, tokens())[0], atol=1e-6)
    assert "head/kernel" not in parameters(model)


def test_dropout_acts_only_in_training():
    model, x = build(dropout=0.3), tokens()

    @jax.jit
    def train(model, seed):
        return model(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))[0]

    np.testing.assert_array_equal(apply(model, x)[0], apply(build(), x)[0])
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-3


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    model = build(dtype=jnp.bfloat16, **LLAMA)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    logits = apply(model, tokens())[0]
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits.astype(np.float32), apply(build(**LLAMA), tokens())[0], atol=0.03)


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="17 tokens is longer than the model's context, 16"):
        build()(tokens(length=17))


@pytest.mark.parametrize(("heads", "kv_heads", "words"), [(5, None, "5 does not divide 32"), (4, 3, "3 does not")])
def test_heads_that_do_not_divide_are_refused(heads, kv_heads, words):
    with pytest.raises(ValueError, match=words):
        build(num_heads=heads, num_kv_heads=kv_heads)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_packed_documents_do_not_see_each_other(positions, scan_layers):
    """Each document's logits in a row are those of the document alone."""
    options = {"positions": positions, "scan_layers": scan_layers, "num_kv_heads": 1}
    model = made(lambda rngs: GPT(13, 16, 16, 2, 2, **options, rngs=rngs))
    model = jax.tree.map(lambda leaf: 4 * leaf, model)
    rng = np.random.default_rng(0)
    lengths = (5, 1, 7, 3)
    tokens = rng.integers(0, 13, (2, 16))
    segments = np.repeat(np.arange(4), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    both = [np.broadcast_to(part, (2, 16)).astype(np.int32) for part in (segments, places)]
    packed = apply(model, tokens, None, None, *both)[0]
    for number in range(4):
        alone = apply(model, tokens[:, segments == number])[0]
        np.testing.assert_allclose(packed[:, segments == number], alone, atol=1e-5)
    assert np.abs(packed - apply(model, tokens)[0])[:, 5:].max() > 1e-2


def test_equal_experts_that_are_all_chosen_are_a_dense_model():
    dense, options = build(**LLAMA), {"num_experts": 3, "experts_per_token": 3}
    p = parameters(dense)
    kernels = {name: p.pop(name) for name in list(p) if "/mlp/" in name}
    p |= {name.removesuffix("/kernel"): np.tile(kernel, (3, 1, 1)) for name, kernel in kernels.items()}
    p |= {f"blocks/{i}/mlp/router/kernel": np.random.default_rng(i).normal(size=(32, 3)) for i in range(2)}
    mixed = filled(build(**LLAMA, **options), {name: np.float32(array) for name, array in p.items()})
    np.testing.assert_allclose(apply(mixed, tokens())[0], apply(dense, tokens())[0], atol=1e-5)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_only_training_leaves_what_routers_said(scan_layers):
    model = build(**LLAMA, num_experts=4, scan_layers=scan_layers, remat="nothing_saveable")

    @partial(jax.jit, static_argnums=1)
    def left(model, train):
        model(tokens(), train=train, rngs=nnx.Rngs(0))
        return nnx.to_pure_dict(nnx.pop(model, nnx.Intermediate))

    assert left(model, False) == {}
    routing = left(model, True)["routing"]
    assert (routing.probabilities.shape, routing.experts.shape) == ((2, 2, 16, 4), (2, 2, 16, 2))


def test_experts_are_swiglu():
    with pytest.raises(ValueError, match="num_experts is for mlp 'swiglu', and mlp is 'gelu'"):
        build(num_experts=4)
