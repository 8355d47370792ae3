"""GPT-2 (Radford et al. 2019) as Hugging Face stores it."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.models.blocks import mlp_width
from bigjax.pretrained.mapping import LINEAR, SAME, Family, Rule, fused, require


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for their config."""
    require(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
    require(config, "scale_attn_weights", True)
    require(config, "scale_attn_by_inverse_layer_idx", False)
    require(config, "add_cross_attention", False)
    return {
        "vocab_size": config["vocab_size"],
        "context": config["n_positions"],
        "d_model": config["n_embd"],
        "num_layers": config["n_layer"],
        "num_heads": config["n_head"],
        "d_ff": config.get("n_inner") or 4 * config["n_embd"],
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
        "tied": config.get("tie_word_embeddings", True),
        "dropout": config.get("resid_pdrop", 0.1),
    }


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config for `config.model`."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model["vocab_size"],
        "n_positions": model["context"],
        "n_embd": model["d_model"],
        "n_layer": model["num_layers"],
        "n_head": model["num_heads"],
        "n_inner": model["d_ff"] or mlp_width(model["d_model"], "gelu"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": model["norm_epsilon"] or 1e-5,
        "tie_word_embeddings": model["tied"],
        "embd_pdrop": model["dropout"],
        "resid_pdrop": model["dropout"],
        "attn_pdrop": 0.0,
        "bos_token_id": None,  # theirs are 50256 unless told
        "eos_token_id": None,
    }


def rules(model: Mapping[str, Any]) -> Sequence[Rule]:
    """Their Conv1D keeps kernels as [in, out], as we do."""
    attention = tuple(f"blocks/{{i}}/attention/{name}/" for name in ("query", "key", "value"))
    layers = {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "attn.c_proj": "attention/out",
        "mlp.c_fc": "mlp/up",
        "mlp.c_proj": "mlp/down",
    }
    return [
        Rule("transformer.wte.weight", "embedding/embedding"),
        Rule("transformer.wpe.weight", "positions/embedding"),
        Rule("transformer.h.{i}.attn.c_attn.weight", tuple(name + "kernel" for name in attention), fused(3, axis=1)),
        Rule("transformer.h.{i}.attn.c_attn.bias", tuple(name + "bias" for name in attention), fused(3, axis=0)),
        *(
            Rule(
                f"transformer.h.{{i}}.{theirs}.weight",
                f"blocks/{{i}}/{ours}/{'scale' if 'norm' in ours else 'kernel'}",
                SAME,
            )
            for theirs, ours in layers.items()
        ),
        *(Rule(f"transformer.h.{{i}}.{theirs}.bias", f"blocks/{{i}}/{ours}/bias") for theirs, ours in layers.items()),
        Rule("transformer.ln_f.weight", "norm/scale"),
        Rule("transformer.ln_f.bias", "norm/bias"),
        *(() if model["tied"] else (Rule("lm_head.weight", "head/kernel", LINEAR),)),
    ]


GPT2 = Family(
    "GPT2LMHeadModel",
    {
        "name": "gpt",
        "positions": "learned",
        "norm": "layernorm",
        "mlp": "gelu",
        "use_bias": True,
        "qk_norm": False,
        "num_kv_heads": None,
        "head_dim": None,
    },
    model,
    config,
    rules,
    unused=(
        "transformer.h.{i}.attn.bias",
        "transformer.h.{i}.attn.masked_bias",
        "lm_head.weight",
    ),  # causal masks; tied to wte
    tied={"lm_head.weight": "transformer.wte.weight"},
    prefix="transformer.",
)
