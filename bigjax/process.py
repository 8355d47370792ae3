"""How the process that computes is set up."""

import os

import jax

from bigjax.cache import cache_folder
from bigjax.memory import keep_freed_memory
from bigjax.training.elastic import SHARDS
from bigjax.training.manifest import available_cores


def prepare_process(*, elastic: bool = False) -> None:
    """What every verb that computes does first; must come before the first use of a device.

    Args:
      elastic: gives XLA as many threads on one CPU device as on eight. By default it has a thread for every core, or
        for every device if they are more, and the number of threads decides how sums inside a product are cut.
    """
    if elastic:
        os.environ.setdefault("NPROC", str(max(SHARDS, available_cores())))
    keep_freed_memory()
    # A program on one CPU device runs in the thread that calls it. For another thread's, glibc maps large blocks of
    # memory anew at every step, since it keeps those in the main thread's heap alone: a sixth of a GPT's step.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if not jax.config.jax_compilation_cache_dir:  # keeps compiled steps between processes
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
