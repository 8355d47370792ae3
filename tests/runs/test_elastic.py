"""`reproducible="elastic"`: the same bits on any number of devices, by data parallelism and fsdp, and across resumes.

`make soak` does it at a larger scale, with a ResNet and on 1, 2, 4 and 8 devices.
"""

import json

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import run_python, start_training

from bigjax.errors import UserError
from bigjax.models.cnn import CNN
from bigjax.parallel.mesh import make_mesh
from bigjax.tasks.image_classification import ImageClassification
from bigjax.training.elastic import elastic_step, put
from bigjax.training.setup import resolve, set_up
from bigjax.training.step import train_step

TRAIN = {"batch_size": 16, "steps": 6, "log_every": 3, "eval_every": 6, "checkpoint_every": 2}
TEXT = {"name": "pydoc", "context": 8}
ADAMW = {"name": "adamw", "learning_rate": 3e-3, "clip_norm": 0.5}
LSTM = {"name": "rnn", "cell": "lstm", "d_model": 16, "num_layers": 2, "dropout": 0.3}
GPT = {"name": "gpt", "d_model": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.3}
RUNS = {
    "lstm": {"model": LSTM, "data": TEXT | {"layout": "stream"}, "optimizer": ADAMW | {"ema_decay": 0.9}},
    "gpt": {"model": GPT, "data": TEXT, "optimizer": ADAMW | {"accumulate_steps": 2}},
    "fsdp": {"model": GPT, "data": TEXT, "optimizer": ADAMW | {"accumulate_steps": 2}, "mesh": {"data": 1, "fsdp": -1}},
}
SCRIPT = """
import json, sys
import bigjax
for name, config, overrides, workdir in json.loads(sys.stdin.read()):
    run = bigjax.train(config, overrides, workdir, quiet=True)
    print(json.dumps([name, run.result["params_sha256"]]))
"""

STOP = """
from bigjax.training.checkpoint import Checkpoints
real = Checkpoints.save
def save(self, state, metrics, recent=()):
    real(self, state, metrics, recent)
    if int(state.step) == {stop}:
        self.close()
        raise SystemExit
Checkpoints.save = save
"""


def config(name, **train):
    task = {"name": "language_modelling", "sample_tokens": 4}
    return {"task": task} | RUNS[name] | {"train": TRAIN | train, "reproducible": "elastic"}


def trained(devices, jobs):
    """The params_sha256 of each job (name, config, overrides, workdir), run on so many devices."""
    code = SCRIPT.replace("sys.stdin.read()", repr(json.dumps(jobs)))
    return dict(json.loads(line) for line in run_python(code, devices).splitlines())


@pytest.mark.slow
def test_one_hash_whatever_the_devices(tmp_path):
    hashes = {}
    for devices, names in ((1, RUNS), (4, RUNS), (8, ["lstm"])):  # one of them, as eight devices compile for a minute
        jobs = [(name, config(name), {}, str(tmp_path / f"{name}{devices}")) for name in names]
        hashes[devices] = trained(devices, jobs)
    assert hashes[1] == hashes[4] and hashes[8]["lstm"] == hashes[1]["lstm"]
    assert hashes[1]["gpt"] == hashes[1]["fsdp"] != hashes[1]["lstm"]
    # And when the devices change at each resume, 4 to 2 to 1.
    job = repr(json.dumps([("fsdp", config("fsdp"), {}, str(tmp_path / "changing"))]))
    for devices, stop in ((4, 2), (2, 4), (1, None)):
        last = run_python(STOP.format(stop=stop) + SCRIPT.replace("sys.stdin.read()", job), devices)
    assert json.loads(last)[1] == hashes[1]["gpt"]


@pytest.mark.parametrize(
    ("count", "tree"), [(1, "0"), (2, "(0+1)"), (8, "(((0+1)+(2+3))+((4+5)+(6+7)))"), (3, "(0+1) 2")]
)
def test_parts_are_added_along_the_tree_of_halves(count, tree):
    sums = []
    for number in range(count):
        put(lambda a, b: f"({a}+{b})", sums, str(number), number)
    assert " ".join(sums) == tree


def test_virtual_shards_add_up_to_the_plain_step():
    """But for rounding: without BatchNorm and dropout the mean over the shards is the mean over the batch."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 4, 4, 1)).astype(np.uint8),
        "label": rng.integers(0, 3, 16).astype(np.int32),
        "mask": np.float32(rng.random(16) < 0.7),  # shards of unequal weight
    }
    model = jax.jit(lambda: CNN(3, (4, 4, 1), channels=(4,), hidden=8, rngs=nnx.Rngs(0)))()
    program, state = start_training(model, ImageClassification(), optax.adam(0.01), batch)
    plain, plain_sums = train_step(program, state, batch)
    mesh = make_mesh()
    shardings = jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), state)
    state = jax.tree.map(jax.numpy.asarray, state)
    elastic, sums = elastic_step(program, mesh, shardings)(state, jax.tree.map(jax.numpy.asarray, batch))
    assert int(elastic.step) == 1
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(elastic), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    for key in plain_sums:
        np.testing.assert_allclose(sums[key], plain_sums[key], rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"train.batch_size": 12}, "must be a multiple of 8, not 12"),
        ({"optimizer.accumulate_steps": 4}, "must be a multiple of 32, not 16"),
        ({"reproducible": "elastc"}, "config.reproducible must be true or false or one of 'elastic', not 'elastc'"),
    ],
)
def test_what_does_not_divide_is_refused(overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        set_up(resolve(config("lstm"), overrides))


def test_statistics_are_the_mean_over_the_virtual_shards():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(1, momentum=0.5, rngs=rngs)

        def __call__(self, image, train=False, rngs=None):
            return jax.numpy.tile(self.norm(image[:, 0, 0], use_running_average=not train), (1, 2))

    image = np.random.default_rng(0).integers(0, 256, (32, 1, 1, 1)).astype(np.uint8)
    batch = {"image": image, "label": np.zeros(32, np.int32), "mask": np.ones(32, np.float32)}
    program, state = start_training(Normed(nnx.Rngs(0)), ImageClassification((0.0,), (1.0,)), optax.sgd(0.0), batch)
    mesh = make_mesh()
    shardings = jax.tree.map(lambda _: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()), state)
    state, batch = jax.tree.map(jax.numpy.asarray, (state, batch))
    after, _ = elastic_step(program, mesh, shardings)(state, batch)
    pixels = np.float64(image.reshape(8, 4)) / 255
    np.testing.assert_allclose(after.statistics["norm"]["mean"], [0.5 * pixels.mean()], atol=1e-6)
    np.testing.assert_allclose(after.statistics["norm"]["var"], [0.5 + 0.5 * pixels.var(1).mean()], atol=1e-6)
