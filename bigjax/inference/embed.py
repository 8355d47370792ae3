"""Sentences as vectors: the mean of what an encoder makes of their tokens (Reimers & Gurevych 2019)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from bigjax.errors import UserError
from bigjax.models.bert import BERT
from bigjax.pretrained.load import Pretrained

ROUND = 16  # lengths are padded to a multiple of it, so that few shapes are compiled


def embed(pretrained: Pretrained, sentences: Sequence[str], *, batch_size: int = 32) -> np.ndarray:
    """Vectors whose inner products are the sentences' cosine similarities.

    Args:
      pretrained: an encoder with its tokenizer, such as a sentence-transformers checkpoint that averages tokens.
      sentences: texts; what is beyond the encoder's context is cut off.
      batch_size: how many go through the encoder at once.

    Returns:
      float32 [N, D], each row of length 1.

    Raises:
      UserError: the checkpoint has no tokenizer.
    """
    if pretrained.tokenizer is None:
        raise UserError("Sentences need a tokenizer, and the checkpoint has none: tokenizer.json or vocab.txt.")
    context = pretrained.config["context"]
    tokenizer = Tokenizer.from_str(pretrained.tokenizer.to_str())  # a copy, for the next lines change it
    tokenizer.no_padding()
    tokenizer.enable_truncation(context)
    rows = [encoding.ids for encoding in tokenizer.encode_batch(list(sentences))]
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    vectors = np.zeros((len(rows), pretrained.config["d_model"]), np.float32)
    for start in range(0, len(rows), batch_size):
        chosen = by_length[start : start + batch_size]
        length = min(-(-len(rows[chosen[-1]]) // ROUND) * ROUND, context)
        tokens = np.zeros((batch_size, length), np.int32)
        lengths = np.zeros(batch_size, np.int32)
        for row, i in enumerate(chosen):
            tokens[row, : len(rows[i])] = rows[i]
            lengths[row] = len(rows[i])
        vectors[chosen] = mean_of_tokens(pretrained.model, tokens, lengths)[: len(chosen)]
    return vectors


@jax.jit
def mean_of_tokens(model: BERT, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """The mean of each row's first `lengths` features, scaled to length 1: [B, T] to float32 [B, D]."""
    mask = jnp.arange(tokens.shape[1]) < lengths[:, None]
    x = model.features(tokens, mask).astype(jnp.float32)
    total = (x * mask[..., None]).sum(1)  # the mean's direction
    return total / jnp.maximum(jnp.linalg.norm(total, axis=-1, keepdims=True), 1e-12)
