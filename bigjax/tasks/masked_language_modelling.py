"""Masked language modelling: which tokens were hidden in a text."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.tasks.cross_entropy import cross_entropy
from bigjax.tasks.task import Batch, Sums, Task

SHOWN = 8  # tokens of the text before and behind a hidden one that the report shows


@dataclass(frozen=True)
class MaskedLanguageModelling(Task):
    """Cross-entropy of the hidden tokens (Devlin et al. 2019, section 3.1), without a next-sentence loss.

    The batch: `inputs` int32 [B, T] with tokens hidden, `targets` int32 [B, T] without, `mask` float32 [B, T] (1 where
    a token is to be predicted), `real` bool [B, T] (False where a row is only filled up).
    """

    unit: ClassVar[str] = "tokens"  # that are predicted
    main_metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        info["mask_token"]  # of data that hide tokens
        return {"vocab_size": info["vocab_size"], "context": info["context"]}

    def check_model(self, model: nnx.Module) -> None:
        if getattr(model, "kind", None) != "masked_lm":
            raise ValueError("it takes a bert with config.model.head='masked_lm'")

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        logits = model(batch["inputs"], batch["real"], train=train, rngs=rngs)
        losses = cross_entropy(logits, batch["targets"])
        correct = logits.argmax(-1) == batch["targets"]
        mask = batch["mask"]
        return {"loss": (losses * mask).sum(), "correct": (correct * mask).sum(), "weight": mask.sum()}, None

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`loss` in nats per hidden token, `accuracy`, and `perplexity` = exp(loss)."""
        weight = max(sums["weight"], 1.0)  # a small batch may hide nothing
        nats = sums["loss"] / weight
        return {"loss": nats, "accuracy": sums["correct"] / weight, "perplexity": math.exp(min(nats, 700.0))}

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """The first hidden token of some rows, with the text around it and what the model says."""
        batch = jax.device_get(next(iter(batches)))
        logits = jax.jit(lambda model, inputs, real: model(inputs, real))(model, batch["inputs"], batch["real"])
        chances = np.asarray(jax.nn.softmax(logits.astype(jnp.float32)))
        decode, rows, right = info["decode"], [], []
        for row in np.flatnonzero(batch["mask"].any(1))[:20]:
            place = int(batch["mask"][row].argmax())
            near = batch["inputs"][row, max(0, place - SHOWN) : place + SHOWN + 1].tolist()
            target, guess = int(batch["targets"][row, place]), int(chances[row, place].argmax())
            rows.append([decode(near), decode([target]), decode([guess]), f"{chances[row, place, guess]:.0%}"])
            right.append(target == guess)
        return {
            "kind": "table",
            "columns": ["text", "hidden", "predicted", "probability"],
            "rows": rows,
            "right": right,
            "note": "Of each text the first hidden token, which may stand as another or as itself.",
        }
