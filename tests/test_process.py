"""How the process that computes is set up."""

import platform

import pytest
from helpers import run_python

FAULTS_OF_STEPS = """
import resource
import jax.numpy as jnp
from bigjax.process import prepare_process

prepare_process()

@jax.jit
def step(x):  # 400 MB lie between its two products
    return jnp.tanh(x @ x.T) @ x

x = jnp.ones((10_000, 8))
for _ in range(4):  # the heap grows
    jax.block_until_ready(step(x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    jax.block_until_ready(step(x))
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by glibc's mallopt")
def test_a_step_computes_in_the_memory_of_the_one_before():
    assert int(run_python(FAULTS_OF_STEPS)) < 200_000  # of 800,000, in pages of 4 kB
