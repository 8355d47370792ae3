"""Which class a text is of, or a pair of texts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from bigjax.data.labelled_text import COARSE, encode
from bigjax.prediction.predictor import Answer, Predictor, ranked
from bigjax.tasks.sequence_classification import SequenceClassification

if TYPE_CHECKING:
    from bigjax.run import Run


class SequencePredictor(Predictor):
    """Every class with its probability; a text is cut where it was in training.

    The second text of a pair is the input's `context`.
    """

    fields: tuple[str, ...] = ("text",)

    def __init__(self, run: "Run") -> None:
        super().__init__(run)
        if run.info["pairs"]:
            self.fields = ("text", "context")
        task = SequenceClassification()
        self.chances = jax.jit(lambda model, batch: jax.nn.softmax(task.logits(model, batch)))

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        info = self.run.info
        columns = [[example[field] for example in inputs] for field in self.fields]
        tokens = encode(self.tokenizer, columns, info["max_length"])
        width = -(-int(tokens.ids.lengths.max()) // COARSE) * COARSE  # few widths, for each is compiled
        chances = np.asarray(self.chances(self.run.model, tokens.rows(np.arange(len(inputs)), width)))
        return [ranked(chance, info["class_names"], len(info["class_names"])) for chance in chances]
