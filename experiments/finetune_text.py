"""A decoder that has learned already (GPT-2, Llama 3, Qwen 3, or a run of yours) goes on with a text file.

bigjax train --config=experiments/finetune_text.py:path/to/checkpoint --config.data.train=text.txt

All of it learns; `--config.finetune.freeze='embedding|blocks/[0-5]/'` keeps what it names as it is, and
`--config.finetune.lora_layers='query|value' --config.optimizer.learning_rate=1e-3` learns low-rank corrections alone.
`bigjax export` writes the result as a checkpoint of the same kind, corrections merged into the weights.
"""

from pathlib import Path

from ml_collections import ConfigDict

import bigjax


def get_config(arg: str | None = None) -> ConfigDict:
    if arg is None:
        raise ValueError("takes the folder of a checkpoint or run, as in finetune_text.py:path/to/gpt2")
    tokenizer = Path(arg) / "tokenizer.json"
    return ConfigDict(
        {
            "seed": 0,
            "model": bigjax.model_config(arg),
            "task": {"name": "language_modelling"},
            "data": {
                "name": "text_file",
                "train": "data/text.txt",
                "context": 128,
                "tokenizer": str(tokenizer) if tokenizer.exists() else "bytes",
            },
            "optimizer": {
                "name": "adamw",
                "learning_rate": 1e-4,
                "schedule": "cosine",
                "warmup_steps": 20,
                "b2": 0.99,
                "clip_norm": 1.0,
            },
            "train": {"steps": 400, "batch_size": 16, "log_every": 20, "eval_every": 100, "checkpoint_every": 100},
            "finetune": {"init_from": arg},
        }
    )
