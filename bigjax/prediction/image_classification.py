"""Which class an image shows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from bigjax.data.decoding import Format
from bigjax.data.image_folder import SUFFIXES
from bigjax.data.images import Augment
from bigjax.errors import UserError
from bigjax.prediction.predictor import Answer, Predictor, ranked
from bigjax.tasks import ImageClassification
from bigjax.training.setup import arguments


class ImagePredictor(Predictor):
    """Reads an image as evaluation does, by the run's own `config.data`."""

    fields = ("image",)
    suffixes = SUFFIXES

    def __call__(self, inputs: Sequence[Mapping[str, str]]) -> list[Answer]:
        images = np.stack([self.read(example["image"]) for example in inputs])
        task = ImageClassification(**arguments(self.run.config["task"]))
        logits = jax.jit(lambda model, image: task.logits(model, task.normalise(image)))(self.run.model, images)
        chances = np.asarray(jax.nn.softmax(logits))
        return [ranked(chance, self.run.info["class_names"]) for chance in chances]

    def read(self, path: str) -> np.ndarray:
        """Pixels uint8 [H, W, C] of one file."""
        data, shape = self.run.config["data"], tuple(self.run.info["image_shape"])
        try:
            encoded = Path(path).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"{path!r} cannot be read: {error.strerror}.") from error
        # `digits` alone has no such key, and enlarges bilinearly.
        form = Format(data.get("image_size"), shape[-1] == 1, data.get("interpolation", "bilinear"))
        pixels = Augment(data.get("crop")).evaluate(form.decode(encoded, repr(path))[None])[0]
        if pixels.shape != shape:
            raise UserError(
                f"{path!r} is {pixels.shape[0]}x{pixels.shape[1]}, but the model takes {shape[0]}x{shape[1]}."
            )
        return pixels
