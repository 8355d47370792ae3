"""AlexNet, VGG and ResNet as torchvision stores them, and ResNet as timm does.

Their files hold tensors alone. What config.json would say is read from the tensors' names and shapes.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError
from bigjax.models import vgg
from bigjax.models.resnet import BLOCKS
from bigjax.pretrained.mapping import CONV, LINEAR, Family, Layout, Rule
from bigjax.pretrained.resnet import NORM, depth_of

# Others, as resnetblur50 or resnetaa50, hold the same tensors and compute something else.
PLAIN_RESNET = r"((tv_|ssl_|swsl_)?resnet\d+|gluon_resnet\d+_v1b)(\..*)?"
IMAGE = (224, 224)  # what torchvision's weights were trained on; the tensors do not tell


def describe(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A config.json for a checkpoint with tensors of these shapes; {} where it is none of these architectures.

    Args:
      config: timm's config.json, if there is one.
      shapes: of the tensors, by name.

    Raises:
      UserError: a ResNet or VGG has a depth, or a ResNet a stem, that bigjax's has not, or timm's architecture is a
        relative whose tensors look the same.
    """
    name = str(config.get("architecture", "resnet50"))
    if "resnet" in name and not re.fullmatch(PLAIN_RESNET, name):
        raise UserError(f"The checkpoint is timm's {name!r}; of its ResNets bigjax has the plain ones, as 'resnet50'.")
    try:
        return describe_shapes(shapes)
    except (ValueError, IndexError) as error:
        raise UserError("The tensors are named as torchvision's, but their shapes cannot be.") from error


def describe_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The part of `describe` that tensors tell."""
    if {"conv1.weight", "fc.weight"} <= shapes.keys():
        return {"architectures": [RESNET.architecture]} | describe_resnet(shapes)
    if not {"features.0.weight", "classifier.6.weight"} <= shapes.keys():
        return {}
    num_classes, hidden = shapes["classifier.6.weight"]
    found = {"num_classes": num_classes, "hidden": hidden, "num_channels": shapes["features.0.weight"][1]}
    if shapes["features.0.weight"][2] == 11:
        return {"architectures": [ALEXNET.architecture]} | found
    depth = sum(name.startswith("features.") and len(shape) == 4 for name, shape in shapes.items()) + 3
    if depth not in vgg.CONVS:
        raise UserError(f"The checkpoint is a VGG with {depth - 3} convolutions; bigjax has depths {list(vgg.CONVS)}.")
    batch_norm = "features.1.running_mean" in shapes
    return {"architectures": [VGG.architecture], "depth": depth, "batch_norm": batch_norm} | found


def describe_resnet(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The part of `describe` for a ResNet."""
    blocks = tuple(
        sum(name.startswith(f"layer{i}.") and name.endswith(".conv1.weight") for name in shapes) for i in range(1, 5)
    )
    bottleneck = "layer1.0.conv3.weight" in shapes
    depth = depth_of(blocks, bottleneck)
    if depth is None:
        kind = "bottleneck" if bottleneck else "basic"
        raise UserError(f"The checkpoint is a ResNet with {blocks} {kind} blocks; bigjax has depths {list(BLOCKS)}.")
    width, num_channels, side, _ = shapes["conv1.weight"]
    stem = {7: "imagenet", 3: "cifar"}.get(side)
    if stem is None:
        raise UserError(f"The checkpoint is a ResNet with a {side}x{side} stem; bigjax has stems of 7x7 and 3x3.")
    num_classes = shapes["fc.weight"][0]
    return {"depth": depth, "stem": stem, "width": width, "num_classes": num_classes, "num_channels": num_channels}


