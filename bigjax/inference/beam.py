"""Beam search: the likeliest continuations, several kept at a time."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.inference.generate import Decoder, begin, padded

LOW = -1.0e9


class Beams(NamedTuple):
    """Where the search is; R prompts with K beams each, of N new tokens at most."""

    carry: Any  # of R * K rows
    logits: jax.Array  # float32 [R, K, V], of the next token
    tokens: jax.Array  # int32 [R, K, N], beams that go on
    scores: jax.Array  # float32 [R, K], their summed log probabilities
    ended: jax.Array  # int32 [R, K, N], the best that ended in a stop token, -1 after it
    ended_scores: jax.Array  # float32 [R, K], after the length penalty
    open: jax.Array  # bool [R], whether a text that goes on could still beat one that ended
    step: jax.Array  # int32 []


def beam_search(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    num_beams: int,
    *,
    source: Any = None,
    stop: Sequence[int] = (),
    length_penalty: float = 1.0,
    length_offset: float = 0.0,
) -> list[list[int]]:
    """The likeliest continuation that a search with `num_beams` finds for each prompt.

    A text's score is its summed log probability over ((offset + N) / (offset + 1)) ** `length_penalty`, N being its
    number of new tokens. The search ends at `num_tokens`, or when no text that goes on could still beat the worst of
    `num_beams` that ended.

    Args:
      model: what generates.
      prompts: token ids, of any lengths but not empty.
      num_tokens: how many new tokens at most.
      num_beams: K, at least 1.
      source: what an encoder-decoder reads, as its `start_decoding` takes it, a row for each prompt; None for others.
      stop: tokens that end a text.
      length_penalty: 0 is none; the larger, the longer the texts.
      length_offset: 0 as Hugging Face has it; 5 as Wu et al. 2016 (equation 14) and Vaswani et al. 2017.

    Returns:
      The new tokens of each prompt, a stop token included.

    Raises:
      ValueError: a prompt is empty, `num_beams` is not positive, or prompt and new tokens do not fit the model.
    """
    if num_beams < 1:
        raise ValueError(f"num_beams must be positive, not {num_beams}")
    tokens, lengths = padded(prompts)
    ends, penalty = jnp.array(stop, jnp.int32), LengthPenalty(length_penalty, length_offset)
    texts, _ = search(model, tokens, lengths, ends, num_tokens, num_beams, penalty, source)
    return [[int(token) for token in row if token >= 0] for row in np.asarray(texts[:, 0])]


class LengthPenalty(NamedTuple):
    """What a summed log probability is divided by: see `beam_search`."""

    power: float = 1.0
    offset: float = 0.0

    def __call__(self, length: jax.Array) -> jax.Array:
        """Of `length` new tokens."""
        return ((self.offset + length) / (self.offset + 1)) ** self.power


@partial(jax.jit, static_argnums=(4, 5, 6))
def search(
    model: Decoder,
    prompts: jax.Array,
    lengths: jax.Array,
    stop: jax.Array,
    num_tokens: int,
    num_beams: int,
    penalty: LengthPenalty,
    source: Any,
) -> tuple[jax.Array, jax.Array]:
    """The best texts of each prompt, the best first.

    Returns:
      Their new tokens, int32 [R, K, N], -1 after a stop token, and their scores, float32 [R, K]; where fewer than K
      ended, the rest have scores of `LOW` or so.
    """
    rows, beams = prompts.shape[0], num_beams
    first = begin(model, prompts, lengths, num_tokens, source)
    vocab = first.logits.shape[-1]
    none = jnp.full((rows, beams, num_tokens), -1, jnp.int32)
    state = Beams(
        carry=jax.tree.map(lambda x: jnp.repeat(x, beams, axis=0), first.carry),
        logits=jnp.repeat(first.logits[:, None], beams, axis=1),
        tokens=none,
        scores=jnp.tile(jnp.array([0.0] + [LOW] * (beams - 1)), (rows, 1)),  # all beams are the same at first
        ended=none,
        ended_scores=jnp.full((rows, beams), LOW),
        open=jnp.ones(rows, bool),
        step=jnp.int32(0),
    )

    def one(state: Beams) -> Beams:
        scores = state.scores[..., None] + jax.nn.log_softmax(state.logits, -1)  # [R, K, V]
        # Twice as many as there are beams: should all of the first K end, as many still go on.
        keep = beams * max(2, 1 + stop.shape[0])
        scores, index = jax.lax.top_k(scores.reshape(rows, beams * vocab), keep)
        beam, token = index // vocab, (index % vocab).astype(jnp.int32)
        texts = jnp.take_along_axis(state.tokens, beam[..., None], axis=1).at[:, :, state.step].set(token)
        ends = (token[..., None] == stop).any(-1)

        going, chosen = jax.lax.top_k(jnp.where(ends, scores + LOW, scores), beams)
        length = penalty((state.step + 1).astype(jnp.float32))
        # A text may end only from among the first K, as one that goes on must be.
        may_end = ends & (jnp.arange(keep) < beams) & state.open[:, None]
        all_scores = jnp.concatenate([state.ended_scores, jnp.where(may_end, scores / length, LOW)], 1)
        all_texts = jnp.concatenate([state.ended, texts], 1)
        ended_scores, best = jax.lax.top_k(all_scores, beams)

        source = jnp.take_along_axis(beam, chosen, 1)
        rows_of = (jnp.arange(rows)[:, None] * beams + source).reshape(-1)
        carry = jax.tree.map(lambda x: x[rows_of], state.carry)
        last = jnp.take_along_axis(token, chosen, 1)
        x, carry = model.features(last.reshape(-1, 1), carry)
        return Beams(
            carry=carry,
            logits=model.logits(x)[:, 0].astype(jnp.float32).reshape(rows, beams, vocab),
            tokens=jnp.take_along_axis(texts, chosen[..., None], 1),
            scores=going,
            ended=jnp.take_along_axis(all_texts, best[..., None], 1),
            ended_scores=ended_scores,
            open=state.open & (going[:, 0] / length > ended_scores.min(-1)),
            step=state.step + 1,
        )

    state = jax.lax.while_loop(lambda s: (s.step < num_tokens) & s.open.any(), one, state)
    unfinished = jnp.where(state.open[:, None], state.scores / penalty(jnp.float32(num_tokens)), LOW)
    scores, best = jax.lax.top_k(jnp.concatenate([state.ended_scores, unfinished], 1), beams)
    texts = jnp.concatenate([state.ended, state.tokens], 1)
    return jnp.take_along_axis(texts, best[..., None], 1), scores
