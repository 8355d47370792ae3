"""A recurrence over time, and its gradient."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Carry = tuple[jax.Array, ...]  # one layer's state, [B, D] or here [D, B] each: (h, c) of an LSTM, (h,) of the others


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def recur(
    step: Callable[[jax.Array, jax.Array | None, Carry], Carry],
    reverse: bool,
    kernel: jax.Array,
    carry: Carry,
    offset: jax.Array,
    x: jax.Array | None,
    mask: jax.Array | None,
) -> tuple[jax.Array, Carry]:
    """A recurrence over time, h' = step(kernel^T h + offset, x, carry) with h = carry[0].

    Arrays have features before rows, as a CPU multiplies a wide kernel by few columns twice as fast as few rows by it.
    It has no forward-mode derivatives.

    Args:
      step: see `Layer.step`.
      reverse: from the last position to the first.
      kernel: [D, gates * D].
      carry: the state to start from, [D, B] each.
      offset: [T, gates * D, B].
      x: likewise, or None.
      mask: bool [T, B] or None; where it is false the state stays as it was.

    Returns:
      h after each step, [T, D, B], and the last state.
    """
    return recur_forward(step, reverse, kernel, carry, offset, x, mask)[0]


def recur_forward(
    step: Any, reverse: bool, kernel: jax.Array, carry: Carry, offset: jax.Array, x: Any, mask: Any
) -> tuple[tuple[jax.Array, Carry], Any]:
    """And what the gradient needs: of each step what it was given."""
    turned = kernel.T

    def body(carry: Carry, inputs: Any) -> tuple[Carry, tuple[jax.Array, Carry]]:
        offset, x, real = inputs
        projected = turned @ carry[0] + offset
        carry = advance(step, real, projected, x, carry)
        return carry, (projected, carry)

    last, (projected, after) = jax.lax.scan(body, carry, (offset, x, mask), reverse=reverse)

    def shifted(first: jax.Array, after: jax.Array) -> jax.Array:
        return jnp.concatenate([after[1:], first[None]] if reverse else [first[None], after[:-1]])

    return (after[0], last), (kernel, projected, x, jax.tree.map(shifted, carry, after), mask)


def recur_backward(step: Any, reverse: bool, saved: Any, grads: tuple[jax.Array, Carry]) -> tuple[Any, ...]:
    """The kernel's gradient is one product over all time steps, and not a sum that grows by one at each."""
    kernel, *given = saved

    def body(of_after: Carry, inputs: Any) -> tuple[Carry, tuple[jax.Array, Any]]:
        of_h, (projected, x, before, real) = inputs
        _, pull = jax.vjp(partial(advance, step, real), projected, x, before)
        of_projected, of_x, (of_before, *others) = pull((of_after[0] + of_h, *of_after[1:]))
        return (of_before + kernel @ of_projected, *others), (of_projected, of_x)

    of_h, of_last = grads
    of_carry, (of_projected, of_x) = jax.lax.scan(body, of_last, (of_h, tuple(given)), reverse=not reverse)
    of_kernel = jnp.einsum("tdb,tgb->dg", given[2][0], of_projected)
    return of_kernel, of_carry, of_projected, of_x, None


recur.defvjp(recur_forward, recur_backward)


def advance(step: Any, real: jax.Array | None, projected: jax.Array, x: jax.Array | None, carry: Carry) -> Carry:
    """The next state, of rows that are not `real`, [B], the one before."""
    after = step(projected, x, carry)
    return after if real is None else jax.tree.map(lambda new, old: jnp.where(real, new, old), after, carry)
