"""Training whose bits do not depend on the number of devices: `config.reproducible = "elastic"`.

Every batch is cut into `SHARDS` virtual shards, whatever the number of devices. A device computes the gradient of one
virtual shard at a time, with a program that is compiled for one device and so is the same program everywhere, and
gradients are added along one binary tree over the virtual shards: first those of a device, then between devices. A
sum of two numbers is rounded the same way wherever it happens, so neither the number of devices nor which one has
which shard can show. The optimizer, too, runs as a one-device program, on each device for itself.

BatchNorm takes its statistics from each virtual shard and keeps the mean of them. Parameters that `fsdp` spreads are
gathered for the step and spread again after it: on disk and between steps they are shards.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from bigjax.errors import UserError
from bigjax.parallel.mesh import AXES
from bigjax.tasks.task import Batch, Sums
from bigjax.training.state import TrainState, Tree, random_key
from bigjax.training.step import Gradients, Program, gradients, update

SHARDS = 8
LAID = P(AXES)  # rows over all devices, in the order of the mesh


def check_elastic(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises UserError unless the devices and the batch divide into the virtual shards."""
    if mesh.shape["data"] * mesh.shape["fsdp"] != mesh.size or SHARDS % mesh.size:
        raise UserError(
            "config.reproducible='elastic' takes a mesh of data and fsdp over 1, 2, 4 or 8 devices, "
            f"not {dict(mesh.shape)}."
        )
    if batch_size % (unit := SHARDS * accumulate):
        raise UserError(
            f"config.reproducible='elastic' cuts a batch into {SHARDS} shards of {accumulate} microbatches: "
            f"config.train.batch_size must be a multiple of {unit}, not {batch_size}."
        )


def elastic_step(
    program: Program, mesh: Mesh, shardings: TrainState, compiler_options: dict[str, bool | str] | None = None
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """`train_step` in virtual shards, of a state laid as `shardings` say and a batch laid over all devices."""
    each = SHARDS // mesh.size  # shards of one device
    mine = {n: device for n, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()}
    whole = NamedSharding(mesh, P())

    @partial(jax.jit, compiler_options=compiler_options)
    def part(state: TrainState, rows: tuple[Batch, Tree], shard: jax.Array) -> Gradients:
        batch, carry = rows
        key = jax.random.fold_in(random_key(state.seed, "step", state.step), shard)
        return gradients(program, state._replace(carry=carry), batch, key)

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options)
    def finish(state: TrainState, total: Gradients) -> tuple[TrainState, Sums]:
        return update(program, state, total._replace(statistics=jax.tree.map(mean, total.statistics)))

    @jax.jit
    def cut(rows: Tree) -> list[Tree]:
        size = jax.tree.leaves(rows)[0].shape[0] // each
        return [jax.tree.map(lambda x, i=i: x[i * size : (i + 1) * size], rows) for i in range(each)]

    add = jax.jit(partial(jax.tree.map, jnp.add))
    join = jax.jit(lambda parts: jax.tree.map(lambda *x: jnp.concatenate(x), *parts))
    between_devices = jax.jit(partial(butterfly, mesh))

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        replicated = jax.device_put(state._replace(carry=None), whole)
        states = {n: on_device(replicated, device) for n, device in mine.items()}
        rows = {n: cut(on_device((batch, state.carry), device)) for n, device in mine.items()}
        sums: dict[int, list[Gradients]] = {n: [] for n in mine}
        carries: dict[int, list[Tree]] = {n: [] for n in mine}
        for shard in range(each):
            for n in mine:  # all devices compute at once
                light = states[n]._replace(opt_state=(), ema={})
                given = part(light, rows[n][shard], np.uint32(n * each + shard))
                carries[n].append(given.carry)
                put(add, sums[n], given._replace(carry=None), shard)
        totals = [total for n in mine for total in sums[n]]
        if mesh.size > 1:
            stacked = between_devices(from_devices([jax.tree.map(lambda x: x[None], t) for t in totals], mesh, LAID))
            totals = [jax.tree.map(lambda x: x[0], on_device(stacked, device)) for device in mine.values()]
        done = [finish(states[n], total) for n, total in zip(mine, totals, strict=True)]
        next_state = jax.device_put(from_devices([s for s, _ in done], mesh, P()), shardings._replace(carry=None))
        carry = from_devices([join(carries[n]) for n in mine], mesh, LAID)
        return next_state._replace(carry=carry), from_devices([sums for _, sums in done], mesh, P())

    return step


def put(add: Callable[[Any, Any], Any], sums: list[Any], part: Any, number: int) -> None:
    """Puts part `number`, from 0 on, to the sums of those before it, along the binary tree of halves.

    What can be added is added at once, so that of N parts no more than log2(N) + 1 are in memory. After a power of two
    of parts there is one sum.
    """
    while number % 2:
        part, number = add(sums.pop(), part), number // 2
    sums.append(part)


def butterfly(mesh: Mesh, stacked: Tree) -> Tree:
    """Leaves [N, ...], one row a device, to the sum of all rows in each, along the same tree as `put`."""

    def level(x: jax.Array, distance: int) -> jax.Array:
        return x + jax.lax.ppermute(x, mesh.axis_names, [(n, n ^ distance) for n in range(mesh.size)])

    def local(tree: Tree) -> Tree:
        for exponent in range(mesh.size.bit_length() - 1):
            tree = jax.tree.map(partial(level, distance=2**exponent), tree)
        return tree

    return jax.shard_map(local, mesh=mesh, in_specs=LAID, out_specs=LAID)(stacked)


def mean(total: jax.Array) -> jax.Array:
    """Of a statistic, over the virtual shards; those that count, alike in all, stay whole."""
    return total / SHARDS if jnp.issubdtype(total.dtype, jnp.floating) else total // SHARDS


def on_device(tree: Tree, device: jax.Device) -> Tree:
    """What of each global array lies on one device."""
    return jax.tree.map(lambda x: next(s.data for s in x.addressable_shards if s.device == device), tree)


def from_devices(trees: Sequence[Tree], mesh: Mesh, spec: P) -> Tree:
    """Global arrays from what lies on each of this process's devices, in the order of the mesh."""

    def joined(*parts: jax.Array) -> jax.Array:
        rows = (mesh.size * parts[0].shape[0],) if spec == LAID else parts[0].shape[:1]
        shape = (*rows, *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(mesh, spec), list(parts))

    return jax.tree.map(joined, *trees)


def laid_out(tree: Tree, shardings: Tree) -> Tree:
    """Arrays of the host, the same on every process, over the devices."""
    return jax.tree.map(lambda x, s: jax.make_array_from_callback(x.shape, s, lambda index: x[index]), tree, shardings)
