"""PyTorch's DataLoader with two workers, as `benchmarks.loader` asks for it: prints rows a second.

    PYTHON -m benchmarks.peers.loader KIND PATH

KIND is "files", a folder of images that are decoded at every step; "images", the same decoded once; or "windows", a
file of bytes. An image is padded, cut to its size and perhaps flipped; a window is 128 bytes and the one after.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

BATCH, WORKERS, SECONDS, WINDOW = 128, 2, 5.0, 128


class Images(Dataset[tuple[torch.Tensor, int]]):
    """A folder with one of images for each class.

    Args:
      padding: around an image, of which a part is then taken.
      crop: the side of that part; None is the image's own.
      decoded: all images are held in memory.
      train: the part is a random one, and perhaps flipped; else it is the middle.
    """

    def __init__(
        self, root: str, padding: int = 0, crop: int | None = None, *, decoded: bool = False, train: bool = True
    ) -> None:
        self.files = sorted(Path(root).glob("*/*.*"))
        names = sorted({path.parent.name for path in self.files})
        self.labels = [names.index(path.parent.name) for path in self.files]
        self.padding, self.crop, self.train = padding, crop, train
        self.decoded = [self.pixels(i) for i in range(len(self.files))] if decoded else None

    def pixels(self, i: int) -> np.ndarray:
        """Of one file, [H, W, 3]."""
        return np.array(Image.open(self.files[i]).convert("RGB"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = torch.from_numpy(self.pixels(i) if self.decoded is None else self.decoded[i])
        side = self.crop or image.shape[0]
        image = torch.nn.functional.pad(image, (0, 0, *(self.padding,) * 4))
        free = image.shape[0] - side, image.shape[1] - side
        top, left, flip = free[0] // 2, free[1] // 2, 0
        if self.train:
            top, left, flip = (int(torch.randint(n + 1, ())) for n in (*free, 1))
        image = image[top : top + side, left : left + side]
        return image.flip(1) if flip else image, self.labels[i]


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Inputs and targets from a memory-mapped file."""

    def __init__(self, path: str) -> None:
        self.bytes = np.memmap(path, np.uint8, "r")

    def __len__(self) -> int:
        return (len(self.bytes) - 1) // WINDOW

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        window = torch.from_numpy(self.bytes[i * WINDOW : (i + 1) * WINDOW + 1].astype(np.int64))
        return window[:-1], window[1:]


def main() -> None:
    kind, path = sys.argv[1:]
    data = Windows(path) if kind == "windows" else Images(path, padding=4, decoded=kind == "images")
    sampler = RandomSampler(data, replacement=True, num_samples=10**8)
    batches = iter(DataLoader(data, BATCH, sampler=sampler, num_workers=WORKERS))
    next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        next(batches)
        count += BATCH
    print(count / (time.perf_counter() - start))


if __name__ == "__main__":
    main()
