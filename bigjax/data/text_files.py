"""Texts to learn from: the user's own files, Penn Treebank and WikiText in theirs, and one that every Python has."""

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bigjax.data.cached import spooled
from bigjax.data.dataset import Dataset
from bigjax.data.records import BadRecords, OnError, files_below, lines, read_table
from bigjax.data.text import Layout, Packing, text_dataset
from bigjax.data.tokenizer import CHUNK, DOCUMENT_END, character_start, not_utf8
from bigjax.errors import UserError

END = DOCUMENT_END.encode()


def text_file(
    train: str,
    validation: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    context: int = 256,
    layout: Layout = "windows",
    tokenizer: str = "bytes",
    vocab_size: int | None = None,
    eval_streams: int = 8,
    packing: Packing = "across",
    text_key: str = "text",
    on_error: OnError = "stop",
) -> Dataset:
    """The user's own texts, memory-mapped; without one for validation, the last `holdout` of the first is it.

    Each is a file of text, or of documents: a folder of .txt files, those in folders below it too, or a .jsonl with one
    on each line.

    Args:
      tokenizer: "bytes", "bpe" (which learns `vocab_size` tokens), "chars" or "words" (those of the training text), or
        a checkpoint's tokenizer.json or folder.
      packing: documents share rows, and attention looks "across" their ends, or stays "within" each.
      text_key: where the text is in a line of a .jsonl.
      on_error: whether a bad document stops the run or is left out; of a file of text "skip" leaves out the lines that
        are not UTF-8.

    Raises:
      UserError: a file is missing, empty or no text, or too short for the context.
    """
    texts = read_texts(train, validation, test, holdout, text_key, on_error, lines=tokenizer == "words")
    return text_dataset(
        texts.splits,
        context,
        layout,
        tokenizer,
        vocab_size,
        eval_streams,
        repr(train),
        packing,
        texts.files,
        texts.notes,
    )


def word_files(
    folder: str,
    train: str = "ptb.train.txt",
    validation: str = "ptb.valid.txt",
    test: str = "ptb.test.txt",
    context: int = 35,
    eval_streams: int = 1,
) -> Dataset:
    """Penn Treebank in Mikolov's files, or WikiText in its own, by the protocol that perplexities are published in.

    Words are tokens, every newline is an `<eos>`, the state is carried along, and every token of a split is predicted
    exactly once, its first one from an `<eos>` before it: see `bigjax.data.word_level.words`. With one stream for
    evaluation the state is carried through the whole split.

    Args:
      folder: the files are in it; WikiText's are wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens.

    Raises:
      UserError: a file is missing or empty, or has a word that is not in the training file, which has no `<unk>`.
    """
    first, second, third = (str(Path(folder) / name) for name in (train, validation, test))
    return text_file(
        first, second, third, context=context, layout="stream", tokenizer="words", eval_streams=eval_streams
    )


def pydoc(
    context: int = 128,
    layout: Layout = "windows",
    tokenizer: str = "bytes",
    vocab_size: int | None = None,
    eval_streams: int = 8,
) -> Dataset:
    """The Python language reference as every Python carries it: 0.4 MB of prose, which differs a little by version."""
    return text_dataset(pydoc_texts(), context, layout, tokenizer, vocab_size, eval_streams, "pydoc")


def pydoc_texts() -> dict[str, np.ndarray]:
    """Its splits, uint8 [N] each.

    Of every ten topics one is for validation and one for test. Chapters repeat sections of each other; a paragraph
    that came before, in whatever split, is left out.
    """
    from pydoc_data.topics import topics

    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    for number, topic in enumerate(sorted(topics)):
        part = parts[{0: "validation", 5: "test"}.get(number % 10, "train")]
        for paragraph in topics[topic].split("\n\n"):
            if (bare := paragraph.strip("\n")) not in seen:
                seen.add(bare)
                part.append(paragraph)
    return {name: np.frombuffer("\n\n".join(part).encode(), np.uint8) for name, part in parts.items()}


class Texts(NamedTuple):
    """The texts of a data set.

    Attributes:
      splits: uint8 [N] of each; documents in it end with a NUL, and the first has one before it.
      files: the files that splits come from alone.
      notes: what was skipped.
    """

    splits: dict[str, np.ndarray]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()


