"""Tokens from text and back: bytes, characters, words, or a byte-level BPE, learned or a checkpoint's own."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigjax.data.cached import LARGE, cached
from bigjax.data.dataset import sha256
from bigjax.data.subwords import load_tokenizer
from bigjax.data.tokenizer import DOCUMENT_END, Tokenizer, character_start, chunks, id_dtype
from bigjax.data.word_level import LINE_END, character_level, characters, word_level, words
from bigjax.errors import UserError

if TYPE_CHECKING:
    import tokenizers

SAMPLE = 1 << 26  # bytes from the beginning of the training text that a BPE learns from
END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]")  # what the tokenizers of checkpoints call it


def make_tokenizer(kind: str, vocab_size: int | None, train: np.ndarray, where: str = "The text") -> Tokenizer:
    """The tokenizer of `config.data`.

    Args:
      kind: "bytes"; "bpe", which learns `vocab_size` tokens from (the first 64 MiB of) `train`; "chars" or "words",
        those of `train`; or a tokenizer.json, or a folder with one.
      vocab_size: None where the kind decides.
      train: uint8 [N] of UTF-8.
      where: what an error calls it.
    """
    if kind == "bytes":
        if vocab_size not in (None, 256):
            raise UserError(
                f"config.data.vocab_size is 256 for byte tokens, not {vocab_size}; 'bpe' takes other sizes."
            )
        newline = np.arange(256) == ord("\n")
        return Tokenizer(np.ones(256, np.int32), newline, None, decode_bytes, {}, ord(DOCUMENT_END))
    if kind == "bpe":
        if vocab_size is None or vocab_size < 256:
            raise UserError(f"config.data.vocab_size must be 256 or more for 'bpe', not {vocab_size}.")
        return train_bpe(vocab_size, train, where)
    if vocab_size is not None:
        owner = "the training text" if kind in ("chars", "words") else f"the tokenizer {kind!r}"
        raise UserError(f"config.data.vocab_size is what {owner} has; leave it out.")
    if kind == "chars":
        return characters(train, where)
    return words(train, where) if kind == "words" else saved(kind)


def decode_bytes(ids: Sequence[int]) -> str:
    """The text of byte tokens."""
    return np.asarray(ids, np.uint8).tobytes().decode(errors="replace")


def train_bpe(vocab_size: int, train: np.ndarray, where: str) -> Tokenizer:
    """A byte-level BPE as GPT-2's (Radford et al. 2019, section 2.2), learned from `train`, uint8 [N] of UTF-8."""
    return byte_level(learned(f"bpe {vocab_size}", train, lambda: learn_bpe(vocab_size, train, where)))


def learned(key: str, train: np.ndarray, learn: Callable[[], "tokenizers.Tokenizer"]) -> "tokenizers.Tokenizer":
    """What `learn` gives, which learns from `sample` of `train`; that of a large text is kept in the cache folder.

    Args:
      key: says what is learned.
    """
    import tokenizers

    if len(train) < LARGE:
        return learn()

    def content() -> Iterator[np.ndarray]:
        yield np.frombuffer(learn().to_str().encode(), np.uint8)

    kept = cached(f"{key} {tokenizers.__version__} {sha256(train[:SAMPLE])}", np.uint8, content)
    return tokenizers.Tokenizer.from_str(kept.tobytes().decode())


def learn_bpe(vocab_size: int, train: np.ndarray, where: str) -> "tokenizers.Tokenizer":
    """Learns it from `sample`."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(sample(train, where), trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise UserError(
            f"The training text has only enough repetition for a BPE of {bpe.get_vocab_size()} tokens, "
            f"not config.data.vocab_size={vocab_size}."
        )
    return bpe


def sample(train: np.ndarray, where: str) -> Iterator[str]:
    """What a tokenizer learns from: the first `SAMPLE` bytes of a text, or all of a shorter one."""
    part = train[: character_start(train, SAMPLE)]
    return (piece for chunk in chunks(part, where) for piece in chunk.split(DOCUMENT_END))


def saved(path: str) -> Tokenizer:
    """A tokenizer from its file: a byte-level BPE, as those of GPT-2, Llama 3 and Qwen 3 are, or a run's own."""
    from tokenizers import models

    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(
            "config.data.tokenizer must be 'bytes', 'chars', 'words', 'bpe' or a tokenizer.json; "
            f"there is no {str(file)!r}."
        )
    found = load_tokenizer(file)
    if isinstance(found.model, models.BPE) and '"ByteLevel"' in found.to_str():
        return byte_level(found)
    if isinstance(found.model, models.WordLevel):
        names = sorted(found.get_vocab(), key=found.get_vocab().__getitem__)
        if all(len(name) == 1 for name in names):
            return character_level(names)
        if names[0] == LINE_END:
            return word_level({name: i for i, name in enumerate(names)})
    raise UserError(f"{str(file)!r} is no byte-level BPE, so that its tokens do not make up the bytes of a text.")


def byte_level(bpe: "tokenizers.Tokenizer") -> Tokenizer:
    """A byte-level BPE. Every character of a token's name stands for one byte, the newline being "\u010a"."""
    vocabulary = bpe.get_vocab()
    token_bytes = np.zeros(max(vocabulary.values()) + 1, np.int32)
    newline = np.zeros(len(token_bytes), bool)
    for name, token in vocabulary.items():
        token_bytes[token] = len(name)
        newline[token] = "\u010a" in name
    for token, added in bpe.get_added_tokens_decoder().items():
        # These are plain text.
        token_bytes[token] = len(added.content.encode())
        newline[token] = "\n" in added.content
    end_name = next((name for name in END_NAMES if name in vocabulary), None)
    end = vocabulary.get(end_name or "\u0100")  # the byte 0
    pieces = pieces_by(bpe, id_dtype(len(token_bytes)), end_name or DOCUMENT_END)

    def decode(ids: Sequence[int]) -> str:
        return bpe.decode(list(ids))

    return Tokenizer(token_bytes, newline, pieces, decode, {"tokenizer.json": bpe.to_str()}, end)


def pieces_by(
    tokenizer: "tokenizers.Tokenizer", dtype: type[np.unsignedinteger], end: str
) -> Callable[[Iterable[str], str], Iterator[np.ndarray]]:
    """`Tokenizer.pieces` by such a tokenizer; `end` is the name of the token that ends a document."""

    def pieces(texts: Iterable[str], where: str) -> Iterator[np.ndarray]:
        texts = iter(texts)
        while some := list(islice(texts, 4)):  # that are encoded side by side
            parts = [part for text in some for part in re.split(f"({DOCUMENT_END})", text)]
            named = [end if part == DOCUMENT_END else part for part in parts]
            encoded = tokenizer.encode_batch_fast(named, add_special_tokens=False)
            yield np.fromiter(chain.from_iterable(e.ids for e in encoded), dtype)

    return pieces
