"""A mixture of experts: many MLPs of which each token goes through a few."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_sizes
from bigjax.models.linear import Linear


class MixtureOfExperts(nnx.Module):
    """SwiGLU experts behind a router (Shazeer et al. 2017; Jiang et al. 2024, section 2.1, for the form).

    A token's weights are the k largest of the router's softmax, divided by their sum. There is no capacity: every
    token gets its k experts, whatever the others chose. Tokens are sorted by expert and each expert's go through one
    group of `jax.lax.ragged_dot`. On a GPU or TPU that is the work of k experts for each token, and the memory of k
    copies; XLA's CPU has no grouped product and does the work of all the experts.

    It is a layer, and no option of `GPT`: whoever uses it must carry its loss to the task.

    Args:
      d_model: width of input and output, D.
      d_ff: width of an expert, F.
      num_experts: how many there are, E.
      experts_per_token: how many a token goes through, k.
      kernel_init: initialiser of all kernels.
      dtype: what is computed in, but for the router, which is float32 (Fedus et al. 2021, section 2.4); parameters are
        float32.

    Raises:
      ValueError: sizes are not positive, or a token needs more experts than there are.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        num_experts: int,
        experts_per_token: int,
        *,
        kernel_init: nnx.Initializer,
        dtype: Dtype,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(d_model=d_model, d_ff=d_ff, num_experts=num_experts, experts_per_token=experts_per_token)
        if experts_per_token > num_experts:
            raise ValueError(f"experts_per_token, {experts_per_token}, is more than num_experts, {num_experts}")
        self.experts_per_token = experts_per_token
        self.dtype = dtype
        self.router = Linear(
            d_model, num_experts, use_bias=False, kernel_init=kernel_init, precision="highest", rngs=rngs
        )

        def kernels(n: int, m: int) -> nnx.Param:
            return nnx.Param(
                jax.vmap(lambda key: kernel_init(key, (n, m)))(jax.random.split(rngs.params(), num_experts))
            )

        self.up, self.gate, self.down = kernels(d_model, d_ff), kernels(d_model, d_ff), kernels(d_ff, d_model)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T, D] to [B, T, D], and the load-balancing loss, float32 []; see `balance`."""
        tokens = x.reshape(-1, x.shape[-1])  # [S, D]
        probabilities = jax.nn.softmax(self.router(tokens.astype(jnp.float32)))  # [S, E]
        weights, experts = jax.lax.top_k(probabilities, self.experts_per_token)  # [S, k]
        weights = weights / weights.sum(-1, keepdims=True)
        order = jnp.argsort(experts.reshape(-1))  # of the S k pairs of a token and an expert
        sizes = jnp.bincount(experts.reshape(-1), length=probabilities.shape[-1])  # [E]

        def through(x: jax.Array, kernels: nnx.Param) -> jax.Array:
            return jax.lax.ragged_dot(x, kernels.astype(self.dtype), sizes)

        rows = tokens[order // self.experts_per_token].astype(self.dtype)  # [S k, D]
        rows = through(nnx.silu(through(rows, self.gate)) * through(rows, self.up), self.down)
        y = rows[jnp.argsort(order)].reshape(*experts.shape, -1)  # [S, k, D]
        y = (y * weights[..., None].astype(y.dtype)).sum(1)
        return y.reshape(x.shape), balance(probabilities, sizes)


def balance(probabilities: jax.Array, sizes: jax.Array) -> jax.Array:
    """The loss that keeps all experts in use (Fedus et al. 2021, equations 4 to 6), to be added with a small weight.

    It is E times the sum over experts of how many of S tokens each got, over S, times the router's mean probability of
    it: k where all are alike, up to E where the same k get all.

    Args:
      probabilities: float32 [S, E], the router's.
      sizes: int32 [E], the tokens that each expert got.
    """
    count, num_experts = probabilities.shape
    return num_experts * (sizes / count * probabilities.mean(0)).sum()
