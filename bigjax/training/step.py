"""The one training step, and the one evaluation step, of every model and task."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from bigjax.models.target import laid, platform
from bigjax.tasks.task import Batch, Sums, Task
from bigjax.training.state import TrainState, Tree, random_key


@dataclass(frozen=True)
class Program:
    """What the step computes, apart from its arrays: static under `jax.jit`."""

    graphdef: nnx.GraphDef
    task: Task
    optimizer: optax.GradientTransformation
    learns: Tree  # True for every parameter that learns
    accumulate_steps: int = 1
    clip_norm: float | None = None
    ema_decay: float | None = None
    skips: bool = (
        False  # a step that is not finite is left out; else nothing changes any more, the step's number included
    )
    grads_lie: Tree | None = None  # a PartitionSpec for each gradient, or as the compiler likes


def train_step(program: Program, state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
    """One update of the parameters from one global batch: a pure function, for every model and task.

    Returns:
      The next state; the task's sums over the batch, and "grad_norm", the gradient's norm before clipping.
    """
    return update(program, state, gradients(program, state, batch, random_key(state.seed, "step", state.step)))


class Gradients(NamedTuple):
    """What one batch, or a part of it, gives."""

    grads: Tree  # of the summed loss
    sums: Sums
    statistics: Tree  # as the model left them
    carry: Tree  # likewise


def update(program: Program, state: TrainState, total: Gradients) -> tuple[TrainState, Sums]:
    """The next state, from the gradient of a batch's summed loss; and its sums with the mean gradient's norm.

    The sum of losses is divided once, by all the weight, so that parts of unequal weight count as they should. Where
    the loss or the gradient is not finite the state stays as it was, and the sums, but for "bad", are 0.
    """
    weight = total.sums["weight"]
    share = 1 / jnp.where(weight > 0, weight, 1)  # a small batch may hold nothing to learn from: then gradients are 0
    norm = share * optax.tree.norm(total.grads)
    if program.clip_norm is not None:
        share *= jnp.minimum(1, program.clip_norm / norm)
    bad = ~(jnp.isfinite(total.sums["loss"]) & jnp.isfinite(norm))
    stays = bad if program.skips else bad | (state.bad > 0)

    def kept(old: Tree, new: Tree) -> Tree:
        return jax.tree.map(lambda old, new: jnp.where(stays, old, new), old, new)

    def optimize(grads: Tree, opt_state: Tree) -> tuple[Tree, Tree]:
        return program.optimizer.update(jax.tree.map(lambda g: g * share, grads), opt_state, state.params)

    # Once for the parameters, and then again for the moments: so each array's fusion can write over what it reads. In
    # one go XLA's CPU holds new moments and updates of all parameters beside the old ones.
    grads, opt_state = total.grads, state.opt_state
    updates, _ = optimize(grads, opt_state)
    params = kept(state.params, optax.apply_updates(state.params, updates))
    if platform() == "cpu":
        params, grads, opt_state = jax.lax.optimization_barrier((params, grads, opt_state))
    opt_state = kept(opt_state, optimize(grads, opt_state)[1])
    ema = state.ema
    if program.ema_decay is not None:
        ema = kept(ema, optax.incremental_update(params, ema, 1 - program.ema_decay))
    statistics, carry = kept((state.statistics, state.carry), (total.statistics, total.carry))
    step = state.step + 1 if program.skips else kept(state.step, state.step + 1)
    next_state = TrainState(step, state.seed, params, statistics, opt_state, ema, carry, state.bad + bad)
    sums = total.sums | {"grad_norm": norm}
    return next_state, {key: jnp.where(bad, 0, value) for key, value in sums.items()} | {"bad": jnp.float32(bad)}


def gradients(program: Program, state: TrainState, batch: Batch, key: jax.Array) -> Gradients:
    """The gradient of a batch's summed loss, with the batch's sums and the new statistics and carry.

    With `accumulate_steps` the batch goes through in as many microbatches.
    """

    def loss(params: Tree, statistics: Tree, carry: Tree, part: Batch, key: jax.Array) -> tuple[jax.Array, Any]:
        params = jax.tree.map(lambda p, learns: p if learns else jax.lax.stop_gradient(p), params, program.learns)
        model = nnx.merge(program.graphdef, params, statistics)
        rngs = nnx.Rngs(dropout=jax.random.fold_in(key, 0), augment=jax.random.fold_in(key, 1))
        sums, carry = program.task.loss(model, part, carry, train=True, rngs=rngs)
        rest = sums, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))), carry
        return sums["loss"] + sums.get("penalty", 0.0), rest

    def microbatch(index: jax.Array | int, statistics: Tree, part: Batch, carry: Tree) -> Gradients:
        of_params = jax.grad(loss, has_aux=True)
        grads, rest = of_params(state.params, statistics, carry, part, jax.random.fold_in(key, index))
        if program.grads_lie is not None:
            grads = jax.tree.map(laid, grads, program.grads_lie)
        return Gradients(grads, *rest)

    n = program.accumulate_steps
    if n == 1:
        return microbatch(0, state.statistics, batch, state.carry)

    def add(total: Gradients, micro: tuple[jax.Array, Batch, Tree]) -> tuple[Gradients, Tree]:
        index, part, carry = micro
        new = microbatch(index, total.statistics, part, carry)
        grads, sums = jax.tree.map(jnp.add, (total.grads, total.sums), (new.grads, new.sums))
        return Gradients(grads, sums, new.statistics, None), new.carry

    parts, carries = jax.tree.map(lambda x: split_rows(x, n), (batch, state.carry))
    shapes = jax.eval_shape(microbatch, 0, state.statistics, *jax.tree.map(lambda x: x[0], (parts, carries)))
    grads, sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes.grads, shapes.sums))
    first = Gradients(grads, sums, state.statistics, None)
    total, carries = jax.lax.scan(add, first, (jnp.arange(n), parts, carries))
    return total._replace(carry=jax.tree.map(join_rows, carries))


def split_rows(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B / parts, ...]; part i takes rows i, i + parts, ..., so that no row leaves its device."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


def join_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def eval_step(
    program: Program, params: Tree, statistics: Tree, carry: Tree, batch: Batch
) -> tuple[Sums, Tree, dict[str, jax.Array]]:
    """What the task says of one batch, without dropout or augmentation: see `Task.evaluate`."""
    return program.task.evaluate(nnx.merge(program.graphdef, params, statistics), batch, carry)
