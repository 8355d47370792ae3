"""AlexNet, VGG and ResNet against PyTorch: logits, gradients, batch statistics."""

import jax
import numpy as np
import pytest
from flax import nnx
from helpers import apply
from seeded import seeded_image, seeded_weights

torch = pytest.importorskip("torch")

import torchvision_models as theirs
from safetensors.torch import load_file, save_file

from bigjax.errors import UserError
from bigjax.models.resnet import BLOCKS, ResNet
from bigjax.pretrained.load import load_pretrained
from bigjax.pretrained.mapping import Table
from bigjax.pretrained.save import save_pretrained
from bigjax.pretrained.torchvision import RESNET


@pytest.fixture(autouse=True)
def two_threads():
    torch.set_num_threads(2)


def seeded(module):
    """Their module, with seeded weights."""
    weights = seeded_weights({name: tuple(t.shape) for name, t in module.state_dict().items()})
    module.load_state_dict({name: torch.tensor(w) for name, w in weights.items()})
    return module.eval()


def loaded(module, folder):
    """Their module as we read it from its file."""
    save_file(module.state_dict(), folder / "model.safetensors")
    return load_pretrained(folder / "model.safetensors")


def to_torch(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


def compare(model, module, shape):
    x = seeded_image(shape)
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
def test_alexnet(shape, classes, hidden, tmp_path):
    module = seeded(theirs.AlexNet(classes, shape[2], hidden))
    compare(loaded(module, tmp_path).model, module, shape)


@pytest.mark.parametrize(
    "shape, classes, depth, batch_norm",
    [((33, 47, 3), 7, 11, True), ((32, 32, 1), 3, 13, False), ((65, 40, 3), 10, 16, True), ((64, 64, 3), 5, 19, False)],
)
def test_vgg(shape, classes, depth, batch_norm, tmp_path):
    module = seeded(theirs.VGGNet(depth, batch_norm, classes, shape[2], 48))
    compare(loaded(module, tmp_path).model, module, shape)


RESNETS = [
    ((33, 47, 3), 7, 18, "imagenet", 64),
    ((32, 32, 1), 3, 34, "cifar", 24),
    ((65, 40, 3), 10, 50, "imagenet", 16),
    ((17, 16, 3), 5, 101, "cifar", 8),
]
LEARNING = [((33, 47, 3), 7, 18, "imagenet", 16), ((40, 33, 3), 6, 50, "imagenet", 8)]


@pytest.mark.parametrize("shape, classes, depth, stem, width", RESNETS)
def test_resnet(shape, classes, depth, stem, width, tmp_path):
    module = seeded(theirs.ResNet(depth, classes, shape[2], stem, width))
    ours = loaded(module, tmp_path)
    assert (ours.config["depth"], ours.config["stem"], ours.config["width"]) == (depth, stem, width)
    compare(ours.model, module, shape)
    save_pretrained(tmp_path / "out", ours.model, ours.config, documents=ours.documents)
    other = theirs.ResNet(depth, classes, shape[2], stem, width)
    other.load_state_dict(load_file(tmp_path / "out/model.safetensors"))  # which wants every tensor there is


@pytest.mark.slow
@pytest.mark.parametrize("shape, classes, depth, stem, width", LEARNING)
def test_resnet_learns_alike(shape, classes, depth, stem, width, tmp_path):
    """In training: the loss, its gradient by every parameter, and the running statistics afterwards.

    In float64: in float32 a few relus of a million fall on the other side of zero, and move gradients by percents.
    """
    module = seeded(theirs.ResNet(depth, classes, shape[2], stem, width))
    pretrained = loaded(module, tmp_path)
    x, label = seeded_image(shape, 6).astype(np.float64), np.arange(6) % classes

    @jax.jit
    def step(params, statistics, x):
        def loss(params):
            model = nnx.merge(graphdef, params, statistics)
            chances = nnx.log_softmax(model(x, train=True))
            after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
            return -chances[np.arange(6), label].mean(), after

        return jax.value_and_grad(loss, has_aux=True)(params)

    with jax.enable_x64(True):
        # The module again, to compute in float64.
        model = nnx.eval_shape(lambda: ResNet(classes, shape, depth, stem, width, dtype=np.float64, rngs=nnx.Rngs(0)))
        graphdef = nnx.graphdef(model)
        params, statistics = nnx.state(pretrained.model, nnx.Param, ...)
        doubles = jax.tree.map(lambda a: a.astype(np.float64), (nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)))
        (loss, after), grads = step(*doubles, x)
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
    table = Table(RESNET, pretrained.config)
    places = {name: table.of_theirs(name) for name in wanted}
    wanted = {p.ours[0]: p.layout.into(wanted[name])[0] for name, p in places.items() if p is not None}
    assert wanted.keys() == ours.keys()
    for name in wanted:
        np.testing.assert_allclose(ours[name], wanted[name], rtol=0, atol=1e-9 * np.abs(wanted[name]).max())
    print(
        "largest relative difference", max(np.abs(ours[n] - wanted[n]).max() / np.abs(wanted[n]).max() for n in wanted)
    )


@pytest.mark.parametrize("depth, width", [(18, 16), (50, 8)])
def test_huggingface_resnet(depth, width, tmp_path):
    """In, with equal logits, and out again, tensor for tensor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=width,
        hidden_sizes=[width * (4 if depth >= 50 else 1) * 2**i for i in range(4)],
        depths=BLOCKS[depth],
        layer_type="bottleneck" if depth >= 50 else "basic",
        num_channels=1,
        num_labels=5,
    )
    module = seeded(transformers.ResNetForImageClassification(config))
    module.save_pretrained(tmp_path / "in")
    pretrained = load_pretrained(tmp_path / "in")
    compare(pretrained.model, module, (49, 38, 1))
    for documents in (pretrained.documents, None):
        out = tmp_path / f"out with {'a' if documents else 'no'} source"
        save_pretrained(out, pretrained.model, pretrained.config, documents=documents)
        again, report = transformers.ResNetForImageClassification.from_pretrained(out, output_loading_info=True)
        assert not any(report.values()), report
        assert again.config.hidden_sizes == config.hidden_sizes
        for name, tensor in module.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert torch.equal(again.state_dict()[name], tensor), name


def test_huggingface_resnets_of_another_kind_are_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"embedding_size": 4, "hidden_sizes": [16, 32, 64, 128], "depths": [3, 4, 6, 3]}
    for other, words in [
        ({"downsample_in_bottleneck": True}, "downsample_in_bottleneck=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"depths": [1, 1, 1, 1]}, "no ResNet of depth"),
        ({"hidden_sizes": [8, 16, 32, 64]}, "no ResNet of depth"),
    ]:
        config = transformers.ResNetConfig(**small | other)
        folder = tmp_path / next(iter(other))
        transformers.ResNetForImageClassification(config).save_pretrained(folder)
        with pytest.raises(UserError, match=words):
            load_pretrained(folder)
