"""The encoder-decoder: MarianMT's logits, its parameters by number, what may and may not change what."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, filled, made, parameters

from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.models.encoder_decoder import EncoderDecoder, Source

FIXTURE = Path(__file__).parents[1] / "fixtures" / "marian.npz"
SMALL = {"vocab_size": 31, "d_model": 12, "num_layers": 2, "num_heads": 3, "d_ff": 20}


@cache
def build(**kwargs):
    return made(lambda rngs: EncoderDecoder(**(SMALL | kwargs), rngs=rngs))


@cache
def fixture():
    """A MarianMT model as ours, and what it was given and gave."""
    arrays = dict(np.load(FIXTURE))
    outputs = {name: arrays.pop(name) for name in ("source", "mask", "target", "logits")}
    return filled(build(), arrays), outputs


def count(**kwargs):
    model = nnx.eval_shape(lambda: EncoderDecoder(**kwargs, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))


@pytest.mark.parametrize(
    ("sizes", "millions"),
    [
        ({"vocab_size": 37000}, 63),
        ({"vocab_size": 37000, "d_model": 1024, "num_heads": 16, "d_ff": 4096}, 214),
        (SMALL, None),
    ],
    ids=["base", "big", "small"],
)
def test_parameter_count_by_formula(sizes, millions):
    v, d, n, f = (
        ({"d_model": 512, "num_layers": 6, "d_ff": 2048} | sizes)[k]
        for k in ("vocab_size", "d_model", "num_layers", "d_ff")
    )
    attention, mlp, norm = 4 * (d * d + d), 2 * d * f + f + d, 2 * d
    found = count(**sizes)
    assert found == v * d + n * (attention + mlp + 2 * norm) + n * (2 * attention + mlp + 3 * norm)
    if millions:
        assert round(found / 1e6) == millions  # the paper's table 3 says 65 and 213


def test_logits_are_those_of_marian():
    model, data = fixture()
    actual = apply(model, data["source"], data["target"], data["mask"])
    np.testing.assert_allclose(actual, data["logits"], rtol=1e-5, atol=1e-4)


def test_token_by_token_is_as_all_at_once():
    model, data = fixture()
    start = jax.jit(lambda model, source: model.start_decoding(2, 7, source))
    go_on = jax.jit(lambda model, tokens, carry: model.features(tokens, carry))
    carry = start(model, Source(data["source"], data["mask"]))
    logits = []
    for i in range(7):
        x, carry = go_on(model, data["target"][:, i : i + 1], carry)
        logits.append(model.logits(x))
    np.testing.assert_allclose(jnp.concatenate(logits, 1), data["logits"], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(carry.length, [7, 7])


def test_generation_goes_on_as_the_whole_model_would():
    """Greedily, from prompts of different lengths, each as if it were alone."""
    model, data = fixture()
    source, mask = data["source"], data["mask"]
    prompts = [[5, 3], [9]]
    together = generate(model, prompts, 6, GREEDY, source=Source(source, mask))
    for i, length in enumerate((9, 5)):
        tokens = list(prompts[i])
        for _ in range(6):
            target = np.array([tokens + [0] * (8 - len(tokens))])
            logits = apply(model, source[i : i + 1, :length], target)
            tokens.append(int(logits[0, len(tokens) - 1].argmax()))
        assert together[i] == tokens[len(prompts[i]) :]
    assert together[0] != together[1]


def test_beam_search_keeps_each_source_with_its_beams():
    """With as many beams as there are texts, the best of them all is found."""
    model, data = fixture()
    source, mask = data["source"], data["mask"]
    found = beam_search(model, [[4], [4]], 2, 31, source=Source(source, mask))
    pairs = np.stack(np.meshgrid(np.arange(31), np.arange(31), indexing="ij"), -1).reshape(-1, 2)
    targets = np.concatenate([np.full((961, 1), 4), pairs], 1)[:, :2]
    for i in range(2):
        logits = apply(model, np.repeat(source[i : i + 1], 961, 0), targets, np.repeat(mask[i : i + 1], 961, 0))
        scores = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), pairs[..., None], -1)[..., 0].sum(-1)
        assert found[i] == pairs[scores.argmax()].tolist()
    assert found[0] != found[1]


def test_padding_of_the_source_changes_nothing():
    model, data = fixture()
    source, target, mask = data["source"], data["target"], data["mask"]
    expected = apply(model, source, target, mask)
    np.testing.assert_array_equal(apply(model, np.where(mask, source, 7), target, mask), expected)
    alone = apply(model, source[1:, :5], target[1:])
    np.testing.assert_allclose(alone[0], expected[1], atol=1e-5)
    assert np.abs(apply(model, np.where(mask, source, 7), target) - expected)[1].max() > 0.1  # without the mask it does


def test_a_later_target_token_changes_nothing_before_it():
    model, data = fixture()
    source, target, mask = data["source"], data["target"], data["mask"]
    changed = target.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 31
    before, after = apply(model, source, target, mask), apply(model, source, changed, mask)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[:, 4:].max(-1) > 1e-3).all()


def test_every_source_token_is_seen_by_every_target_token():
    model, data = fixture()
    source, target = data["source"], data["target"]
    before = apply(model, source, target)
    for i in range(9):
        changed = source.copy()
        changed[:, i] = (changed[:, i] + 1) % 31
        assert (np.abs(apply(model, changed, target) - before).max(-1) > 1e-4).all()


def test_dropout_acts_only_in_training():
    model, data = build(num_layers=1, dropout=0.3), fixture()[1]

    @jax.jit
    def train(model, seed):
        rngs = nnx.Rngs(dropout=jax.random.key(seed))
        return model(data["source"], data["target"], data["mask"], train=True, rngs=rngs)

    inputs = (data["source"], data["target"], data["mask"])
    np.testing.assert_array_equal(apply(model, *inputs), apply(build(num_layers=1, dropout=0.0), *inputs))
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-3


def test_untrained_logits_are_about_normal():
    logits = apply(
        build(vocab_size=500, d_model=64, num_heads=4, num_layers=1), *(fixture()[1][k] for k in ("source", "target"))
    )
    assert 0.5 < logits.std() < 1.5


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    model, data = build(dtype=jnp.bfloat16), fixture()[1]
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    inputs = (data["source"], data["target"], data["mask"])
    logits = apply(model, *inputs)
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits.astype(np.float32), apply(build(), *inputs), atol=0.15)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"d_ff": 0}, "d_ff must be positive, not 0"),
        ({"d_model": 9}, "d_model must be even for sines and cosines, not 9"),
        ({"num_heads": 5}, "5 does not divide 12"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)


def test_a_source_for_each_row_is_needed():
    model, data = fixture()
    with pytest.raises(ValueError, match="2 sources are not one for each of 3 rows"):
        generate(model, [[1], [1], [1]], 2, source=Source(data["source"], data["mask"]))
