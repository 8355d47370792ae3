"""The large published models at full size, on random data: to plan them, and to measure their speed on accelerators.

bigjax plan --config=experiments/large.py:llama3-70b --topology=v5p:4x8x8
bigjax plan --config=experiments/large.py:vit-g14 --topology=h200:2x8 --config.mesh.dcn_data=2

The argument is one of MODELS, without one llama3-8b. Each has a batch as its paper's, AdamW (SGD for the ResNet),
bfloat16 compute and all devices along fsdp; docs/plan.md says what that takes on which chips.
"""

from ml_collections import ConfigDict

from bigjax.models.presets import PRESETS

# Sequences or images in a batch: Brown et al. 2020, table 2.1, 3.2 million tokens; Grattafiori et al. 2024, 16 million
# for the larger, and a quarter of them here for the smaller; Devlin et al. 2019; Zhai et al. 2022; Goyal et al. 2017.
MODELS = {
    "gpt3-175b": {"rows": 1536, "context": 2048},
    "llama3-8b": {"rows": 512, "context": 8192},
    "llama3-70b": {"rows": 2048, "context": 8192},
    "bert-large": {"rows": 256, "context": 512},
    "vit-g14": {"rows": 4096},
    "resnet50": {"rows": 1024},
}


def get_config(arg: str | None = None) -> ConfigDict:
    arg = arg or "llama3-8b"
    if arg not in MODELS:
        raise ValueError(f"takes one of {', '.join(MODELS)}, not {arg!r}")
    model, sizes = dict(PRESETS[arg]), MODELS[arg]
    optimizer = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.1, "clip_norm": 1.0}
    task = {"name": "image_classification"}
    data = {"name": "random_images"}
    if "context" in sizes:
        masked = model["name"] == "bert"
        data = {"name": "random_text", "vocab_size": model["vocab_size"], "hidden": masked}
        data["context"] = model["context"] = sizes["context"]
        task = {"name": "masked_language_modelling"} if masked else {"name": "language_modelling", "loss_chunk": 512}
        model |= {"head": "masked_lm"} if masked else {}
    if model["name"] == "resnet":
        optimizer = {"name": "sgd", "learning_rate": 0.4, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    else:
        model |= {"scan_layers": True, "remat": "nothing_saveable"}
    return ConfigDict(
        {
            "seed": 0,
            "model": model,
            "task": task,
            "data": data,
            "optimizer": optimizer,
            "train": {"steps": 1000, "batch_size": sizes["rows"], "precision": "bfloat16", "log_every": 10},
            "mesh": {"data": 1, "fsdp": -1},
        }
    )
