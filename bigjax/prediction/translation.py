"""What a text is in the other language."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from bigjax.data.pairs import encode
from bigjax.inference.beam import LOW, search
from bigjax.models.encoder_decoder import Source
from bigjax.prediction.predictor import Answer, Predictor
from bigjax.tasks import Translation
from bigjax.training.setup import arguments

BEAMS = 4  # as many as the paper's; a run's task may have more


class TranslationPredictor(Predictor):
    """The likeliest translation that a beam search finds, and the next ones, in the order of the task's score.

    `probability` is that of the whole translation: exp of its tokens' summed log probabilities. It is small for a long
    text, however sure the model is; `token_probability` is its geometric mean over the tokens.
    """

    fields = ("text",)

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        run, task = self.run, Translation(**arguments(self.run.config["task"]))
        texts = [one["text"].strip() for one in inputs]  # as the data read them
        rows = [[*tokens, run.info["end"]] for tokens in encode(self.tokenizer, texts)]
        width = -(-max(map(len, rows)) // 32) * 32  # few widths, for each is compiled
        source = np.zeros((len(rows), width), np.int32)
        mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
        source[mask] = np.concatenate(rows)
        prompts, ends = jnp.full((len(rows), 1), run.info["begin"], jnp.int32), jnp.array([run.info["end"]], jnp.int32)
        lengths, beams = jnp.ones(len(rows), jnp.int32), max(BEAMS, task.num_beams)
        found, scores = search(
            run.model,
            prompts,
            lengths,
            ends,
            task.max_new_tokens,
            beams,
            task.penalty,
            Source(jnp.asarray(source), jnp.asarray(mask)),
        )
        length = (found >= 0).sum(-1)  # [R, K]
        chances = np.asarray(scores * task.penalty(length.astype(jnp.float32)))
        answers = []
        for row, of_row, tokens in zip(np.asarray(found), chances, np.asarray(length), strict=True):
            told = [
                {
                    "answer": self.tokenizer.decode(text[text >= 0].tolist()),
                    "probability": float(np.exp(chance)),
                    "token_probability": float(np.exp(chance / count)),
                }
                for text, chance, count in zip(row, of_row, tokens, strict=True)
                if count and chance > LOW / 2
            ]
            answers.append({**told[0], "alternatives": told[1:]})
        return answers
