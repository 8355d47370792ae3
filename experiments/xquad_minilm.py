"""MiniLM, a BERT of 6 layers, learns to answer questions from the 970 of 38 articles.

    bigjax train --config=experiments/xquad_minilm.py:path/to/all-MiniLM-L6-v2

data/xquad.en.json is https://github.com/google-deepmind/xquad's: 1,190 questions of 48 articles from SQuAD's validation
split. The last ten articles are for testing.
"""

from ml_collections import ConfigDict

import bigjax


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is None:
        raise ValueError("takes the folder of a checkpoint or run, as in xquad_minilm.py:path/to/all-MiniLM-L6-v2")
    other_head = (theirs := bigjax.model_config(arg)).get("head") != "question_answering"
    return ConfigDict(
        {
            "seed": 0,
            "model": theirs | {"head": "question_answering", "num_classes": None},
            "task": {"name": "question_answering"},
            "data": {
                "name": "squad",
                "train": "data/xquad.en.json[:38]",
                "test": "data/xquad.en.json[38:]",
                "tokenizer": arg,
                "max_length": 384,
                "stride": 128,
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-4,
                "schedule": "linear",
                "warmup_steps": 30,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"epochs": 5, "batch_size": 16, "log_every": 20, "eval_every": 0, "checkpoint_every": 200},
            "finetune": {"init_from": arg, "replace": "^(head|pooler)/" if other_head else None},
        }
    )
