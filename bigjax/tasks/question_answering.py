"""Extractive question answering: which words of a passage answer a question, if any do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bigjax.tasks.answers import Answers, Window, best_answers
from bigjax.tasks.squad_metrics import scored, squad_figures
from bigjax.tasks.task import Batch, Sums, Task

SHOWN = 40  # questions in the report
IMPOSSIBLE = -1e9  # the logit of a token where no answer begins or ends


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Cross-entropy of an answer's first and its last token, the mean of both (Devlin et al. 2019, section 4.2).

    The batch, a row for each window over a passage: `tokens` and `types` int32 [B, T]; `real` bool [B, T], False where
    a token is padding; `answerable` bool [B, T], the tokens that may begin or end an answer, which are the passage's
    and, for there being none, the first; `start` and `end` int32 [B], the answer's first and last token, 0 where the
    window does not hold it; `mask` float32 [B]; in evaluation `index` int32 [B].

    Attributes:
      n_best: how many answers are compared.
      max_answer_length: tokens that an answer has at most.
      no_answer_threshold: where questions may have no answer: by how much that must score above the best answer.
    """

    n_best: int = 20
    max_answer_length: int = 30
    no_answer_threshold: float = 0.0

    unit: ClassVar[str] = "windows"
    main_metric: ClassVar[str] = "f1"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.n_best < 1 or self.max_answer_length < 1:
            raise ValueError("n_best and max_answer_length must be positive")

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        info["unanswerable"]  # data of another kind lack it
        return {key: info[key] for key in ("vocab_size", "context", "num_types")}

    def check_model(self, model: nnx.Module) -> None:
        if getattr(model, "kind", None) != "question_answering":
            raise ValueError("it has no logits of an answer's ends; config.model.head='question_answering' of bert has")

    def logits(
        self, model: nnx.Module, batch: Batch, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Of an answer's first and last token, float32 [B, T, 2]; where it cannot be, `IMPOSSIBLE`."""
        logits = model(batch["tokens"], batch["real"], batch["types"], train=train, rngs=rngs).astype(jnp.float32)
        return jnp.where(batch["answerable"][..., None], logits, IMPOSSIBLE)

    def sums(self, logits: jax.Array, batch: Batch) -> Sums:
        """The summed loss of the batch's rows."""
        targets = jnp.stack([batch["start"], batch["end"]], 1)  # [B, 2]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits.swapaxes(1, 2), targets).mean(1)
        return {"loss": (losses * batch["mask"]).sum(), "weight": batch["mask"].sum()}

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        return self.sums(self.logits(model, batch, train=train, rngs=rngs), batch), None

    def evaluate(self, model: nnx.Module, batch: Batch, carry: None) -> tuple[Sums, None, dict[str, jax.Array]]:
        """Sums, and each window's logits `start` and `end`, float32 [B, T]."""
        logits = self.logits(model, batch)
        return self.sums(logits, batch), None, {"start": logits[..., 0], "end": logits[..., 1]}

    def score(self, outputs: Mapping[int, dict[str, np.ndarray]], references: Any) -> dict[str, float]:
        """What SQuAD's official scripts say, in percent: see `squad_figures`.

        Args:
          references: `questions`, each with `text`, `passage` and `answers`, texts of which there may be none;
            `windows(question)`, the numbers of the windows over its passage; `window(number)`, the `spans` and
            `central` of one (see `Window`); and `unanswerable`, whether questions may have no answer.
        """
        found = [self.answers(outputs, references, number) for number in range(len(references.questions))]
        return squad_figures(
            [answers.candidates[0].text for answers in found],
            [answers.doubt for answers in found],
            [question.answers for question in references.questions],
            self.no_answer_threshold if references.unanswerable else None,
        )

    def answers(self, outputs: Mapping[int, dict[str, np.ndarray]], references: Any, number: int) -> Answers:
        """The best answers to question `number`."""
        windows = [
            Window(**{key: value[: len(spans)] for key, value in outputs[w].items()}, spans=spans, central=central)
            for w in references.windows(number)
            for spans, central in [references.window(w)]
        ]
        passage = references.questions[number].passage
        return best_answers(passage, windows, self.n_best, self.max_answer_length)

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """Questions about the shorter passages with the model's answers and the expected ones."""
        references = info["references"]
        evaluate = jax.jit(lambda model, batch: self.evaluate(model, batch, None)[2])
        outputs: dict[int, dict[str, np.ndarray]] = {}
        numbers: list[int] = []
        for batch in batches:
            leaves, index = jax.device_get((evaluate(model, batch), batch["index"]))
            outputs |= {
                int(i): {key: leaf[row] for key, leaf in leaves.items()} for row, i in enumerate(index) if i >= 0
            }
            whole = (n for n in range(len(references.questions)) if all(w in outputs for w in references.windows(n)))
            if len(numbers := list(islice(whole, SHOWN))) == SHOWN:
                break
        rows, right = [], []
        for number in numbers:
            question, answers = references.questions[number], self.answers(outputs, references, number)
            none = references.unanswerable and answers.doubt > self.no_answer_threshold
            answer = "" if none else answers.candidates[0].text
            rows.append([question.text, answer or "(none)", " | ".join(dict.fromkeys(question.answers)) or "(none)"])
            right.append(scored(answer, question.answers, references.unanswerable).exact_match == 1)
        note = f"{right.count(False)} of these {len(right)} answers are not exactly one of those expected, marked ✕."
        return {
            "kind": "table",
            "columns": ["question", "answer", "expected"],
            "rows": rows,
            "right": right,
            "note": note,
        }
