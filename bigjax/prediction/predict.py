"""`bigjax predict`: what a run's model answers to what was typed, to a file, or to many of them."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from bigjax.data.records import SURROGATE, BadRecords, parse_delimited, parse_json
from bigjax.errors import UserError, nearest
from bigjax.prediction import PREDICTORS
from bigjax.prediction.predictor import Answer, Predictor

if TYPE_CHECKING:
    from bigjax.run import Run

BATCH = 32  # inputs that go through the model together
TABLES = (".tsv", ".csv", ".jsonl")
# What ends in one of these is meant as the name of a file.
SUFFIXES = (".txt", ".json", *TABLES, *(suffix for kind in PREDICTORS.values() for suffix in kind.suffixes))


def predict(run: "Run", source: str, options: Mapping[str, str]) -> Iterator[tuple[dict[str, str], Answer]]:
    """Each input with its answer; see `inputs` for what `source` may be.

    Raises:
      UserError: the run's task answers nothing; `source` is not as it should be; or the model cannot take one of the
        inputs, after the answers to those before it.
    """
    task = run.config.get("task", {}).get("name")
    if task not in PREDICTORS:
        raise UserError(f"{run.workdir} is of no task that predicts: {nearest(str(task), PREDICTORS)}")
    predictor = PREDICTORS[task](run)
    found = inputs(predictor, source, options)
    for start in range(0, len(found), BATCH):
        some = found[start : start + BATCH]
        try:
            answers: Iterable[Answer] = predictor(some)
        except UserError:  # one is at fault: those before it are still answered, each by itself
            answers = (predictor([example])[0] for example in some)
        yield from zip(some, answers, strict=True)


def inputs(predictor: Predictor, source: str, options: Mapping[str, str]) -> list[dict[str, str]]:
    """The inputs that `source` stands for.

    It is a table of them (see `read_table`), a folder whose files (in sorted order, hidden ones left out) have the
    predictor's suffixes, or one such file; for a task about text, a folder of .txt files, one of them, or the text
    itself, unless it is one word that reads like the name of a file or folder.

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
    elif path is not None and path.suffix.lower() in TABLES:
        found = read_table(path, predictor, options)
    elif path is not None and path.suffix.lower() in suffixes:
        found = [one(path)]
    elif path is None and source.lower().endswith(("/", *SUFFIXES)) and (predictor.suffixes or not source.split()[1:]):
        raise UserError(f"There is no {'folder' if source.endswith('/') else 'file'} {source!r}.")
    elif path is not None or predictor.suffixes:
        raise UserError(f"{source!r} must end in one of {', '.join((*suffixes, *TABLES))}, or be a folder.")
    else:
        found = [("An input", {first: source})]
    examples = []
    for where, record in found:
        example = {**options, **record}
        for field in predictor.fields:
            if not example.get(field, "").strip():
                option = "" if field == first else f" (--{field})"
                raise UserError(f"{where} has no {field}{option}.")
            if SURROGATE.search(example[field]):
                raise UserError(f"{where} has half a character in its {field} (a surrogate), which no text has.")
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


class Stop(BadRecords):
    """A bad record ends the command: config.data.on_error is no way to mend it."""

    def report(self, where: str, problem: str) -> NoReturn:
        raise UserError(f"{where}: {problem}.")


def read_table(path: Path, predictor: Predictor, options: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The inputs in a .tsv, .csv or .jsonl, each with its place; paths in it are relative to its folder.

    Columns are called as in the run's training data; in a .jsonl they may have the names of the fields instead.
    """
    first, columns = predictor.fields[0], predictor.columns
    if (kind := path.suffix.lower()) == ".jsonl":
        records = parse_json(str(path), (), Stop("stop"))
    else:
        needed = [column for field, column in columns.items() if field not in options]
        records = parse_delimited(str(path), kind, needed, Stop("stop"))
    found = []
    for where, values in records:
        # One column may be called as the other field is: so all go by column or all by field, whichever has more.
        names = max(tuple(columns.values()), predictor.fields, key=lambda names: sum(name in values for name in names))
        record = {field: values[name] for field, name in zip(columns, names, strict=True) if name in values}
        if not record or not all(isinstance(value, str) for value in record.values()):
            raise UserError(f"{where} must be an object with texts: {', '.join(columns.values())}.")
        if predictor.suffixes and record.get(first, "").strip():
            record[first] = str(path.parent / record[first])
            if existing(record[first]) is None:
                raise UserError(f"{where}: there is no file {record[first]!r}.")
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
