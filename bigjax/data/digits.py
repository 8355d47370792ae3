"""1,797 handwritten digits of 8x8 pixels, which scikit-learn carries (UCI, Alpaydin & Kaynak 1998)."""

import numpy as np
from PIL import Image

from bigjax.data.dataset import Dataset
from bigjax.data.images import Augment, image_dataset, in_memory
from bigjax.errors import UserError


def digits(
    image_size: int = 8, crop: int | None = None, padding: int = 0, flip: bool = False, cutout: int = 0
) -> Dataset:
    """The digits as uint8 [S, S, 1], in a fixed order: 1,257 to train on, 180 for validation, 360 for test.

    Args:
      image_size: side that the images are enlarged to, bilinearly, S.
      crop, padding, flip, cutout: see `Augment`.
    """
    if image_size < 1:
        raise UserError(f"config.data.image_size must be positive, not {image_size}.")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    size = (image_size, image_size)
    pixels = np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BILINEAR)) for p in pixels])[
        ..., None
    ]
    order = np.random.RandomState(0).permutation(len(pixels))  # the same for every run, whatever its seed
    parts = {"train": order[:1257], "validation": order[1257:1437], "test": order[1437:]}
    splits = {name: in_memory(pixels[part], bunch.target[part]) for name, part in parts.items()}
    return image_dataset(splits, [str(d) for d in range(10)], Augment(crop, padding, flip, cutout), "digits")
