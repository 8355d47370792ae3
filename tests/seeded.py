"""Weights that follow from their names and shapes, so that fixtures need not store them."""

import zlib

import numpy as np


def seeded_weights(shapes):
    """Arrays by name, with PyTorch's names and layouts: sizes that keep activations near one, statistics that matter.

    `RandomState` and not `default_rng`: its stream is frozen for good.
    """
    weights = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            weights[name] = np.array(7)
        elif len(shape) > 1:
            weights[name] = (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(np.float32)
        elif name.endswith("running_var"):
            weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif name.endswith("weight"):  # of BatchNorm
            weights[name] = rng.uniform(0.4, 1.0, shape).astype(np.float32)
        else:
            weights[name] = (0.1 * rng.standard_normal(shape)).astype(np.float32)
    return weights


def seeded_image(shape, batch=2):
    """Images [batch, *shape] of normal pixels."""
    return np.random.RandomState(0).standard_normal((batch, *shape)).astype(np.float32)
