"""What training asks of a task, and nothing more."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


class Task:
    """What "right" means: the batch it reads, the loss, the metrics.

    A task is a frozen dataclass, so that it can be static under `jax.jit`; its fields are the keys of `config.task`.
    """

    unit: ClassVar[str]  # what throughput counts: "images", "tokens"
    main_metric: ClassVar[str]  # picks the best checkpoint
    higher_is_better: ClassVar[bool]

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """The model's keyword arguments that the data decide, such as `num_classes`.

        Raises:
          KeyError: the data's `info` lacks what this task needs.
          ValueError: a field does not fit the data.
        """
        return {}

    def check_model(self, model: nnx.Module) -> None:
        """Raises ValueError, with the reason, where the loss cannot call such a model."""

    def initial_carry(self, model: nnx.Module, batch: Mapping[str, Any]) -> Any:
        """Recurrent state before the first batch (leaves [B, ...]), or None; only the batch's shapes matter."""
        return None

    def loss(
        self, model: nnx.Module, batch: Batch, carry: Any, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, Any]:
        """Sums over the batch, and the next carry.

        The sums are float32: "loss" [], whose gradient trains; "weight" [], how many units it is a sum over; what the
        metrics need, of any shape; and perhaps "penalty" [], which trains with the loss but is no part of the figure.
        Rows with a zero mask must add nothing, and nothing may depend on how a batch is split.
        """
        raise TypeError(f"{type(self).__name__} must define loss")

    def evaluate(self, model: nnx.Module, batch: Batch, carry: Any) -> tuple[Sums, Any, dict[str, jax.Array]]:
        """Sums and carry as `loss` gives them without training, and what `score` needs of each row, leaves [B, ...]."""
        return *self.loss(model, batch, carry, train=False, rngs=None), {}

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Figures of a batch or a whole split from its added-up sums; "loss" first, then the main metric."""
        return {"loss": sums["loss"] / sums["weight"]}

    def score(self, outputs: Mapping[int, dict[str, np.ndarray]], references: Any) -> dict[str, float]:
        """Figures of a whole split that no sum gives, such as a word error rate.

        Args:
          outputs: what `evaluate` gave of each example, by the example's number: the batch's `index`, int32 [B], which
            is negative where a row only fills the batch up.
          references: the split's own `references`.
        """
        return {}

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """What the report shows of a trained model: see `bigjax.report.write_report`."""
        return {}
