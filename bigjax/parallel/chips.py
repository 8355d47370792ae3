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
      links: what it can send to others of its slice (of TPUs) or host (of GPUs), all links together, bytes/s.
      network: its share of what its slice or host can send to others, bytes/s.
    """

    flops: float
    memory: float
    bandwidth: float
    links: float
    network: float


# TPUs: Google Cloud's pages on v5e, v5p and v6e (2026-11), which give links in both directions together, and of v5e and
# v6e the network of a pod of 256. Of a v5e's 16 GB its compiler leaves 15.75 GiB to a program.
# GPUs: NVIDIA's data sheets of H100 and H200 (SXM), and of DGX B200, which give NVLink in both directions together; its
# user guides of DGX H100, H200 and B200 have one 400 Gbit/s InfiniBand port for each GPU.
CHIPS = {
    "v5e": Chip(PEAK_BFLOAT16["TPU v5 lite"], 15.75 * 2**30, 819e9, 200e9, 6.4e12 / 8 / 256),
    "v5p": Chip(PEAK_BFLOAT16["TPU v5p"], 95 * 2**30, 2765e9, 600e9, 50e9 / 8),
    "v6e": Chip(PEAK_BFLOAT16["TPU v6 lite"], 32e9, 1638e9, 400e9, 25.6e12 / 8 / 256),
    "h100": Chip(PEAK_BFLOAT16["NVIDIA H100"], 80e9, 3.35e12, 450e9, 50e9),
    "h200": Chip(PEAK_BFLOAT16["NVIDIA H200"], 141e9, 4.8e12, 450e9, 50e9),
    "b200": Chip(PEAK_BFLOAT16["NVIDIA B200"], 180e9, 8e12, 900e9, 50e9),
}


@dataclass(frozen=True)
class Gpu:
    """What the compiler must know of a GPU: name, compute capability, multiprocessors, GHz, and bytes of L2 cache."""

    name: str
    capability: int
    cores: int
    clock: float
    cache: int


# NVIDIA's white papers on Hopper and Blackwell; a multiprocessor is alike in both (CUDA programming guide, "compute
# capabilities").
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 1.98, 50 * 2**20),
    "h200": Gpu("NVIDIA H200", 9, 132, 1.98, 50 * 2**20),
    "b200": Gpu("NVIDIA B200", 10, 148, 1.965, 126 * 2**20),
}


def gpu_target(kind: str) -> str:
    """A GPU as XLA reads it, a GpuTargetConfigProto as text."""
    gpu, chip = GPUS[kind], CHIPS[kind]
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability} }}
  core_count: {gpu.cores} fpus_per_core: 128 clock_rate_ghz: {gpu.clock} l2_cache_size: {gpu.cache}
  device_memory_size: {chip.memory:.0f} memory_bandwidth: {chip.bandwidth:.0f}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: {2**31 - 1} block_dim_limit_y: {2**16 - 1} block_dim_limit_z: {2**16 - 1}
  shared_memory_per_block: {48 * 2**10} shared_memory_per_block_optin: {227 * 2**10}
  shared_memory_per_core: {228 * 2**10} registers_per_core_limit: {2**16} registers_per_block_limit: {2**16}
}}
platform_name: "CUDA"
runtime_version {{ major: 13 }}
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


def measure_cpu(devices: int) -> Chip:
    """What one of so many CPU devices of this machine can do where all work at once: its share, measured now."""
    n = 1536
    x = jnp.ones((n, n))
    flops = 2 * n**3 / shortest(jax.jit(jnp.matmul), x, x) / devices
    long = jnp.ones(2**25)
    bandwidth = 2 * long.nbytes / shortest(jax.jit(lambda x: x + 1), long) / devices
    return Chip(flops, float("inf"), bandwidth, bandwidth, bandwidth)


def shortest(function: jax.stages.Wrapped, *inputs: jax.Array) -> float:
    """The shortest of five runs, in seconds."""
    jax.block_until_ready(function(*inputs))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        times.append(time.perf_counter() - start)
    return min(times)
