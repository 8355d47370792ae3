"""Tokens from text and back: bytes, characters, words, or a byte-level BPE, learned or a checkpoint's own."""

import codecs
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigjax.data.cached import LARGE, cached
from bigjax.data.dataset import sha256
from bigjax.errors import UserError

if TYPE_CHECKING:
    import tokenizers

CHUNK = 1 << 20  # bytes encoded at a time
SAMPLE = 1 << 26  # bytes from the beginning of the training text that a BPE learns from
DOCUMENT_END = "\0"  # in a text: no text has this character
END_NAMES = ("<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]")  # what the tokenizers of checkpoints call it
LINE_END, UNKNOWN_WORD = "<eos>", "<unk>"  # as Penn Treebank's files are read and written


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
    return words(train, where) if kind == "words" else saved_bpe(kind)


def decode_bytes(ids: Sequence[int]) -> str:
    """The text of byte tokens."""
    return np.asarray(ids, np.uint8).tobytes().decode(errors="replace")


def characters(train: np.ndarray, where: str) -> Tokenizer:
    """A token for each character of `train`, in the order of their code points."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers

    found: set[str] = set()
    for piece in chunks(train, where):
        found.update(piece)
    names = sorted(found)
    level = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unknown>"))
    level.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    level.decoder = decoders.Fuse()
    table = np.full(0x110000, -1, np.int32)
    table[[ord(name) for name in names]] = np.arange(len(names))

    def pieces(texts: Iterable[str], where: str) -> Iterator[np.ndarray]:
        line = 1
        for text in texts:
            ids = table[np.frombuffer(text.encode("utf-32-le"), np.uint32)]
            if (ids < 0).any():
                unknown = int((ids < 0).argmax())
                raise UserError(
                    f"{where} line {line + text.count(chr(10), 0, unknown)}: the character {text[unknown]!r} is not in "
                    "the training text; config.data.tokenizer='bytes' or 'bpe' takes any."
                )
            line += text.count("\n")
            yield ids.astype(id_dtype(len(names)))

    sizes = np.array([len(name.encode()) for name in names], np.int32)
    end = names.index(DOCUMENT_END) if DOCUMENT_END in found else None
    newline = np.array([name == "\n" for name in names], bool)
    return Tokenizer(sizes, newline, pieces, level.decode, {"tokenizer.json": level.to_str()}, end)


def words(train: np.ndarray, where: str) -> Tokenizer:
    """Penn Treebank's protocol: a token for each word between spaces, and `<eos>` for each newline.

    The vocabulary is that of `train`, `<eos>` and then by order of appearance; a word that is not in it becomes
    `<unk>` where `train` has that word, and is an error elsewhere. Every text begins with an `<eos>` that stands for
    the line before it, so that its first word is predicted too, and there are as many targets as the text has tokens:
    929,589, 73,760 and 82,430 in Mikolov's files. A token stands for the bytes of its word and one space, or of its
    newline.
    """
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    vocabulary = {LINE_END: 0}
    for piece in chunks(train, where):
        for word in split_words(piece):
            vocabulary.setdefault(word, len(vocabulary))
    level = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN_WORD))
    level.normalizer = normalizers.Replace("\n", f" {LINE_END} ")
    level.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # A space before every word, and newlines without any.
    parts = [decoders.WordPiece(prefix="\n", cleanup=False), decoders.Fuse()]
    level.decoder = decoders.Sequence([*parts, decoders.Replace(f" {LINE_END}", "\n"), decoders.Replace("\n ", "\n")])
    dtype, unknown = id_dtype(len(vocabulary)), vocabulary.get(UNKNOWN_WORD)

    def pieces(texts: Iterable[str], where: str) -> Iterator[np.ndarray]:
        line = 1
        for number, text in enumerate(texts):
            if number == 0:
                yield np.zeros(1, dtype)
                text = text.removeprefix(DOCUMENT_END)  # which stands before documents, likewise
            ids = [vocabulary.get(word, unknown) for word in split_words(text)]
            if None in ids:
                raise UserError(unknown_word(text, line, where))
            line += text.count("\n")
            yield np.array(ids, dtype)

    def unknown_word(text: str, line: int, where: str) -> str:
        for number, row in enumerate(text.split("\n"), line):
            for word in split_words(row):
                if word not in vocabulary:
                    return (
                        f"{where} line {number}: the word {word!r} is not in the training text, which has no "
                        f"{UNKNOWN_WORD!r} to stand for it."
                    )
        raise AssertionError("every word is known")

    sizes = np.array([len(word.encode()) + 1 for word in vocabulary], np.int32)
    sizes[0] = 1
    newline = np.arange(len(vocabulary)) == 0
    return Tokenizer(sizes, newline, pieces, level.decode, {"tokenizer.json": level.to_str()}, 0)


def split_words(text: str) -> list[str]:
    """The words of a text, with `<eos>` for every newline; a document's end is one as well."""
    return text.replace(DOCUMENT_END, "\n").replace("\n", f" {LINE_END} ").split()


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


def saved_bpe(path: str) -> Tokenizer:
    """A byte-level BPE from its file, as those of GPT-2, Llama 3 and Qwen 3 are."""
    import tokenizers

    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(
            "config.data.tokenizer must be 'bytes', 'chars', 'words', 'bpe' or a tokenizer.json; "
            f"there is no {str(file)!r}."
        )
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
