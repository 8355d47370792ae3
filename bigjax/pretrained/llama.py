"""Llama 2 and 3 (Touvron et al. 2023; Grattafiori et al. 2024) and Qwen 3 (Yang et al. 2025) of Hugging Face."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bigjax.models.blocks import mlp_width
from bigjax.pretrained.mapping import LINEAR, Family, Rule, require


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for their config."""
    require(config, "hidden_act", "silu")
    require(config, "attention_bias", False)
    require(config, "mlp_bias", False)
    require(config, "use_sliding_window", False)
    # transformers 5 keeps theta and scaling together, earlier ones apart.
    scaling = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    theta = scaling.pop("rope_theta", None) or config.get("rope_theta", 10000.0)
    scaling.setdefault("rope_type", scaling.pop("type", "default"))
    if scaling["rope_type"] == "linear":
        scaling.pop("original_max_position_embeddings", None)  # it plays no part
    return {
        "vocab_size": config["vocab_size"],
        "context": config["max_position_embeddings"],
        "d_model": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "num_kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "d_ff": config["intermediate_size"],
        "norm_epsilon": config.get("rms_norm_eps", 1e-6),
        "tied": config.get("tie_word_embeddings", False),
        "rope_theta": float(theta),
        "rope_scaling": None if scaling["rope_type"] == "default" else scaling,
    }


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config for `config.model`."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model["vocab_size"],
        "max_position_embeddings": model["context"],
        "hidden_size": model["d_model"],
        "num_hidden_layers": model["num_layers"],
        "num_attention_heads": model["num_heads"],
        "num_key_value_heads": model["num_kv_heads"] or model["num_heads"],
        "head_dim": model["head_dim"] or model["d_model"] // model["num_heads"],
        "intermediate_size": model["d_ff"] or mlp_width(model["d_model"], "swiglu"),
        "hidden_act": "silu",
        "rms_norm_eps": model["norm_epsilon"] or 1e-6,
        "tie_word_embeddings": model["tied"],
        "bos_token_id": None,  # theirs are numbers unless told
        "eos_token_id": None,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_theta": model["rope_theta"],
        "rope_scaling": model["rope_scaling"],
        "rope_parameters": {"rope_type": "default", **(model["rope_scaling"] or {}), "rope_theta": model["rope_theta"]},
    }


def rules(model: Mapping[str, Any]) -> Sequence[Rule]:
    """The same for every size."""
    linear = {
        "self_attn.q_proj": "attention/query",
        "self_attn.k_proj": "attention/key",
        "self_attn.v_proj": "attention/value",
        "self_attn.o_proj": "attention/out",
        "mlp.gate_proj": "mlp/gate",
        "mlp.up_proj": "mlp/up",
        "mlp.down_proj": "mlp/down",
    }
    norms = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
    if model.get("qk_norm"):
        norms |= {"self_attn.q_norm": "attention/query_norm", "self_attn.k_norm": "attention/key_norm"}
    head = () if model["tied"] else (Rule("lm_head.weight", "head/kernel", LINEAR),)
    return [
        Rule("model.embed_tokens.weight", "embedding/embedding"),
        *(Rule(f"model.layers.{{i}}.{t}.weight", f"blocks/{{i}}/{o}/kernel", LINEAR) for t, o in linear.items()),
        *(Rule(f"model.layers.{{i}}.{t}.weight", f"blocks/{{i}}/{o}/scale") for t, o in norms.items()),
        Rule("model.norm.weight", "norm/scale"),
        *head,
    ]


KIND = {"name": "gpt", "positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False}
KIND |= {"num_experts": None}
LLAMA = Family(
    "LlamaForCausalLM",
    KIND | {"qk_norm": False},
    model,
    config,
    rules,
    unused=("lm_head.weight", "model.layers.{i}.self_attn.rotary_emb.inv_freq"),  # tied to embed_tokens; a constant
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    prefix="model.",
)
QWEN3 = replace(
    LLAMA,
    architecture="Qwen3ForCausalLM",
    kind=KIND | {"qk_norm": True},
    model=lambda config: model({"head_dim": 128, **config}),  # theirs unless told
    config=lambda model: config(model) | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"},
)
