"""Whisper (Radford et al. 2022) as Hugging Face stores it."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError
from bigjax.pretrained.mapping import LINEAR, Family, Rule, require, transposed

CONV1D = transposed(2, 1, 0)  # [out, in, W] to [W, in, out]


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for their config."""
    require(config, "activation_function", "gelu")
    require(config, "scale_embedding", False)
    require(config, "tie_word_embeddings", True)
    for key in ("attention_heads", "ffn_dim"):
        encoder, decoder = (config[f"{side}_{key}"] for side in ("encoder", "decoder"))
        if encoder != decoder:
            raise UserError(
                f"The checkpoint's config.json has encoder_{key}={encoder} and decoder_{key}={decoder}; bigjax has "
                "this model with the same for both only."
            )
    return {
        "vocab_size": config["vocab_size"],
        "num_mels": config["num_mel_bins"],
        "source_context": config["max_source_positions"],
        "context": config["max_target_positions"],
        "d_model": config["d_model"],
        "num_layers": config["encoder_layers"],
        "num_decoder_layers": config["decoder_layers"],
        "num_heads": config["encoder_attention_heads"],
        "d_ff": config["encoder_ffn_dim"],
        "dropout": config.get("dropout", 0.0),
    }


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config for `config.model`."""
    sizes = {"attention_heads": model["num_heads"], "ffn_dim": model["d_ff"] or 4 * model["d_model"]}
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": model["vocab_size"],
        "num_mel_bins": model["num_mels"],
        "max_source_positions": model["source_context"],
        "max_target_positions": model["context"],
        "d_model": model["d_model"],
        "encoder_layers": model["num_layers"],
        "decoder_layers": model["num_decoder_layers"] or model["num_layers"],
        **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sizes.items()},
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "dropout": model["dropout"],
        "pad_token_id": None,  # theirs is 50256 unless told, which a smaller vocabulary does not have
    }


def rules(model: Mapping[str, Any]) -> Sequence[Rule]:
    """The same for every size; the keys' projections have no biases."""
    sides = {"model.encoder.": "encoder/", "model.decoder.": ""}
    projections = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    attentions = {"self_attn": "attention", "encoder_attn": "cross_attention"}
    linear = {"fc1": "mlp/up", "fc2": "mlp/down"} | {
        f"{t}.{their}": f"{o}/{our}" for t, o in attentions.items() for their, our in projections.items()
    }
    norms = {
        "self_attn_layer_norm": "norm1",
        "encoder_attn_layer_norm": "cross_norm",
        "final_layer_norm": "norm2",
    }
    table = []
    for theirs, ours in sides.items():
        block = (theirs + "layers.{i}.", ours + "blocks/{i}/")
        table += [Rule(f"{block[0]}{t}.weight", f"{block[1]}{o}/kernel", LINEAR) for t, o in linear.items()]
        table += [Rule(f"{block[0]}{t}.weight", f"{block[1]}{o}/scale") for t, o in norms.items()]
        table += [Rule(f"{block[0]}{t}.bias", f"{block[1]}{o}/bias") for t, o in (linear | norms).items()]
        table += [Rule(f"{theirs}layer_norm.weight", f"{ours}norm/scale")]
        table += [Rule(f"{theirs}layer_norm.bias", f"{ours}norm/bias")]
    for name in ("conv1", "conv2"):
        table += [Rule(f"model.encoder.{name}.weight", f"encoder/{name}/kernel", CONV1D)]
        table += [Rule(f"model.encoder.{name}.bias", f"encoder/{name}/bias")]
    return [
        *table,
        Rule("model.encoder.embed_positions.weight", "encoder/positions"),
        Rule("model.decoder.embed_positions.weight", "positions/embedding"),
        Rule("model.decoder.embed_tokens.weight", "embedding/embedding"),
    ]


WHISPER = Family(
    "WhisperForConditionalGeneration",
    {"name": "whisper"},
    model,
    config,
    rules,
    unused=("proj_out.weight",),  # tied to embed_tokens
    tied={"proj_out.weight": "model.decoder.embed_tokens.weight"},
    prefix="model.",
)
