"""Exact match and F1 against what SQuAD's official scripts print, and their corner cases by hand."""

import json

import numpy as np
import pytest
from helpers import ROOT

from bigjax.tasks.squad_metrics import best_threshold, normalised, scored, squad_figures

# What evaluate-v1.1.py and evaluate-v2.0.py make of odd texts, each with one or more expected answers.
OFFICIAL = json.loads((ROOT / "tests/fixtures/squad_metrics.json").read_text())


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: ascii(case["prediction"]))
def test_as_the_official_scripts(case):
    for version, unanswerable in (("v1", False), ("v2", True)):
        assert scored(case["prediction"], case["expected"], unanswerable) == pytest.approx(case[version], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog\tand an OWL!", "cat dog and owl"),
        ("theory", "theory"),  # articles are whole words
        ("the-end", "theend"),  # punctuation goes first, and leaves no space
        ("“Ünal” — naïve", "“ünal” — naïve"),  # only ASCII punctuation goes, and accents stay
        ("a", ""),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected


def test_the_best_of_several_answers_counts():
    assert scored("in Bonn", ["Köln", "Bonn", "the city of Bonn"], False) == (0, pytest.approx(2 / 3))


def test_no_answer_is_right_or_wrong_and_nothing_between():
    assert scored("", [], True) == (1, 1)
    assert scored("The", [], True) == (1, 1)  # normalises to nothing
    assert scored("Bonn", [], True) == (0, 0)
    assert scored("", ["Bonn"], True) == (0, 0)


def test_figures_of_version_1_are_means_in_percent():
    figures = squad_figures(["Bonn", "the Rhine", "x"], [9, 9, 9], [["bonn"], ["Rhine river"], ["y"]], None)
    assert figures == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * (1 + 2 / 3) / 3)}


def test_figures_of_version_2():
    answers, expected = ["Bonn", "Köln", "Rhine", "1879"], [["Bonn"], [], [], ["in 1879"]]
    figures = squad_figures(answers, [-3.0, -1.0, 2.0, 1.0], expected, 0.0)
    # Bonn is right, Köln is none, the third says rightly that there is none, the fourth says so wrongly.
    assert figures["exact_match"] == figures["f1"] == 50
    assert figures["has_answer_f1"] == figures["no_answer_f1"] == 50
    # Answering only up to a doubt of -3 gets Bonn and both questions that have no answer.
    assert figures["best_exact_match"] == figures["best_f1"] == 75
    assert figures["best_f1_threshold"] == figures["best_exact_match_threshold"] == -3
    assert squad_figures(answers, [-3.0, -1.0, 2.0, 1.0], expected, -3.0)["f1"] == 75  # which keeps its promise


def shared(ours, theirs):
    """F1 of two lists of words by precision and recall."""
    left = list(theirs)
    same = [left.remove(word) for word in ours if word in left]
    precision, recall = len(same) / len(ours), len(same) / len(theirs)
    return 2 * precision * recall / (precision + recall) if same else 0.0


@pytest.mark.parametrize("seed", range(40))
def test_figures_of_version_2_are_those_of_trying_every_threshold(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 15))
    answers = [rng.choice(["bonn", "rhine", "1879"], rng.integers(1, 4)).tolist() for _ in range(count)]
    expected = [[rng.permutation(words)[: rng.integers(1, 4)].tolist()] * rng.integers(0, 2) for words in answers]
    expected = [[*some, ["rhine"]] if some and rng.random() < 0.5 else some for some in expected]
    doubts = rng.permutation(20)[:count] - 9.5
    threshold = float(rng.integers(-10, 10))
    figures = squad_figures(
        [" ".join(words) for words in answers],
        doubts.tolist(),
        [[" ".join(words) for words in some] for some in expected],
        threshold,
    )
    has = np.array([bool(some) for some in expected])
    pairs = list(zip(answers, expected, strict=True))
    rights = {
        "exact_match": np.array([words in some for words, some in pairs], float),
        "f1": np.array([max((shared(words, other) for other in some), default=0.0) for words, some in pairs]),
    }
    for name, right in rights.items():
        wanted = {name: np.where(doubts > threshold, ~has, right).mean()}
        if has.any():
            wanted[f"has_answer_{name}"] = right[has & (doubts <= threshold)].sum() / has.sum()
        if not has.all():
            wanted[f"no_answer_{name}"] = (doubts[~has] > threshold).mean()
        tried = {0.0: (~has).mean()}  # what the scripts call answering nothing
        tried |= {limit: np.where(doubts > limit, ~has, right).mean() for limit in sorted(doubts)}
        wanted[f"best_{name}"] = max(tried.values())
        best = figures.pop(f"best_{name}_threshold")
        assert tried[best] == pytest.approx(max(tried.values()))
        if name == "exact_match":  # the lowest of equals; F1s that are equal may differ by rounding
            assert best == max(tried, key=tried.__getitem__)
        assert {key: figures.pop(key) for key in wanted} == pytest.approx({k: 100 * v for k, v in wanted.items()})
    assert not figures


def test_the_best_threshold_may_be_to_answer_nothing():
    assert best_threshold([0.0, 0.0, 0.0], [True, False, False], [1.0, 2.0, 3.0]) == (pytest.approx(200 / 3), 0.0)
