"""The published sizes, each as a whole `config.model`: `config.model = PRESETS["gpt3-1.3b"]` in an experiment."""

from typing import Any

GPT = {"name": "gpt", "vocab_size": 50257}
LLAMA_STYLE = {"name": "gpt", "positions": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "use_bias": False}
LLAMA3 = {**LLAMA_STYLE, "vocab_size": 128256, "context": 8192, "num_kv_heads": 8, "norm_epsilon": 1e-5}
LLAMA3 |= {"rope_theta": 500_000.0, "tied": False}
QWEN3 = {**LLAMA_STYLE, "vocab_size": 151936, "context": 40960, "num_kv_heads": 8, "head_dim": 128}
QWEN3 |= {"rope_theta": 1_000_000.0, "qk_norm": True}
MIXTRAL = {**LLAMA_STYLE, "vocab_size": 32000, "context": 32768, "num_kv_heads": 8, "norm_epsilon": 1e-5}
MIXTRAL |= {"rope_theta": 1_000_000.0, "tied": False, "num_experts": 8, "experts_per_token": 2}
BERT = {"name": "bert", "vocab_size": 30522}
VIT = {"name": "vit", "num_classes": 1000, "image_shape": (224, 224, 3)}
IMAGENET = {"num_classes": 1000, "image_shape": (224, 224, 3)}
TRANSFORMER = {"name": "encoder_decoder", "vocab_size": 37000}
WHISPER = {"name": "whisper", "vocab_size": 51865}


def sizes(d_model: int, num_layers: int, num_heads: int, **others: Any) -> dict[str, Any]:
    """Width, depth and heads of a Transformer."""
    return {"d_model": d_model, "num_layers": num_layers, "num_heads": num_heads, **others}


def gpt3(*size: int, head_dim: int) -> dict[str, Any]:
    """A row of the GPT-3 paper's table 2.1 (Brown et al. 2020), all of dense attention where theirs alternates."""
    return GPT | {"context": 2048} | sizes(*size, head_dim=head_dim)


PRESETS: dict[str, dict[str, Any]] = {
    # Radford et al. 2019
    "gpt2": GPT | {"context": 1024} | sizes(768, 12, 12),
    "gpt2-medium": GPT | {"context": 1024} | sizes(1024, 24, 16),
    "gpt2-large": GPT | {"context": 1024} | sizes(1280, 36, 20),
    "gpt2-xl": GPT | {"context": 1024} | sizes(1600, 48, 25),
    "gpt3-125m": gpt3(768, 12, 12, head_dim=64),
    "gpt3-350m": gpt3(1024, 24, 16, head_dim=64),
    "gpt3-760m": gpt3(1536, 24, 16, head_dim=96),
    "gpt3-1.3b": gpt3(2048, 24, 16, head_dim=128),  # the table's 24 heads of 128 would make it 1.5 billion
    "gpt3-2.7b": gpt3(2560, 32, 32, head_dim=80),
    "gpt3-6.7b": gpt3(4096, 32, 32, head_dim=128),
    "gpt3-13b": gpt3(5140, 40, 40, head_dim=128),
    "gpt3-175b": gpt3(12288, 96, 96, head_dim=128),
    # Grattafiori et al. 2024; Yang et al. 2025
    "llama3-8b": LLAMA3 | sizes(4096, 32, 32, d_ff=14336),
    "llama3-70b": LLAMA3 | sizes(8192, 80, 64, d_ff=28672),
    "qwen3-0.6b": QWEN3 | sizes(1024, 28, 16, d_ff=3072, tied=True),
    "qwen3-8b": QWEN3 | sizes(4096, 36, 32, d_ff=12288, tied=False),
    # Jiang et al. 2024
    "mixtral-8x7b": MIXTRAL | sizes(4096, 32, 32, d_ff=14336),
    # Devlin et al. 2019; Dosovitskiy et al. 2021, Touvron et al. 2021 for the small one, Zhai et al. 2022 for the large
    "bert-base": BERT | sizes(768, 12, 12),
    "bert-large": BERT | sizes(1024, 24, 16),
    "vit-s16": VIT | sizes(384, 12, 6, patch_size=16),
    "vit-b16": VIT | sizes(768, 12, 12, patch_size=16),
    "vit-b32": VIT | sizes(768, 12, 12, patch_size=32),
    "vit-l16": VIT | sizes(1024, 24, 16, patch_size=16),
    "vit-g14": VIT | sizes(1408, 40, 16, patch_size=14, d_ff=6144),
    # Vaswani et al. 2017; Radford et al. 2022
    "transformer-base": TRANSFORMER | sizes(512, 6, 8, d_ff=2048),
    "transformer-big": TRANSFORMER | sizes(1024, 6, 16, d_ff=4096, dropout=0.3),
    "whisper-tiny": WHISPER | sizes(384, 4, 6),
    "whisper-base": WHISPER | sizes(512, 6, 8),
    "whisper-small": WHISPER | sizes(768, 12, 12),
    "whisper-medium": WHISPER | sizes(1024, 24, 16),
    "whisper-large-v2": WHISPER | sizes(1280, 32, 20),
    # Krizhevsky 2014; Simonyan & Zisserman 2015; He et al. 2016
    "alexnet": {"name": "alexnet"} | IMAGENET,
    **{f"vgg{depth}": {"name": "vgg", "depth": depth} | IMAGENET for depth in (11, 13, 16, 19)},
    **{f"resnet{depth}": {"name": "resnet", "depth": depth} | IMAGENET for depth in (18, 34, 50, 101, 152)},
}
