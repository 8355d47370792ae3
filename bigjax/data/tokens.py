"""Tokens from text and back: bytes, or a byte-level BPE, trained on the training text or a checkpoint's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigjax.errors import UserError

if TYPE_CHECKING:
    import tokenizers

CHUNK = 1 << 20  # bytes encoded at a time


@dataclass(frozen=True)
class Tokenizer:
    """A reversible tokenizer.

    Attributes:
      token_bytes: int32 [V], the UTF-8 bytes that each token stands for.
      newline: bool [V], whether a newline is among them.
      encode: text as uint8 [N] to token ids, an integer array.
      decode: token ids to text; bytes that are not UTF-8 become U+FFFD.
      files: what must be kept to decode later: file names and contents.
    """

    token_bytes: np.ndarray
    newline: np.ndarray
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[Sequence[int]], str]
    files: dict[str, str]


def make_tokenizer(kind: str, vocab_size: int | None, train: np.ndarray) -> Tokenizer:
    """The tokenizer of `config.data`.

    Args:
      kind: "bytes"; "bpe", which learns `vocab_size` tokens from `train`; or a tokenizer.json, or a folder with one.
      vocab_size: None where the kind decides.
      train: uint8 [N] of UTF-8.
    """
    if kind == "bytes":
        if vocab_size not in (None, 256):
            raise UserError(
                f"config.data.vocab_size is 256 for byte tokens, not {vocab_size}; 'bpe' takes other sizes."
            )
        newline = np.arange(256) == ord("\n")
        return Tokenizer(np.ones(256, np.int32), newline, lambda text: text, decode_bytes, {})
    if kind != "bpe":
        if vocab_size is not None:
            raise UserError(f"config.data.vocab_size is what the tokenizer {kind!r} has; leave it out.")
        return saved_bpe(kind)
    if vocab_size is None or vocab_size < 256:
        raise UserError(f"config.data.vocab_size must be 256 or more for 'bpe', not {vocab_size}.")
    return train_bpe(vocab_size, train)


def decode_bytes(ids: Sequence[int]) -> str:
    """The text of byte tokens."""
    return np.asarray(ids, np.uint8).tobytes().decode(errors="replace")


def train_bpe(vocab_size: int, train: np.ndarray) -> Tokenizer:
    """A byte-level BPE as GPT-2's (Radford et al. 2019, section 2.2), learned from `train`, uint8 [N] of UTF-8."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(chunks(train), trainer)
    if bpe.get_vocab_size() < vocab_size:
        raise UserError(
            f"The training text has only enough repetition for a BPE of {bpe.get_vocab_size()} tokens, "
            f"not config.data.vocab_size={vocab_size}."
        )
    return byte_level(bpe)


def saved_bpe(path: str) -> Tokenizer:
    """A byte-level BPE from its file, as those of GPT-2, Llama 3 and Qwen 3 are."""
    import tokenizers

    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"config.data.tokenizer must be 'bytes', 'bpe' or a tokenizer.json; there is no {str(file)!r}.")
    try:
        bpe = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{str(file)!r} is no tokenizer: {error}.") from error
    if not isinstance(bpe.model, tokenizers.models.BPE) or '"ByteLevel"' not in bpe.to_str():
        raise UserError(f"{str(file)!r} is no byte-level BPE, so that its tokens do not make up the bytes of a text.")
    bpe.no_truncation()
    bpe.no_padding()
    return byte_level(bpe)


def byte_level(bpe: "tokenizers.Tokenizer") -> Tokenizer:
    """A byte-level BPE. Every character of a token's name stands for one byte, the newline being "\u010a"."""
    vocabulary = bpe.get_vocab()
    token_bytes = np.zeros(max(vocabulary.values()) + 1, np.int32)
    newline = np.zeros(len(token_bytes), bool)
    for name, token in vocabulary.items():
        token_bytes[token], newline[token] = len(name), "\u010a" in name
    for token, added in bpe.get_added_tokens_decoder().items():  # their names are plain text
        token_bytes[token], newline[token] = len(added.content.encode()), "\n" in added.content
    dtype = np.uint16 if len(token_bytes) <= 2**16 else np.int32

    def encode(text: np.ndarray) -> np.ndarray:
        pieces = [np.array(e.ids, dtype) for e in bpe.encode_batch(chunks(text), add_special_tokens=False)]
        return np.concatenate([np.empty(0, dtype), *pieces])

    return Tokenizer(token_bytes, newline, encode, lambda ids: bpe.decode(list(ids)), {"tokenizer.json": bpe.to_str()})


def chunks(text: np.ndarray) -> list[str]:
    """`text`, uint8 [N], as strings of about a mebibyte that end at line ends."""
    data = text.tobytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"The text is not UTF-8 at byte {error.start}; config.data.tokenizer='bytes' takes any bytes."
        ) from error
    pieces, begin = [], 0
    while begin < len(data):
        end = data.find(b"\n", begin + CHUNK) + 1 or len(data)
        pieces.append(data[begin:end].decode())
        begin = end
    return pieces
