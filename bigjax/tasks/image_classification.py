"""Image classification: which of the classes does an image show."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bigjax.tasks.task import Batch, Sums, Task


@dataclass(frozen=True)
class ImageClassification(Task):
    """Cross-entropy over classes. The batch: `image` uint8 [B, H, W, C], `label` int32 [B], `mask` float32 [B].

    Attributes:
      mean, std: per channel (or one for all), of pixels in 0..1; images are normalised with them.
      label_smoothing: the share of the target's probability spread over all classes (Szegedy et al. 2016, section 7).
      mixup: alpha of the Beta(alpha, alpha) that mixes pairs of images and labels (Zhang et al. 2018); 0 is off.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    label_smoothing: float = 0.0
    mixup: float = 0.0

    unit: ClassVar[str] = "images"
    main_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        if self.mixup < 0:
            raise ValueError(f"mixup must be 0 (off) or positive, not {self.mixup}")
        if min(self.std, default=0) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        channels = info["image_shape"][-1]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{name} has {len(values)} values, but the images have {channels} channels")
        return {"num_classes": info["num_classes"], "image_shape": info["image_shape"]}

    def check_model(self, model: nnx.Module) -> None:
        if "image_shape" not in inspect.signature(type(model).__init__).parameters:
            raise ValueError(f"a {type(model).__name__} is no model of images, for it takes no image_shape")

    def normalise(self, image: jax.Array) -> jax.Array:
        """uint8 [B, H, W, C] to float32 of about zero mean and unit variance."""
        return (image.astype(jnp.float32) / 255 - jnp.array(self.mean)) / jnp.array(self.std)

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        image = self.normalise(batch["image"])
        share = jnp.float32(1)
        if train and rngs is not None and self.mixup:
            share = jax.random.beta(rngs.augment(), self.mixup, self.mixup)
            image = share * image + (1 - share) * image[::-1]
        logits = model(image, train=train, rngs=rngs).astype(jnp.float32)

        def cross_entropy(label: jax.Array) -> jax.Array:
            target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), self.label_smoothing if train else 0)
            return optax.softmax_cross_entropy(logits, target)

        losses = cross_entropy(batch["label"])
        if train and self.mixup:
            losses = share * losses + (1 - share) * cross_entropy(batch["label"][::-1])
        correct = logits.argmax(-1) == batch["label"]
        mask = batch["mask"]
        return {"loss": (losses * mask).sum(), "correct": (correct * mask).sum(), "weight": mask.sum()}, None

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["weight"], "accuracy": sums["correct"] / sums["weight"]}

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """48 images with their predictions (mistakes first, then in order), and the split's confusion matrix."""
        predict = jax.jit(lambda model, image: jax.nn.softmax(model(self.normalise(image)).astype(jnp.float32)))
        images, labels, chances = [], [], []
        for batch in batches:
            real = np.asarray(batch["mask"]) > 0
            images.append(np.asarray(batch["image"])[real])
            labels.append(np.asarray(batch["label"])[real])
            chances.append(np.asarray(predict(model, batch["image"]))[real])
        label, chance = np.concatenate(labels), np.concatenate(chances)
        prediction = chance.argmax(-1)
        confusion = np.zeros((info["num_classes"],) * 2, int)
        np.add.at(confusion, (label, prediction), 1)
        shown = np.argsort(prediction == label, kind="stable")[:48]
        return {
            "kind": "images",
            "images": np.concatenate(images)[shown],
            "labels": label[shown],
            "predictions": prediction[shown],
            "probabilities": chance.max(-1)[shown],
            "class_names": info["class_names"],
            "confusion": confusion,
        }
