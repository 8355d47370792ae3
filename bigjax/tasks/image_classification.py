"""Image classification: which of the classes does an image show."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
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
      cutmix: alpha of the Beta(alpha, alpha) that says how large a rectangle of each image comes from another, whose
        label gets the rectangle's share (Yun et al. 2019); 0 is off. With mixup too, each batch has one of them.
      mirror: outside training, logits are the mean of an image's and of its mirror image's, at twice the cost.
    """

    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mirror: bool = False

    unit: ClassVar[str] = "images"
    main_metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (off) or positive, not {getattr(self, name)}")
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

    def logits(
        self, model: nnx.Module, image: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Float32 [B, K] for normalised images [B, H, W, C]."""
        logits = model(image, train=train, rngs=rngs).astype(jnp.float32)
        if self.mirror and not train:
            logits = (logits + model(image[:, :, ::-1], train=False).astype(jnp.float32)) / 2
        return logits

    def mixing(self, height: int, width: int, rngs: nnx.Rngs) -> tuple[jax.Array, jax.Array]:
        """How much of each pixel is an image's own, [] or [H, W, 1], and how much of the label, []; one for a batch."""
        pairs = []
        if self.mixup:
            share = jax.random.beta(rngs.augment(), self.mixup, self.mixup)
            pairs.append((share, share))
        if self.cutmix:
            side = jnp.sqrt(1 - jax.random.beta(rngs.augment(), self.cutmix, self.cutmix))
            middle = jax.random.uniform(rngs.augment(), (2,))

            def inside(length: int, middle: jax.Array) -> jax.Array:  # the rectangle may hang over the edge
                return abs(jnp.arange(length) + 0.5 - middle * length) < side * length / 2

            own = 1.0 - (inside(height, middle[0])[:, None] & inside(width, middle[1]))
            pairs.append((own[:, :, None], own.mean()))
        if len(pairs) == 1:
            return pairs[0]
        first = jax.random.bernoulli(rngs.augment())
        return jax.tree.map(partial(jnp.where, first), *pairs)

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        image = self.normalise(batch["image"])
        share = None
        if train and rngs is not None and (self.mixup or self.cutmix):
            own, share = self.mixing(image.shape[1], image.shape[2], rngs)
            image = own * image + (1 - own) * image[::-1]
        logits = self.logits(model, image, train=train, rngs=rngs)

        def cross_entropy(label: jax.Array) -> jax.Array:
            target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), self.label_smoothing if train else 0)
            return optax.softmax_cross_entropy(logits, target)

        losses = cross_entropy(batch["label"])
        if share is not None:
            losses = share * losses + (1 - share) * cross_entropy(batch["label"][::-1])
        correct = logits.argmax(-1) == batch["label"]
        mask = batch["mask"]
        return {"loss": (losses * mask).sum(), "correct": (correct * mask).sum(), "weight": mask.sum()}, None

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sums["loss"] / sums["weight"], "accuracy": sums["correct"] / sums["weight"]}

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """48 images with their predictions (mistakes first, then in order), and the split's confusion matrix."""
        predict = jax.jit(lambda model, image: jax.nn.softmax(self.logits(model, self.normalise(image))))
        confusion = np.zeros((info["num_classes"],) * 2, int)
        kept: list[tuple[Any, ...]] = []  # of large images not more than are shown
        for batch in batches:
            chance, label = np.asarray(predict(model, batch["image"])), np.asarray(batch["label"])
            prediction, real = chance.argmax(-1), np.asarray(batch["mask"]) > 0
            np.add.at(confusion, (label[real], prediction[real]), 1)
            image = np.asarray(batch["image"])
            kept += [(image[i].copy(), label[i], prediction[i], chance[i].max()) for i in np.flatnonzero(real)]
            kept = sorted(kept, key=lambda row: bool(row[1] == row[2]))[:48]
        images, labels, predictions, probabilities = (np.stack(column) for column in zip(*kept, strict=True))
        return {
            "kind": "images",
            "images": images,
            "labels": labels,
            "predictions": predictions,
            "probabilities": probabilities,
            "class_names": info["class_names"],
            "confusion": confusion,
        }
