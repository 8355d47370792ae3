"""Speech of yours: a manifest, JSONL with `audio` and `text` on each line, and bidirectional LSTMs or a Conformer.

    bigjax train --config=experiments/speech.py --config.data.train=train.jsonl --config.data.test=test.jsonl
    bigjax train --config=experiments/speech.py:conformer --config.data.train=train.jsonl

A recipe to begin from. For a few hours of speech the small model will do; more wants a larger one, without the three
speeds, and fewer epochs.
"""

from ml_collections import ConfigDict

MODELS = {
    "lstm": {"name": "speech_lstm", "d_hidden": 256, "num_layers": 3, "dropout": 0.2},
    "conformer": {"name": "conformer", "d_model": 144, "num_layers": 8, "num_heads": 4},
}


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, *MODELS):
        raise ValueError(f"takes 'lstm' or 'conformer', not {arg!r}")
    return ConfigDict(
        {
            "seed": 0,
            "model": MODELS[arg or "lstm"],
            "task": {"name": "speech_recognition"},
            "data": {
                "name": "speech_manifest",
                "train": "data/speech/train.jsonl",
                "subsampling": 4,
                "speeds": (0.9, 1.0, 1.1),
                "frequency_masks": 2,
                "time_masks": 2,
                "time_width": 40,
                "time_share": 0.1,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "schedule": "cosine",
                "warmup_steps": 500,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"epochs": 20, "batch_size": 32, "log_every": 50, "eval_every": 500, "checkpoint_every": 500},
        }
    )
