"""RandAugment: some operations, chosen at random for each image, all of the same magnitude (Cubuk et al. 2020)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps


def grey(image: Image.Image) -> dict[str, Any]:
    """How Pillow is told to interpolate, and to fill with grey what comes in from outside the image."""
    return {"resample": Image.Resampling.BILINEAR, "fillcolor": 128 if image.mode == "L" else (128,) * 3}


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    """The image that has at (x, y) what `image` has at (ax + by + c, dx + ey + f), for a matrix a to f."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, **grey(image))


# Each takes an image and a level, -1 to 1 at magnitude 10, at which it does as much as AutoAugment's strongest (Cubuk
# et al. 2019, table 6). What has no direction takes the level's size alone.
OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, level: image,
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),
    "equalize": lambda image, level: ImageOps.equalize(image),
    "rotate": lambda image, level: image.rotate(30 * level, **grey(image)),
    "solarize": lambda image, level: ImageOps.solarize(image, round(256 * (1 - min(1, abs(level))))),
    "color": lambda image, level: ImageEnhance.Color(image).enhance(max(0, 1 + 0.9 * level)),
    "posterize": lambda image, level: ImageOps.posterize(image, max(1, 8 - round(4 * abs(level)))),
    "contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(max(0, 1 + 0.9 * level)),
    "brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(max(0, 1 + 0.9 * level)),
    "sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(max(0, 1 + 0.9 * level)),
    "shear_x": lambda image, level: affine(image, 1, 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level: affine(image, 1, 0, 0, 0.3 * level, 1, 0),
    "translate_x": lambda image, level: affine(image, 1, 0, image.width * 150 / 331 * level, 0, 1, 0),
    "translate_y": lambda image, level: affine(image, 1, 0, 0, 0, 1, image.height * 150 / 331 * level),
}


def rand_augment(pixels: np.ndarray, draws: np.ndarray, magnitude: float) -> np.ndarray:
    """An image changed by one operation after the other.

    The operations are the paper's 14. The magnitude is in AutoAugment's units, as in the paper's own code: 10 is its
    strongest, and beyond that geometry goes on linearly.

    Args:
      pixels: uint8 [H, W, C], C 1 or 3.
      draws: random numbers in 0..1 that choose each operation and its direction, float64 [operations, 2].
    """
    operations = list(OPERATIONS.values())
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    for which, direction in draws:
        image = operations[int(which * len(operations))](image, (magnitude if direction < 0.5 else -magnitude) / 10)
    return np.asarray(image).reshape(pixels.shape)
