"""What a tokenizer of running text is, and large texts in pieces for it."""

import codecs
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bigjax.errors import UserError

CHUNK = 1 << 20  # bytes encoded at a time
DOCUMENT_END = "\0"  # in a text: no text has this character


@dataclass(frozen=True)
class Tokenizer:
    """A reversible tokenizer.

    Attributes:
      token_bytes: int32 [V], the UTF-8 bytes that each token stands for.
      newline: bool [V], whether a newline is among them.
      pieces: the tokens of pieces of a text one after another, given the pieces and what to call the text in an error;
        None where tokens are the text's bytes.
      decode: token ids to text; bytes that are not UTF-8 become U+FFFD.
      files: what must be kept to decode later: file names and contents.
      end: the token that ends a document, where the vocabulary has one.
    """

    token_bytes: np.ndarray
    newline: np.ndarray
    pieces: Callable[[Iterable[str], str], Iterator[np.ndarray]] | None
    decode: Callable[[Sequence[int]], str]
    files: dict[str, str]
    end: int | None

    @property
    def dtype(self) -> type[np.unsignedinteger]:
        """What a token id is kept as."""
        return id_dtype(len(self.token_bytes))

    @property
    def identity(self) -> str:
        """A sha256 that another tokenizer does not have."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    def stream(self, text: np.ndarray, where: str = "The text") -> Iterator[np.ndarray]:
        """The token ids of a text, uint8 [N] of UTF-8, piece by piece; `where` is what an error calls the text."""
        if self.pieces is None:
            return iter([text])
        return self.pieces(chunks(text, where), where)

    def encode(self, text: np.ndarray, where: str = "The text") -> np.ndarray:
        """The token ids of a text, uint8 [N]; bytes are the very array."""
        if self.pieces is None:
            return text
        return np.concatenate([np.empty(0, self.dtype), *self.stream(text, where)])


def id_dtype(size: int) -> type[np.unsignedinteger]:
    """The integers that the ids of `size` tokens are kept as."""
    return np.uint16 if size <= 1 << 16 else np.uint32


def chunks(text: np.ndarray, where: str = "The text") -> Iterator[str]:
    """`text`, uint8 [N], as strings of about a mebibyte that end at line ends, or where a line is long, at spaces.

    Raises:
      UserError: it is not UTF-8.
    """
    begin = 0
    while begin < len(text):
        end = piece_end(text, begin)
        try:
            yield text[begin:end].tobytes().decode()
        except UnicodeDecodeError as error:
            place = begin + error.start
            line = 1 + sum(int((text[i : min(i + CHUNK, place)] == 10).sum()) for i in range(0, place, CHUNK))
            raise UserError(
                f"{where} is not UTF-8 at byte {place} (line {line}); config.data.tokenizer='bytes' takes any bytes."
            ) from error
        begin = end


def not_utf8(text: np.ndarray) -> int | None:
    """The place of the first byte of uint8 [N] that is not UTF-8, or None."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for begin in range(0, len(text), CHUNK):
        kept = len(decoder.getstate()[0])  # bytes of a character that goes on
        try:
            decoder.decode(text[begin : begin + CHUNK].tobytes(), final=begin + CHUNK >= len(text))
        except UnicodeDecodeError as error:
            return begin - kept + error.start
    return None


def piece_end(text: np.ndarray, begin: int) -> int:
    """Where the piece from `begin` ends: behind the first newline after `CHUNK` bytes, if there is one near."""
    reach = begin + CHUNK
    for at in range(reach, min(reach + 16 * CHUNK, len(text)), CHUNK):
        found = text[at : at + CHUNK].tobytes().find(b"\n")
        if found >= 0:
            return at + found + 1
    last = reach + 16 * CHUNK
    if last >= len(text):
        return len(text)
    space = text[reach:last].tobytes().rfind(b" ")
    return reach + space if space >= 0 else character_start(text, last)


def character_start(text: np.ndarray, place: int) -> int:
    """The last place up to `place` that is not inside a character of several bytes, or the text's end."""
    if place >= len(text):
        return len(text)
    while place > 0 and text[place] & 0xC0 == 0x80:
        place -= 1
    return place
