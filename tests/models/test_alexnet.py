"""AlexNet: its sizes, how it starts, its dropout and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, count_parameters, made, parameters

from bigjax.models.alexnet import AlexNet


def build(num_classes=5, image_shape=(63, 63, 3), hidden=16, **kwargs):
    return made(lambda rngs: AlexNet(num_classes, image_shape, hidden, **kwargs, rngs=rngs))


def test_parameter_count_is_the_published():
    assert count_parameters(lambda rngs: AlexNet(1000, (224, 224, 3), rngs=rngs)) == 61_100_840


def test_it_starts_as_the_paper_says():
    arrays = parameters(build(hidden=512))
    biases = {name: set(p.tolist()) for name, p in arrays.items() if name.endswith("bias")}
    ones = {"convs/1/bias", "convs/3/bias", "convs/4/bias", "hidden/0/bias", "hidden/1/bias"}
    assert biases == {name: {1.0 if name in ones else 0.0} for name in biases}
    for name in ("convs/0/kernel", "convs/4/kernel", "hidden/0/kernel"):
        assert arrays[name].std() == pytest.approx(0.01, rel=0.02)


def test_dropout_needs_training_and_features_are_what_the_head_sees():
    model, x = build(), jax.random.normal(jax.random.key(0), (2, 63, 70, 3))

    @jax.jit
    def features(model, x, key):
        return model.features(x), model.features(x, train=True, rngs=nnx.Rngs(dropout=key)), model(x)

    still, dropping, logits = features(model, x, jax.random.key(0))
    assert still.shape == (2, 16)
    assert np.abs(dropping - still).max() > 0
    assert np.abs(dropping - features(model, x, jax.random.key(1))[1]).max() > 0
    np.testing.assert_allclose(logits, model.head(still), atol=1e-6)


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    model = build(dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    assert apply(model, jnp.ones((1, 63, 63, 3))).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"image_shape": (62, 64, 3)}, "at least 63, and 62x64 is smaller"),
        ({"dropout": -0.1}, "dropout must be"),
        ({"num_classes": 0}, "num_classes must be positive, not 0"),
    ],
)
def test_impossible_arguments_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)
