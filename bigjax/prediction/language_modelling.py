"""How likely a text is, and what comes next."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.errors import UserError
from bigjax.inference.text import decode, encode
from bigjax.prediction.predictor import Answer, Predictor, ranked


@jax.jit
def compiled(model: nnx.Module, tokens: jax.Array) -> jax.Array:
    """`model(tokens)`, the logits alone."""
    return model(tokens)[0]


class NextTokenPredictor(Predictor):
    """The likeliest next tokens after a text, and the text's own perplexity, the first token being given."""

    fields = ("text",)

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        return [self.one(example["text"]) for example in inputs]

    def one(self, text: str) -> Answer:
        """The answer to one text."""
        tokens = encode(self.run, text)
        context = getattr(self.run.model, "context", math.inf)
        if len(tokens) > context:
            raise UserError(f"{text[:30]!r}... has {len(tokens)} tokens, but the model's context is {context}.")
        width = int(min(context, -(-len(tokens) // 64) * 64))  # few widths, for each is compiled
        padded = np.pad(np.array(tokens, np.int32), (0, width - len(tokens)))[None]
        logits = compiled(self.run.model, padded)[0, : len(tokens)]
        chances = np.asarray(jax.nn.log_softmax(logits.astype(jnp.float32)))
        best = np.argsort(-chances[-1], kind="stable")[:5]
        answer = ranked(np.exp(chances[-1, best]), [decode(self.run, [int(token)], tokens) for token in best])
        given = chances[np.arange(len(tokens) - 1), tokens[1:]]
        return answer | {"perplexity": float(np.exp(-given.mean())) if len(given) else None}
