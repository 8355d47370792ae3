"""What XLA is told when it compiles a step."""

from functools import cache

import jax
import jax.numpy as jnp

# XLA's CPU hands products and convolutions to YNNPACK, too, whose own are slower: a small CNN's step by half on a CPU
# without AVX-512. Sums and maxima it makes much faster than XLA.
ONLY_REDUCTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def compiler_options(reproducible: bool | str, backend: str) -> dict[str, bool | str] | None:
    """What XLA must be told so that a program gives the same bits whenever it runs, and is quick.

    On a GPU some kernels add up in whatever order their threads come, and autotuning picks the kernel that was quickest
    this time. The option forbids both. Elsewhere there is nothing to forbid.
    """
    if backend == "cpu" and knows(tuple(ONLY_REDUCTIONS.items())):
        return dict(ONLY_REDUCTIONS)
    return {"xla_gpu_deterministic_ops": True} if reproducible and backend == "gpu" else None


@cache
def knows(options: tuple[tuple[str, str], ...]) -> bool:
    """Whether this version's compiler has such options, which it refuses otherwise."""
    try:
        jax.jit(jnp.negative, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
