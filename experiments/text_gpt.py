"""A GPT of a published size, from 124 million parameters to 175 billion, on any text file.

bigjax train --config=experiments/text_gpt.py:gpt3-350m --config.data.train=text.txt --config.data.tokenizer=FOLDER

The argument is a name of bigjax/models/presets.py; without one it is gpt3-125m. FOLDER holds a tokenizer.json with at
most 50,257 tokens, as GPT-2's; without it tokens are bytes. The recipe is GPT-3's (Brown et al. 2020, table 2.1 and
appendix B) but for the batch, which is small; the larger sizes need a mesh of accelerators (`--config.mesh.fsdp=8`).
"""

from ml_collections import ConfigDict

from bigjax.models.presets import PRESETS

LEARNING_RATES = {
    "gpt3-125m": 6e-4,
    "gpt3-350m": 3e-4,
    "gpt3-760m": 2.5e-4,
    "gpt3-1.3b": 2e-4,
    "gpt3-2.7b": 1.6e-4,
    "gpt3-6.7b": 1.2e-4,
    "gpt3-13b": 1e-4,
    "gpt3-175b": 0.6e-4,
}


def get_config(arg: str | None = None) -> ConfigDict:
    arg = arg or "gpt3-125m"
    decoders = [name for name, model in PRESETS.items() if model["name"] == "gpt"]
    if arg not in decoders:
        raise ValueError(f"takes one of {', '.join(decoders)}, not {arg!r}")
    return ConfigDict(
        {
            "seed": 0,
            "model": PRESETS[arg] | {"scan_layers": True},
            "task": {"name": "language_modelling"},
            "data": {"name": "text_file", "train": "data/text.txt", "context": 1024},
            "optimizer": {
                "name": "adamw",
                "learning_rate": LEARNING_RATES.get(arg, 3e-4),
                "schedule": "cosine",
                "warmup_steps": 200,
                "final_fraction": 0.1,
                "b2": 0.95,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "train": {"steps": 5000, "batch_size": 8, "precision": "bfloat16", "log_every": 20},
        }
    )
