"""Penn Treebank by word, by its usual protocol: Zaremba et al.'s medium LSTM, or with `:awd` Merity et al.'s.

bigjax train --config=experiments/ptb_lstm.py --config.data.folder=FOLDER
bigjax train --config=experiments/ptb_lstm.py:awd --config.data.folder=FOLDER

FOLDER holds Mikolov's ptb.train.txt, ptb.valid.txt and ptb.test.txt, which come with the licence of their owner. The
published test perplexities are 82.7 (Zaremba et al. 2014, table 1) and 57.3 (Merity et al. 2017, table 1). Not theirs
are: for the first the learning rate falls by a cosine, instead of by 1.2 an epoch from the sixth on; for the second the
averaging of weights is an exponential one from the beginning, and all rows are 70 words long. What they sum over 35
steps is a mean here, and so rate times 35 and norm divided by 35 are theirs.
"""

from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "awd"):
        raise ValueError(f"takes no argument or 'awd', not {arg!r}")
    config = ConfigDict(
        {
            "seed": 0,
            "model": {"name": "rnn", "d_model": 650, "num_layers": 2, "dropout": 0.5, "tied": False},
            "task": {"name": "language_modelling"},
            "data": {"name": "word_files", "folder": "data/ptb", "context": 35},
            "optimizer": {"name": "sgd", "learning_rate": 35.0, "schedule": "cosine", "clip_norm": 5 / 35},
            "train": {"epochs": 39, "batch_size": 20, "log_every": 100, "eval_every": 1328, "checkpoint_every": 1328},
        }
    )
    if arg == "awd":
        config.model.update(d_model=400, d_hidden=1150, num_layers=3, tied=True, locked_dropout=True)
        config.model.update(dropout=0.4, input_dropout=0.4, hidden_dropout=0.25, embedding_dropout=0.1)
        config.model.update(weight_dropout=0.5, alpha=2.0, beta=1.0)
        config.data.context = 70
        config.optimizer.update(learning_rate=30.0, schedule="constant", clip_norm=0.25, ema_decay=0.9995)
        config.optimizer.update(weight_decay=1.2e-6, weight_decay_mask="all")
        config.train.update(epochs=500, eval_every=664, checkpoint_every=664)
    return config
