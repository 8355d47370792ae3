"""What chips can do, from their makers' data sheets."""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bigjax.training.flops import PEAK_BFLOAT16


@dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
      flops: peak dense bfloat16 FLOP/s.
      memory: bytes.
      bandwidth: of its memory, bytes/s.
      links: what it can send to others of its slice, all links together, bytes/s.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float


# Google Cloud's pages on TPU v5e, v5p and v6e (2026-11); they give links in both directions together. Of a v5e's 16 GB
# its compiler leaves 15.75 GiB to a program.
CHIPS = {
    "v5e": Chip(PEAK_BFLOAT16["TPU v5 lite"], 15.75 * 2**30, 819e9, 200e9),
    "v5p": Chip(PEAK_BFLOAT16["TPU v5p"], 95 * 2**30, 2765e9, 600e9),
    "v6e": Chip(PEAK_BFLOAT16["TPU v6 lite"], 32e9, 1638e9, 400e9),
}


def measure_cpu(devices: int) -> Chip:
    """What one of so many CPU devices of this machine can do where all work at once: its share, measured now."""
    n = 1536
    x = jnp.ones((n, n))
    flops = 2 * n**3 / shortest(jax.jit(jnp.matmul), x, x) / devices
    long = jnp.ones(2**25)
    bandwidth = 2 * long.nbytes / shortest(jax.jit(lambda x: x + 1), long) / devices
    return Chip(flops, float("inf"), bandwidth, bandwidth)


def shortest(function: jax.stages.Wrapped, *inputs: jax.Array) -> float:
    """The shortest of five runs, in seconds."""
    jax.block_until_ready(function(*inputs))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        times.append(time.perf_counter() - start)
    return min(times)
