"""Tokens that stand for one character or one word each, those of the training text."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from bigjax.data.tokenizer import DOCUMENT_END, Tokenizer, chunks, id_dtype
from bigjax.errors import UserError

LINE_END, UNKNOWN_WORD = "<eos>", "<unk>"  # as Penn Treebank's files are read and written


def characters(train: np.ndarray, where: str) -> Tokenizer:
    """A token for each character of `train`, uint8 [N] of UTF-8, in the order of their code points."""
    found: set[str] = set()
    for piece in chunks(train, where):
        found.update(piece)
    return character_level(sorted(found))


def character_level(names: list[str]) -> Tokenizer:
    """A token for each of some characters."""
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers

    level = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNKNOWN_WORD))
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
    end = names.index(DOCUMENT_END) if DOCUMENT_END in names else None
    newline = np.array([name == "\n" for name in names], bool)
    return Tokenizer(sizes, newline, pieces, level.decode, {"tokenizer.json": level.to_str()}, end)


def words(train: np.ndarray, where: str) -> Tokenizer:
    """Penn Treebank's protocol: a token for each word between spaces, and `<eos>` for each newline.

    The vocabulary is that of `train`, uint8 [N] of UTF-8: `<eos>`, and then by order of appearance; a word that is not
    in it becomes `<unk>` where `train` has that word, and is an error elsewhere. Every text begins with an `<eos>` that
    stands for the line before it, so that its first word is predicted too, and there are as many targets as the text
    has tokens: 929,589, 73,760 and 82,430 in Mikolov's files. A token stands for the bytes of its word and one space,
    or of its newline.
    """
    vocabulary = {LINE_END: 0}
    for piece in chunks(train, where):
        for word in split_words(piece):
            vocabulary.setdefault(word, len(vocabulary))
    return word_level(vocabulary)


def word_level(vocabulary: Mapping[str, int]) -> Tokenizer:
    """A token for each word of a vocabulary, of which `<eos>` is the first."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    level = tokenizers.Tokenizer(models.WordLevel(dict(vocabulary), unk_token=UNKNOWN_WORD))
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
