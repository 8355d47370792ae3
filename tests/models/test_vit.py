"""The encoder of patches: its parameters by name and number, its patches and positions, and that it learns."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import apply, made, parameters, start_training

from bigjax.models.vit import ViT
from bigjax.tasks.image_classification import ImageClassification
from bigjax.training.step import train_step

SMALL = {
    "num_classes": 5,
    "image_shape": (8, 12, 3),
    "patch_size": 4,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
}


@cache
def build(**kwargs):
    """A model whose head is not zero."""

    def make(rngs):
        model = ViT(**(SMALL | kwargs), rngs=rngs)
        model.head.kernel[...] = jax.random.normal(rngs.params(), model.head.kernel.shape)
        return model

    return made(make)


def shapes(**kwargs):
    """Parameter shapes by name, with nothing allocated."""
    model = nnx.eval_shape(lambda: ViT(**kwargs, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def count(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


def images(batch=2, shape=(8, 12, 3), seed=0):
    return jax.random.normal(jax.random.key(seed), (batch, *shape))


def features(model, x):
    return jax.jit(lambda model: model.features(x))(model)


def test_vits_have_their_published_numbers_of_parameters():
    assert count(shapes(num_classes=1000, image_shape=(224, 224, 3))) == 86_567_656  # B/16
    small = {"d_model": 384, "num_heads": 6}
    assert count(shapes(num_classes=1000, image_shape=(224, 224, 3), **small)) == 22_050_664  # S/16


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_shapes(pool):
    found = shapes(**SMALL, pool=pool)
    length = 7 if pool == "cls" else 6
    assert found["positions"] == (1, length, 32)
    assert found["patches/kernel"] == (4, 4, 3, 32)
    assert ("cls" in found) == (pool == "cls")
    model = build(pool=pool)
    assert apply(model, images()).shape == (2, 5)
    assert features(model, images()).shape == (2, length, 32)


def test_patches_are_projected_row_by_row():
    model, x = build(pool="mean", num_layers=1), images(1)
    p = parameters(model)
    patches = x.reshape(1, 2, 4, 3, 4, 3).swapaxes(2, 3).reshape(1, 6, 4 * 4 * 3)
    expected = patches @ p["patches/kernel"].reshape(4 * 4 * 3, 32) + p["patches/bias"]
    actual = jax.jit(lambda model: model.patches(x))(model).reshape(1, 6, 32)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_without_positions_patches_are_a_set():
    model = nnx.clone(build(pool="mean"))
    mirrored = jnp.concatenate([images()[:, 4:], images()[:, :4]], 1)  # the two rows of patches change places
    assert np.abs(apply(model, mirrored) - apply(model, images())).max() > 1e-3
    model.positions[...] = 0 * model.positions[...]
    np.testing.assert_allclose(apply(model, mirrored), apply(model, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_patch_counts(pool):
    model, x = build(pool=pool), images(1)
    gradient = jax.jit(jax.grad(lambda x: model(x)[0, 0]))(x)
    assert (np.abs(gradient.reshape(2, 4, 3, 4, 3)).max((1, 3, 4)) > 1e-6).all()


def test_before_training_all_classes_are_as_likely():
    model = made(lambda rngs: ViT(**SMALL, rngs=rngs))
    np.testing.assert_array_equal(apply(model, images()), np.zeros((2, 5)))


def test_dropout_acts_only_in_training():
    model, x = build(dropout=0.3), images()

    @jax.jit
    def train(model, seed):
        return model(x, train=True, rngs=nnx.Rngs(dropout=jax.random.key(seed)))

    np.testing.assert_array_equal(apply(model, x), apply(build(), x))
    np.testing.assert_array_equal(train(model, 1), train(model, 1))
    assert np.abs(train(model, 1) - train(model, 2)).max() > 1e-2


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_bfloat16_computes_in_it_and_keeps_float32_parameters(pool):
    model = build(pool=pool, dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    logits = apply(model, images())
    assert logits.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits.astype(np.float32), apply(build(pool=pool), images()), atol=0.2)


def test_it_learns_a_batch_by_heart():
    model = made(lambda rngs: ViT(**SMALL, dropout=0.1, rngs=rngs))
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (10, 8, 12, 3), np.uint8),
        "label": np.arange(10, dtype=np.int32) % 5,
        "mask": np.ones(10, np.float32),
    }
    program, state = start_training(model, ImageClassification(), optax.adam(3e-3), batch)
    step = jax.jit(lambda state: train_step(program, state, batch))
    losses = []
    for _ in range(40):
        state, sums = step(state)
        losses.append(float(sums["loss"] / sums["weight"]))
    assert losses[0] == pytest.approx(np.log(5), abs=1e-5)
    assert losses[-1] < 0.3


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"patch_size": 5}, "must divide by patch_size=5, not 8x12"),
        ({"num_heads": 5}, "5 does not divide 32"),
        ({"num_classes": 0}, "num_classes must be positive"),
        ({"dropout": -0.1}, "dropout must be"),
    ],
)
def test_what_cannot_be_is_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        shapes(**(SMALL | kwargs))
