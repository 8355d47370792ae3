"""A small Transformer translates number words from English to French; the pairs are written by rule, in code.

bigjax train --config=experiments/numerals_transformer.py
bigjax train --config=experiments/numerals_transformer.py:files --config.data.train=train.tsv
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "files"):
        raise ValueError("takes no argument, for number words, or 'files', for pairs of your own")
    data = {"name": "translation_pairs", "train": "data/train.tsv"} if arg else {"name": "numerals"}
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "encoder_decoder", "d_model": 96, "num_layers": 2, "num_heads": 4, "d_ff": 192},
            "task": {"name": "translation", "max_new_tokens": 40},
            "data": {**data, "buckets": 2},
            "optimizer": {
                "name": "adam",
                "learning_rate": (96 * 200) ** -0.5,
                "schedule": "rsqrt",
                "warmup_steps": 200,
                "b2": 0.98,
                "eps": 1e-9,
            },
            "train": {"steps": 800, "batch_size": 64, "log_every": 50, "eval_every": 200, "checkpoint_every": 200},
        }
    )
