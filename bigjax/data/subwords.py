"""Tokenizers with special tokens: those of a checkpoint, or a WordPiece or BPE learned from the training text."""

from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from bigjax.errors import UserError

PAD, UNKNOWN, BEGIN, END, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def subword_tokenizer(kind: str, vocab_size: int | None, *columns: Collection[str]) -> Tokenizer:
    """The tokenizer of `config.data.tokenizer`; a text becomes [CLS] text [SEP], a pair [CLS] first [SEP] second [SEP].

    Args:
      kind: "wordpiece", lower-cased as BERT's; "bpe", byte-level with nothing lost; or a tokenizer.json, or a
        checkpoint's or run's folder with one, which keeps its own special tokens.
      vocab_size: how many tokens are learned, None where the tokenizer is there already.
      columns: texts that they are learned from, of one column after another.

    Raises:
      UserError: there is no such tokenizer, or the vocabulary's size does not fit.
    """
    if kind not in ("wordpiece", "bpe"):
        if vocab_size is not None:
            raise UserError(f"config.data.vocab_size is what the tokenizer {kind!r} has; leave it out.")
        return read_tokenizer(kind)
    least = len(SPECIAL) + (256 if kind == "bpe" else 1)
    if vocab_size is None or vocab_size < least:
        raise UserError(f"config.data.vocab_size must be {least} or more for {kind!r}, not {vocab_size}.")
    if kind == "wordpiece":
        tokenizer = learned_wordpiece(vocab_size, columns)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(chain(*columns), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        pair=f"{BEGIN} $A {END} $B:1 {END}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (BEGIN, END)],
    )
    return tokenizer


def learned_wordpiece(vocab_size: int, columns: Sequence[Collection[str]]) -> Tokenizer:
    """A WordPiece that is the same whenever it is learned from the same texts.

    The trainer numbers the letters inside words (##a) as it meets them, in an order that changes from call to call, and
    equally frequent pairs are then joined in another order, too. So the letters are found first, and given in order.
    """

    def learn(vocab_size: int, first: Sequence[str]) -> dict[str, int]:
        tokenizer = bert_like(models.WordPiece(unk_token=UNKNOWN))
        trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=list(first), show_progress=False)
        tokenizer.train_from_iterator(chain(*columns), trainer)
        return tokenizer.get_vocab()

    letters = sorted(token for token in learn(len(SPECIAL), SPECIAL) if token.startswith("##") and len(token) == 3)
    tokenizer = bert_like(models.WordPiece(learn(vocab_size, [*SPECIAL, *letters]), unk_token=UNKNOWN))
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def bert_like(model: models.Model) -> Tokenizer:
    """A tokenizer that splits and lower-cases text as BERT's does."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def read_tokenizer(path: str) -> Tokenizer:
    """A tokenizer.json, or the one in a folder: see `load_tokenizer`."""
    file = Path(path).expanduser()
    file = file / "tokenizer.json" if file.is_dir() else file
    if not file.is_file():
        raise UserError(
            f"config.data.tokenizer must be 'wordpiece', 'bpe' or a tokenizer.json; there is no {str(file)!r}."
        )
    return load_tokenizer(file)


def load_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer.json, without the padding and truncation that it may have been saved with.

    Raises:
      UserError: it is damaged.
    """
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{str(file)!r} is no tokenizer: {error}.") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
