"""Whisper: transformers' logits and tokens from a tiny checkpoint, its parameters by number, its limits."""

import json
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, parameters
from safetensors.numpy import load_file

from bigjax.errors import UserError
from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate
from bigjax.inference.sampling import GREEDY
from bigjax.models.whisper import Whisper
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.save import save_pretrained
from bigjax.pretrained.whisper import model as section

FOLDER = Path(__file__).parents[1] / "fixtures" / "whisper"
SMALL = {"vocab_size": 40, "num_mels": 5, "source_context": 11, "context": 16, "d_model": 16, "num_heads": 2}


@cache
def fixture():
    """A checkpoint of transformers, and what its model was given and gave."""
    return load_pretrained(FOLDER), dict(np.load(FOLDER / "outputs.npz"))


@cache
def build(**kwargs):
    return made(lambda rngs: Whisper(**(SMALL | {"num_layers": 1} | kwargs), rngs=rngs))


def count(**kwargs):
    model = nnx.eval_shape(lambda: Whisper(**kwargs, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.to_pure_dict(nnx.state(model, nnx.Param))))


def test_parameter_count_by_formula():
    v, m, t, d, f = 40, 5, 16, 16, 24
    attention, mlp, norm = 4 * d * d + 3 * d, 2 * d * f + f + d, 2 * d
    encoder = 3 * m * d + d + 3 * d * d + d + 3 * (attention + mlp + 2 * norm) + norm
    decoder = (v + t) * d + 2 * (2 * attention + mlp + 3 * norm) + norm
    assert count(**SMALL, num_layers=3, num_decoder_layers=2, d_ff=f) == encoder + decoder


def test_the_published_sizes():
    """Within five percent of table 1 of the paper, which does not say how it counts."""
    for sizes, millions in (({}, 39), ({"d_model": 512, "num_layers": 6, "num_heads": 8}, 74)):
        assert count(**sizes) == pytest.approx(1e6 * millions, rel=0.05)
    assert count(d_model=1280, num_layers=32, num_heads=20) == pytest.approx(1550e6, rel=0.05)


def test_logits_are_those_of_transformers():
    loaded, data = fixture()
    actual = apply(loaded.model, data["source"], data["tokens"])
    np.testing.assert_allclose(actual, data["logits"], rtol=1e-5, atol=1e-4)


def test_greedy_tokens_are_those_of_transformers():
    loaded, data = fixture()
    found = generate(loaded.model, [[2, 3]] * 2, 8, GREEDY, source=data["source"])
    assert found == data["greedy"].tolist()
    assert beam_search(loaded.model, [[2, 3]] * 2, 8, 1, source=data["source"]) == found


def test_out_again_bit_for_bit(tmp_path):
    loaded, _ = fixture()
    save_pretrained(tmp_path / "again", loaded.model, loaded.config, documents=loaded.documents)
    before, after = (load_file(folder / "model.safetensors") for folder in (FOLDER, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_a_new_model_has_the_positions_that_checkpoints_hold():
    loaded, _ = fixture()
    theirs, ours = (np.asarray(model.encoder.positions) for model in (loaded.model, build()))
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert "encoder/positions" not in parameters(loaded.model)  # so that no optimizer moves them


def test_heads_that_differ_are_refused():
    config = json.loads(fixture()[0].documents["config.json"]) | {"decoder_attention_heads": 4}
    with pytest.raises(UserError, match="encoder_attention_heads=2 and decoder_attention_heads=4"):
        section(config)


def test_a_later_token_changes_nothing_before_it():
    loaded, data = fixture()
    changed = data["tokens"].copy()
    changed[:, 4] = (changed[:, 4] + 1) % 31
    before, after = (apply(loaded.model, data["source"], tokens) for tokens in (data["tokens"], changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[:, 4:].max(-1) > 1e-4).all()


@pytest.mark.parametrize(("frames", "length"), [(22, 11), (21, 11), (7, 4), (1, 1)])
def test_two_frames_become_one_position(frames, length):
    encoded = jax.jit(lambda model, x: model.encode(x))(build(), jnp.ones((1, frames, 5)))
    assert encoded.shape == (1, length, 16)


def test_dropout_acts_only_in_training():
    data = fixture()[1]
    model, inputs = build(dropout=0.3), (data["source"], data["tokens"])

    @jax.jit
    def train(model, seed):
        return model(*inputs, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))

    np.testing.assert_array_equal(apply(model, *inputs), apply(build(dropout=0.0), *inputs))
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-3


def test_what_does_not_fit_is_refused():
    source = np.zeros((1, 22, 5), np.float32)
    with pytest.raises(ValueError, match="17 tokens are more than the model's context, 16"):
        generate(build(), [[1]], 16, source=source)
    with pytest.raises(ValueError, match="17 tokens is longer than the model's context, 16"):
        apply(build(), source, np.zeros((1, 17), np.int32))
    with pytest.raises(ValueError, match="more than 22 frames"):
        apply(build(), np.zeros((1, 23, 5), np.float32), np.zeros((1, 3), np.int32))
    with pytest.raises(ValueError, match="1 spectrograms are not one for each of 2 rows"):
        generate(build(), [[1], [1]], 2, source=source)
    with pytest.raises(ValueError, match="d_model must be even, and at least 4"):
        build(d_model=2)
    with pytest.raises(ValueError, match="num_mels must be positive"):
        build(num_mels=0)