def read_texts(
    train: str,
    validation: str | None,
    test: str | None,
    holdout: float,
    text_key: str,
    on_error: OnError,
    lines: bool = False,
) -> Texts:
    """The texts that `text_file` is told of; `lines` has the holdout begin with a line."""
    bad = BadRecords(on_error)
    given = {"train": train, "validation": validation, "test": test}
    files = {name: file for name, file in given.items() if file is not None}
    check_apart(files)
    texts = {name: read_text(file, name, text_key, bad) for name, file in files.items()}
    for name, text in texts.items():
        if not len(text):
            raise UserError(f"The {name} split is empty: {files[name]!r} has 0 bytes of text{bad.reason}.")
    if validation is None:
        if not 0 < holdout < 1:
            raise UserError(f"config.data.holdout must be between 0 and 1, not {holdout}.")
        whole = texts["train"]
        cut = int(len(whole) * (1 - holdout))
        if bytes(whole[:1]) == END:
            # The end of the training text's last document stands before the first one of validation, too.
            cut = behind(whole, cut, END)
            if cut < 2:
                raise UserError(f"{train!r} has no document in its first part; set config.data.validation.")
            texts["train"], texts["validation"] = whole[:cut], whole[cut - 1 :]
        else:
            cut = behind(whole, cut, b"\n") if lines else character_start(whole, cut)
            texts["train"], texts["validation"] = whole[:cut], whole[cut:]
        del files["train"]
    return Texts(texts, files, bad.notes)


def check_apart(files: Mapping[str, str]) -> None:
    """Raises UserError where a split's texts would be among those of another one's folder, too."""
    paths = {name: Path(file).expanduser().resolve() for name, file in files.items()}
    for (inner, path), (outer, folder) in permutations(paths.items(), 2):
        if folder in path.parents and (path.is_dir() or path.suffix == ".txt"):
            raise UserError(
                f"{files[inner]!r} (config.data.{inner}) lies in {files[outer]!r} (config.data.{outer}), so that both "
                "would have its texts; move it out."
            )


def behind(text: np.ndarray, place: int, byte: bytes) -> int:
    """The last place up to `place` that is behind such a byte, or 0."""
    for begin in range(place - CHUNK, -CHUNK, -CHUNK):
        found = text[max(begin, 0) : begin + CHUNK].tobytes().rfind(byte)
        if found >= 0:
            return max(begin, 0) + found + 1
    return 0


def read_text(path: str, option: str, text_key: str, bad: BadRecords) -> np.ndarray:
    """A text, uint8 [N]: a file as it is, or documents as `Texts` has them."""
    file = Path(path).expanduser()
    if file.is_dir():
        return joined(lambda: folder_documents(file, bad), path, option, bad)
    if not file.is_file():
        raise UserError(f"There is no text file {path!r} (config.data.{option}).")
    if file.suffix.lower() == ".jsonl":
        return joined(lambda: json_documents(path, option, text_key, bad), path, option, bad)
    text = memory_mapped(file)
    if bad.on_error == "skip" and not_utf8(text) is not None:
        return spooled(line.encode() for _, line in lines(path, bad))
    return text


def memory_mapped(file: Path) -> np.ndarray:
    """The bytes of a file, uint8 [N]."""
    return np.memmap(file, np.uint8, mode="r") if file.stat().st_size else np.empty(0, np.uint8)


def joined(documents: Callable[[], Iterator[memoryview]], path: str, option: str, bad: BadRecords) -> np.ndarray:
    """Documents one after another, each with a NUL behind it, and one before the first."""

    def pieces() -> Iterator[memoryview | bytes]:
        yield END
        for document in documents():
            yield document
            yield END

    text = spooled(pieces())
    if len(text) < 2:
        raise UserError(f"{path!r} (config.data.{option}) has no documents{bad.reason}.")
    return text


def folder_documents(folder: Path, bad: BadRecords) -> Iterator[memoryview]:
    """The .txt files of a folder and those below it in sorted order; one that is no text is a bad record."""
    for file in files_below(folder, "*.txt"):
        text = memory_mapped(file)
        if problem := no_document(text):
            bad.report(repr(str(file)), problem)
        else:
            yield text.data


def json_documents(path: str, option: str, text_key: str, bad: BadRecords) -> Iterator[memoryview]:
    """The texts in a .jsonl; a line without one is a bad record."""
    for record in read_table(path, option, [text_key], bad):
        value = record.values[text_key]
        if not isinstance(value, str):
            bad.report(record.where, f"{text_key!r} is no text")
            continue
        text = np.frombuffer(value.encode(), np.uint8)
        if problem := no_document(text):
            bad.report(record.where, problem)
        else:
            yield text.data


def no_document(text: np.ndarray) -> str:
    """What keeps uint8 [N] from being a document; empty where nothing does."""
    if not len(text):
        return "it is empty"
    if (place := not_utf8(text)) is not None:
        return f"not UTF-8 at byte {place}; save it as UTF-8"
    for begin in range(0, len(text), CHUNK):
        if (found := text[begin : begin + CHUNK].tobytes().find(END)) >= 0:
            return f"a NUL at byte {begin + found}, which no text has"
    return ""
