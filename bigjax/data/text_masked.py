"""Text for masked language modelling: rows of tokens in which whole words are hidden."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tokenizers

from bigjax.data.dataset import Batch, Dataset, Examples, Split, in_order, random, sha256, shuffled
from bigjax.data.records import OnError
from bigjax.data.subwords import subword_tokenizer
from bigjax.data.text import Windows, all_windows, jittered, tokenized, training_windows
from bigjax.data.text_files import Texts, pydoc_texts, read_texts
from bigjax.data.tokenizer import Tokenizer, id_dtype
from bigjax.data.tokens import learned, pieces_by, sample
from bigjax.errors import UserError

# BERT's names, or RoBERTa's.
NAMES = {"pad": ("[PAD]", "<pad>"), "begin": ("[CLS]", "<s>"), "end": ("[SEP]", "</s>"), "mask": ("[MASK]", "<mask>")}


@dataclass(frozen=True)
class Masking:
    """What masking must know of a vocabulary of V tokens.

    Attributes:
      pad, begin, end, mask: tokens; each row begins and ends with one, and `end` ends documents too.
      special: bool [V], tokens that stand for no text.
      word_start: bool [V], where False a token goes on with the word before it.
      rate: the share of the words that are chosen.
    """

    pad: int
    begin: int
    end: int
    mask: int
    special: np.ndarray
    word_start: np.ndarray
    rate: float

    def hide(self, tokens: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chooses words; of their tokens 80% are masked, 10% become any, 10% stay (Devlin et al. 2019, section 3.1).

        Args:
          tokens: int32 [B, T].
          draws: [3, B, T], uniform from 0 to 1.

        Returns:
          The tokens as the model sees them, int32 [B, T], and where they were chosen, bool [B, T].
        """
        special = self.special[tokens]
        starts = self.word_start[tokens] | np.pad(special, ((0, 0), (1, 0)))[:, :-1]
        first = np.maximum.accumulate(np.where(starts, np.arange(tokens.shape[1]), 0), axis=1)
        chosen = (np.take_along_axis(draws[0], first, 1) < self.rate) & ~special
        ordinary = np.flatnonzero(~self.special)
        other = ordinary[(draws[2] * len(ordinary)).astype(int)]
        replaced = np.where(draws[1] < 0.8, self.mask, np.where(draws[1] < 0.9, other, tokens))
        return np.where(chosen, replaced, tokens).astype(np.int32), chosen


