"""Attention over a mesh whose axis `sequence` cuts the positions: keys and values go round a ring of devices.

No device ever holds more of a row than its own positions' queries, keys and values, and those of one other (Liu et al.
2023, "Ring attention with blockwise transformers"). A causal device meets keys after all of its queries, too, and
computes in vain with them: it would only wait for the last of the ring.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from bigjax.models.target import ROWS
from bigjax.models.tiles import LEAST, grouped, over_tiles, product, tile_gradients, tile_scores


class Softmax(NamedTuple):
    """The weighted mean of the values met so far: its numerator, and the weights' sum and greatest score."""

    out: jax.Array  # float32 [B, K, G, T, H]
    total: jax.Array  # float32 [B, K, G, T, 1]
    greatest: jax.Array  # float32 [B, K, G, T, 1]


def ring_attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value, within a mesh whose axis `sequence` divides both T and S.

    Args:
      query: [B, T, N, H].
      key: [B, K, S, H], of N / K = G query heads each.
      value: [B, K, S, H].
      mask: bool [B, N, T, S], with axes of 1 but for the keys where it is the same for all; or None.
      causal: query t sees keys 0 to t.

    Returns:
      [B, T, N, H].
    """
    mesh = jax.sharding.get_abstract_mesh()
    heads = "tensor" if key.shape[1] % mesh.shape["tensor"] == 0 else None
    kept = P(ROWS, heads, "sequence", None)
    spec = None
    if mask is not None:
        mask = jnp.expand_dims(mask, range(4 - mask.ndim))
        cut = zip(mask.shape, (ROWS, heads, "sequence"), strict=False)  # its keys stay whole: a device meets all
        spec = P(*(None if size == 1 else axis for size, axis in cut), None)

    @partial(jax.shard_map, in_specs=(P(ROWS, "sequence", heads, None), kept, kept, spec), out_specs=kept)
    def local(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
        batch, length, num_heads, width = query.shape
        query, mask = grouped(query, key.shape[1], mask)
        return ring(query, key, value, mask, causal).reshape(batch, num_heads, length, width)

    return local(query, key, value, mask).swapaxes(1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def ring(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool) -> jax.Array:
    """What the queries of this device get, [B, K, G, T, H], of the ring's keys and values.

    Args:
      query: [B, K, G, T, H], divided by sqrt(H).
      key: [B, K, S, H], this device's own.
      value: likewise.
      mask: bool [B, K, G, T, n S], of the keys of all n devices, or with axes of 1 but for the keys; or None.
      causal: whether a query sees only keys up to its own position.
    """
    return ring_forward(query, key, value, mask, causal)[0]


def ring_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> tuple[jax.Array, tuple[jax.Array | None, ...]]:
    """Softmax by blocks, and what its gradient needs: the logarithm of each query's weights' sum is enough."""

    def meet(met: tuple[Softmax, jax.Array, jax.Array], turn: jax.Array) -> tuple[Any, None]:
        sofar, key, value = met

        def attend(_: None, first: Any, mask: Any, query: jax.Array, *sofar: jax.Array) -> tuple[None, Softmax]:
            before = Softmax(*sofar)
            scores = tile_scores(query, key, mask, first if causal else None)
            greatest = jnp.maximum(before.greatest, scores.max(-1, keepdims=True))
            weights, shrink = jnp.exp(scores - greatest), jnp.exp(before.greatest - greatest)
            out = product("bkgts,bksh->bkgth", weights.astype(value.dtype), value)
            total = before.total * shrink + weights.sum(-1, keepdims=True)
            return None, Softmax(before.out * shrink + out, total, greatest)

        _, sofar = over_tiles(attend, None, *place(query, key, mask, turn), query, *sofar)
        return (sofar, *passed_on(key, value)), None

    zeros = jnp.zeros_like(query, jnp.float32)
    one = zeros[..., :1]
    first = Softmax(zeros, one, one + LEAST)
    (found, key, value), _ = jax.lax.scan(meet, (first, key, value), jnp.arange(ring_size()))
    out = (found.out / found.total).astype(query.dtype)
    return out, (query, key, value, mask, out, found.greatest + jnp.log(found.total))


def ring_backward(
    causal: bool, saved: tuple[jax.Array, ...], grad: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """The gradients of queries stay, those of keys and values go round with them and end at home."""
    query, key, value, mask, out, log_total = saved
    mean = (grad.astype(jnp.float32) * out).sum(-1, keepdims=True)

    def meet(met: tuple[jax.Array, ...], turn: jax.Array) -> tuple[Any, None]:
        query_grad, key, value, *sums = met

        def gradients(sums: Any, first: Any, mask: Any, *tile: jax.Array) -> tuple[Any, jax.Array]:
            query, grad, mean, log_total, query_grad = tile
            scores = tile_scores(query, key, mask, first if causal else None)
            more, *grads = tile_gradients(scores, log_total, query, key, value, grad, mean)
            return [total + part for total, part in zip(sums, grads, strict=True)], query_grad + more

        given = (query, grad, mean, log_total, query_grad)
        sums, query_grad = over_tiles(gradients, sums, *place(query, key, mask, turn), *given)
        return (query_grad, *passed_on(key, value, *sums)), None

    zeros = [jnp.zeros_like(x, jnp.float32) for x in (query, key, value)]
    met, _ = jax.lax.scan(meet, (zeros[0], key, value, *zeros[1:]), jnp.arange(ring_size()))
    query_grad, _, _, key_grad, value_grad = met
    return query_grad.astype(query.dtype), key_grad.astype(key.dtype), value_grad.astype(value.dtype), None


ring.defvjp(ring_forward, ring_backward)


def place(
    query: jax.Array, key: jax.Array, mask: jax.Array | None, turn: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """Of the keys that have come here after `turn` turns: where the first query stands among them, and their mask."""
    here = jax.lax.axis_index("sequence")
    source = (here - turn) % ring_size()  # whose keys they are
    length = key.shape[2]
    mask = None if mask is None else jax.lax.dynamic_slice_in_dim(mask, source * length, length, axis=4)
    return here * query.shape[3] - source * length, mask


def passed_on(*arrays: jax.Array) -> list[jax.Array]:
    """Each from the device before this one in the ring."""
    n = ring_size()
    return [jax.lax.ppermute(x, "sequence", [(i, (i + 1) % n) for i in range(n)]) for x in arrays]


def ring_size() -> int:
    """How many devices share a row."""
    return jax.lax.axis_size("sequence")
