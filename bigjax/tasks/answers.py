"""From the logits of windows over a passage to answers: numpy, on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

NOTHING = -1e9  # the score of the only answer to a passage in which the tokenizer finds no token


class Window(NamedTuple):
    """What a model said of one window over a passage, and what its T tokens stand for."""

    start: np.ndarray  # float [T], logits of an answer's first token
    end: np.ndarray  # float [T], of its last
    spans: np.ndarray  # int32 [T, 2], the characters of the passage from and to; (0, 0) for other tokens
    central: np.ndarray  # bool [T], tokens of the passage that no other window shows with more around them


class Candidate(NamedTuple):
    """A possible answer."""

    text: str
    score: float  # the sum of two logits
    begin: int  # in characters of the passage
    end: int


class Answers(NamedTuple):
    """The best answers to one question, the best first, and the score of there being none."""

    candidates: list[Candidate]
    none: float

    @property
    def doubt(self) -> float:
        """How much better than the best answer no answer is."""
        return self.none - self.candidates[0].score


def best_answers(passage: str, windows: Sequence[Window], n_best: int, max_answer_length: int) -> Answers:
    """The answers of highest score over all windows of a passage, each text once (Devlin et al. 2019, section 4.2-4.3).

    An answer is at most `max_answer_length` tokens of one window, and begins at a token that this window shows with the
    most context. Its score is the logit of its first token as a start plus that of its last as an end. No answer
    scores as the first token of the window ([CLS]), in the window where that is least.
    """
    found: list[Candidate] = []
    for window in windows:
        width = min(max_answer_length, len(window.start))
        inside = window.spans[:, 1] > 0  # a token of the passage ends behind its first character
        ends = np.where(inside, window.end, -np.inf)
        ends = np.lib.stride_tricks.sliding_window_view(np.pad(ends, (0, width - 1), constant_values=-np.inf), width)
        scores = (
            np.where(window.central, window.start, -np.inf)[:, None] + ends
        )  # [T, width], by first token and length
        flat = scores.ravel()
        # Different tokens may spell the same text, so that more than n_best are needed now and then.
        order = np.argsort(-flat, kind="stable")
        texts: set[str] = set()
        for place in order:
            if len(texts) == n_best or flat[place] == -np.inf:
                break
            first, more = divmod(int(place), width)
            begin, end = int(window.spans[first, 0]), int(window.spans[first + more, 1])
            if (text := passage[begin:end].strip()) and text not in texts:
                texts.add(text)
                found.append(Candidate(text, float(flat[place]), begin, end))
    candidates: dict[str, Candidate] = {}
    for candidate in sorted(found, key=lambda c: -c.score):
        candidates.setdefault(candidate.text, candidate)
    none = min(float(window.start[0] + window.end[0]) for window in windows)
    best = list(candidates.values())[:n_best]
    return Answers(best or [Candidate("", NOTHING, 0, 0)], none)
