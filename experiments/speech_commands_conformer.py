"""A small Conformer spells the words of Google's Speech Commands (Warden 2018), 105,829 recordings of a second.

    bigjax train --config=experiments/speech_commands_conformer.py --config.data.root=path/to/speech_commands_v0.02

It has not been run to its end.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise ValueError(f"takes no argument, not {arg!r}")
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "conformer", "d_model": 144, "num_layers": 6, "num_heads": 4, "kernel_size": 15},
            "task": {"name": "speech_recognition"},
            "data": {
                "name": "speech_commands",
                "root": "data/speech_commands",
                "num_mels": 40,
                "subsampling": 2,
                "frequency_masks": 2,
                "frequency_width": 8,
                "time_masks": 2,
                "time_width": 25,
                "time_share": 0.2,
                "on_error": "skip",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 1000,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"epochs": 30, "batch_size": 128, "log_every": 50, "eval_every": 1000, "checkpoint_every": 1000},
        }
    )
