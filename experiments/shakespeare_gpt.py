"""nanoGPT's small GPTs, on any text file, character by character; the last tenth of it is for validation.

bigjax train --config=experiments/shakespeare_gpt.py --config.data.train=path/to/tinyshakespeare.txt
bigjax train --config=experiments/shakespeare_gpt.py:llama --config.data.train=path/to/tinyshakespeare.txt
bigjax train --config=experiments/shakespeare_gpt.py:bpe --config.data.train=path/to/tinyshakespeare.txt
bigjax train --config=experiments/shakespeare_gpt.py:gpu --config.data.train=path/to/tinyshakespeare.txt

It is the recipe for a CPU. With `:gpu` it is the one for a GPU, of which nanoGPT publishes a best validation loss of
1.4697, on Tiny Shakespeare; the checkpoint that had the best is kept. With `:bpe` the tokens are a byte-level BPE of
1,000, learned from the training text.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict(
        {
            "seed": 0,
            "model": {"name": "gpt", "d_model": 128, "num_layers": 4, "num_heads": 4, "use_bias": False},
            "task": {"name": "language_modelling"},
            "data": {"name": "text_file", "train": "data/tinyshakespeare.txt", "context": 64, "tokenizer": "chars"},
            "optimizer": {
                "name": "adamw",
                "learning_rate": 2e-3,
                "schedule": "cosine",
                "warmup_steps": 100,
                "final_fraction": 0.1,
                "b2": 0.99,
                "weight_decay": 0.1,
                "clip_norm": 1.0,
            },
            "train": {"steps": 2000, "batch_size": 12, "log_every": 100, "eval_every": 500, "checkpoint_every": 500},
        }
    )
    if arg == "llama":
        config.model.update(positions="rotary", norm="rmsnorm", mlp="swiglu", num_kv_heads=2)
    elif arg == "bpe":
        config.data.update(tokenizer="bpe", vocab_size=1000)
    elif arg == "gpu":
        config.model.update(d_model=384, num_layers=6, num_heads=6, dropout=0.2)
        config.data.context = 256
        config.optimizer.learning_rate = 1e-3
        config.train.update(steps=5000, batch_size=64, eval_every=250, checkpoint_every=250, precision="bfloat16")
    elif arg is not None:
        raise ValueError(f"takes no argument, 'llama', 'bpe' or 'gpu', not {arg!r}")
    return config
