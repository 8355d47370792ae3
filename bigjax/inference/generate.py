"""Text from a model: one jitted loop over tokens, for decoders, recurrent models and encoder-decoders alike.

What a model remembers of the text so far, its carry, is its own business: keys and values, or a recurrent state.
What an encoder-decoder reads goes in once, as `source`, and stays in the carry.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.inference.sampling import Sampling, choose, penalised


class Decoder(Protocol):
    """A model that generates; every leaf of its carry has the rows as its first axis."""

    def start_decoding(self, batch_size: int, length: int) -> Any:
        """The carry before the first token, with room for `length` of them."""
        ...

    def features(self, tokens: jax.Array, carry: Any, lengths: jax.Array | None = None) -> tuple[jax.Array, Any]:
        """[B, T, D] of tokens [B, T] that go on from `carry`, and the carry after each row's `lengths`."""
        ...

    def logits(self, x: jax.Array) -> jax.Array:
        """Scores of the next token, [B, T, V], from features."""
        ...


class Generation(NamedTuple):
    """Where the loop is."""

    carry: Any
    logits: jax.Array  # float32 [B, V], of the next token
    seen: jax.Array  # bool [B, V], the tokens that the text has
    new: jax.Array  # int32 [B, N], the tokens so far; -1 where there are none yet, or none after a stop token
    step: jax.Array  # int32 []
    done: jax.Array  # bool [B]


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    *,
    source: Any = None,
    stop: Sequence[int] = (),
    seed: int = 0,
) -> list[list[int]]:
    """Continues each prompt by up to `num_tokens` tokens.

    A row's tokens depend on its prompt, its place in the batch and the seed alone, not on the other rows.

    Args:
      model: what generates.
      prompts: token ids, of any lengths but not empty.
      num_tokens: how many at most; a row ends earlier after a token of `stop`, which is its last.
      sampling: how tokens are chosen.
      source: what an encoder-decoder reads, as its `start_decoding` takes it, a row for each prompt; None for others.
      seed: of the randomness.

    Returns:
      The new tokens of each prompt.

    Raises:
      ValueError: a prompt is empty, or prompt and new tokens do not fit the model.
    """
    *_, last = stream(model, prompts, num_tokens, sampling, source=source, stop=stop, seed=seed, every=num_tokens)
    return last


def stream(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    *,
    source: Any = None,
    stop: Sequence[int] = (),
    seed: int = 0,
    every: int = 1,
) -> Iterator[list[list[int]]]:
    """As `generate`, but yields the tokens so far after each `every` of them."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"a seed is from 0 to 2**32 - 1, not {seed}")
    tokens, lengths = padded(prompts)
    state = begin(model, tokens, lengths, num_tokens, source)
    key, ends = jax.random.key(seed), jnp.array(stop, jnp.int32)
    for until in range(every, num_tokens + every, every):
        state = advance(model, state, key, ends, min(until, num_tokens), sampling)
        yield [[int(token) for token in row if token >= 0] for row in np.asarray(state.new)]
        if state.done.all():
            return


def padded(prompts: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
    """Prompts as int32 [B, P], filled up with zeros on the right, and their lengths int32 [B]."""
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise ValueError("a prompt is empty: there is nothing to continue")
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens = np.zeros((len(prompts), lengths.max()), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    return jnp.asarray(tokens), jnp.asarray(lengths)


@partial(jax.jit, static_argnums=3)
def begin(model: Decoder, tokens: jax.Array, lengths: jax.Array, num_tokens: int, source: Any = None) -> Generation:
    """Reads the source and the prompts."""
    batch, length = tokens.shape
    sources = {} if source is None else {"source": source}
    carry = model.start_decoding(batch, length + num_tokens, **sources)
    x, carry = model.features(tokens, carry, lengths)
    last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)  # [B, 1, D]
    logits = model.logits(last)[:, 0].astype(jnp.float32)
    rows = jnp.arange(batch)[:, None]
    real = jnp.arange(length) < lengths[:, None]
    seen = jnp.zeros(logits.shape, bool).at[rows, tokens].max(real)
    new = jnp.full((batch, num_tokens), -1, jnp.int32)
    return Generation(carry, logits, seen, new, jnp.int32(0), jnp.zeros(batch, bool))


@partial(jax.jit, static_argnums=5, donate_argnums=1)
def advance(
    model: Decoder, state: Generation, key: jax.Array, stop: jax.Array, until: int, sampling: Sampling
) -> Generation:
    """Goes on to `until` tokens, or until every row is done."""
    rows = jnp.arange(state.done.shape[0])

    def one(state: Generation) -> Generation:
        carry, logits, seen, new, step, done = state
        # A key for each row and step, so that a row's text does not depend on how many rows there are.
        keys = jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, step), row))(rows)
        token = choose(penalised(logits, seen, sampling.repetition_penalty), keys, sampling)
        new = new.at[:, step].set(jnp.where(done, -1, token))
        done = done | (token[:, None] == stop).any(-1)
        x, carry = model.features(token[:, None], carry)
        logits = model.logits(x)[:, 0].astype(jnp.float32)
        return Generation(carry, logits, seen.at[rows, token].set(True), new, step + 1, done)

    return jax.lax.while_loop(lambda s: (s.step < until) & ~s.done.all(), one, state)
