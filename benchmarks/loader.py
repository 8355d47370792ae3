"""How fast the loader alone is, over real sources and made-up folders of images.

python -m benchmarks.loader [--peers=PYTHON]    # one that has torch and pillow: its DataLoader's rows beside ours
python -m benchmarks.loader --photographs       # 500x375 as ImageNet's, decoded at every step; no other source
"""

import argparse
import io
import os
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bigjax.data.dataset import Dataset, Split
from bigjax.data.decoding import Format
from bigjax.data.digits import digits
from bigjax.data.image_folder import image_folder
from bigjax.data.images import DRAWS, Augment
from bigjax.data.loader import prefetched
from bigjax.data.text_files import pydoc

BATCH = 128
SECONDS = 5.0


def rate(split: Split, workers: int) -> tuple[float, float]:
    """Rows of training batches, prefetched as in training: a second, and a second of one core."""
    batches = prefetched(lambda step: split.train_batch(0, step, BATCH, slice(0, BATCH)), 0, 10**9, workers)
    next(batches)
    count, start, busy = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < SECONDS:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - start), count / (time.process_time() - busy)


def photographs(folder: Path, count: int = 128) -> None:
    """JPEG files of 500x375 at quality 90, about as large as ImageNet's: noise of every scale, stronger the coarser."""
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = np.full((375, 500, 3), 128.0)
        for cell in (1, 2, 4, 8, 16, 32, 64, 128):
            noise = rng.normal(0, 15 * cell**0.3, (375 // cell + 2, 500 // cell + 2, 3))
            noise = [Image.fromarray(c.astype(np.float32)).resize((500, 375)) for c in noise.transpose(2, 0, 1)]
            pixels += np.stack(noise, -1)
        path = folder / "train" / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def decoding() -> None:
    """What training on ImageNet asks of the loader, and how many cores feed an accelerator."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs(folder)
        data = [path.read_bytes() for path in folder.glob("train/*/*.jpg")]
        print(f"\n{np.mean([len(d) for d in data]) / 1e3:.0f} kB a file; {os.cpu_count()} cores\n")
        form, augment = Format(256, False, "bilinear"), Augment(crop=224, crop_scale=(0.08, 1.0), flip=True)
        draws = np.random.default_rng(0).random((len(data), DRAWS))
        alone = {
            "decoding": lambda i: Image.open(io.BytesIO(data[i])).load(),
            "random part to 224x224": lambda i: form.decode(data[i], "", partial(augment.part, draws[i]), 224),
            "evaluation, 256x256": lambda i: form.decode(data[i], ""),
        }
        print("| 500x375 JPEG, one core | images/s | cores for 2,500 images/s |\n|---|---|---|")
        for what, function in alone.items():
            start = time.process_time()  # what one core does, whatever else runs on it
            for i in range(len(data)):
                function(i)
            speed = len(data) / (time.process_time() - start)
            print(f"| {what} | {speed:,.0f} | {2500 / speed:.1f} |")
        options = {"cache": False, "image_size": 256, "crop": 224, "crop_scale": (0.08, 1.0), "flip": True}
        print("\n| image_folder, all cores | rows/s, 1 worker | rows/s, 2 workers | a core | cores for 2,500/s |")
        print("|---|---|---|---|---|")
        for what, more in (("random part, flip", {}), ("the same, two of RandAugment", {"randaugment_ops": 2})):
            split = image_folder(name, interpolation="bilinear", **options, **more).splits["train"]
            (one, a_core), (two, _) = (rate(split, workers) for workers in (1, 2))
            print(f"| {what} | {one:,.0f} | {two:,.0f} | {a_core:,.0f} | {2500 / a_core:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", metavar="PYTHON")
    parser.add_argument("--photographs", action="store_true")
    options = parser.parse_args()
    if not options.photographs:
        tables(options.peers)
    decoding()


def tables(peers: str | None) -> None:
    """Rows a second of every source, and PyTorch's of those that it has."""
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for name in ("train/a", "train/b"):
            (Path(folder) / name).mkdir(parents=True)
            for i in range(1000):
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(Path(folder) / name / f"{i}.jpg")
        images = partial(image_folder, folder, padding=4, crop=32, flip=True)
        (Path(folder) / "text").write_bytes(rng.bytes(10**7))
        text = ["windows", f"{folder}/text"]
        sources: dict[str, tuple[Dataset, list[str]]] = {
            "digits, 8x8": (digits(), []),
            "digits, 8x8, padded crop, flip, cutout": (digits(padding=1, flip=True, cutout=2), []),
            "digits, 28x28 to random 24x24": (digits(image_size=28, crop=24), []),
            "pydoc, windows of 128 bytes": (pydoc(), text),
            "pydoc, streams of 64 bytes": (pydoc(context=64, layout="stream"), []),
            "image_folder, 32x32x3, padded crop, flip": (images(), ["images", f"{folder}/train"]),
            "image_folder, the same, decoded at every step": (images(cache=False), ["files", f"{folder}/train"]),
        }
        print("| source | rows/s, 1 worker | rows/s, 2 workers | DataLoader, 2 workers | our better / its |")
        print("|---|---|---|---|---|")
        for name, (dataset, same) in sources.items():
            one, two = (rate(dataset.splits["train"], workers)[0] for workers in (1, 2))
            theirs = "|"
            if peers and same:
                command = [peers, "-m", "benchmarks.peers.loader", *same]
                speed = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                theirs = f"{speed:,.0f} | {max(one, two) / speed:.1f}"
            print(f"| {name} | {one:,.0f} | {two:,.0f} | {theirs} |", flush=True)


if __name__ == "__main__":
    main()
