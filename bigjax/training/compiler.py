"""What XLA is told when it compiles a step."""

import os
from functools import cache

import jax
import jax.numpy as jnp

# From jaxlib 0.12 on XLA's CPU leaves sums and maxima to YNNPACK, which is much quicker with them, but also products
# and convolutions, with which it is slower on a CPU without AVX-512: the quick CNN's step took 1.95 s for 1.36.
ONLY_REDUCTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options(reproducible: bool | str, backend: str) -> dict[str, bool | str] | None:
    """What XLA must be told so that a program gives the same bits whenever it runs, and on a CPU is quick.

    On a GPU some kernels add up in whatever order their threads come, and autotuning picks the kernel that was quickest
    this time. The option forbids both. What `XLA_FLAGS` says of a CPU's option stands.
    """
    if backend == "gpu" and reproducible:
        return {"xla_gpu_deterministic_ops": True}
    asked = any(option in os.environ.get("XLA_FLAGS", "") for option in ONLY_REDUCTIONS)
    if backend == "cpu" and jax.__version_info__ >= (0, 12) and not asked and knows(tuple(ONLY_REDUCTIONS.items())):
        return dict(ONLY_REDUCTIONS)
    return None


@cache
def knows(options: tuple[tuple[str, str], ...]) -> bool:
    """Whether this version's compiler has such options, which it refuses otherwise."""
    try:
        jax.jit(jnp.negative, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
