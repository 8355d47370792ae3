"""Exact match and F1 of answers as SQuAD's official scripts, evaluate-v1.1 and evaluate-v2.0, define them."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """A text in lower case, without ASCII punctuation, then without articles, words set apart by one space."""
    bare = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def overlap(prediction: str, expected: str) -> float:
    """F1 of the words that two normalised texts share, from 0 to 1; 0 where they share none, as two empty ones do."""
    ours, theirs = prediction.split(), expected.split()
    same = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * same / (len(ours) + len(theirs)) if same else 0.0


class Scored(NamedTuple):
    """An answer to one question, from 0 to 1."""

    exact_match: float
    f1: float


def scored(prediction: str, expected: Sequence[str], unanswerable: bool) -> Scored:
    """The best match of an answer with any of those expected.

    Args:
      prediction: "" is no answer.
      expected: those of the annotators; none where the passage does not say.
      unanswerable: some questions of the set have no answer (version 2.0): then answers that normalise to nothing do
        not count, and F1 is 1 for no answer where none is expected.
    """
    ours, theirs = normalised(prediction), [normalised(answer) for answer in expected]
    if unanswerable:
        theirs = [answer for answer in theirs if answer] or [""]
        if theirs == [""]:
            return Scored(float(not ours), float(not ours))
    return Scored(float(ours in theirs), max(overlap(ours, answer) for answer in theirs))


def best_threshold(scores: Sequence[float], answerable: Sequence[bool], doubts: Sequence[float]) -> tuple[float, float]:
    """The best mean score in percent that saying "no answer" above some doubt would reach, and that doubt.

    Args:
      scores: of the best answer to each question; those to unanswerable ones do not matter.
      answerable: whether an answer is expected.
      doubts: how much better than the best answer no answer is.
    """
    best = total = float(len(answerable) - sum(answerable))  # nothing is answered
    threshold = 0.0
    for number in sorted(range(len(scores)), key=doubts.__getitem__):
        total += scores[number] if answerable[number] else -1.0
        if total > best:
            best, threshold = total, float(doubts[number])
    return 100 * best / len(scores), threshold


def percent(scores: Sequence[float]) -> float:
    """The mean, in percent."""
    return 100 * sum(scores) / len(scores)


def squad_figures(
    answers: Sequence[str], doubts: Sequence[float], expected: Sequence[Sequence[str]], threshold: float | None
) -> dict[str, float]:
    """What the official scripts print, in percent.

    Args:
      answers: the best answer to each question.
      doubts: how much better than it no answer is.
      expected: the annotators' answers.
      threshold: the doubt above which a question is not answered, or None where all have an answer (version 1.1).

    Returns:
      `exact_match` and `f1`. For version 2.0 also both over the questions that have an answer and over those that
      have none, where there are any, and the best that another threshold would reach.
    """
    if threshold is None:
        found = [scored(answer, some, False) for answer, some in zip(answers, expected, strict=True)]
        return {"exact_match": percent([s.exact_match for s in found]), "f1": percent([s.f1 for s in found])}
    given = ["" if doubt > threshold else answer for answer, doubt in zip(answers, doubts, strict=True)]
    found = [scored(answer, some, True) for answer, some in zip(given, expected, strict=True)]
    always = [scored(answer, some, True) for answer, some in zip(answers, expected, strict=True)]
    answerable = [bool(some) for some in expected]
    figures = {}
    for name in Scored._fields:
        values = [getattr(score, name) for score in found]
        figures[name] = percent(values)
        for kind, wanted in (("has_answer", True), ("no_answer", False)):
            if part := [value for value, has in zip(values, answerable, strict=True) if has == wanted]:
                figures[f"{kind}_{name}"] = percent(part)
        best, at = best_threshold([getattr(score, name) for score in always], answerable, doubts)
        figures |= {f"best_{name}": best, f"best_{name}_threshold": at}
    return figures
