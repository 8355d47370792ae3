"""The linear layer of every model."""

from functools import partial
from typing import Any

import jax
from flax import nnx


def row_products(x: jax.Array, kernel: jax.Array, dimension_numbers: Any, **options: Any) -> jax.Array:
    """`lax.dot_general` of [..., in] and [in, out] as one product of matrices, whose rows are all positions.

    The gradient of the kernel is then a product of matrices, too. From more axes XLA's CPU makes it with the wider of
    the two operands transposed, which costs as much as the product.
    """
    rows = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **options)
    return rows.reshape(*x.shape[:-1], kernel.shape[-1])


Linear = partial(nnx.Linear, dot_general=row_products)
