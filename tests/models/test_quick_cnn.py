"""The quick CNN: its layers, and the cosines that it starts with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, parameters

from bigjax.models.pooling import max_pool_2x2
from bigjax.models.quick_cnn import QuickCNN, cosines


def build(image_shape=(10, 9, 3), stem=6, widths=(4, 8), num_classes=5):
    return made(lambda rngs: QuickCNN(num_classes, image_shape, stem, widths, rngs=rngs))


def test_logits_by_the_definition():
    model, x = build(), jax.random.normal(jax.random.key(0), (2, 10, 9, 3))

    def by_hand(model, x):
        def conv(layer, x, padding="SAME"):  # BatchNorm before any training only divides by sqrt(1 + epsilon)
            y = jax.lax.conv_general_dilated(
                x, layer.conv.kernel[...], (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            return y / np.sqrt(1 + 1e-5)

        x = nnx.silu(conv(model.stem, x, "VALID"))
        assert x.shape == (2, 9, 8, 6)
        for first, second in zip(model.first, model.second, strict=True):
            x = nnx.silu(conv(second, nnx.silu(max_pool_2x2(conv(first, x)))))
        return (x.max((1, 2)) @ model.head.kernel[...] + model.head.bias[...]) / 8

    np.testing.assert_allclose(apply(model, x), jax.jit(by_hand)(model, x), atol=1e-5)


def test_cosines_are_orthonormal_from_low_to_high_and_come_with_their_negatives():
    kernel = np.asarray(cosines(jax.random.key(0), (3, 3, 3, 54))).reshape(27, 54)
    positive, negative = kernel[:, ::2], kernel[:, 1::2]
    np.testing.assert_array_equal(positive, -negative)
    np.testing.assert_allclose(positive.T @ positive, np.eye(27), atol=1e-6)
    np.testing.assert_allclose(positive[:, 0], 27**-0.5, rtol=1e-6)  # the mean of all
    first = np.asarray(cosines(jax.random.key(0), (2, 2, 3, 6)))
    np.testing.assert_array_equal(first, np.asarray(cosines(jax.random.key(0), (2, 2, 3, 24)))[..., :6])
    assert np.ptp(first, axis=2).max() < 1e-6  # no colour yet
    np.testing.assert_array_equal(parameters(build())["stem/conv/kernel"], first)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"image_shape": (4, 8, 3)}, "2 stages need images of 5 pixels"),
        ({"stem": 64}, "there are 24 cosines for 64 channels"),
        ({"widths": ()}, "widths must be positive"),
    ],
)
def test_impossible_arguments_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)


def test_it_takes_any_dtype():
    model = made(lambda rngs: QuickCNN(5, (8, 8, 3), 6, (4, 8), dtype=jnp.bfloat16, rngs=rngs))
    assert apply(model, jnp.ones((1, 8, 8, 3))).dtype == jnp.bfloat16
