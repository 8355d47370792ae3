"""Question answering: the loss by closed form, answers against all spans, and whole splits on a model that knows."""

from itertools import pairwise
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.tasks.answers import Window, best_answers
from bigjax.tasks.question_answering import QuestionAnswering

PASSAGE = "He lives in Bonn near the river Rhine in Germany"


class Fixed(nnx.Module):
    """A model that always says the same."""

    def __init__(self, logits):
        self.logits = nnx.Param(jnp.asarray(logits, jnp.float32))

    def __call__(self, tokens, mask, types, *, train=False, rngs=None):
        return self.logits[...]


def batch(answerable, start, end, mask=None):
    answerable = jnp.array(answerable, bool)
    ones = jnp.ones(answerable.shape, jnp.int32)
    mask = jnp.ones(len(start)) if mask is None else jnp.array(mask, jnp.float32)
    ends = {"start": jnp.array(start), "end": jnp.array(end)}
    return {"tokens": ones, "types": ones, "real": ones > 0, "answerable": answerable, **ends, "mask": mask}


def word_spans(passage):
    places = [i for i, c in enumerate(f" {passage} ") if c == " "]
    return np.array([(a, b - 1) for a, b in pairwise(places)], np.int32)


def window(rng, spans, first, count, shift=3, central=None):
    """Random logits of a window over `count` words of the passage from `first` on."""
    width = shift + count + 1
    place = np.zeros((width, 2), np.int32)
    place[shift : shift + count] = spans[first : first + count]
    most = np.zeros(width, bool)
    most[shift : shift + count] = True if central is None else central
    return Window(rng.normal(size=width), rng.normal(size=width), place, most)


def test_uniform_logits_cost_log_of_the_possible_places():
    data = batch([[1, 0, 1, 1, 0], [1, 0, 0, 1, 0]], [2, 3], [3, 3])
    sums, _ = QuestionAnswering().loss(Fixed(np.zeros((2, 5, 2))), data, None, train=False, rngs=None)
    assert float(sums["loss"]) == pytest.approx(np.log(3) + np.log(2), abs=1e-6)
    assert sums["weight"] == 2


def test_the_loss_is_the_mean_of_both_ends():
    logits = np.random.default_rng(0).normal(size=(1, 4, 2))
    sums, _ = QuestionAnswering().loss(Fixed(logits), batch([[1] * 4], [1], [3]), None, train=True, rngs=None)
    chances = np.exp(logits[0]) / np.exp(logits[0]).sum(0)
    assert float(sums["loss"]) == pytest.approx(-(np.log(chances[1, 0]) + np.log(chances[3, 1])) / 2, abs=1e-6)


def test_padding_and_masked_rows_add_nothing():
    logits = np.random.default_rng(1).normal(size=(2, 4, 2))
    one, _ = QuestionAnswering().loss(Fixed(logits[:1]), batch([[1, 0, 1, 1]], [2], [3]), None, train=False, rngs=None)
    wide = np.pad(logits, ((0, 0), (0, 3), (0, 0)), constant_values=50)
    data = batch([[1, 0, 1, 1, 0, 0, 0], [1] * 4 + [0] * 3], [2, 0], [3, 0], [1, 0])
    two, _ = QuestionAnswering().loss(Fixed(wide), data, None, train=False, rngs=None)
    assert float(two["loss"]) == pytest.approx(float(one["loss"]), abs=1e-6)
    assert two["weight"] == 1


def test_outputs_are_logits_where_an_answer_can_be():
    logits = np.random.default_rng(2).normal(size=(1, 4, 2))
    sums, carry, outputs = QuestionAnswering().evaluate(Fixed(logits), batch([[1, 0, 1, 1]], [2], [3]), None)
    assert carry is None and sums["weight"] == 1
    np.testing.assert_allclose(outputs["start"][0, [0, 2, 3]], logits[0, [0, 2, 3], 0], rtol=1e-6)
    assert outputs["end"].dtype == jnp.float32 and outputs["end"][0, 1] < -1e8


