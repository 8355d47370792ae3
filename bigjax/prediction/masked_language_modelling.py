"""What stands behind the masks in a text."""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.errors import UserError
from bigjax.prediction.predictor import Answer, Predictor, ranked


@jax.jit
def compiled(model: nnx.Module, tokens: jax.Array, real: jax.Array) -> jax.Array:
    """`model(tokens, real)`."""
    return model(tokens, real)


class FillMaskPredictor(Predictor):
    """The five likeliest tokens for each mask in a text, such as "The capital of [MASK]", each mask on its own."""

    fields = ("text",)

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        return [self.one(example["text"]) for example in inputs]

    def one(self, text: str) -> Answer:
        """The answer to one text: the likeliest tokens, and of each mask the next ones.

        `masks` has them by mask.
        """
        tokenizer, mask, context = self.tokenizer, self.run.info["mask_token"], self.run.info["context"]
        tokens = np.array(tokenizer.encode(text).ids, np.int32)
        places = np.flatnonzero(tokens == tokenizer.token_to_id(mask))
        if not len(places):
            raise UserError(f"{text[:30]!r} has no {mask} to fill.")
        if len(tokens) > context:
            raise UserError(f"{text[:30]!r}... has {len(tokens)} tokens, but the run's context is {context}.")
        width = min(context, -(-len(tokens) // 64) * 64)  # few widths, for each is compiled
        padded = np.pad(tokens, (0, width - len(tokens)))[None]
        logits = compiled(self.run.model, padded, np.arange(width)[None] < len(tokens))
        chances = np.asarray(jax.nn.softmax(logits[0, places].astype(jnp.float32)))  # [masks, V]
        best = np.argsort(-chances, axis=1, kind="stable")[:, :5]
        masks = [
            ranked(chance[order], [tokenizer.decode([int(token)], skip_special_tokens=False) for token in order])
            for chance, order in zip(chances, best, strict=True)
        ]
        if len(masks) == 1:
            return masks[0] | {"masks": masks}
        alternatives = [
            other | {"answer": f"{number}: {other['answer']}"}
            for number, answer in enumerate(masks, 1)
            for other in answer["alternatives"]
        ]
        return {
            "answer": ", ".join(answer["answer"] for answer in masks),
            "probability": math.prod(answer["probability"] for answer in masks),
            "alternatives": alternatives,
            "masks": masks,
        }
