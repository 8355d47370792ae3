"""Attention by plain products, in tiles: no more of the scores is computed, or held, than must be.

Causal queries come in about 8 blocks, each of which meets only the keys up to its end, so that nearly half of the
products are never computed. Where a text is long no scores are kept: the gradient computes them again, a tile of
queries at a time, and memory grows with T and S, not with T x S (Rabe and Staats 2021, "Self-attention does not need
O(n^2) memory").
"""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

LEAST = jnp.finfo(jnp.float32).min
TILE = 512  # queries; of more of them, or of more keys, no scores are kept
product = partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend_in_tiles(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
    """softmax(query key^T / sqrt(H)) value; scores and their softmax are float32.

    Args:
      query: [B, T, N, H].
      key: [B, K, S, H], of N / K = G query heads each.
      value: [B, K, S, H].
      mask: bool, broadcast to [B, N, T, S], or None.
      causal: query t sees keys 0 to t.

    Returns:
      [B, T, N, H].
    """
    batch, length, num_heads, _ = query.shape
    query, mask = grouped(query, key.shape[1], mask)

    def by_position(x: jax.Array) -> jax.Array:  # [B, K, G, T, X] to [B, T, N, X]
        return x.reshape(batch, num_heads, length, -1).swapaxes(1, 2)

    if max(length, key.shape[2]) > TILE:
        return by_position(tiled(query, key, value, mask, causal))
    sums, total, _ = forward(query, key, value, mask, causal)
    return average(by_position(sums), by_position(total)).astype(query.dtype)


@jax.custom_jvp
def average(sums: jax.Array, total: jax.Array) -> jax.Array:
    """`sums` [..., H] over `total` [..., 1], once: XLA would make it a second time for the gradient to keep."""
    return jax.lax.optimization_barrier(sums / total)


@average.defjvp
def average_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
    """By the average, which the next projection keeps for its own gradient, too, and not by the sums."""
    y = average(*primals)
    return y, (tangents[0] - y * tangents[1]) / primals[1]


def grouped(query: jax.Array, num_kv_heads: int, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Queries [B, T, N, H] as [B, K, G, T, H] over sqrt(H).

    And a mask that broadcasts to [B, N, T, S] as [B, K, G, T, S], each 1 where it is the same for all.
    """
    batch, length, _, width = query.shape
    query = (query / math.sqrt(width)).swapaxes(1, 2).reshape(batch, num_kv_heads, -1, length, width)
    if mask is not None:
        mask = jnp.expand_dims(mask, range(4 - mask.ndim))
        mask = mask.reshape(mask.shape[0], *((1, 1) if mask.shape[1] == 1 else query.shape[1:3]), *mask.shape[2:])
    return query, mask


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What queries [B, K, G, T, H] / sqrt(H) get, summed, and of their scores [B, K, G, T, S]: all are float32.

    Those are the sum of their exponentials less the greatest, [B, K, G, T, 1], and that.
    """
    parts = []
    for rows, seen in blocks(query.shape[3], key.shape[2], causal):

        def attend(_: None, first: Any, mask: Any, query: jax.Array, seen: slice = seen) -> tuple[None, Any]:
            scores = tile_scores(query, key[:, :, seen], mask, first if causal else None)
            greatest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - greatest)
            y = product("bkgts,bksh->bkgth", weights.astype(value.dtype), value[:, :, seen])
            return None, (y, weights.sum(-1, keepdims=True), greatest)

        parts.append(over_tiles(attend, None, rows.start, seen_by(mask, rows, seen), query[..., rows, :])[1])
    sums, total, greatest = (jnp.concatenate(part, axis=3) for part in zip(*parts, strict=True))
    return sums, total, greatest


def blocks(length: int, source_length: int, causal: bool) -> list[tuple[slice, slice]]:
    """Which queries meet which keys; of more than TILE queries in a block, their number is a multiple of it."""
    unit = 64 if length <= 8 * TILE else TILE
    size = unit * math.ceil(length / 8 / unit) if causal else length
    rest = length % TILE if size > TILE else 0
    edges = sorted({*range(0, length, size), length - rest, length})
    return [(slice(*edge), slice(edge[1] if causal else source_length)) for edge in itertools.pairwise(edges)]


def seen_by(mask: jax.Array | None, rows: slice, seen: slice = slice(None)) -> jax.Array | None:
    """Of a mask what is for these queries and keys."""
    return None if mask is None else mask[..., rows if mask.shape[3] > 1 else slice(1), seen]


def over_tiles(
    function: Callable[..., tuple[Any, Any]],
    carry: Any,
    first: int | jax.Array,
    mask: jax.Array | None,
    *arrays: jax.Array,
) -> tuple[Any, Any]:
    """Scans `function(carry, first query, mask, *arrays)` over each TILE queries, axis 3 of the arrays, and a rest."""
    rows = arrays[0].shape[3]
    if rows <= TILE:
        return function(carry, first, mask, *arrays)
    if rest := rows % TILE:
        whole, last = slice(rows - rest), slice(rows - rest, rows)
        carry, most = over_tiles(function, carry, first, seen_by(mask, whole), *(x[..., whole, :] for x in arrays))
        carry, few = function(carry, first + rows - rest, seen_by(mask, last), *(x[..., last, :] for x in arrays))
        return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=3), most, few)

    def cut(x: jax.Array) -> jax.Array:  # [..., T, X] to [T / TILE, ..., TILE, X]
        return jnp.moveaxis(x.reshape(*x.shape[:-2], -1, TILE, x.shape[-1]), -3, 0)

    masks = cut(mask) if mask is not None and mask.shape[3] > 1 else None
    tiles = (first + jnp.arange(0, rows, TILE), masks, *map(cut, arrays))
    carry, found = jax.lax.scan(
        lambda sums, tile: function(sums, tile[0], mask if masks is None else tile[1], *tile[2:]), carry, tiles
    )
    return carry, jax.tree.map(lambda y: jnp.moveaxis(y, 0, 3).reshape(*y.shape[1:4], rows, y.shape[-1]), found)


