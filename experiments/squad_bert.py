"""BERT, or another encoder like it, answers questions about passages: SQuAD, with the recipe of Devlin et al. (2019).

    bigjax train --config=experiments/squad_bert.py:path/to/bert-base-uncased

The files are those of https://rajpurkar.github.io/SQuAD-explorer. For version 2.0, where some questions have no answer:
`--config.data.train=data/train-v2.0.json --config.data.validation=data/dev-v2.0.json`. docs/question_answering.md says
how your own questions look.
"""

from pathlib import Path

from ml_collections import ConfigDict

import bigjax


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is None:
        raise ValueError("takes the folder of a checkpoint or run, as in squad_bert.py:path/to/bert-base-uncased")
    theirs = bigjax.model_config(arg)
    other_head = theirs.get("head") != "question_answering"
    return ConfigDict(
        {
            "seed": 0,
            "model": theirs | {"head": "question_answering", "num_classes": None},
            "task": {"name": "question_answering"},
            "data": {
                "name": "squad",
                "train": "data/train-v1.1.json",
                "validation": "data/dev-v1.1.json",
                "tokenizer": str(Path(arg) / "tokenizer.json"),
                "max_length": 384,
                "stride": 128,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 3e-5,
                "schedule": "linear",
                "warmup_steps": 500,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"epochs": 2, "batch_size": 32, "log_every": 100, "eval_every": 1000, "checkpoint_every": 1000},
            "finetune": {"init_from": arg, "replace": "^(head|pooler)/" if other_head else None},
        }
    )
