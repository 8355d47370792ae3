"""A BERT from nothing by masked language modelling, on the Python language reference or any text.

bigjax train --config=experiments/bert_pretraining.py
bigjax train --config=experiments/bert_pretraining.py:bert-base --config.data.train=FOLDER_OF_TXT
bigjax predict "The value of the [MASK] is returned." --workdir=RUN

`:bert-base` is the published size with RoBERTa's objective and BERT's optimizer, for accelerators: 110 million
parameters, a vocabulary of 30,522 and batches of 256 rows in microbatches (Devlin et al. 2019, appendix A.2).
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "bert-base"):
        raise ValueError(f"takes no argument or 'bert-base', not {arg!r}")
    config = ConfigDict(
        {
            "seed": 0,
            "model": {"name": "bert", "head": "masked_lm", "d_model": 128, "num_layers": 4, "num_heads": 4},
            "task": {"name": "masked_language_modelling"},
            "data": {"name": "text_masked", "context": 64, "vocab_size": 2000},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 200,
                "weight_decay": 0.01,
                "clip_norm": 1.0,
            },
            "train": {"steps": 2000, "batch_size": 32, "log_every": 100, "eval_every": 500, "checkpoint_every": 500},
        }
    )
    config.model.dropout = 0.0 if arg is None else 0.1
    if arg == "bert-base":
        config.model.update(d_model=768, num_layers=12, num_heads=12, scan_layers=True)
        config.data.update(context=512, vocab_size=30522)
        config.optimizer.update(learning_rate=1e-4, schedule="linear", warmup_steps=10_000, accumulate_steps=8)
        config.train.update(steps=1_000_000, batch_size=256, precision="bfloat16", eval_every=10_000)
    return config
