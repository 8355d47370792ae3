"""What `bigjax predict` asks of a task's predictor, and what they share."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from bigjax.errors import UserError

if TYPE_CHECKING:
    from bigjax.run import Run

Answer = dict[str, Any]

# The keys of `config.data` that say what a field is called in the tables, or records of TFDS, of the training data.
COLUMNS = {"text": ("text_column", "source_column", "text_key"), "context": ("pair_column", "pair_key")}


class Predictor:
    """Answers of a trained model to single inputs; a subclass is of one task.

    An input is a dict of strings: what a record of a table holds, or what was typed. An answer is a dict that can
    be JSON: `answer` (text), `probability` (of it, 0 to 1), and what else the task knows, such as `alternatives`: more
    dicts with `answer` and `probability`.

    Attributes:
      fields: the keys of an input, the one that is typed or is a file first; the others are options of the command.
      suffixes: the first field is a file with one of these; empty: it is text itself.
    """

    fields: tuple[str, ...]
    suffixes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: "Run") -> None:
        self.run = run

    @property
    def columns(self) -> dict[str, str]:
        """What each field is called in the run's training data; as itself where they do not say."""
        data = self.run.config["data"]
        named = {field: [data[key] for key in COLUMNS.get(field, ()) if data.get(key)] for field in self.fields}
        return {field: names[0] if names else field for field, names in named.items()}

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's; raises UserError where it has none any more."""
        if self.run.tokenizer is None:
            raise UserError(f"{self.run.workdir} has lost its tokenizer.json.")
        return self.run.tokenizer

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        """An answer to each input; raises UserError, which names the input, for one that cannot be read."""
        raise TypeError(f"{type(self).__name__} must define __call__")


def ranked(probabilities: np.ndarray, names: Sequence[str], most: int = 5) -> Answer:
    """The likeliest of some named answers, given their probabilities [K], and the next ones."""
    order = np.argsort(-probabilities, kind="stable")[:most]
    answers = [{"answer": names[i], "probability": float(probabilities[i])} for i in order]
    return {**answers[0], "alternatives": answers[1:]}
