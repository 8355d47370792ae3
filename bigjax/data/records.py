"""Records in the user's own files (TSV, CSV, JSONL), and what becomes of those that cannot be used."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from bigjax.errors import UserError, nearest

OnError = Literal["stop", "skip"]

SURROGATE = re.compile("[\ud800-\udfff]")
SHOWN = 3  # bad records that a note tells of; the others are counted


class BadRecords:
    """Told of each bad record while a data set is read.

    Args:
      on_error: `config.data.on_error`. "stop" raises at the first; "skip" leaves it out and counts it.
    """

    def __init__(self, on_error: OnError) -> None:
        self.on_error = on_error
        self.count = 0
        self.problems: list[str] = []  # the first of them, for there may be millions

    def report(self, where: str, problem: str) -> None:
        """Notes a record that its reader then leaves out.

        Args:
          where: file and line, or whatever finds it.
          problem: what is wrong and how to mend it, without a full stop.

        Raises:
          UserError: bad records stop the run.
        """
        if self.on_error == "stop":
            raise UserError(f"{where}: {problem} (config.data.on_error='skip' leaves such records out).")
        self.count += 1
        if self.count <= SHOWN:
            self.problems.append(f"{where}: {problem}")

    @property
    def notes(self) -> tuple[str, ...]:
        """How many were skipped, with the first of them; empty where there were none."""
        if not self.count:
            return ()
        shown = "; ".join(self.problems) + ("; ..." if self.count > SHOWN else "")
        return (f"skipped {self.count} bad record{'s' * (self.count > 1)}: {shown}",)

    @property
    def reason(self) -> str:
        """The same in brackets, for the end of an error that nothing is left."""
        return "".join(f" ({note})" for note in self.notes)


class Record(NamedTuple):
    """One record of a table."""

    where: str  # file and line, for errors
    values: dict[str, Any]  # by column; texts, but what JSON has otherwise


def read_table(path: str, option: str, columns: Sequence[str], bad: BadRecords) -> Iterator[Record]:
    """The records of a .tsv, .csv or .jsonl file in UTF-8 that have something in each of `columns`, in order.

    The first line of a .tsv or .csv names the columns, and so do the keys of the first object of a .jsonl. In a .tsv a
    quotation mark is one and nothing else; a .csv is quoted as spreadsheets do it.

    Args:
      option: the key of `config.data` that names the file.

    Raises:
      UserError: there is no such file, it is empty, its first line cannot be read or lacks a column, or `bad` stops at
        a record.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path!r} (config.data.{option}).")
    kind = file.suffix.lower()
    if kind not in (".tsv", ".csv", ".jsonl"):
        raise UserError(f"{path!r} (config.data.{option}) must end in .tsv, .csv or .jsonl, which says what it holds.")
    if file.stat().st_size == 0:
        raise UserError(f"{path!r} (config.data.{option}) is empty.")
    found = parse_json(path, columns, bad) if kind == ".jsonl" else parse_delimited(path, kind, columns, bad)
    for where, values in found:
        missing = [column for column in columns if values.get(column) is None or not str(values[column]).strip()]
        if missing:
            bad.report(where, f"there is nothing in {missing[0]!r}")
        else:
            yield Record(where, values)


def files_below(folder: Path, pattern: str) -> list[Path]:
    """The files of such names in a folder and those below it, in sorted order, without hidden files and folders."""
    files = (file for file in folder.rglob(pattern) if file.is_file())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def lines(path: str, bad: BadRecords) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without those that are not UTF-8, which are bad records."""
    with Path(path).expanduser().open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                bad.report(f"{path!r} line {number}", f"not UTF-8 at byte {error.start}; save the file as UTF-8")


def loaded(text: str) -> Any:
    """What a text in JSON holds; raises ValueError where it is none."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply to be read") from error


def parse_json(path: str, columns: Sequence[str], bad: BadRecords) -> Iterator[Record]:
    """An object on each line; blank lines are passed over."""
    first = True
    for number, line in lines(path, bad):
        if not line.strip():
            continue
        where = f"{path!r} line {number}"
        try:
            values = loaded(line)
        except ValueError as error:
            bad.report(where, f"no JSON: {error}")
            continue
        if not isinstance(values, dict):
            bad.report(where, "no JSON object")
            continue
        if first and (missing := [column for column in columns if column not in values]):
            # A column that the file does not have is no bad record.
            raise UserError(f"{where} has no key {missing[0]!r}; {nearest(missing[0], values)}")
        first = False
        if "\\u" in line and SURROGATE.search(json.dumps(values, ensure_ascii=False)):
            bad.report(where, "a \\ud... escape that is half a character, which no text has")
        else:
            yield Record(where, values)


def parse_delimited(path: str, kind: str, columns: Sequence[str], bad: BadRecords) -> Iterator[Record]:
    """The rows below a line of column names; a row of several lines is where its first one is."""
    unread = BadRecords("skip")
    _, header = next(rows(path, kind, unread), (1, []))
    if unread.count:  # without it the first record would pass for the names of the columns
        raise UserError(f"{unread.problems[0]} (the first line must name the columns).")
    for column in columns:
        if column not in header:
            raise UserError(f"{path!r} has no column {column!r} in its first line; {nearest(column, header)}")
        if header.count(column) > 1:
            raise UserError(f"{path!r} has several columns {column!r} in its first line; rename all but one.")
    for number, row in islice(rows(path, kind, bad), 1, None):
        where = f"{path!r} line {number}"
        if len(row) == len(header):
            yield Record(where, dict(zip(header, row, strict=True)))
        elif row:
            bad.report(where, f"{len(row)} columns, but the first line names {len(header)}")


def rows(path: str, kind: str, bad: BadRecords) -> Iterator[tuple[int, list[str]]]:
    """The rows of a .tsv or .csv, the first one too, with the number of the line where each begins."""
    csv.field_size_limit(2**31 - 1)  # a text may be long
    begin = 0  # csv's own line_num does not count lines that are left out

    def numbered() -> Iterator[str]:
        nonlocal begin
        for number, line in lines(path, bad):
            begin = begin or number
            yield line

    reader = csv.reader(
        numbered(),
        delimiter="\t" if kind == ".tsv" else ",",
        quoting=csv.QUOTE_NONE if kind == ".tsv" else csv.QUOTE_MINIMAL,
        strict=True,  # else a quotation mark that is never closed swallows the rest of the file
    )
    while True:
        begin = 0
        try:
            row = next(reader)
        except csv.Error as error:
            bad.report(f"{path!r} line {begin}", f"it cannot be cut into columns: {error}")
        except StopIteration:
            return
        else:
            yield begin, row
