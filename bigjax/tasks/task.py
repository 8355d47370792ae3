"""What training asks of a task, and nothing more."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import numpy as np
from flax import nnx

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]


class Task(Protocol):
    """What "right" means: the batch it reads, the loss, the metrics. Its fields are the keys of `config.task`.

    A task is a frozen dataclass, so that it can be static under `jax.jit`.
    """

    unit: ClassVar[str]  # what throughput counts: "images", "tokens"
    weight: ClassVar[str]  # the batch's array whose sum is how many units count: [B] or [B, T]
    main_metric: ClassVar[str]  # the metric that the progress bar shows and that picks the best checkpoint
    higher_is_better: ClassVar[bool]

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """The model's keyword arguments that the data decides, such as `num_classes`; raises KeyError if absent."""
        ...

    def initial_carry(self, model: nnx.Module, batch: Mapping[str, Any]) -> Any:
        """Recurrent state before the first batch (leaves [B, ...]), or None; only the batch's shapes matter."""
        ...

    def loss(
        self, model: nnx.Module, batch: Batch, carry: Any, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, Any]:
        """The next carry, and sums over the batch, each float32 []: "loss", "weight" (what to divide by), and more."""
        ...

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Figures of a batch or a whole split from its added-up sums."""
        ...

    def examples(self, model: nnx.Module, batches: Any, info: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """What the report shows of a trained model."""
        ...
