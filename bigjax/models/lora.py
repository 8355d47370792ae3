"""Low-rank adaptation: chosen linear layers learn a small correction to weights that stay as they are."""

import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx


class LoRALinear(nnx.Linear):
    """A linear layer x W + b with a correction, alpha / r * x A B (Hu et al. 2021, section 4.1).

    B is zero at first, so that the layer begins as the one that it adapts. Kernels that are stacked, [L, in, out] of
    scanned layers, have stacked corrections.

    Args:
      linear: the layer to adapt, whose kernel and bias it takes over.
      rank: r.
      alpha: how much the correction weighs.
    """

    def __init__(self, linear: nnx.Linear, rank: int, alpha: float, *, rngs: nnx.Rngs) -> None:
        super().__init__(
            linear.in_features,
            linear.out_features,
            use_bias=False,
            dtype=linear.dtype,
            kernel_init=nnx.initializers.zeros,
            rngs=rngs,
        )
        self.use_bias, self.kernel, self.bias = linear.use_bias, linear.kernel, linear.bias
        self.scale = alpha / rank
        *stacked, width, out = linear.kernel.shape
        init = nnx.initializers.he_uniform(batch_axis=range(len(stacked)))
        self.lora_a = nnx.Param(init(rngs.params(), (*stacked, width, rank)))
        self.lora_b = nnx.Param(jnp.zeros((*stacked, rank, out)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] to [..., out]."""
        y = super().__call__(x)
        return y + (x @ self.lora_a.astype(y.dtype)) @ self.lora_b.astype(y.dtype) * self.scale

    def merged(self) -> nnx.Linear:
        """The plain layer whose kernel includes the correction."""
        kernel = self.kernel + self.scale * jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest")
        linear = nnx.eval_shape(
            lambda: nnx.Linear(
                self.in_features, self.out_features, use_bias=self.use_bias, dtype=self.dtype, rngs=nnx.Rngs(0)
            )
        )
        linear.kernel, linear.bias = nnx.Param(kernel.astype(self.kernel.dtype)), self.bias
        return linear


def add_lora(model: nnx.Module, layers: str, rank: int, alpha: float, *, rngs: nnx.Rngs) -> nnx.Module:
    """Adapts, in place, every linear layer in whose name, `blocks/0/attention/query`, `layers` is found.

    Args:
      model: with linear layers; a recurrent layer's product with its state is none.
      layers: a regular expression.
      rank: of the corrections, at least 1.
      alpha: their weight, over the rank.

    Raises:
      ValueError: there is no such layer.
    """
    if not (found := [name for name, _ in linear_layers(model) if re.search(layers, name)]):
        names = ", ".join(sorted({name.rpartition("/")[2] for name, _ in linear_layers(model)}))
        raise ValueError(f"{layers!r} is found in the name of no linear layer; the model's are called {names}")
    return replaced(model, nnx.Linear, lambda name, layer: name in found and LoRALinear(layer, rank, alpha, rngs=rngs))
