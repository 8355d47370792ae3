"""VGG: its sizes, its dropout and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import count_parameters, made, parameters

from bigjax.models.vgg import VGG


def build(num_classes=5, image_shape=(32, 32, 3), depth=11, batch_norm=False, hidden=16, **kwargs):
    return made(lambda rngs: VGG(num_classes, image_shape, depth, batch_norm, hidden, **kwargs, rngs=rngs))


@pytest.mark.parametrize(
    "depth, plain, normed",
    [
        (11, 132_863_336, 132_868_840),
        (13, 133_047_848, 133_053_736),
        (16, 138_357_544, 138_365_992),
        (19, 143_667_240, 143_678_248),
    ],
)
def test_parameter_counts_are_the_published(depth, plain, normed):
    for batch_norm, count in ((False, plain), (True, normed)):
        assert count_parameters(lambda rngs, b=batch_norm: VGG(1000, (224, 224, 3), depth, b, rngs=rngs)) == count


def test_dropout_needs_training_and_features_are_what_the_head_sees():
    model, x = build(), jax.random.normal(jax.random.key(0), (2, 32, 40, 3))

    @jax.jit
    def features(model, x, key):
        dropping = model.features(x, train=True, rngs=nnx.Rngs(dropout=key))
        return model.features(x), dropping, model(x)

    still, dropping, logits = features(model, x, jax.random.key(0))
    assert still.shape == (2, 16)
    assert (np.asarray(dropping) == 0).mean() > (np.asarray(still) == 0).mean()
    assert np.abs(dropping - features(model, x, jax.random.key(1))[1]).max() > 0
    np.testing.assert_allclose(logits, model.head(still), atol=1e-6)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    model = build(batch_norm=True, dtype=jnp.bfloat16)
    logits, arrays = jax.jit(lambda m, x: (m(x, train=True, rngs=nnx.Rngs(0)), nnx.to_pure_dict(nnx.state(m))))(
        model, jnp.ones((2, 32, 32, 3))
    )
    assert logits.dtype == jnp.bfloat16
    assert {a.dtype for a in jax.tree.leaves(arrays)} == {np.dtype(np.float32)}


def test_convolutions_start_as_he_et_al_say():
    arrays = parameters(build())
    assert arrays["stages/4/1/conv/kernel"].std() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
    assert arrays["hidden/0/kernel"].std() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"depth": 12}, "depth must be one of 11, 13, 16, 19, not 12"),
        ({"image_shape": (31, 40, 3)}, "at least 32, and 31x40 is smaller"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"hidden": 0}, "hidden must be positive, not 0"),
    ],
)
def test_impossible_arguments_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)