def tile_scores(query: jax.Array, key: jax.Array, mask: jax.Array | None, first: jax.Array | int | None) -> jax.Array:
    """float32 [B, K, G, T, S], the least number where unseen: after a query's position, which counts from `first`."""
    # The barrier has their gradient made once for the two products that read it: XLA's CPU makes a second, transposed.
    scores = jax.lax.optimization_barrier(product("bkgth,bksh->bkgts", query, key))
    if mask is not None:
        scores = jnp.where(mask, scores, LEAST)
    if first is not None:
        scores = jnp.where(first + jnp.arange(query.shape[3])[:, None] >= jnp.arange(key.shape[2]), scores, LEAST)
    return scores


def tile_gradients(
    scores: jax.Array,
    log_total: jax.Array,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    grad: jax.Array,
    mean: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Those of queries, keys and values, float32, by the softmax of their scores; none by a query that sees no key.

    Args:
      scores: float32 [B, K, G, T, S].
      log_total: of each query the logarithm of its weights' sum over all keys, float32 [B, K, G, T, 1].
      query: [B, K, G, T, H].
      key: [B, K, S, H].
      value: likewise.
      grad: of what the queries got, [B, K, G, T, H].
      mean: the sum of `grad` times what they got of all keys, float32 [B, K, G, T, 1].
    """
    weights = jnp.where(scores > LEAST, jnp.exp(scores - log_total), 0)
    score_grad = weights * (product("bkgth,bksh->bkgts", grad, value) - mean)
    score_grad = score_grad.astype(query.dtype)
    return (
        product("bkgts,bksh->bkgth", score_grad, key),
        product("bkgts,bkgth->bksh", score_grad, query),
        product("bkgts,bkgth->bksh", weights.astype(grad.dtype), grad),
    )


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def tiled(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None, causal: bool) -> jax.Array:
    """What `forward` tells of, [B, K, G, T, H]; its gradient computes the scores again."""
    return tiled_forward(query, key, value, mask, causal)[0]


def tiled_forward(query: jax.Array, key: jax.Array, value: jax.Array, mask: Any, causal: bool) -> tuple[Any, Any]:
    """And what the gradient needs."""
    sums, total, greatest = forward(query, key, value, mask, causal)
    out = (sums / total).astype(query.dtype)
    return out, (query, key, value, mask, out, greatest + jnp.log(total))


def tiled_backward(causal: bool, saved: tuple[Any, ...], grad: jax.Array) -> tuple[Any, ...]:
    """The gradients of queries, keys and values."""
    query, key, value, mask, out, log_total = saved
    mean = (grad.astype(jnp.float32) * out).sum(-1, keepdims=True)
    query_grads, key_grad, value_grad = [], *(jnp.zeros_like(x, jnp.float32) for x in (key, value))
    for rows, seen in blocks(query.shape[3], key.shape[2], causal):
        keys, values = key[:, :, seen], value[:, :, seen]

        def meet(sums: Any, first: Any, mask: Any, *tile: jax.Array, keys: Any = keys, values: Any = values) -> Any:
            query, grad, mean, log_total = tile
            scores = tile_scores(query, keys, mask, first if causal else None)
            query_grad, *grads = tile_gradients(scores, log_total, query, keys, values, grad, mean)
            return [total + more for total, more in zip(sums, grads, strict=True)], query_grad.astype(query.dtype)

        sums = [key_grad[:, :, seen], value_grad[:, :, seen]]
        arrays = [x[..., rows, :] for x in (query, grad, mean, log_total)]
        sums, arrays = jax.lax.optimization_barrier((sums, arrays))  # one block after the other
        sums, query_grad = over_tiles(meet, sums, rows.start, seen_by(mask, rows, seen), *arrays)
        key_grad, value_grad = key_grad.at[:, :, seen].set(sums[0]), value_grad.at[:, :, seen].set(sums[1])
        query_grads.append(query_grad)
    return jnp.concatenate(query_grads, axis=3), key_grad.astype(key.dtype), value_grad.astype(value.dtype), None


tiled.defvjp(tiled_forward, tiled_backward)
