"""Sequence classification: which of the classes is a text, or a pair of texts, of."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bigjax.tasks.task import Batch, Sums, Task

SHOWN = 48  # examples in the report


@dataclass(frozen=True)
class SequenceClassification(Task):
    """Cross-entropy over classes.

    The batch: `tokens` and `types` int32 [B, T], `lengths` int32 [B] (tokens from there on are padding), `label` int32
    [B], `mask` float32 [B] (0 where a row is none), and in evaluation `index` int32 [B].

    Attributes:
      label_smoothing: the share of the target's probability spread over all classes (Szegedy et al. 2016, section 7).
    """

    label_smoothing: float = 0.0

    unit: ClassVar[str] = "texts"
    main_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        sizes = {key: info[key] for key in ("vocab_size", "context", "num_classes")}
        return sizes | {"head": "sequence_classification"}

    def check_model(self, model: nnx.Module) -> None:
        made, called = (inspect.signature(f).parameters for f in (type(model).__init__, model.__call__))
        if not ("num_classes" in made and {"tokens", "mask"} <= called.keys()):
            raise ValueError(
                f"a {type(model).__name__} is no classifier of texts, which takes num_classes, and tokens with a mask"
            )

    def logits(self, model: Any, batch: Mapping[str, Any], train: bool = False, rngs: nnx.Rngs | None = None) -> Any:
        """float32 [B, K]; a model that knows of token types is told them."""
        mask = jnp.arange(batch["tokens"].shape[1]) < batch["lengths"][:, None]
        types = {"types": batch["types"]} if "types" in inspect.signature(model.__call__).parameters else {}
        return model(batch["tokens"], mask, **types, train=train, rngs=rngs).astype(jnp.float32)

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        logits = self.logits(model, batch, train, rngs)
        return self.sums(logits, batch, self.label_smoothing if train else 0.0), None

    def sums(self, logits: jax.Array, batch: Batch, smoothing: float) -> Sums:
        """What the metrics need of logits [B, K]."""
        target = optax.smooth_labels(jax.nn.one_hot(batch["label"], logits.shape[-1]), smoothing)
        losses, mask = optax.softmax_cross_entropy(logits, target), batch["mask"]
        correct = logits.argmax(-1) == batch["label"]
        return {"loss": (losses * mask).sum(), "correct": (correct * mask).sum(), "weight": mask.sum()}

    def evaluate(self, model: nnx.Module, batch: Batch, carry: None) -> tuple[Sums, None, dict[str, jax.Array]]:
        logits = self.logits(model, batch)
        return self.sums(logits, batch, 0.0), None, {"prediction": logits.argmax(-1)}

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["weight"], "accuracy": sums["correct"] / sums["weight"]}

    def score(self, outputs: Mapping[int, dict[str, np.ndarray]], references: np.ndarray) -> dict[str, float]:
        """`macro_f1`: the mean of the classes' F1, over the classes that occur, as a label or as a prediction."""
        numbers = list(outputs)
        label, prediction = references[numbers], np.array([outputs[i]["prediction"] for i in numbers])
        return {"macro_f1": macro_f1(label, prediction)}

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """48 texts with their predictions: the surest mistakes first, then the least sure of those that are right."""
        predict = jax.jit(lambda model, batch: jax.nn.softmax(self.logits(model, batch)))
        names, found = info["class_names"], []
        for batch in batches:
            chances = np.asarray(predict(model, batch))
            rows = {key: np.asarray(batch[key]) for key in ("tokens", "types", "lengths", "label", "mask")}
            for row in np.flatnonzero(rows["mask"]):
                tokens, types = (rows[key][row, : rows["lengths"][row]] for key in ("tokens", "types"))
                best, label = chances[row].argmax(), rows["label"][row]
                found.append((best == label, float(chances[row, best]), tokens, types, names[best], names[label]))
        found.sort(key=lambda one: (one[0], one[1] if one[0] else -one[1]))
        wrong = sum(not right for right, *_ in found)
        rows_shown = [
            [text_of(tokens, types, info["decode"]), label, prediction, chance]
            for _, chance, tokens, types, prediction, label in found[:SHOWN]
        ]
        return {
            "kind": "table",
            "columns": ["text", "label", "prediction", "probability"],
            "rows": rows_shown,
            "right": [bool(right) for right, *_ in found[:SHOWN]],
            "note": f"{wrong} of {len(found)} predictions are wrong; the surest mistakes come first.",
        }


def text_of(tokens: np.ndarray, types: np.ndarray, decode: Any) -> str:
    """The text of a row's tokens, or the two of a pair, with a bar between them."""
    return " | ".join(decode(part) for part in (tokens[types == 0], tokens[types == 1]) if len(part))


def macro_f1(label: np.ndarray, prediction: np.ndarray) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN), of the classes that occur in either, int [N] each."""
    count = max(label.max(), prediction.max()) + 1
    right = np.bincount(label[label == prediction], minlength=count)
    either = np.bincount(label, minlength=count) + np.bincount(prediction, minlength=count)  # 2 TP + FP + FN
    return float((2 * right[either > 0] / either[either > 0]).mean())
