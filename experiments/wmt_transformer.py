"""The base Transformer on WMT 2014 English to German, by the recipe of Vaswani et al. 2017 (sections 5 and 6.1).

bigjax data prepare wmt14_translate/de-en    # 4.5 million pairs; preparing them needs pip install 'bigjax[tf]'
bigjax train --config=experiments/wmt_transformer.py
bigjax train --config=experiments/wmt_transformer.py:files --config.data.train=train.tsv --config.data.test=test.tsv

The paper reaches BLEU 27.3 on newstest2014 after 100,000 steps, 12 hours on 8 P100 GPUs. Not run here, for want of the
data and of such GPUs. What differs: a batch is 896 pairs, on average about the paper's 25,000 tokens a side; long ones
have far more, so it goes through in 8 parts, and pairs of more than 128 tokens are left out of training.
Evaluation takes a moving average of the parameters where the paper averages its last five checkpoints. The paper's BLEU
is of tokenised text with German compounds split, and so higher than sacreBLEU's (Post 2018).
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "files"):
        raise ValueError("takes no argument, for TFDS, or 'files', for pairs of your own")
    tfds = {"name": "tfds_translation", "dataset": "wmt14_translate/de-en", "source_language": "en"}
    tfds |= {"target_language": "de", "validation_split": "validation", "test_split": "test"}
    tfds["on_error"] = "skip"  # a bad pair in one's own files can be mended, there it cannot
    files = {"name": "translation_pairs", "train": "data/train.tsv"}
    return ConfigDict(
        {
            "seed": 0,
            "model": {"name": "encoder_decoder", "scan_layers": True},  # base is its default
            "task": {"name": "translation", "label_smoothing": 0.1, "num_beams": 4, "length_penalty": 0.6},
            "data": {
                **(files if arg else tfds),
                "vocab_size": 37000,
                "max_length": 128,
                "buckets": 12,
            },
            "optimizer": {
                "name": "adam",
                "learning_rate": (512 * 4000) ** -0.5,
                "schedule": "rsqrt",
                "warmup_steps": 4000,
                "b2": 0.98,
                "eps": 1e-9,
                "accumulate_steps": 8,
                "ema_decay": 0.999,
            },
            "train": {
                "steps": 100_000,
                "batch_size": 896,
                "eval_batch_size": 128,
                "precision": "bfloat16",
                "log_every": 100,
                "eval_every": 5000,
                "checkpoint_every": 1000,
            },
        }
    )
