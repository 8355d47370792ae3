"""BERT, or another encoder like it, answers questions about passages: SQuAD, with the recipe of Devlin et al. (2019).

    bigjax train --config=experiments/squad_bert.py:path/to/bert-base-uncased
    bigjax train --config=experiments/squad_bert.py:tfds:path/to/bert-base-uncased

The files are those of https://rajpurkar.github.io/SQuAD-explorer, or what TensorFlow Datasets makes of them. Version
2.0, where some questions have no answer: `--config.data.train=data/train-v2.0.json` and its `validation`, or
`--config.data.dataset=squad/v2.0`. docs/question_answering.md says how your own questions look.
"""

from pathlib import Path

from ml_collections import ConfigDict

import bigjax


def get_config(arg: str | None = None) -> ConfigDict:
    path = (arg or "").removeprefix("tfds:")
    if not path:
        raise ValueError("takes the folder of a checkpoint or run, as in squad_bert.py:path/to/bert-base-uncased")
    theirs = bigjax.model_config(path)
    other_head = theirs.get("head") != "question_answering"
    files = {"name": "squad", "train": "data/train-v1.1.json", "validation": "data/dev-v1.1.json"}
    tfds = {"name": "tfds_squad", "dataset": "squad/v1.1"}
    return ConfigDict(
        {
            "seed": 0,
            "model": theirs | {"head": "question_answering", "num_classes": None},
            "task": {"name": "question_answering"},
            "data": (files if path == arg else tfds)
            | {"tokenizer": str(Path(path) / "tokenizer.json"), "max_length": 384, "stride": 128},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-5,
                "schedule": "linear",
                "warmup_steps": 500,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"epochs": 2, "batch_size": 32, "log_every": 100, "eval_every": 1000, "checkpoint_every": 1000},
            "finetune": {"init_from": path, "replace": "^(head|pooler)/" if other_head else None},
        }
    )
