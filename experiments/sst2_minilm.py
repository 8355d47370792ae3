"""A pretrained BERT, such as all-MiniLM-L6-v2, learns which films are praised.

bigjax train --config=experiments/sst2_minilm.py:path/to/all-MiniLM-L6-v2

89.1% of the test sentences (seeds 0, 1 and 2: 89.5, 88.7 and 89.2%); it is meant to reach 90%. As all-MiniLM-L6-v2
itself it takes the mean of all tokens and not the checkpoint's pooler; for that, `--config.model.pool=first
--config.finetune.replace='^head/'`.

The data are the whole sentences of the Stanford Sentiment Treebank of two classes (6,920 for training, 872, 1,821), as
tables in data/sst2. Other tables: `--config.data.train=train.tsv` and so on, see docs/text_classification.md.
"""

from pathlib import Path

from ml_collections import ConfigDict

import bigjax


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is None:
        raise ValueError("takes the folder of a checkpoint or run, as in sst2_minilm.py:path/to/all-MiniLM-L6-v2")
    head = {"head": "sequence_classification", "pool": "mean", "num_classes": None}  # as many as the data have
    return ConfigDict(
        {
            "seed": 0,
            "model": bigjax.model_config(arg) | head,
            "task": {"name": "sequence_classification", "label_smoothing": 0.1},
            "data": {
                "name": "text_table",
                "train": "data/sst2/train.tsv",
                "validation": "data/sst2/dev.tsv",
                "test": "data/sst2/test.tsv",
                "text_column": "sentence",
                "tokenizer": str(Path(arg) / "tokenizer.json"),
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-4,
                "schedule": "linear",
                "warmup_steps": 100,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
                "ema_decay": 0.99,
            },
            "train": {"epochs": 3, "batch_size": 32, "log_every": 20, "eval_every": 217, "checkpoint_every": 217},
            "finetune": {"init_from": arg, "replace": "^(head|pooler)/"},
        }
    )
