"""Low-rank adaptation: chosen linear layers learn a small correction to weights that stay as they are."""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from bigjax.models.linear import Linear


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
        zeros = nnx.initializers.zeros
        super().__init__(
            linear.in_features,
            linear.out_features,
            use_bias=linear.bias is not None,
            dtype=linear.dtype,
            dot_general=linear.dot_general,
            kernel_init=zeros,
            bias_init=zeros,
            rngs=rngs,
        )
        self.kernel, self.bias = linear.kernel, linear.bias
        self.scale = alpha / rank
        *stacked, width, out = linear.kernel.shape
        # As the authors' code has it: uniform within 1 / sqrt(in).
        init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=range(len(stacked)))
        self.lora_a = nnx.Param(init(rngs.params(), (*stacked, width, rank)))
        self.lora_b = nnx.Param(jnp.zeros((*stacked, rank, out)))

    def __call__(self, inputs: jax.Array, out_sharding: None = None) -> jax.Array:
        """[..., in] to [..., out]."""
        y = super().__call__(inputs)
        a, b = self.lora_a.astype(y.dtype), self.lora_b.astype(y.dtype)
        return y + (inputs.astype(y.dtype) @ a) @ b * self.scale

    def merged(self) -> nnx.Linear:
        """The plain layer whose kernel includes the correction."""
        correction = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest")
        linear = Linear(1, 1, use_bias=self.bias is not None, dtype=self.dtype, rngs=nnx.Rngs(0))
        linear.in_features, linear.out_features = self.in_features, self.out_features
        linear.kernel = nnx.Param((self.kernel + self.scale * correction).astype(self.kernel.dtype))
        linear.bias = self.bias
        return linear


def add_lora(model: nnx.Module, layers: str, rank: int, alpha: float, *, rngs: nnx.Rngs) -> nnx.Module:
    """The model with every linear layer adapted in whose name, `blocks/0/attention/query`, `layers` is found.

    Args:
      model: with linear layers; a recurrent layer's product with its state is none.
      layers: a regular expression.
      rank: of the corrections, at least 1.
      alpha: their weight, over the rank.

    Raises:
      ValueError: there is no such layer, or the rank is not positive.
    """
    if rank < 1:
        raise ValueError(f"a rank must be positive, not {rank}")
    names: list[str] = []

    def adapted(path: tuple[Any, ...], node: Any) -> Any:
        if type(node) is not nnx.Linear:  # not one that is adapted already, nor a kernel that another module reads
            return node
        names.append("/".join(map(str, path)))
        return LoRALinear(node, rank, alpha, rngs=rngs) if re.search(layers, names[-1]) else node

    model = nnx.recursive_map(adapted, model)
    if not any(re.search(layers, name) for name in names):
        known = sorted({name.rpartition("/")[2] for name in names})
        raise ValueError(f"no linear layer is called {layers!r}; the model's are {', '.join(known) or 'none'}")
    return model


def merge_lora(model: nnx.Module) -> nnx.Module:
    """The model with plain layers again, which give what the adapted ones gave."""
    return nnx.recursive_map(lambda path, node: node.merged() if isinstance(node, LoRALinear) else node, model)
