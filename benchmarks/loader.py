"""How fast the loader alone is, over real sources and a made-up folder of 32x32 images.

python -m benchmarks.loader
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bigjax.data.dataset import Split
from bigjax.data.digits import digits
from bigjax.data.image_folder import image_folder
from bigjax.data.loader import prefetched
from bigjax.data.text_files import pydoc

BATCH = 128
SECONDS = 5.0


def rate(split: Split, workers: int) -> float:
    """Rows per second of training batches, prefetched as in training."""
    batches = prefetched(lambda step: split.train_batch(0, step, BATCH, slice(0, BATCH)), 0, 10**9, workers)
    next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start)


def main() -> None:
    sources = {
        "digits, 8x8": digits(),
        "digits, 8x8, padded crop, flip, cutout": digits(padding=1, flip=True, cutout=2),
        "digits, 28x28 to random 24x24": digits(image_size=28, crop=24),
        "pydoc, windows of 128 bytes": pydoc(),
        "pydoc, streams of 64 bytes": pydoc(context=64, layout="stream"),
    }
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for name in ("train/a", "train/b"):
            (Path(folder) / name).mkdir(parents=True)
            for i in range(1000):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(Path(folder) / name / f"{i}.jpg")
        sources["image_folder, 32x32x3, padded crop, flip"] = image_folder(folder, padding=4, crop=32, flip=True)
        sources["image_folder, the same, decoded at every step"] = image_folder(
            folder, padding=4, crop=32, flip=True, cache=False
        )
        print("| source | rows/s, 1 worker | rows/s, 2 workers |")
        print("|---|---|---|")
        for name, dataset in sources.items():
            print(f"| {name} | {rate(dataset.splits['train'], 1):,.0f} | {rate(dataset.splits['train'], 2):,.0f} |")


if __name__ == "__main__":
    main()
