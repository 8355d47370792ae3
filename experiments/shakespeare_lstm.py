"""An LSTM on any text file, character by character, its state carried along; the last tenth is for validation.

bigjax train --config=experiments/shakespeare_lstm.py --config.data.train=path/to/tinyshakespeare.txt
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is not None:
        raise ValueError(f"takes no argument, not {arg!r}")
    return ConfigDict(
        {
            "seed": 0,
            "model": {
                "name": "rnn",
                "d_model": 64,
                "d_hidden": 512,
                "num_layers": 1,
                "dropout": 0.25,
                "input_dropout": 0.0,
                "tied": False,
            },
            "task": {"name": "language_modelling"},
            "data": {
                "name": "text_file",
                "train": "data/tinyshakespeare.txt",
                "context": 64,
                "layout": "stream",
                "tokenizer": "chars",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"epochs": 5, "batch_size": 32, "log_every": 50, "eval_every": 500, "checkpoint_every": 500},
        }
    )
