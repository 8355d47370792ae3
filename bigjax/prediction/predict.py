"""`bigjax predict`: what a run's model answers to what was typed, to a file, or to many of them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bigjax.errors import UserError, nearest
from bigjax.prediction import PREDICTORS
from bigjax.prediction.predictor import Answer, Predictor

if TYPE_CHECKING:
    from bigjax.run import Run

BATCH = 32  # inputs that go through the model together


def predict(run: "Run", source: str, options: Mapping[str, str]) -> Iterator[tuple[dict[str, str], Answer]]:
    """Each input with its answer; see `inputs` for what `source` may be.

    Raises:
      UserError: the run's task answers nothing, or an input cannot be read.
    """
    task = run.config.get("task", {}).get("name")
    if task not in PREDICTORS:
        raise UserError(f"{run.workdir} is of no task that predicts: {nearest(str(task), PREDICTORS)}")
    predictor = PREDICTORS[task](run)
    found = inputs(predictor, source, options)
    for start in range(0, len(found), BATCH):
        some = found[start : start + BATCH]
        yield from zip(some, predictor(some), strict=True)


def inputs(predictor: Predictor, source: str, options: Mapping[str, str]) -> list[dict[str, str]]:
    """The inputs that `source` stands for.

    It is a JSONL file with an object of the predictor's fields on each line, a folder whose files (in sorted order,
    hidden ones left out) have the predictor's suffixes, or one such file; for a task about text, a folder of .txt
    files, one of them, or the text itself.

    Args:
      options: the other fields, the same for all inputs that do not say them themselves.
    """
    first, *others = predictor.fields
    if unknown := sorted(options.keys() - set(others)):
        raise UserError(f"This task has no {unknown[0]!r}; an input has {', '.join(predictor.fields)}.")
    path, suffixes = existing(source), predictor.suffixes or (".txt",)

    def one(file: Path) -> tuple[str, dict[str, str]]:
        return repr(str(file)), {first: str(file) if predictor.suffixes else text_of(file).strip()}

    if path is not None and path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith("."))
        if not files:
            raise UserError(f"{source!r} has no files that end in {', '.join(suffixes)}.")
        found = [one(file) for file in files]
    elif path is not None and path.suffix.lower() == ".jsonl":
        found = read_jsonl(path, predictor)
    elif path is not None and path.suffix.lower() in suffixes:
        found = [one(path)]
    elif predictor.suffixes or path or (not source.split()[1:] and source.lower().endswith((*suffixes, ".jsonl"))):
        raise UserError(f"There is no file {source!r} that ends in {', '.join(suffixes)} or .jsonl, and no folder.")
    else:
        found = [("An input", {first: source})]
    examples = []
    for where, record in found:
        example = {**options, **record}
        for field in predictor.fields:
            if not example.get(field, "").strip():
                option = "" if field == first else f" (--{field})"
                raise UserError(f"{where} has no {field}{option}.")
        examples.append({field: example[field] for field in predictor.fields})
    return examples


def existing(source: str) -> Path | None:
    """The file or folder of that name; None where there is none, or a text can be no name of one."""
    try:
        path = Path(source).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long for a name; a null character; the home of nobody
        return None


def text_of(file: Path) -> str:
    """The text in a file."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error


def read_jsonl(path: Path, predictor: Predictor) -> list[tuple[str, dict[str, str]]]:
    """The inputs in a JSONL file, each with its place; paths in it are relative to its folder."""
    found = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{str(path)!r} line {number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where} is no JSON: {error}.") from error
        wanted = [field for field in predictor.fields if isinstance(record, dict) and field in record]
        if not wanted or not all(isinstance(record[field], str) for field in wanted):
            raise UserError(f"{where} must be an object with texts: {', '.join(predictor.fields)}.")
        record = {field: record[field] for field in wanted}
        if predictor.suffixes and predictor.fields[0] in record:
            record[predictor.fields[0]] = str(path.parent / record[predictor.fields[0]])
        found.append((where, record))
    if not found:
        raise UserError(f"{str(path)!r} is empty.")
    return found


def readable(example: Mapping[str, str], answer: Answer) -> str:
    """An input and its answer for a person: the answer with its probability, then the alternatives."""
    shown = " ".join(next(iter(example.values())).split())
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    extra = {key: value for key, value in answer.items() if key not in ("answer", "probability", "alternatives")}
    lines = [f"{shown}: {chance(answer)}"]
    lines += [f"    {chance(other)}" for other in answer.get("alternatives", ())]
    lines += [f"    {key.replace('_', ' ')}: {value:.4g}" for key, value in extra.items() if isinstance(value, float)]
    return "\n".join(lines)


def chance(answer: Answer) -> str:
    """An answer and its probability."""
    text = answer["answer"] or "(no answer)"
    text = text if text.isprintable() else repr(text)
    return text if answer.get("probability") is None else f"{text} ({answer['probability']:.1%})"
