"""What `bigjax predict` asks of a task's predictor, and what they share."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from tokenizers import Tokenizer

from bigjax.errors import UserError

if TYPE_CHECKING:
    from bigjax.run import Run

Answer = dict[str, Any]


class Predictor:
    """Answers of a trained model to single inputs; a subclass is of one task.

    An input is a dict of strings: what a line of a JSONL file holds, or what was typed. An answer is a dict that can
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
