"""The encoder of tokens: its parameters by name and number, its padding, its types, what each head returns."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, parameters

from bigjax.models.bert import BERT

SMALL = {"vocab_size": 50, "context": 16, "d_model": 32, "num_layers": 2, "num_heads": 4}
HEADS = {
    "pooler": (2, 32),
    "sequence_classification": (2, 3),
    "token_classification": (2, 12, 3),
    "question_answering": (2, 12, 2),
    "masked_lm": (2, 12, 50),
}


def options(head):
    return {"head": head} | ({"num_classes": 3} if head.endswith("classification") else {})


@cache
def build(head="pooler", **kwargs):
    return made(lambda rngs: BERT(**(SMALL | options(head) | kwargs), rngs=rngs))


def shapes(**kwargs):
    """Parameter shapes by name, with nothing allocated."""
    model = nnx.eval_shape(lambda: BERT(**kwargs, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def tokens(batch=2, length=12, seed=0):
    return jax.random.randint(jax.random.key(seed), (batch, length), 0, 50)


def features(model, *inputs):
    return jax.jit(lambda model: model.features(*inputs))(model)


def test_bert_base_has_its_published_number_of_parameters():
    assert count(shapes(vocab_size=30522)) == 109_482_240
    large = {"d_model": 1024, "num_layers": 24, "num_heads": 16}
    assert count(shapes(vocab_size=30522, **large)) == 335_141_888


def test_heads_add_what_they_need_to_the_encoder():
    v, d, encoder = 50, 32, {name: s for name, s in shapes(**SMALL).items() if not name.startswith("pooler")}
    extra = {
        "pooler": d * d + d,
        "sequence_classification": d * d + d + 3 * d + 3,
        "token_classification": 3 * d + 3,
        "question_answering": 2 * d + 2,
        "masked_lm": d * d + d + 2 * d + v,
    }
    for head, number in extra.items():
        found = shapes(**SMALL, **options(head))
        assert encoder.items() <= found.items()
        assert count(found) - count(encoder) == number


@pytest.mark.parametrize("head", HEADS)
def test_shape_of_what_each_head_says(head):
    assert jax.eval_shape(lambda: BERT(**SMALL, **options(head), rngs=nnx.Rngs(0))(tokens())).shape == HEADS[head]


@pytest.mark.parametrize("head", ["pooler", "masked_lm"])
def test_what_padding_holds_changes_nothing(head):
    model, x = build(head), tokens()
    mask = jnp.arange(12) < jnp.array([[12], [7]])
    before, after = (apply(model, jnp.where(mask, x, filler), mask) for filler in (0, 9))
    shorter = apply(model, x[1:, :7])
    if before.ndim == 3:
        before, after = before[1:, :7], after[1:, :7]
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(before[-1:], shorter, atol=1e-6)  # nor does there being any


def test_every_token_sees_every_other():
    model, x = build(), tokens(1)
    before, after = features(model, x), features(model, x.at[0, 5].set((x[0, 5] + 1) % 50))
    assert (np.abs(before - after).max(-1) > 1e-4).all()


def test_without_positions_tokens_are_a_set():
    model = nnx.clone(build())
    order = jnp.array([3, 0, 2, 1, 7, 6, 5, 4, 11, 9, 10, 8])
    assert np.abs(features(model, tokens()[:, order]) - features(model, tokens())[:, order]).max() > 1e-2
    model.positions.embedding[...] = 0 * model.positions.embedding[...]
    np.testing.assert_allclose(
        features(model, tokens()[:, order]), features(model, tokens())[:, order], rtol=1e-5, atol=1e-5
    )


def test_types_matter_and_are_zero_unless_given():
    model, x = build(), tokens()
    everything = jnp.ones(x.shape, bool)
    np.testing.assert_array_equal(apply(model, x), apply(model, x, everything, 0 * x))
    assert np.abs(apply(model, x) - apply(model, x, everything, 0 * x + 1)).max() > 1e-3


def test_masked_lm_scores_with_the_embedding():
    model, x = build("masked_lm"), tokens()
    p, y = parameters(model), features(model, x)
    y = jax.nn.gelu(y @ p["head/transform/kernel"], approximate=False)
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-12)
    np.testing.assert_allclose(apply(model, x), y @ p["embedding/embedding"].T, atol=1e-5)


def test_weights_start_truncated_normal():
    found = parameters(build("masked_lm", d_model=64))
    for name in ("embedding/embedding", "blocks/1/mlp/down/kernel", "blocks/0/attention/out/kernel"):
        assert np.abs(found[name]).max() <= 0.04
        assert found[name].std() == pytest.approx(0.02 * 0.88, rel=0.05)  # what is cut off at two deviations narrows it
    assert not found["head/bias"].any()


@pytest.mark.parametrize("head", ["pooler", "token_classification"])
def test_dropout_acts_only_in_training(head):
    model, x = build(head, dropout=0.3), tokens()

    @jax.jit
    def train(model, seed):
        return model(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))

    np.testing.assert_array_equal(apply(model, x), apply(build(head), x))
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-3


def test_a_classifier_drops_of_what_it_sees_too():
    """With everything else dropped at the same rate, a head of ones tells how much it saw."""
    model = nnx.clone(build("token_classification"))
    model.blocks = nnx.List([])
    model.norm.scale[...] = 0 * model.norm.scale[...]
    model.norm.bias[...] = 0 * model.norm.bias[...] + 1
    model.head.kernel[...] = 0 * model.head.kernel[...] + 1
    logits = jax.jit(lambda model: model(tokens(), train=True, rngs=nnx.Rngs(dropout=0)))(model)
    kept = logits * 0.9 * 0.9
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)
    assert np.mean(kept) == pytest.approx(32 * 0.9 * 0.9, rel=0.05)


@pytest.mark.parametrize("head", ["pooler", "masked_lm"])
def test_bfloat16_computes_in_it_and_keeps_float32_parameters(head):
    model = build(head, dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    y = apply(model, tokens())
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), apply(build(head), tokens()), atol=0.05)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"num_heads": 5}, "5 does not divide 32"),
        ({"num_types": 0}, "num_types must be positive"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"num_classes": 3}, "head='pooler' has 3"),
        ({"head": "sequence_classification"}, "head='sequence_classification' has None"),
    ],
)
def test_what_cannot_be_is_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        shapes(**(SMALL | kwargs))


def test_a_sequence_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="17 tokens is longer than the model's context, 16"):
        build()(tokens(length=17))


def test_the_mean_of_the_real_tokens_may_be_classified():
    model, x, real = build("sequence_classification", pool="mean"), tokens(), np.arange(12) < np.array([[12], [7]])
    rows = np.asarray(features(model, x, real))
    mean = np.stack([rows[0].mean(0), rows[1, :7].mean(0)])
    p = parameters(model)
    logits = apply(model, x, real)
    np.testing.assert_allclose(logits, mean @ p["head/kernel"] + p["head/bias"], atol=1e-6)
    np.testing.assert_allclose(apply(model, x[1:, :7]), logits[1:], atol=1e-6)
    assert not any(name.startswith("pooler") for name in p)


@pytest.mark.parametrize(("head", "pool"), [("pooler", "mean"), ("token_classification", "mean"), ("pooler", "last")])
def test_pools_that_cannot_be_are_refused(head, pool):
    with pytest.raises(ValueError, match="pool"):
        BERT(**SMALL, **options(head), pool=pool, rngs=nnx.Rngs(0))
