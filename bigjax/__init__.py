"""bigjax: CNNs, RNNs and Transformers in JAX, trained by one step, reproducible to the bit.

import bigjax
run = bigjax.train("experiments/digits_cnn.py", {"optimizer.learning_rate": 0.01})
run.metrics, run.plot(), run.model
"""

from typing import TYPE_CHECKING, Any

from bigjax.errors import UserError

if TYPE_CHECKING:
    from bigjax.run import (
        Run,
        evaluate,
        export_checkpoint,
        import_checkpoint,
        load,
        load_pretrained,
        model_config,
        predict,
        reproduce,
        sweep,
        train,
    )

__all__ = [
    "Run",
    "UserError",
    "evaluate",
    "export_checkpoint",
    "import_checkpoint",
    "load",
    "load_pretrained",
    "model_config",
    "predict",
    "reproduce",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    """The verbs, imported when they are first used: `bigjax --help` need not wait for jax."""
    if name not in __all__:
        raise AttributeError(f"module 'bigjax' has no attribute {name!r}")
    from bigjax import run

    return getattr(run, name)
