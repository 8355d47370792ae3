"""What XLA is told when it compiles a step."""

import os
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp

# From jaxlib 0.12 on XLA's CPU leaves sums and maxima to YNNPACK, which is much quicker with them, but also products
# and convolutions, with which it is slower on a CPU without AVX-512: the quick CNN's step took 1.95 s for 1.36.
# On Intel's with AVX-512 YNNPACK is the quicker with products by a transposed kernel: BERT-base's step took 2.00 s for
# 2.12, ResNet-18's 78 ms for 85; convolutions stay with XLA there, too, as the article's CNN takes 25 ms for 16.
FOR_YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
REDUCTIONS, PRODUCTS = "LIBRARY_FUSION_TYPE_REDUCE", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"


def compiler_options(reproducible: bool | str, backend: str) -> dict[str, bool | str] | None:
    """What XLA must be told so that a program gives the same bits whenever it runs, and on a CPU is quick.

    On a GPU some kernels add up in whatever order their threads come, and autotuning picks the kernel that was quickest
    this time. The option forbids both. What `XLA_FLAGS` says of a CPU's option stands.
    """
    if backend == "gpu" and reproducible:
        return {"xla_gpu_deterministic_ops": True}
    if backend == "cpu" and jax.__version_info__ >= (0, 12) and FOR_YNNPACK not in os.environ.get("XLA_FLAGS", ""):
        work = f"{REDUCTIONS},{PRODUCTS}" if is_intel_with_avx512() else REDUCTIONS
        return {FOR_YNNPACK: work} if knows(FOR_YNNPACK, work) else None
    return None


@cache
def is_intel_with_avx512() -> bool:
    """Whether this machine's processor is one; false where Linux does not tell."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "GenuineIntel" in told and "avx512f" in told


@cache
def knows(option: str, value: str) -> bool:
    """Whether this version's compiler has such an option, which it refuses otherwise."""
    try:
        jax.jit(jnp.negative, compiler_options={option: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
