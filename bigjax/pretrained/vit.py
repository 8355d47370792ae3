"""The Vision Transformer (Dosovitskiy et al. 2021) as Hugging Face stores it."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError
from bigjax.models.blocks import mlp_width
from bigjax.pretrained.mapping import CONV, LINEAR, Family, Rule, class_count, class_names, require


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for their config."""
    require(config, "hidden_act", "gelu")
    require(config, "qkv_bias", True)
    height, width = pair(config["image_size"])
    patch_size = config["patch_size"]
    if len(set(pair(patch_size))) > 1:
        raise UserError(f"The checkpoint's config.json has patch_size={patch_size!r}; bigjax's patches are square.")
    return {
        "num_classes": class_count(config),
        "image_shape": (height, width, config["num_channels"]),
        "patch_size": pair(patch_size)[0],
        "d_model": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "d_ff": config["intermediate_size"],
        "norm_epsilon": config.get("layer_norm_eps", 1e-12),
        "dropout": config.get("hidden_dropout_prob", 0.0),
    }


def pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width, which they give as one number where they are equal."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config for `config.model`."""
    height, width, channels = model["image_shape"]
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": height if height == width else [height, width],
        "num_channels": channels,
        "patch_size": model["patch_size"],
        "hidden_size": model["d_model"],
        "num_hidden_layers": model["num_layers"],
        "num_attention_heads": model["num_heads"],
        "intermediate_size": model["d_ff"] or mlp_width(model["d_model"], "gelu"),
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": model["norm_epsilon"],
        "hidden_dropout_prob": model["dropout"],
        "attention_probs_dropout_prob": 0.0,
        **class_names(model["num_classes"]),
    }


def rules(model: Mapping[str, Any]) -> Sequence[Rule]:
    """The same for every size."""
    linear = {
        **{f"attention.attention.{name}": f"attention/{name}" for name in ("query", "key", "value")},
        "attention.output.dense": "attention/out",
        "intermediate.dense": "mlp/up",
        "output.dense": "mlp/down",
    }
    norms = {"layernorm_before": "norm1", "layernorm_after": "norm2"}
    layer, block = "vit.encoder.layer.{i}.", "blocks/{i}/"
    return [
        Rule("vit.embeddings.cls_token", "cls"),
        Rule("vit.embeddings.position_embeddings", "positions"),
        Rule("vit.embeddings.patch_embeddings.projection.weight", "patches/kernel", CONV),
        Rule("vit.embeddings.patch_embeddings.projection.bias", "patches/bias"),
        *(Rule(f"{layer}{theirs}.weight", f"{block}{ours}/kernel", LINEAR) for theirs, ours in linear.items()),
        *(Rule(f"{layer}{theirs}.weight", f"{block}{ours}/scale") for theirs, ours in norms.items()),
        *(Rule(f"{layer}{theirs}.bias", f"{block}{ours}/bias") for theirs, ours in (linear | norms).items()),
        Rule("vit.layernorm.weight", "norm/scale"),
        Rule("vit.layernorm.bias", "norm/bias"),
        Rule("classifier.weight", "head/kernel", LINEAR),
        Rule("classifier.bias", "head/bias"),
    ]


VIT = Family("ViTForImageClassification", {"name": "vit", "pool": "cls"}, model, config, rules)
