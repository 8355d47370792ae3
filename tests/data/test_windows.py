"""Windows over passages: from characters to tokens and back, what each shows, and batches addressed by step."""

import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from bigjax.data.questions import Question
from bigjax.data.squad import squad
from bigjax.data.subwords import subword_tokenizer
from bigjax.data.windows import Windows, WindowSplit, make_layout
from bigjax.errors import UserError
from bigjax.tasks.question_answering import QuestionAnswering
from bigjax.tasks.squad_metrics import normalised

SHARED = Path(os.environ.get("BIGJAX_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
XQUAD = SHARED / "xquad.en.json"
WORDS = [f"w{i}" for i in range(40)]
ALL = slice(None)


def ask(passage, answer, text="what is it"):
    return Question(text, passage, (answer,) if answer else (), passage.index(answer) if answer else -1)


@pytest.fixture(scope="module")
def whole_words():
    """A tokenizer whose tokens are words."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "is", "it", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return tokenizer


def cut(tokenizer, questions, max_length=16, stride=4, max_query_length=3):
    return Windows(questions, tokenizer, make_layout(tokenizer, max_length, stride, max_query_length), False)


def shown(windows, number):
    """The words of the passage in a window, by number."""
    return range(windows.begin[number], windows.begin[number] + windows.length[number])


@pytest.mark.parametrize("length", range(1, 30))
def test_windows_cover_the_passage_at_the_stride(whole_words, length):
    windows = cut(whole_words, [ask(" ".join(WORDS[:length]), "w0")])
    parts = [shown(windows, number) for number in windows.windows(0)]
    assert [part.start for part in parts] == list(range(0, 4 * len(parts), 4))
    assert {i for part in parts for i in part} == set(range(length))
    assert all(len(part) == 10 for part in parts[:-1]) and len(parts[-1]) <= 10
    assert len(parts) == 1 or parts[-2].stop < length  # none too many


def test_each_token_is_central_once_where_it_has_most_around_it(whole_words):
    windows = cut(whole_words, [ask("w0", "w0"), ask(" ".join(WORDS[:27]), "w0")])
    central = {}
    for number in windows.windows(1):
        spans, most = windows.window(number)
        assert len(spans) == len(most) == windows.widths[number] <= 16
        for column in np.flatnonzero(most):
            word = windows.questions[1].passage[slice(*spans[column])]
            assert word not in central
            central[word] = number
    assert sorted(central) == sorted(WORDS[:27])
    for word, number in central.items():
        parts = {n: shown(windows, n) for n in windows.windows(1) if WORDS.index(word) in shown(windows, n)}
        context = {n: min(WORDS.index(word) - p.start, p.stop - 1 - WORDS.index(word)) for n, p in parts.items()}
        assert context[number] == max(context.values())


def test_rows_hold_question_and_window_and_where_the_answer_is(whole_words):
    windows = cut(whole_words, [ask(" ".join(WORDS[:14]), "w8 w9", "what is it w1 w2")])
    assert list(windows.windows(0)) == [0, 1]
    batch = windows.rows(np.array([1, 0]), 18)
    first = {key: value[1] for key, value in batch.items()}
    w0 = whole_words.token_to_id("w0")
    assert first["tokens"].tolist() == [2, 4, 5, 6, 3, *range(w0, w0 + 10), 3, 0, 0]  # a long question is cut
    assert first["types"].tolist() == [0] * 5 + [1] * 11 + [0, 0]
    assert first["real"].tolist() == [True] * 16 + [False] * 2
    assert np.flatnonzero(first["answerable"]).tolist() == [0, *range(5, 15)]
    assert (first["start"], first["end"]) == (13, 14)
    assert (batch["start"][0], batch["end"][0]) == (9, 10)  # the second window begins four words on


def test_a_window_without_the_whole_answer_points_to_its_first_token(whole_words):
    windows = cut(whole_words, [ask(" ".join(WORDS[:27]), "w9 w10"), ask("w0 w1", None)])
    assert windows.answer.tolist() == [[0, 0], [10, 11], [6, 7], [0, 0], [0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
@pytest.mark.parametrize(
    ("passage", "answer"),
    [
        ("Zoé's café in Köln — naïve, 5½ km", "café"),
        ("Zoé's café in Köln — naïve, 5½ km", "5½ km"),
        ("e\u0301 cafe\u0301 next", "cafe\u0301"),  # accents of their own
        ("東京は日本の首都です", "日本"),
        ("a\u00a0b\u200bc\td  e\n f 😀 g", "😀"),
        ("a\u00a0b\u200bc\td  e\n f 😀 g", "e\n f"),
        ("İstanbul ß SS", "ß"),
        ("  leading and trailing  ", "trailing"),
    ],
)
def test_answers_come_back_from_their_tokens(kind, passage, answer):
    tokenizer = subword_tokenizer(kind, 261 if kind == "bpe" else 400, [passage] * 3)  # a token for every byte
    windows = cut(tokenizer, [ask(passage, answer)], max_length=400)
    (start, end), (spans, central) = windows.answer[0], windows.window(0)
    assert 0 < start <= end and central[start : end + 1].all()
    assert passage[spans[start, 0] : spans[end, 1]].strip() == answer


def test_part_of_a_token_is_the_token(whole_words):
    windows = cut(whole_words, [ask("w10 w11 w12", "11")])
    (start, end), (spans, _) = windows.answer[0], windows.window(0)
    assert start == end and spans[start].tolist() == [4, 7]


def test_a_tokenizer_without_a_first_token_is_refused(whole_words):
    bare = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    with pytest.raises(UserError, match=r"must put a special token such as \[CLS\] before a pair"):
        make_layout(bare, 16, 4, 3)


@pytest.fixture
def split(whole_words):
    rng = np.random.default_rng(0)
    questions = [
        ask(" ".join(WORDS[:n]), WORDS[n // 2], " ".join(["what", "is", "it"][:k]))
        for n, k in zip(rng.integers(1, 30, 20), rng.integers(1, 4, 20), strict=True)
    ]
    return WindowSplit(cut(whole_words, questions), 3)


def test_batches_are_the_same_for_every_number_of_processes(split):
    for step in (0, 5, 70):
        whole = split.train_batch(3, step, 8, ALL)
        for key, value in whole.items():
            parts = [split.train_batch(3, step, 8, slice(at, at + 2))[key] for at in range(0, 8, 2)]
            np.testing.assert_array_equal(value, np.concatenate(parts))
    assert any(
        not np.array_equal(split.train_batch(3, s, 8, ALL)["start"], split.train_batch(4, s, 8, ALL)["start"])
        for s in range(3)
    )


def test_an_epoch_has_every_window_once(split):
    count = len(split)
    every = [split.references.rows(np.array([n]), int(split.references.widths[n]))["tokens"] for n in range(count)]
    rows = [split.train_batch(1, step, count, ALL) for step in range(64)]  # a pool, which is as many epochs
    found = [tokens[real].tolist() for row in rows for tokens, real in zip(row["tokens"], row["real"], strict=True)]
    assert sorted(found) == sorted(tokens[0].tolist() for tokens in every for _ in rows)


def test_evaluation_has_every_window_once(split):
    seen = []
    for index in range(split.eval_batches(8)):
        batch = split.eval_batch(index, 8, ALL)
        halves = [split.eval_batch(index, 8, slice(at, at + 4)) for at in (0, 4)]
        for key, value in batch.items():
            np.testing.assert_array_equal(value, np.concatenate([half[key] for half in halves]))
        assert ((batch["index"] >= 0) == (batch["mask"] > 0)).all()
        seen += batch["index"][batch["index"] >= 0].tolist()
    assert sorted(seen) == list(range(len(split)))


def test_passages_are_kept_once(whole_words):
    passage = " ".join(WORDS)
    windows = cut(whole_words, [ask(passage, word) for word in WORDS])
    assert windows.passage_tokens.values.nbytes == 4 * len(WORDS)
    assert windows.passage_tokens.values.dtype == windows.spans.values.dtype == windows.begin.dtype == np.int32


@pytest.mark.skipif(not XQUAD.exists(), reason=f"there is no {XQUAD}")
def test_every_answer_of_xquad_comes_back():
    windows = squad(str(XQUAD), vocab_size=2000).splits["train"].references
    assert len(windows.questions) == 1190
    back = {}
    for number in np.flatnonzero(windows.answer[:, 0]):
        question, (start, end), spans = windows.question[number], windows.answer[number], windows.window(number)[0]
        back[int(question)] = windows.questions[question].passage[spans[start, 0] : spans[end, 1]]
    different = [n for n, text in back.items() if normalised(text) != normalised(windows.questions[n].answers[0])]
    assert len(back) == 1190
    assert [windows.questions[n].answers[0] for n in different] == [
        "7,000,000 square kilometres (2,70"
    ]  # half a number
    sure = [np.eye(384, dtype=np.float32)[windows.answer[n]] for n in range(len(windows))]  # a model that knows
    outputs = {n: {"start": s, "end": e} for n, (s, e) in enumerate(sure)}
    figures = QuestionAnswering(max_answer_length=100).score(outputs, windows)
    assert figures["exact_match"] == pytest.approx(100 * 1189 / 1190) and figures["f1"] > 99.9
