"""Text in, text out: the tokens of a run's own tokenizer around `generate`."""

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from tokenizers import Tokenizer

from bigjax.data.tokens import decode_bytes
from bigjax.errors import UserError
from bigjax.inference.beam import beam_search
from bigjax.inference.generate import generate, stream
from bigjax.inference.sampling import Sampling


class LanguageModel(Protocol):
    """What generates: a run, or a pretrained checkpoint."""

    @property
    def model(self) -> Any:
        """A live module."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """None where tokens are bytes."""
        ...

    @property
    def stop(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        ...


class Options(NamedTuple):
    """How a text goes on.

    Attributes:
      num_tokens: how many tokens at most; None is 200, or as many as the model's context still has room for.
      sampling: how each is chosen.
      num_beams: above 1, a beam search instead of sampling.
      seed: of the randomness.
    """

    num_tokens: int | None = None
    sampling: Sampling = Sampling(temperature=0.8)
    num_beams: int = 1
    seed: int = 0


def generate_text(source: LanguageModel, prompts: Sequence[str], options: Options = Options()) -> list[str]:  # noqa: B008
    """Continues each prompt.

    Raises:
      UserError: a prompt is empty, or prompt and new tokens are more than the model's context.
    """
    tokens = [encode(source, prompt) for prompt in prompts]
    length = room(source, tokens, options)
    try:
        if options.num_beams > 1:
            texts = beam_search(source.model, tokens, length, options.num_beams, stop=source.stop)
        else:
            texts = generate(source.model, tokens, length, options.sampling, stop=source.stop, seed=options.seed)
    except ValueError as error:
        raise UserError(f"Cannot generate: {error}.") from error
    return [decode(source, text, prompt) for text, prompt in zip(texts, tokens, strict=True)]


def stream_text(source: LanguageModel, prompt: str, options: Options = Options()) -> Iterator[str]:  # noqa: B008
    """Continues one prompt and yields each piece of text when it is known."""
    shown = text = ""
    tokens = [encode(source, prompt)]
    length = room(source, tokens, options)
    try:
        for (new,) in stream(source.model, tokens, length, options.sampling, stop=source.stop, seed=options.seed):
            text = decode(source, new, tokens[0])
            whole = text.rstrip("\N{REPLACEMENT CHARACTER}")  # a character may be spread over several tokens
            yield whole[len(shown) :]
            shown = whole
    except ValueError as error:
        raise UserError(f"Cannot generate: {error}.") from error
    yield text[len(shown) :]


def room(source: LanguageModel, prompts: Sequence[Sequence[int]], options: Options) -> int:
    """How many new tokens there may be.

    Raises:
      UserError: none at all, or no beams, or prompt and new tokens are more than the model's context.
    """
    longest = max(map(len, prompts))
    left = getattr(source.model, "context", math.inf) - longest
    wanted = min(200, left) if options.num_tokens is None else options.num_tokens
    if wanted > left or left < 1:
        raise UserError(
            f"The prompt has {longest} tokens and the model's context is {source.model.context}: "
            f"there is room for {max(left, 0)} more, not {max(wanted, 1)}; shorten the prompt or ask for fewer."
        )
    if wanted < 1 or options.num_beams < 1:
        raise UserError("A text needs at least 1 new token and 1 beam.")
    return int(wanted)


def encode(source: LanguageModel, text: str) -> list[int]:
    """The tokens of a prompt."""
    if not hasattr(source.model, "start_decoding"):
        raise UserError(f"A {type(source.model).__name__} does not generate text.")
    if "source" in inspect.signature(source.model.start_decoding).parameters:
        raise UserError(
            f"A {type(source.model).__name__} writes about a source, and does not go on with a text alone; "
            "what a run makes of one says `bigjax predict`."
        )
    if not text:
        raise UserError("The prompt is empty: there is nothing to continue.")
    if source.tokenizer is None:
        if source.model.embedding.num_embeddings != 256:
            raise UserError("The model has no tokenizer, and its tokens are not bytes.")
        return list(text.encode())
    try:
        return source.tokenizer.encode(text).ids
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"{text[:30]!r} has a word or character that the model's vocabulary lacks.") from error


def decode(source: LanguageModel, tokens: Sequence[int], prompt: Sequence[int]) -> str:
    """The text of new tokens, without a stop token at their end."""
    kept = [token for token in tokens if token not in source.stop]
    if source.tokenizer is None:
        return decode_bytes(kept)
    # Decoded behind the prompt: some tokenizers drop a space at the beginning.
    before = source.tokenizer.decode(list(prompt))
    return source.tokenizer.decode([*prompt, *kept])[len(before) :]