def model(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """`config.model` for what `describe` found."""
    return {"image_shape": (*IMAGE, config["num_channels"])} | {key: config[key] for key in ("num_classes", *keys)}


def config(section: Mapping[str, Any], architecture: str, *keys: str) -> dict[str, Any]:
    """What `describe` would find."""
    found = {key: section[key] for key in ("num_classes", *keys)}
    return {"architectures": [architecture], "num_channels": section["image_shape"][2]} | found


def layer(theirs: str, ours: str, layout: Layout) -> list[Rule]:
    """The rules of a layer with a bias."""
    return [Rule(f"{theirs}.weight", f"{ours}/kernel", layout), Rule(f"{theirs}.bias", f"{ours}/bias")]


def norm(theirs: str, ours: str) -> list[Rule]:
    """The rules of a BatchNorm."""
    return [Rule(f"{theirs}.{name}", f"{ours}/{our_name}") for name, our_name in NORM.items()]


def conv_norm(theirs_conv: str, theirs_norm: str, ours: str) -> list[Rule]:
    """The rules of a convolution without bias and its BatchNorm."""
    return [Rule(f"{theirs_conv}.weight", f"{ours}/conv/kernel", CONV), *norm(theirs_norm, f"{ours}/norm")]


def alexnet_rules(section: Mapping[str, Any]) -> Sequence[Rule]:
    """Numbers in their names count relus, pools and dropouts too."""
    rules = [rule for i, n in enumerate((0, 3, 6, 8, 10)) for rule in layer(f"features.{n}", f"convs/{i}", CONV)]
    rules += layer("classifier.1", "hidden/0", LINEAR) + layer("classifier.4", "hidden/1", LINEAR)
    return rules + layer("classifier.6", "head", LINEAR)


def vgg_rules(section: Mapping[str, Any]) -> Sequence[Rule]:
    """Numbers in their names count relus, pools and dropouts too."""
    rules, n = [], 0
    for i, convs in enumerate(vgg.CONVS[section["depth"]]):
        for j in range(convs):
            rules += layer(f"features.{n}", f"stages/{i}/{j}/conv", CONV)
            if section["batch_norm"]:
                rules += norm(f"features.{n + 1}", f"stages/{i}/{j}/norm")
            n += 3 if section["batch_norm"] else 2
        n += 1
    rules += layer("classifier.0", "hidden/0", LINEAR) + layer("classifier.3", "hidden/1", LINEAR)
    return rules + layer("classifier.6", "head", LINEAR)


def resnet_rules(section: Mapping[str, Any]) -> Sequence[Rule]:
    """Their stages and convolutions count from 1."""
    rules = conv_norm("conv1", "bn1", "stem") + layer("fc", "head", LINEAR)
    for i in range(4):
        theirs, ours = f"layer{i + 1}.{{j}}", f"stages/{i}/{{j}}"
        for k in range(3):
            rules += conv_norm(f"{theirs}.conv{k + 1}", f"{theirs}.bn{k + 1}", f"{ours}/convs/{k}")
        rules += conv_norm(f"{theirs}.downsample.0", f"{theirs}.downsample.1", f"{ours}/shortcut")
    return rules


ALEXNET = Family(
    "torchvision.AlexNet",
    {"name": "alexnet"},
    lambda c: model(c, "hidden"),
    lambda s: config(s, "torchvision.AlexNet", "hidden"),
    alexnet_rules,
)
VGG = Family(
    "torchvision.VGG",
    {"name": "vgg"},
    lambda c: model(c, "depth", "batch_norm", "hidden"),
    lambda s: config(s, "torchvision.VGG", "depth", "batch_norm", "hidden"),
    vgg_rules,
    unused=("features.{i}.num_batches_tracked",),
)
RESNET = Family(
    "torchvision.ResNet",
    {"name": "resnet", "widths": None, "blocks": None},
    lambda c: model(c, "depth", "stem", "width"),
    lambda s: config(s, "torchvision.ResNet", "depth", "stem", "width"),
    resnet_rules,
    unused=(
        "bn1.num_batches_tracked",
        "layer{i}.{j}.bn{k}.num_batches_tracked",
        "layer{i}.{j}.downsample.1.num_batches_tracked",
    ),
)