@dataclass(frozen=True)
class MaskedSplit(Examples):
    """Windows of a text between two special tokens, [B, T].

    What is masked is a function of (seed, step) in training, and of the example alone in evaluation.

    Attributes:
      tokens: integers [N], the whole text; may be memory-mapped.
      width: tokens of a row, the two around it included, T.
      rows: T - 2 tokens each.
      jitter: as of `RowSplit`.
    """

    tokens: np.ndarray
    width: int
    rows: Windows
    jitter: int
    masking: Masking

    def __len__(self) -> int:
        return len(self.rows)

    def train_batch(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        epoch, index = (part[rows] for part in shuffled(seed, step, batch_size, len(self)))
        starts, lengths = self.rows.take(index)
        draws = random(seed, "masking", step).random((3, batch_size, self.width))[:, rows]
        return self.cut(starts + jittered(seed, epoch, self.jitter), lengths, draws)

    def eval_batch(self, index: int, batch_size: int, rows: slice) -> Batch:
        examples, mask = in_order(index, batch_size, len(self), rows)
        starts, lengths = self.rows.take(examples)
        draws = [random(0, "masking", int(example)).random((3, self.width)) for example in examples]
        return self.cut(starts, lengths * (mask > 0), np.stack(draws, 1))

    def cut(self, starts: np.ndarray, lengths: np.ndarray, draws: np.ndarray) -> Batch:
        """Rows of `lengths` int64 [b] tokens from the one before `starts`, with words hidden by `draws` [3, b, T]."""
        column = np.arange(self.width)
        inside = (column > 0) & (column <= lengths[:, None])
        position = np.where(inside, starts[:, None] - 2 + column, 0)
        targets = np.where(inside, self.tokens[position].astype(np.int32), self.masking.pad)
        targets[:, 0] = self.masking.begin
        targets[np.arange(len(targets)), lengths + 1] = self.masking.end
        inputs, chosen = self.masking.hide(targets, draws)
        return {
            "inputs": inputs,
            "targets": targets.astype(np.int32),
            "mask": chosen.astype(np.float32),
            "real": column < lengths[:, None] + 2,
        }

    def fingerprint(self) -> str:
        return sha256(self.tokens)


def text_masked(
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    holdout: float = 0.1,
    context: int = 128,
    tokenizer: str = "wordpiece",
    vocab_size: int | None = None,
    mask_rate: float = 0.15,
    text_key: str = "text",
    on_error: OnError = "stop",
) -> Dataset:
    """Texts as `text_file` reads them, or without any the language reference of `pydoc`; words in them are hidden.

    Args:
      context: tokens of a row, the special ones at its begin and end included. A row is filled from one document after
        another, with `[SEP]` between them (RoBERTa's FULL-SENTENCES; Liu et al. 2019, section 4.2).
      tokenizer: "wordpiece" or "bpe", which learn `vocab_size` tokens from (the first 64 MiB of) the training text, or
        a tokenizer.json or folder.
      mask_rate: the share of words that are to be predicted.

    Raises:
      UserError: as `text_file`; or the tokenizer cannot hide words.
    """
    if context < 3 or not 0 < mask_rate < 1:
        raise UserError("config.data.context must be 3 or more, and config.data.mask_rate between 0 and 1.")
    texts = (
        Texts(pydoc_texts(), {}) if train is None else read_texts(train, validation, test, holdout, text_key, on_error)
    )
    what = "pydoc" if train is None else repr(train)
    where = {name: f"The {name} split of {what}" for name in texts.splits}
    where |= {name: repr(file) for name, file in texts.files.items()}
    training = texts.splits["train"]

    def learn() -> tokenizers.Tokenizer:
        return subword_tokenizer(tokenizer, vocab_size, list(sample(training, where["train"])))

    subwords = learn() if vocab_size is None else learned(f"{tokenizer} of subwords {vocab_size}", training, learn)
    masking = make_masking(subwords, mask_rate)
    size = len(masking.special)
    end_name = next(name for name in NAMES["end"] if subwords.token_to_id(name) == masking.end)
    pieces = pieces_by(subwords, id_dtype(size), end_name)
    files = {"tokenizer.json": subwords.to_str()}
    coder = Tokenizer(np.zeros(size, np.int32), np.zeros(size, bool), pieces, subwords.decode, files, masking.end)
    splits: dict[str, Split] = {}
    for name, raw in texts.splits.items():
        tokens, width = tokenized(coder, raw, where[name]), context - 2
        if len(tokens) < (width if name == "train" else 1):
            raise UserError(f"{where[name]} has {len(tokens)} tokens, too short for config.data.context={context}.")
        # Windows leave a first token out, for those of other tasks have nothing to predict it from; here there is none.
        rows, jitter = training_windows(len(tokens) + 1, width)
        if name != "train":
            rows, jitter = all_windows(len(tokens) + 1, width), 0
        splits[name] = MaskedSplit(tokens, context, rows, jitter, masking)

    def decode(ids: list[int]) -> str:
        return subwords.decode(ids, skip_special_tokens=False)

    mask = subwords.id_to_token(masking.mask)
    info = {"vocab_size": size, "context": context, "mask_token": mask, "decode": decode}
    return Dataset(splits, info, files, texts.notes)


def make_masking(tokenizer: tokenizers.Tokenizer, rate: float) -> Masking:
    """What masking must know of a tokenizer.

    Raises:
      UserError: it lacks a special token, or is neither a WordPiece nor a byte-level BPE.
    """
    vocabulary = tokenizer.get_vocab()
    named = {}
    for role, names in NAMES.items():
        found = [vocabulary[name] for name in names if name in vocabulary]
        if not found:
            raise UserError(f"config.data.tokenizer has no {names[0]}, which masked language modelling needs.")
        named[role] = found[0]
    size = max(vocabulary.values()) + 1
    special = np.ones(size, bool)  # and what no token has as its number
    special[list(vocabulary.values())] = False
    special[[*named.values(), *(i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special)]] = True
    return Masking(**named, special=special, word_start=word_starts(tokenizer, vocabulary, size), rate=rate)


def word_starts(tokenizer: tokenizers.Tokenizer, vocabulary: Mapping[str, int], size: int) -> np.ndarray:
    """Which tokens begin a word, bool [V].

    Of a WordPiece all but the continuing ones; of a byte-level BPE those whose first byte is white space or an ASCII
    character that is neither a letter nor a digit.
    """
    model = tokenizer.model
    if isinstance(model, tokenizers.models.WordPiece):
        prefix = model.continuing_subword_prefix
        starts = [token for name, token in vocabulary.items() if not name.startswith(prefix)]
    elif isinstance(model, tokenizers.models.BPE) and '"ByteLevel"' in tokenizer.to_str():
        # The characters from U+0100 to U+0121 stand for the bytes up to the space, and the byte 127.
        starts = [
            t
            for name, t in vocabulary.items()
            if "\u0100" <= name[0] <= "\u0121" or (name[0].isascii() and not name[0].isalnum())
        ]
    else:
        raise UserError("config.data.tokenizer must be a WordPiece or a byte-level BPE, whose tokens tell words apart.")
    begins = np.zeros(size, bool)
    begins[starts] = True
    return begins
