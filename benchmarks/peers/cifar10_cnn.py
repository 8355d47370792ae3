"""`experiments/cifar10_cnn.py` in PyTorch: the same network, recipe, split, initial distributions and augmentation.

    PYTHON -m benchmarks.peers.cifar10_cnn path/to/cifar10 --seed=0

Batches come from `bigjax.data`, which needs no jax: so the two differ in the framework alone, and in the random numbers
of the initial weights. With --loader=torch they come from a DataLoader with two workers, as a user of PyTorch would
have them, and no image is held out: beside `bigjax train` with `--config.data.holdout=0`.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.peers.loader import Images

if TYPE_CHECKING:
    from bigjax.data.dataset import Batch, Split

MEAN, STD = (0.491, 0.482, 0.447), (0.247, 0.243, 0.262)
BATCH = 32


class CNN(nn.Module):
    """The article's network on 24x24 crops; flax's initial distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.hidden, self.head = nn.Linear(64 * 6 * 6, 128), nn.Linear(128, 10)
        for layer in (self.conv1, self.conv2, self.hidden, self.head):
            fan_in = layer.weight[0].numel()
            # A normal cut off at two standard deviations, rescaled so that the variance is 1 / fan_in.
            std = math.sqrt(1 / fan_in) / 0.87962566103423978
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 3, 24, 24] to [B, 10]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def inputs(batch: "Batch") -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images [B, 3, H, W] in channels-last memory, and labels."""
    image = (torch.from_numpy(batch["image"]).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    return image.permute(0, 3, 1, 2), torch.from_numpy(batch["label"]).long()


def torch_batches(images: Images, batch_size: int) -> Iterator["Batch"]:
    """Batches of an epoch, decoded by two processes."""
    for image, label in DataLoader(images, batch_size, shuffle=images.train, num_workers=2):
        yield {"image": image.numpy(), "label": label.numpy(), "mask": np.ones(len(label), np.float32)}


def eval_batches(split: "Split") -> Iterator["Batch"]:
    """Batches of a whole split."""
    return (split.eval_batch(index, 500, slice(0, 500)) for index in range(split.eval_batches(500)))


@torch.no_grad()
def accuracy(model: nn.Module, batches: Iterable["Batch"]) -> float:
    """Over a whole split."""
    correct = total = 0.0
    for batch in batches:
        image, label = inputs(batch)
        mask = torch.from_numpy(batch["mask"])
        correct += float(((model(image).argmax(1) == label) * mask).sum())
        total += float(mask.sum())
    return correct / total


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--loader", choices=("bigjax", "torch"), default="bigjax")
    options = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    batches: Iterable[Batch]
    held_out: dict[str, Iterable[Batch]]
    if options.loader == "torch":
        images = Images(f"{options.root}/train", crop=24)
        steps = math.ceil(options.epochs * math.ceil(len(images) / BATCH))
        epochs = itertools.chain.from_iterable(torch_batches(images, BATCH) for _ in itertools.count())
        batches = itertools.islice(epochs, steps)
        held_out = {"test": torch_batches(Images(f"{options.root}/test", crop=24, train=False), 500)}
    else:
        from bigjax.data.image_folder import image_folder
        from bigjax.data.loader import prefetched

        data = image_folder(options.root, crop=24, flip=True)
        train = data.splits["train"]
        steps = math.ceil(options.epochs * train.steps_per_epoch(BATCH))
        batches = prefetched(lambda step: train.train_batch(options.seed, step, BATCH, slice(0, BATCH)), 0, steps, 1)
        held_out = {name: eval_batches(data.splits[name]) for name in ("validation", "test")}
    model = CNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for batch in batches:
        image, label = inputs(batch)
        loss = F.cross_entropy(model(image), label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    figures = {name: accuracy(model, given) for name, given in held_out.items()}
    print(json.dumps({"seed": options.seed, **figures, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
