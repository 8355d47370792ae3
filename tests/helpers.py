"""What tests of several rooms share."""

import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from bigjax.training.state import TrainState
from bigjax.training.step import Program

ROOT = Path(__file__).resolve().parents[1]


def run_python(code, devices=1, **environment):
    """Runs `code` in a Python of its own with as many fake CPU devices; returns what it printed."""
    start = f"import jax; jax.config.update('jax_num_cpu_devices', {devices})\n"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", start + code],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(make):
    """A module made by `make(rngs)`, compiled as one: eager initialisers are most of a small test's time."""
    return jax.jit(lambda: make(nnx.Rngs(0)))()


@jax.jit
def apply(model, *inputs):
    """`model(*inputs)`, compiled."""
    return model(*inputs)


def parameters(model):
    """The parameters of a module as numpy arrays, by readable name."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def count_parameters(make):
    """How many numbers a module made by `make(rngs)` would learn; none of them is allocated."""
    abstract = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(abstract, nnx.Param)))


def close(actual, expected, atol=1e-6, rtol=0.0):
    """Asserts that two trees have the same structure and nearly equal leaves."""
    actual, expected = jax.device_get((actual, expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=rtol), actual, expected)


def same_bits(actual, expected):
    """Asserts that two trees are equal to the bit."""
    actual, expected = jax.device_get((actual, expected))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def everything(params):
    """True for every parameter."""
    return jax.tree.map(lambda _: True, params)


def start_training(model, task, optimizer, batch, accumulate_steps=1, ema_decay=None, seed=0):
    """The program and first state of a live model, with no mesh and no config."""
    graphdef, params, statistics = nnx.split(model, nnx.Param, ...)
    params, statistics = nnx.to_pure_dict(params), nnx.to_pure_dict(statistics)
    program = Program(graphdef, task, optimizer, everything(params), accumulate_steps, ema_decay=ema_decay)
    ema = {} if ema_decay is None else params
    carry = task.initial_carry(model, batch)
    state = TrainState(
        np.int32(0), np.uint32(seed), params, statistics, optimizer.init(params), ema, carry, np.int32(0)
    )
    return program, state


def filled(model, arrays):
    """`model` with these parameters, given by readable name: all of them and no others."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    leaves, structure = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(params))
    shapes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
    assert shapes == {name: array.shape for name, array in arrays.items()}
    params = jax.tree.unflatten(structure, [jax.numpy.asarray(arrays[name]) for name in shapes])
    return nnx.merge(graphdef, params, nnx.to_pure_dict(rest))
