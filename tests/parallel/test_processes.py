"""Real processes that share a run's batches, over loopback."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from bigjax.run import read_config
from bigjax.training.setup import set_up

STEPS, DEVICES = 3, 4
SMALL = {"train.batch_size": 8, "train.steps": STEPS, "optimizer.warmup_steps": 1}
CONFIGS = {  # batches by row, streams whose rows go on from step to step, batches of several widths
    "digits_cnn": SMALL | {"data.flip": True},
    "pydoc_lstm": SMALL | {"train.epochs": None},
    "numerals_transformer": SMALL | {"data.train_size": 500, "data.buckets": 2},
}

PROCESS = """
import json, sys
import jax
import numpy as np
port, count, index, output, configs = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
from bigjax.run import read_config
from bigjax.training.loop import batch_fetcher
from bigjax.training.setup import set_up
assert jax.device_count() == 4 and jax.process_count() == int(count)
shards = {}
for name, overrides in json.loads(configs).items():
    fetch = batch_fetcher(set_up(read_config(f"experiments/{name}.py", overrides)))
    for step in range(3):
        for key, array in fetch(step).items():
            for shard in array.addressable_shards:
                shards[f"{name} {step} {key} {shard.index[0].start or 0}"] = np.asarray(shard.data)
np.savez(output, **shards)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_make_the_same_global_batches(count, tmp_path):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(DEVICES // count), "JAX_PLATFORMS": "cpu"}
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, port, str(count), str(i), str(tmp_path / f"{i}.npz"), json.dumps(CONFIGS)],
            env=environment,
        )
        for i in range(count)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0] * count
    shards = {}
    for index in range(count):
        with np.load(tmp_path / f"{index}.npz", allow_pickle=False) as file:
            assert not shards.keys() & file.keys()
            shards |= dict(file)
    for name, overrides in CONFIGS.items():
        config = read_config(f"experiments/{name}.py", overrides)
        split = set_up(config).dataset.splits["train"]
        for step in range(STEPS):
            whole = split.train_batch(config["seed"], step, 8, slice(None))
            for key, rows in whole.items():
                for start in range(0, 8, 2):
                    np.testing.assert_array_equal(shards.pop(f"{name} {step} {key} {start}"), rows[start : start + 2])
    assert not shards
