"""ResNet: its sizes, how it starts, its statistics on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply, count_parameters, made, parameters, run_python

from bigjax.models.resnet import ResNet


def build(num_classes=5, image_shape=(8, 8, 3), depth=18, stem="cifar", width=4, **kwargs):
    return made(lambda rngs: ResNet(num_classes, image_shape, depth, stem, width, **kwargs, rngs=rngs))


@pytest.mark.parametrize(
    "depth, count", [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)]
)
def test_parameter_counts_are_the_published(depth, count):
    assert count_parameters(lambda rngs: ResNet(1000, (224, 224, 3), depth, rngs=rngs)) == count


@pytest.mark.parametrize(
    "stem, height, width, sizes",
    [("imagenet", 65, 40, [(17, 10), (9, 5), (5, 3), (3, 2)]), ("cifar", 9, 8, [(9, 8), (5, 4), (3, 2), (2, 1)])],
)
def test_stages_halve_the_image(stem, height, width, sizes):
    model = nnx.eval_shape(lambda: ResNet(5, (height, width, 3), 50, stem, 4, rngs=nnx.Rngs(0)))

    def stages(model, x):
        x = model.stem(x, False)
        x = x if stem == "cifar" else jnp.zeros((x.shape[0], (x.shape[1] + 1) // 2, (x.shape[2] + 1) // 2, 4))
        return [x := block(x, False) for stage in model.stages for block in stage]

    shapes = [x.shape for x in nnx.eval_shape(stages, model, jax.ShapeDtypeStruct((2, height, width, 3), jnp.float32))]
    assert list(dict.fromkeys(shapes)) == [(2, *size, 16 * 2**i) for i, size in enumerate(sizes)]
    assert len(shapes) == 3 + 4 + 6 + 3


@pytest.mark.parametrize("image_shape", [(1, 1, 1), (33, 20, 3)])
def test_any_image_size_will_do(image_shape):
    assert apply(build(image_shape=image_shape, stem="imagenet"), jnp.ones((2, *image_shape))).shape == (2, 5)


def test_each_block_starts_as_its_shortcut():
    model = build()
    x = nnx.relu(jax.random.normal(jax.random.key(0), (2, 8, 8, 4)))
    np.testing.assert_array_equal(jax.jit(lambda b, x: b(x, False))(model.stages[0][1], x), x)
    scales = {name: p for name, p in parameters(model).items() if name.endswith("norm/scale")}
    assert {name for name, p in scales.items() if not p.any()} == {n for n in scales if "convs/1" in n}


def test_logits_are_the_heads_of_the_features():
    model, x = build(), jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    features = jax.jit(lambda model, x: model.features(x))(model, x)
    assert features.shape == (2, 32)
    np.testing.assert_allclose(apply(model, x), model.head(features), atol=1e-6)


def test_statistics_move_in_training_only():
    model, x = build(), jax.random.normal(jax.random.key(0), (4, 8, 8, 3))

    @jax.jit
    def after(model, x):
        model(x)
        untouched = model.stem.norm.mean[...], model.stem.norm.var[...]
        model(x, train=True)
        return untouched, (model.stem.norm.mean[...], model.stem.norm.var[...]), model.stem.conv(x)

    (mean, var), (mean_after, var_after), y = after(model, x)
    assert not mean.any()
    assert (var == 1).all()
    np.testing.assert_allclose(mean_after, 0.1 * y.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(var_after, 0.9 + 0.1 * y.var((0, 1, 2)), atol=1e-6)


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    model = build(dtype=jnp.bfloat16)
    x = 3 + jax.random.normal(jax.random.key(0), (64, 8, 8, 3))

    @jax.jit
    def run(model, x):
        features = model.features(x, train=True)
        return features, model(x), nnx.to_pure_dict(nnx.state(model)), model.stem.conv(x)

    features, logits, arrays, y = run(model, x)
    assert (features.dtype, logits.dtype) == (jnp.bfloat16, jnp.bfloat16)
    assert {a.dtype for a in jax.tree.leaves(arrays)} == {np.dtype(np.float32)}
    expected = 0.1 * np.asarray(y, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(arrays["stem"]["norm"]["mean"], expected, rtol=1e-4)  # bfloat16 has 4e-3


@pytest.mark.parametrize(
    "kwargs, words",
    [
        ({"depth": 20}, "depth must be one of 18, 34, 50, 101, 152, not 20"),
        ({"stem": "mnist"}, "stem must be one of imagenet, cifar, not mnist"),
        ({"widths": (8, 8)}, "widths .8, 8. and blocks .2, 2, 2, 2. must be of equally many stages"),
        ({"blocks": (1, 0)}, "blocks must be positive, not 0"),
        ({"width": 0}, "width must be positive, not 0"),
        ({"num_classes": 0}, "num_classes must be positive, not 0"),
    ],
)
def test_impossible_arguments_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        build(**kwargs)


EIGHT = """
from functools import partial
import jax, numpy as np, optax
from helpers import close, made, start_training
from jax.sharding import NamedSharding, PartitionSpec
from bigjax.models.resnet import ResNet
from bigjax.parallel.mesh import BATCH, make_mesh
from bigjax.tasks.image_classification import ImageClassification
from bigjax.training.step import train_step

rng = np.random.default_rng(0)
image = rng.integers(0, 256, (16, 8, 8, 3)) // (1 + np.arange(16)[:, None, None, None])  # no two devices' are alike
batch = {
    "image": image.astype(np.uint8),
    "label": np.arange(16, dtype=np.int32) % 5,
    "mask": np.ones(16, np.float32),
}
model = made(lambda rngs: ResNet(5, (8, 8, 3), 18, "cifar", 4, rngs=rngs))
program, state = start_training(model, ImageClassification(), optax.sgd(0.1), batch)
mesh = make_mesh()
whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, BATCH)
step = partial(train_step, program)
spread = jax.jit(step, in_shardings=(whole, rows), out_shardings=(whole, whole))(state, batch)
one = jax.jit(step)(state, batch)
assert len(spread[0].statistics["stem"]["norm"]["mean"].sharding.device_set) == 8
close(spread[0].statistics, one[0].statistics, atol=1e-5)
close(spread[0].params, one[0].params, atol=1e-4)
print(np.abs(one[0].statistics["stem"]["norm"]["mean"]).max())
"""


@pytest.mark.slow
def test_statistics_are_the_global_batchs_on_eight_devices():
    assert float(run_python(EIGHT, devices=8, JAX_DISABLE_MOST_OPTIMIZATIONS="1")) > 1e-2


def test_stages_of_any_number_width_and_length():
    def abstract(**kwargs):
        model = nnx.eval_shape(lambda: ResNet(5, (8, 8, 3), 18, "cifar", 4, **kwargs, rngs=nnx.Rngs(0)))
        return [[(b.convs[0].conv.in_features, b.convs[1].conv.out_features) for b in stage] for stage in model.stages]

    assert abstract(widths=(8, 12, 20), blocks=(1, 2, 1)) == [[(4, 8)], [(8, 12), (12, 12)], [(12, 20)]]
    assert abstract(widths=(4, 8, 16, 32), blocks=(2, 2, 2, 2)) == abstract()
