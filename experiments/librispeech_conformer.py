"""Conformer-S on LibriSpeech (Gulati et al. 2020), without the paper's language model and decoder: a CTC head.

From the archives as they unpack, `root/train-clean-100/<speaker>/<chapter>/*.flac` and `*.trans.txt`; with `:960` from
all three training parts:

    bigjax train --config=experiments/librispeech_conformer.py --config.data.root=path/to/LibriSpeech
    bigjax train --config=experiments/librispeech_conformer.py:960 --config.data.test="('test-other',)"

The paper's are the model, its dropout, SpecAugment, Adam's constants, the learning rate and the weight decay; the batch
and the length are not. It is for an accelerator and has not been run to its end.
"""

from ml_collections import ConfigDict

D_MODEL = 144


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "100", "960"):
        raise ValueError(f"takes '100' or '960', the hours, not {arg!r}")
    more = ("train-clean-360", "train-other-500") if arg == "960" else ()
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "conformer", "d_model": D_MODEL, "num_layers": 16, "num_heads": 4, "scan_layers": True},
            "task": {"name": "speech_recognition"},
            "data": {
                "name": "librispeech",
                "root": "data/LibriSpeech",
                "train": ("train-clean-100", *more),
                "tokenizer": "bpe",
                "vocab_size": 1024,
                "frequency_masks": 2,
                "frequency_width": 27,
                "time_masks": 10,
                "time_width": 1000,
                "time_share": 0.05,
                "check": False,
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": 0.05 / D_MODEL**0.5,
                "schedule": "rsqrt",
                "warmup_steps": 10_000,
                "b2": 0.98,
                "eps": 1e-9,
                "weight_decay": 1e-6,
                "weight_decay_mask": "all",
                "clip_norm": 1.0,
            },
            "train": {
                "epochs": 300,
                "batch_size": 256,
                "eval_batch_size": 64,
                "precision": "bfloat16",
                "loader_workers": 4,
                "log_every": 50,
                "eval_every": 1000,
                "checkpoint_every": 1000,
            },
        }
    )
