"""AlexNet, VGG and ResNet against PyTorch: logits, gradients, batch statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import apply
from seeded import seeded_weights

torch = pytest.importorskip("torch")

import names
import torchvision_models as theirs

from bigjax.models.alexnet import AlexNet
from bigjax.models.resnet import BLOCKS, ResNet
from bigjax.models.vgg import CONVS, VGG


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


def with_weights(make, rules, weights, dtype=np.float32):
    """A module of ours with their arrays."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))
    arrays = names.imported(rules, weights)

    def value(path, leaf):
        array = arrays.pop(jax.tree_util.keystr(path, simple=True, separator="/"))
        assert array.shape == leaf.shape
        return jnp.asarray(array, dtype)

    pure = jax.tree_util.tree_map_with_path(value, nnx.to_pure_dict(state))
    assert not arrays
    return nnx.merge(graphdef, pure)


def seeded(module):
    """Their module with seeded weights, and the weights."""
    weights = seeded_weights({name: tuple(t.shape) for name, t in module.state_dict().items()})
    module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    return module.eval(), weights


def image(shape, batch=2):
    return np.random.default_rng(0).normal(size=(batch, *shape)).astype(np.float32)


def to_torch(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


def compare(model, module, x):
    ours = apply(model, x)
    with torch.no_grad():
        expected = module(to_torch(x))
    expected = getattr(expected, "logits", expected).numpy()
    assert np.abs(expected).max() > 0.1
    print("largest difference", np.abs(ours - expected).max(), "of", np.abs(expected).max())
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "shape, classes, hidden", [((63, 71, 3), 7, 33), ((97, 64, 1), 3, 64), ((224, 224, 3), 10, 128)]
)
def test_alexnet(shape, classes, hidden):
    module, weights = seeded(theirs.AlexNet(classes, shape[2], hidden))
    model = with_weights(lambda rngs: AlexNet(classes, shape, hidden, rngs=rngs), names.alexnet(), weights)
    compare(model, module, image(shape))


@pytest.mark.parametrize(
    "shape, classes, depth, batch_norm",
    [((33, 47, 3), 7, 11, True), ((32, 32, 1), 3, 13, False), ((65, 40, 3), 10, 16, True), ((64, 64, 3), 5, 19, False)],
)
def test_vgg(shape, classes, depth, batch_norm):
    module, weights = seeded(theirs.VGGNet(depth, batch_norm, classes, shape[2], 48))
    rules = names.vgg(CONVS[depth], batch_norm)
    model = with_weights(lambda rngs: VGG(classes, shape, depth, batch_norm, 48, rngs=rngs), rules, weights)
    compare(model, module, image(shape))


RESNETS = [
    ((33, 47, 3), 7, 18, "imagenet", 64),
    ((32, 32, 1), 3, 34, "cifar", 24),
    ((65, 40, 3), 10, 50, "imagenet", 16),
    ((17, 16, 3), 5, 101, "cifar", 8),
]
LEARNING = [RESNETS[0], ((40, 33, 3), 6, 50, "imagenet", 16)]


def resnets(shape, classes, depth, stem, width, dtype=np.float32):
    module, weights = seeded(theirs.ResNet(depth, classes, shape[2], stem, width))
    rules = names.resnet(BLOCKS[depth], 3 if depth >= 50 else 2, depth >= 50)
    model = with_weights(
        lambda rngs: ResNet(classes, shape, depth, stem, width, dtype=dtype, rngs=rngs), rules, weights, dtype
    )
    return model, module, rules


@pytest.mark.parametrize("shape, classes, depth, stem, width", RESNETS)
def test_resnet(shape, classes, depth, stem, width):
    model, module, _ = resnets(shape, classes, depth, stem, width)
    compare(model, module, image(shape))


@pytest.mark.parametrize("shape, classes, depth, stem, width", LEARNING)
def test_resnet_learns_alike(shape, classes, depth, stem, width):
    """In training: the loss, its gradient by every parameter, and the running statistics afterwards.

    In float64, because in float32 a few relus among a million fall on the other side of zero, and each moves a
    gradient by about a hundredth of the largest.
    """
    label = np.arange(6) % classes

    @jax.jit
    def step(params, statistics, x):
        def loss(params):
            model = nnx.merge(graphdef, params, statistics)
            chances = nnx.log_softmax(model(x, train=True))
            after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return -chances[np.arange(6), label].mean(), after

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.enable_x64(True):
        x = image(shape, 6).astype(np.float64)
        model, module, rules = resnets(shape, classes, depth, stem, width, np.float64)
        graphdef, params, statistics = nnx.split(model, nnx.Param, ...)
        (loss, after), grads = step(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics), x)
    leaves = jax.tree_util.tree_leaves_with_path((grads, after))
    ours = {jax.tree_util.keystr(path[1:], simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}

    module = module.double().train()
    pixels = {}  # how many each BatchNorm averages over
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.register_forward_hook(lambda _, x, y, name=name: pixels.update({name: y[:, 0].numel()}))
    before = {name: buffer.clone().numpy() for name, buffer in module.named_buffers()}
    expected = torch.nn.functional.cross_entropy(module(to_torch(x)), torch.tensor(label))
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-12)
    wanted = {name: p.grad.numpy() for name, p in module.named_parameters()}
    for name, buffer in module.named_buffers():
        n = pixels[name.rpartition(".")[0]]
        biased = (n - 1) / n if name.endswith("running_var") else 1
        wanted[name] = 0.9 * before[name] + (buffer.numpy() - 0.9 * before[name]) * biased
    wanted = names.imported(rules, wanted)
    assert wanted.keys() == ours.keys()
    for name in wanted:
        np.testing.assert_allclose(ours[name], wanted[name], rtol=0, atol=1e-9 * np.abs(wanted[name]).max())
    print(
        "largest relative difference", max(np.abs(ours[n] - wanted[n]).max() / np.abs(wanted[n]).max() for n in wanted)
    )


@pytest.mark.parametrize("depth, width", [(18, 16), (50, 8)])
def test_huggingface_resnet(depth, width):
    transformers = pytest.importorskip("transformers")
    expansion = 4 if depth >= 50 else 1
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width * expansion * 2**i for i in range(4)],
        depths=BLOCKS[depth],
        layer_type="bottleneck" if depth >= 50 else "basic",
        num_labels=5,
    )
    module, weights = seeded(transformers.ResNetForImageClassification(config))
    shape = (49, 38, 3)
    rules = names.huggingface_resnet(BLOCKS[depth], 3 if depth >= 50 else 2, depth >= 50)
    model = with_weights(lambda rngs: ResNet(5, shape, depth, width=width, rngs=rngs), rules, weights)
    compare(model, module, image(shape))
