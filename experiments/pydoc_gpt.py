"""A small GPT on the Python language reference, byte by byte; with `:llama` a Llama-style one of the same size.

With `:moe` the Llama-style one has 4 experts in each block, of which a byte goes through 2: as much work for each byte.
`--config.mesh.expert=4` puts one on each of four devices.

bigjax train --config=experiments/pydoc_gpt.py
bigjax train --config=experiments/pydoc_gpt.py:llama
bigjax train --config=experiments/pydoc_gpt.py:moe

2.404 bits per byte on validation text in 3 min 9 s on 2 CPU cores; with `:llama` 2.042 in 3 min 27 s.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    config = ConfigDict(
        {
            "seed": 0,
            "model": {"name": "gpt", "d_model": 128, "num_layers": 4, "num_heads": 4, "dropout": 0.1},
            "task": {"name": "language_modelling"},
            "data": {"name": "pydoc", "context": 128},
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
            "train": {"steps": 1500, "batch_size": 16, "log_every": 50, "eval_every": 500, "checkpoint_every": 500},
        }
    )
    if arg not in (None, "llama", "moe"):
        raise ValueError(f"takes no argument, 'llama' or 'moe', not {arg!r}")
    if arg is not None:
        config.model.update(positions="rotary", norm="rmsnorm", mlp="swiglu", num_kv_heads=2, use_bias=False)
    if arg == "moe":
        config.model.update(num_experts=4, experts_per_token=2, d_ff=192)  # half the width of the one MLP
    return config
