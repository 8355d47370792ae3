"""What is said in a recording."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.data.audio import SUFFIXES, read_audio
from bigjax.data.labels import labels_of
from bigjax.data.speech import padded, part
from bigjax.data.speech_features import LogMel
from bigjax.errors import UserError
from bigjax.inference.ctc import log_probability, prefix_beam_search
from bigjax.prediction.predictor import Answer, Predictor

BEAMS = 8
MULTIPLE = 64  # of which the frames of a batch are padded to one, for each is compiled


class SpeechPredictor(Predictor):
    """The likeliest transcripts of recordings of any sample rate.

    They are those of a beam search, whatever evaluation does; the probability of each is that of its labels by CTC,
    summed over all alignments.
    """

    fields = ("audio",)
    suffixes = SUFFIXES

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        features = [self.read(example["audio"]) for example in inputs]
        lengths = np.array([len(some) for some in features], np.int32)
        batch = padded(features, -(-int(lengths.max()) // MULTIPLE) * MULTIPLE)
        log_probs, lengths = jax.device_get(scores(self.run.model, batch, lengths))
        return [self.transcripts(row[:length]) for row, length in zip(log_probs, lengths, strict=True)]

    def read(self, path: str) -> np.ndarray:
        """The features of one file, float32 [T, M], as evaluation has them."""
        log_mel = part(LogMel, self.run.config["data"])
        try:
            return log_mel.normalised(read_audio(path, log_mel.sample_rate))
        except ValueError as error:
            raise UserError(f"{path!r}: {error}.") from error

    def transcripts(self, log_probs: np.ndarray) -> Answer:
        """The answer to one recording, from float32 [T, V]."""
        coder = labels_of(self.run.info, self.run.tokenizer)
        beams = max(BEAMS, self.run.config["task"]["beams"])
        found = [(labels, log_probability(log_probs, labels)) for labels, _ in prefix_beam_search(log_probs, beams)]
        found.sort(key=lambda one: -one[1])
        answers = [{"answer": coder.decode(labels), "probability": float(np.exp(chance))} for labels, chance in found]
        return {**answers[0], "alternatives": answers[1:5]}


@jax.jit
def scores(model: nnx.Module, features: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the labels, float32 [B, T, V], and how many positions of each row are real, int32 [B]."""
    logits, lengths = model(features, lengths)
    return jax.nn.log_softmax(logits.astype(jnp.float32)), lengths
