"""For all tests: compiling is quick.

Tests compile hundreds of tiny programs, and XLA's optimiser is most of their time; what runs in a process of its own
(`helpers.run_python`, the `bigjax` command) is compiled as users have it. `BIGJAX_TESTS_OPTIMIZE=1` optimises all.
"""

import os

import jax

jax.config.update("jax_disable_most_optimizations", not os.environ.get("BIGJAX_TESTS_OPTIMIZE"))
