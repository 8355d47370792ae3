"""The article's CNN: its shapes and its values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, made, parameters

from bigjax.models.cnn import CNN


def build(num_classes=10, image_shape=(24, 24, 3), **kwargs):
    return made(lambda rngs: CNN(num_classes, image_shape, **kwargs, rngs=rngs))


def reference(p, x):
    """The whole forward pass in float64 numpy, written from the article and not from the code."""
    x = x.astype(np.float64)
    for layer in ("convolutions/0", "convolutions/1"):
        kernel, bias = (p[f"{layer}/{part}"].astype(np.float64) for part in ("kernel", "bias"))
        height, width = x.shape[1:3]
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = bias + sum(
            np.einsum("bhwc,cd->bhwd", padded[:, i : i + height, j : j + width], kernel[i, j])
            for i in range(3)
            for j in range(3)
        )
        x = np.maximum(x, 0)
        x = np.max([x[:, i::2, j::2] for i in range(2) for j in range(2)], axis=0)
    x = x.reshape(len(x), -1)
    x = np.maximum(x @ p["hidden/kernel"].astype(np.float64) + p["hidden/bias"], 0)
    return x @ p["head/kernel"].astype(np.float64) + p["head/bias"]


def test_shapes_and_parameter_count_are_the_articles():
    abstract = nnx.eval_shape(build)
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(abstract, nnx.Param)))
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    assert shapes == {
        "convolutions/0/kernel": (3, 3, 3, 32),
        "convolutions/0/bias": (32,),
        "convolutions/1/kernel": (3, 3, 32, 64),
        "convolutions/1/bias": (64,),
        "hidden/kernel": (2304, 128),
        "hidden/bias": (128,),
        "head/kernel": (128, 10),
        "head/bias": (10,),
    }
    count = (3 * 3 * 3 * 32 + 32) + (3 * 3 * 32 * 64 + 64) + (2304 * 128 + 128) + (128 * 10 + 10)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count == 315_722


@pytest.mark.parametrize("image_shape", [(24, 24, 3), (8, 12, 1)])
def test_logits_equal_a_float64_reference(image_shape):
    model = build(7, image_shape)
    rng = np.random.default_rng(0)
    for layer in (*model.convolutions, model.hidden, model.head):
        layer.bias[...] = jnp.float32(0.1 * rng.normal(size=layer.bias.shape))  # so that a forgotten bias shows
    image = rng.normal(size=(3, *image_shape)).astype(np.float32)
    logits = apply(model, image)
    assert logits.shape == (3, 7)
    expected = reference(parameters(model), image)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=2e-6)


@pytest.mark.parametrize("image_shape", [(7, 8, 1), (8, 10, 1), (25, 25, 3)])
def test_sizes_that_do_not_halve_are_refused(image_shape):
    with pytest.raises(ValueError, match=f"{image_shape[0]}x{image_shape[1]}"):
        build(image_shape=image_shape)


def test_channels_decide_how_often_images_halve():
    model = build(5, (8, 8, 1), channels=(4, 6, 8), hidden=16)
    assert model.hidden.kernel.shape == (8, 16)
    assert apply(model, jnp.zeros((2, 8, 8, 1))).shape == (2, 5)


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    model = build(10, (8, 8, 1), dtype=jnp.bfloat16)
    assert {p.dtype for p in parameters(model).values()} == {np.dtype(np.float32)}
    assert apply(model, jnp.ones((1, 8, 8, 1))).dtype == jnp.bfloat16
