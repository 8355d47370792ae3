"""Questions about passages, in the forms in which people keep them, checked one by one."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bigjax.data.records import SURROGATE, BadRecords, loaded, read_table
from bigjax.errors import UserError


class Question(NamedTuple):
    """A question about a passage, whose answers are words of it."""

    text: str
    passage: str
    answers: tuple[str, ...]  # what different people answered; none where the passage does not say
    start: int  # the character of the passage where the first answer begins; -1 where there is none


def read_questions(source: str, option: str, bad: BadRecords) -> list[Question]:
    """The questions of a file.

    Args:
      source: a .json file as SQuAD's, 1.1 or 2.0; or a .jsonl, .tsv or .csv of `question`, `context` and `answer` (and
        `answer_start`), or, in a .jsonl, `answers`. With `[from:to]` behind it only these of its articles or records:
        "train.json[:38]", "train.json[-10:]".
      option: the key of `config.data` that names it.

    Raises:
      UserError: there is no such file, it is of another kind, or `bad` stops at a record.
    """
    path, cut = sliced(source)
    if Path(path).suffix.lower() == ".json":
        return [q for article in read_articles(path, option)[cut] for q in article_questions(path, article, bad)]
    records = list(read_table(path, option, ("question", "context"), bad))[cut]
    return [q for where, values in records for q in checked(where, values, bad)]


def sliced(source: str) -> tuple[str, slice]:
    """A path, and which part of what it holds."""
    path, begin, end = re.fullmatch(r"(.*?)(?:\[(-?\d+)?:(-?\d+)?\])?", source, re.S).groups()  # type: ignore[union-attr]
    return path, slice(*(None if bound is None else int(bound) for bound in (begin, end)))


def read_articles(path: str, option: str) -> list[dict[str, Any]]:
    """The articles of a file like SQuAD's."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path!r} (config.data.{option}).")
    try:
        content = loaded(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path!r} (config.data.{option}) is no JSON in UTF-8: {error}.") from error
    articles = content.get("data") if isinstance(content, dict) else None
    if not isinstance(articles, list):
        raise UserError(
            f"{path!r} (config.data.{option}) is not like SQuAD's files: an object with a list of articles, 'data'. "
            "Lines of single questions go into a .jsonl."
        )
    return articles


def article_questions(path: str, article: Any, bad: BadRecords) -> Iterator[Question]:
    """The questions of one article."""
    title = article.get("title", "untitled") if isinstance(article, dict) else None
    paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
    for paragraph in paragraphs if isinstance(paragraphs, list) else [None]:
        if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
            bad.report(f"{path!r} article {title!r}", "no list of 'paragraphs' with 'context' and a list of 'qas'")
            continue
        for values in paragraph["qas"]:
            if isinstance(values, dict):
                where = f"{path!r} question {values.get('id')!r} in article {title!r}"
                yield from checked(where, {"context": paragraph.get("context"), "is_impossible": False, **values}, bad)
            else:
                bad.report(f"{path!r} article {title!r}", "an entry of 'qas' is no object")


def checked(where: str, values: Mapping[str, Any], bad: BadRecords) -> Iterator[Question]:
    """The question that a record holds, unless it is a bad one."""
    try:
        yield question_of(values)
    except ValueError as error:
        bad.report(where, str(error))


def question_of(values: Mapping[str, Any]) -> Question:
    """The question that a record holds; raises ValueError with what is wrong with it."""
    for key in ("question", "context"):
        if not isinstance(values.get(key), str) or not values[key].strip():
            raise ValueError(f"{key!r} has no text")
        if SURROGATE.search(values[key]):
            raise ValueError(f"{key!r} has a \\ud... escape that is half a character, which no text has")
    passage = values["context"]
    answers = [(text, placed(text, start, passage)) for text, start in answers_of(values)]
    if values.get("is_impossible", not answers) == bool(answers):
        raise ValueError(f"it has {len(answers)} answers, but 'is_impossible' is {str(bool(answers)).lower()}")
    return Question(values["question"], passage, tuple(text for text, _ in answers), answers[0][1] if answers else -1)


def answers_of(values: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Each answer in a record, and where it says that it begins: a number, None or ""."""
    if "answers" in values:
        answers = values["answers"]
        if isinstance(answers, Mapping):  # columns, as Hugging Face and TFDS have them
            texts = answers.get("text", [])
            starts = answers.get("answer_start", [None] * len(texts) if isinstance(texts, list) else None)
            if not (isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts)):
                raise ValueError("'text' and 'answer_start' in 'answers' must be lists of the same length")
            return list(zip(texts, starts, strict=True))
        if not isinstance(answers, list):
            raise ValueError("'answers' is no list")
        return [(a.get("text"), a.get("answer_start")) if isinstance(a, Mapping) else (a, None) for a in answers]
    if "answer" not in values:
        raise ValueError("it has neither 'answer' nor 'answers'; an empty one says that the passage has no answer")
    return [(values["answer"], values.get("answer_start"))] if values["answer"] else []


def placed(text: Any, start: Any, passage: str) -> int:
    """The character where an answer begins; raises ValueError where it does not stand there, or nobody says where."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("an answer has no text")
    if start is None or start == "":
        count = passage.count(text)
        if count != 1:
            raise ValueError(f"the answer {text!r} stands {count} times in its passage; 'answer_start' must say where")
        return passage.index(text)
    try:
        begin = int(start)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"'answer_start' is no whole number but {start!r}") from error
    if begin < 0 or passage[begin : begin + len(text)] != text:
        raise ValueError(f"the answer {text!r} does not stand at character {begin} of its passage")
    return begin
