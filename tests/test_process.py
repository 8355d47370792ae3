"""How the process that computes is set up."""

import platform

import jax
import pytest
from helpers import ROOT, run_python

from bigjax.run import read_config
from bigjax.training.setup import set_up

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


def test_the_first_step_is_compiled_once_and_before_it_is_called():
    experiment = set_up(read_config(str(ROOT / "experiments" / "digits_cnn.py"), {"train.batch_size": 8}))
    batch = experiment.dataset.splits["train"].train_batch(0, 0, 8, experiment.rows(8))
    state, batch = experiment.initial_state(), experiment.to_devices(batch)
    compiled = []

    def listener(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        experiment.compile_step(state, batch)
        assert len(compiled) == 1
        jax.block_until_ready(experiment.train_step(state, batch))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert len(compiled) == 1
