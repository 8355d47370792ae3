"""ResNet (He et al. 2016) as Hugging Face stores it."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError
from bigjax.models.resnet import BLOCKS, BOTTLENECK
from bigjax.pretrained.mapping import CONV, LINEAR, Family, Rule, class_count, class_names, require


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for their config."""
    require(config, "hidden_act", "relu")
    require(config, "downsample_in_first_stage", False)
    require(config, "downsample_in_bottleneck", False)  # true is the paper's own network, now called v1
    bottleneck = config.get("layer_type", "bottleneck") == "bottleneck"
    depths, width = tuple(config["depths"]), config["embedding_size"]
    depth = depth_of(depths, bottleneck)
    if depth is None or list(config["hidden_sizes"]) != hidden_sizes(depth, width):
        raise UserError(
            f"The checkpoint's config.json has depths={list(depths)}, embedding_size={width} and "
            f"hidden_sizes={config['hidden_sizes']}, which is no ResNet of depth {', '.join(map(str, BLOCKS))}."
        )
    return {
        "num_classes": class_count(config),
        "image_shape": (224, 224, config.get("num_channels", 3)),  # any height and width would do
        "depth": depth,
        "width": width,
    }


def depth_of(blocks: tuple[int, ...], bottleneck: bool) -> int | None:
    """The ResNet with so many blocks in each stage, or None."""
    return next((d for d, b in BLOCKS.items() if b == blocks and (d >= BOTTLENECK) == bottleneck), None)


def hidden_sizes(depth: int, width: int) -> list[int]:
    """Output channels of each stage."""
    return [width * 2**i * (4 if depth >= BOTTLENECK else 1) for i in range(4)]


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config for `config.model`."""
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_channels": model["image_shape"][2],
        "embedding_size": model["width"],
        "hidden_sizes": hidden_sizes(model["depth"], model["width"]),
        "depths": list(BLOCKS[model["depth"]]),
        "layer_type": "bottleneck" if model["depth"] >= BOTTLENECK else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
        **class_names(model["num_classes"]),
    }


UNITS = {
    "resnet.embedder.embedder": "stem",
    "resnet.encoder.stages.{i}.layers.{j}.layer.{k}": "stages/{i}/{j}/convs/{k}",
    "resnet.encoder.stages.{i}.layers.{j}.shortcut": "stages/{i}/{j}/shortcut",
}
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def rules(model: Mapping[str, Any]) -> Sequence[Rule]:
    """The same for every size."""
    return [
        *(Rule(f"{t}.convolution.weight", f"{o}/conv/kernel", CONV) for t, o in UNITS.items()),
        *(Rule(f"{t}.normalization.{n}", f"{o}/norm/{m}") for t, o in UNITS.items() for n, m in NORM.items()),
        Rule("classifier.1.weight", "head/kernel", LINEAR),
        Rule("classifier.1.bias", "head/bias"),
    ]


RESNET = Family(
    "ResNetForImageClassification",
    {"name": "resnet", "stem": "imagenet", "widths": None, "blocks": None},
    model,
    config,
    rules,
    unused=tuple(f"{unit}.normalization.num_batches_tracked" for unit in UNITS),
    prefix="resnet.",
)
