"""x"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    models = {
        "lstm": {"name": "rnn_classifier", "d_model": 128, "d_hidden": 128, "dropout": 0.5},
        "transformer": {"name": "bert", "head": "sequence_classification", "d_model": 128, "num_layers": 2, "num_heads": 4, "dropout": 0.3},
    }
    arg = arg or "lstm"
    if arg not in models:
        raise ValueError(f"takes 'lstm' or 'transformer', not {arg!r}")
    return ConfigDict(
        {
            "seed": 0,
            "model": models[arg],
            "task": {"name": "sequence_classification", "label_smoothing": 0.1},
            "data": {
                "name": "text_table",
                "train": "data/sst2/train.tsv",
                "validation": "data/sst2/dev.tsv",
                "test": "data/sst2/test.tsv",
                "text_column": "sentence",
                "tokenizer": "wordpiece",
                "vocab_size": 8000,
                "max_length": 64,
            },
            "optimizer": {"name": "adamw", "learning_rate": 2e-3, "schedule": "linear", "warmup_steps": 100, "weight_decay": 0.1, "clip_norm": 1.0},
            "train": {"epochs": 6, "batch_size": 64, "log_every": 20, "eval_every": 108, "checkpoint_every": 0},
        }
    )
