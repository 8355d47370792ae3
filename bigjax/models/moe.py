"""A mixture of experts: many MLPs of which each token goes through a few."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.sharding import PartitionSpec as P

from bigjax.models.checks import check_sizes
from bigjax.models.linear import Linear
from bigjax.models.target import ROWS

TOKENS = P(ROWS, "sequence")  # how [B, T, ...] lies on a mesh


class Routing(NamedTuple):
    """What a router said of each token."""

    probabilities: jax.Array  # float32 [B, T, E]
    experts: jax.Array  # int32 [B, T, k], those that the token goes through


class MixtureOfExperts(nnx.Module):
    """SwiGLU experts behind a router (Shazeer et al. 2017; Jiang et al. 2024, section 2.1, for the form).

    A token's weights are the k largest of the router's softmax, divided by their sum. There is no capacity: every
    token gets its k experts, whatever the others chose. Tokens are sorted by expert and each expert's go through one
    group of `jax.lax.ragged_dot`. On a GPU or TPU that is the work of k experts for each token, and the memory of k
    copies; XLA's CPU has no grouped product and does the work of all the experts.

    On a mesh each device sorts its own tokens. Along `expert` each of n devices has E / n experts: it gathers the
    tokens of all n, which is the memory of n k copies, and what its experts add is summed and scattered back. Along
    `tensor` each has a part of every expert's width.

    Args:
      d_model: width of input and output, D.
      d_ff: width of an expert, F.
      num_experts: how many there are, E.
      experts_per_token: how many a token goes through, k.
      kernel_init: initialiser of the router and of the projections up.
      out_init: of the projections down.
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
        out_init: nnx.Initializer,
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

        def kernels(init: nnx.Initializer, n: int, m: int) -> nnx.Param:
            return nnx.Param(jax.vmap(lambda key: init(key, (n, m)))(jax.random.split(rngs.params(), num_experts)))

        self.up, self.gate = kernels(kernel_init, d_model, d_ff), kernels(kernel_init, d_model, d_ff)
        self.down = kernels(out_init, d_ff, d_model)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, Routing]:
        """[B, T, D] to [B, T, D], and what `balance` needs."""
        probabilities = jax.nn.softmax(self.router(x.astype(jnp.float32)))
        weights, experts = jax.lax.top_k(probabilities, self.experts_per_token)
        weights = weights / weights.sum(-1, keepdims=True)
        tokens = x.astype(self.dtype), weights.astype(self.dtype), experts
        kernels = [kernel.astype(self.dtype) for kernel in (self.up, self.gate, self.down)]
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return mixed(*tokens, *kernels), Routing(probabilities, experts)

        def local(x: jax.Array, weights: jax.Array, experts: jax.Array, *kernels: jax.Array) -> jax.Array:
            x, weights, experts = (jax.lax.all_gather(t, "expert", tiled=True) for t in (x, weights, experts))
            y = mixed(x, weights, experts - jax.lax.axis_index("expert") * kernels[0].shape[0], *kernels)
            return jax.lax.psum(jax.lax.psum_scatter(y, "expert", tiled=True), "tensor")

        widening, narrowing = P("expert", None, "tensor"), P("expert", "tensor")
        laid = (TOKENS, TOKENS, TOKENS, widening, widening, narrowing)
        return jax.shard_map(local, in_specs=laid, out_specs=TOKENS)(*tokens, *kernels), Routing(probabilities, experts)


def mixed(
    x: jax.Array, weights: jax.Array, experts: jax.Array, up: jax.Array, gate: jax.Array, down: jax.Array
) -> jax.Array:
    """[B, T, D] to [B, T, D]: the weighted sum of what each token's experts make of it.

    Args:
      x: the tokens.
      weights: [B, T, k], of the token's experts.
      experts: int32 [B, T, k]; those that are not from 0 to E - 1 are not here and add nothing.
      up: [E, D, F], the experts' kernels.
      gate: likewise.
      down: [E, F, D].
    """
    num_experts, k = up.shape[0], experts.shape[-1]
    experts = experts.reshape(-1)  # of the S k pairs of a token and an expert
    here = (experts >= 0) & (experts < num_experts)
    experts = jnp.where(here, experts, num_experts)  # sorted, the others are last, and of no group
    order = jnp.argsort(experts)
    sizes = jnp.bincount(experts, length=num_experts)
    seen = here[order][:, None]  # a product gives anything, NaN too, for rows of no group, and in the gradient as well
    rows = jnp.where(seen, x.reshape(-1, x.shape[-1])[order // k], 0)  # [S k, D]
    hidden = nnx.silu(jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(rows, up, sizes)
    rows = jnp.where(seen, jax.lax.ragged_dot(hidden, down, sizes), 0)
    y = rows[jnp.argsort(order)].reshape(*weights.shape, -1)  # [B, T, k, D]
    return (y * weights[..., None]).sum(-2)


def balance(routing: Routing, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss that keeps all experts in use (Fedus et al. 2021, equations 4 to 6), to be added with a small weight.

    It is E times the sum over experts of how many of S tokens each got, over S, times the router's mean probability of
    it: k where all are alike, up to E where the same k get all.

    Args:
      routing: of one layer.
      mask: float32 [B, T], 0 where a token does not count.

    Returns:
      float32 [], the loss, and float32 [E], how many tokens each expert got.
    """
    num_experts = routing.probabilities.shape[-1]
    count = jnp.maximum(mask.sum(), 1)
    chosen = jax.nn.one_hot(routing.experts, num_experts).sum(-2)  # [B, T, E]
    tokens = (chosen * mask[..., None]).sum((0, 1))
    chances = (routing.probabilities * mask[..., None]).sum((0, 1))
    return num_experts * (tokens / count * chances / count).sum(), tokens
