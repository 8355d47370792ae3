"""What answers a question, of the words of a passage."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from bigjax.data.questions import Question
from bigjax.data.windows import Windows, make_layout
from bigjax.prediction.predictor import Answer, Predictor, ranked
from bigjax.tasks import QuestionAnswering
from bigjax.training.setup import arguments

if TYPE_CHECKING:
    from bigjax.run import Run

ROWS = 16  # windows that go through the model together


class QuestionPredictor(Predictor):
    """Answers by the run's own `config.data` and `config.task`; "" where the passage has none.

    Probabilities are the softmax of the scores of the `n_best` best answers and, where the model learned from questions
    without an answer, of there being none (less `no_answer_threshold`); they sum to 1 over these, though only the first
    few are told. An answer also has `start` and `end`, its characters in the passage.
    """

    fields = ("question", "context")

    def __init__(self, run: "Run") -> None:
        super().__init__(run)
        data = run.config["data"]
        self.layout = make_layout(self.tokenizer, data["max_length"], data["stride"], data["max_query_length"])
        self.task = task = QuestionAnswering(**arguments(run.config["task"]))
        self.evaluate = jax.jit(lambda model, batch: task.evaluate(model, batch, None)[2])

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        questions = [Question(example["question"], example["context"], (), -1) for example in inputs]
        windows = Windows(questions, self.tokenizer, self.layout, self.run.info["unanswerable"])
        outputs: dict[int, dict[str, np.ndarray]] = {}
        for numbers in np.array_split(np.argsort(windows.widths), -(-len(windows) // ROWS)):
            # Few shapes, for each is compiled.
            width = min(self.layout.max_length, -(-int(windows.widths[numbers].max()) // 64) * 64)
            rows = np.resize(numbers, ROWS if len(windows) > ROWS else len(numbers))
            batch = windows.rows(rows, width) | {"mask": np.ones(len(rows), np.float32)}
            leaves = jax.device_get(self.evaluate(self.run.model, batch))
            outputs |= {int(n): {key: leaf[row] for key, leaf in leaves.items()} for row, n in enumerate(numbers)}
        return [self.one(outputs, windows, number) for number in range(len(questions))]

    def one(self, outputs: Mapping[int, dict[str, np.ndarray]], windows: Windows, number: int) -> Answer:
        """The answer to one of the questions."""
        found = self.task.answers(outputs, windows, number)
        texts, scores = [c.text for c in found.candidates], [c.score for c in found.candidates]
        if windows.unanswerable:
            texts, scores = [*texts, ""], [*scores, found.none - self.task.no_answer_threshold]
        chances = np.exp(np.array(scores) - max(scores))
        answer = ranked(chances / chances.sum(), texts)
        place = {c.text: {"start": c.begin, "end": c.end} for c in found.candidates}
        return answer | place.get(answer["answer"], {})