@pytest.mark.parametrize("seed", range(5))
def test_best_answers_are_the_best_of_all_spans(seed):
    rng, spans = np.random.default_rng(seed), word_spans(PASSAGE)
    # Two windows that overlap; each word is central in one of them, and 'in' stands twice in the passage.
    one = window(rng, spans, 0, 6, central=np.arange(6) < 5)
    two = window(rng, spans, 4, 6, shift=2, central=np.arange(6) > 0)
    scores = {}
    for w in (one, two):
        places = np.flatnonzero(w.spans[:, 1])
        for i in places[w.central[places]]:
            for j in places[(places >= i) & (places < i + 3)]:
                text = PASSAGE[w.spans[i, 0] : w.spans[j, 1]]
                scores[text] = max(scores.get(text, -np.inf), w.start[i] + w.end[j])
    expected = sorted(scores.items(), key=lambda item: -item[1])[:7]
    found = best_answers(PASSAGE, [one, two], 7, 3)
    assert [c.text for c in found.candidates] == [text for text, _ in expected]
    np.testing.assert_allclose([c.score for c in found.candidates], [score for _, score in expected])
    assert all(PASSAGE[c.begin : c.end] == c.text for c in found.candidates)
    assert found.none == min(w.start[0] + w.end[0] for w in (one, two))
    assert found.doubt == found.none - expected[0][1]


def test_an_answer_is_never_longer_than_the_window_or_empty():
    spans = np.array([[0, 0], [0, 2], [2, 3], [0, 0]], np.int32)  # of "He ", whose last token is a space
    found = best_answers("He ", [Window(np.ones(4), np.ones(4), spans, spans[:, 1] > 0)], 20, 30)
    assert [c.text for c in found.candidates] == ["He"]
    nothing = best_answers("\u200b", [Window(*np.ones((2, 3)), np.zeros((3, 2), np.int32), np.zeros(3, bool))], 20, 30)
    assert [c.text for c in nothing.candidates] == [""] and nothing.doubt > 0


def references(unanswerable):
    spans = word_spans(PASSAGE)
    row = np.concatenate([np.zeros((3, 2), np.int32), spans])
    asked = [("Where?", ("Bonn", "in Bonn")), ("Which river?", ("Rhine",)), ("Why?", () if unanswerable else ("He",))]
    return SimpleNamespace(
        questions=[SimpleNamespace(text=text, passage=PASSAGE, answers=answers) for text, answers in asked],
        unanswerable=unanswerable,
        windows=lambda number: range(number, number + 1),
        window=lambda number: (row, row[:, 1] > 0),
    )


def knows(first, last, sure=9.0):
    """The logits of a window, padded, of a model that answers from word `first` to word `last`."""
    start, end = np.zeros(15), np.zeros(15)
    start[3 + first] = end[3 + last] = sure
    start[13:] = end[13:] = 99  # padding that nobody may look at
    return {"start": start, "end": end}


def test_score_of_a_split():
    outputs = {0: knows(3, 3), 1: knows(6, 7), 2: knows(0, 0)}
    figures = QuestionAnswering().score(outputs, references(False))
    assert figures == {"exact_match": pytest.approx(200 / 3), "f1": pytest.approx(100 * (1 + 2 / 3 + 1) / 3)}


def test_score_where_questions_may_have_no_answer():
    unsure = knows(0, 0, sure=1.0)
    unsure["start"][0] = 3.0
    outputs = {0: knows(3, 3), 1: knows(7, 7), 2: unsure}
    assert QuestionAnswering().score(outputs, references(True))["f1"] == 100
    figures = QuestionAnswering(no_answer_threshold=2.0).score(outputs, references(True))
    assert figures["no_answer_f1"] == 0 and figures["has_answer_f1"] == 100 and figures["best_f1"] == 100


def test_the_report_shows_questions_whose_windows_are_all_there():
    logits = np.stack([np.stack(list(knows(3, 3).values()), -1)] * 3)
    data = batch(np.pad(np.ones((3, 13)), ((0, 0), (0, 2))), [0] * 3, [0] * 3, [1, 1, 0]) | {
        "index": jnp.array([1, 0, -1])
    }
    shown = QuestionAnswering().examples(Fixed(logits), [data], {"references": references(True)})
    assert shown["rows"] == [["Where?", "Bonn", "Bonn | in Bonn"], ["Which river?", "Bonn", "Rhine"]]
    assert shown["right"] == [True, False]


def test_another_model_is_refused():
    with pytest.raises(ValueError, match=r"config\.model\.head='question_answering'"):
        QuestionAnswering().check_model(SimpleNamespace(kind="pooler"))
    with pytest.raises(ValueError, match="n_best"):
        QuestionAnswering(n_best=0)
