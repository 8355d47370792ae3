"""Transcripts as the labels that a CTC head scores, and back. Label 0 is the blank and stands for no text."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

from tokenizers import Tokenizer

from bigjax.data.subwords import PAD, subword_tokenizer
from bigjax.errors import UserError

Kind = Literal["characters", "bpe"]


class Labels(Protocol):
    """A vocabulary.

    Attributes:
      info: what `Dataset.info` remembers of it, for `labels_of`.
      files: what is kept with the run.
    """

    info: dict[str, Any]
    files: dict[str, str]

    def __len__(self) -> int:
        """How many labels there are, the blank included."""
        ...

    def encode(self, text: str) -> list[int]:
        """Labels of a text; raises ValueError, with the reason, for one that has none."""
        ...

    def decode(self, labels: Sequence[int]) -> str:
        """The text of labels without blanks."""
        ...


class Characters:
    """A label for each character, from 1 on in the order of `characters`."""

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = list(characters)
        self.info: dict[str, Any] = {"characters": self.characters}
        self.files: dict[str, str] = {}
        self.labels = {character: label for label, character in enumerate(self.characters, 1)}

    def __len__(self) -> int:
        return 1 + len(self.characters)

    def encode(self, text: str) -> list[int]:
        """Labels of a text; raises ValueError for a character that has none."""
        if unknown := sorted(set(text) - self.labels.keys()):
            raise ValueError(f"no training transcript has the character {unknown[0]!r} of {text[:40]!r}")
        return [self.labels[character] for character in text]

    def decode(self, labels: Sequence[int]) -> str:
        """The text of labels without blanks."""
        return "".join(self.characters[label - 1] for label in labels)


class Subwords:
    """The tokens of a byte-level BPE, which writes every text; its [PAD], token 0, is the blank."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        assert tokenizer.token_to_id(PAD) == 0
        self.tokenizer = tokenizer
        self.info: dict[str, Any] = {}
        self.files = {"tokenizer.json": tokenizer.to_str()}

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Labels of a text."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, labels: Sequence[int]) -> str:
        """The text of labels without blanks."""
        return self.tokenizer.decode(list(labels))


def make_labels(kind: Kind, vocab_size: int | None, texts: Collection[str]) -> Labels:
    """The labels of `config.data.tokenizer`, from the training transcripts."""
    if kind == "bpe":
        return Subwords(subword_tokenizer(kind, vocab_size, texts))
    if vocab_size is not None:
        raise UserError("config.data.vocab_size is for 'bpe'; the training transcripts decide how many characters.")
    return Characters(sorted(set().union(*texts)))


def labels_of(info: Mapping[str, Any], tokenizer: Tokenizer | None) -> Labels:
    """The labels of a run, from what it remembers of its data and the tokenizer that was kept with it."""
    return Characters(info["characters"]) if tokenizer is None else Subwords(tokenizer)
