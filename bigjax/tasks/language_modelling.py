"""Language modelling: the next token of a text."""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.errors import UserError
from bigjax.models.moe import balance
from bigjax.tasks.cross_entropy import token_losses
from bigjax.tasks.task import Batch, Sums, Task


@dataclass(frozen=True)
class LanguageModelling(Task):
    """Cross-entropy of the next token.

    The batch: `inputs` and `targets` int32 [B, T] (targets are the inputs one position on), `mask` float32 [B, T]
    (1 where a target counts), `bytes` float32 [B] (the UTF-8 bytes that the counted targets stand for), and `start`
    bool [B] (the row does not continue the row of the batch before). Where documents are not to see each other, also
    `segments` and `positions` int32 [B, T]: which document of its row a token is of, and its place in that.

    Attributes:
      loss_chunk: how many positions have their logits in memory at once; see `token_losses`. None is all.
      sample_tokens: how many tokens the report's samples have.
      sample_temperature: what the samples' logits are divided by.
    """

    loss_chunk: int | None = None
    sample_tokens: int = 200
    sample_temperature: float = 0.8

    unit: ClassVar[str] = "tokens"
    main_metric: ClassVar[str] = "bits_per_byte"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.sample_tokens < 1 or self.sample_temperature <= 0:
            raise ValueError("sample_tokens and sample_temperature must be positive")
        if self.loss_chunk is not None and self.loss_chunk < 1:
            raise ValueError(f"loss_chunk must be positive, not {self.loss_chunk}")

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        if self.loss_chunk is not None and info["context"] % self.loss_chunk:
            raise ValueError(f"loss_chunk, {self.loss_chunk}, does not divide the context, {info['context']}")
        return {"vocab_size": info["vocab_size"], "context": info["context"]}

    def check_model(self, model: nnx.Module) -> None:
        if "carry" not in inspect.signature(model.__call__).parameters:
            raise ValueError(f"a {type(model).__name__} is no language model, for it takes no carry")

    def initial_carry(self, model: nnx.Module, batch: Mapping[str, Any]) -> Any:
        """Zeros for a recurrent model, whose state goes on from batch to batch; None for others."""
        start = getattr(model, "initial_carry", None)
        return start(batch["inputs"].shape[0]) if start else None

    def loss(self, model: Any, batch: Batch, carry: Any, *, train: bool, rngs: nnx.Rngs | None) -> tuple[Sums, Any]:
        carry = jax.tree.map(lambda c: jnp.where(batch["start"].reshape(-1, *(1,) * (c.ndim - 1)), 0, c), carry)
        packed = {key: batch[key] for key in ("segments", "positions") if key in batch}
        if packed and "segments" not in inspect.signature(model.__call__).parameters:
            raise UserError(
                f"config.data.packing='within' is for models with attention, and not a {type(model).__name__}."
            )
        x, carry = model.features(batch["inputs"], carry, **packed, train=train, rngs=rngs)
        losses = token_losses(model, x, batch["targets"], self.loss_chunk)
        mask = batch["mask"]
        sums = {"loss": (losses * mask).sum(), "weight": mask.sum(), "bytes": batch["bytes"].sum()}
        # What a model wants small beside its mistakes, in nats per token: it leaves [B, T], or one number for all, as
        # `self.penalty = nnx.Intermediate(...)`. Times the mask it adds up over microbatches and devices as the losses
        # do, and padding costs nothing. Popped, it is no part of the model's state.
        left = nnx.to_pure_dict(nnx.pop(model, nnx.Intermediate))
        if "penalty" in left:
            sums["penalty"] = (left["penalty"] * mask).sum()
        if "routing" in left:  # of a mixture of experts: what each layer's router said of each token
            balances, tokens = jax.vmap(balance, (0, None))(left["routing"], mask)  # [L], [L, E]
            sums["penalty"] = sums.get("penalty", 0) + model.balance_weight * balances.sum() * sums["weight"]
            sums |= {"balance": balances.mean() * sums["weight"], "expert_tokens": tokens}
        return sums, carry

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """`loss` in nats per token, `bits_per_byte`, comparable across tokenizers, and `perplexity` = exp(loss).

        Of a mixture of experts in training also `balance`, its loss for a layer (the experts of a token where all are
        alike), and `busiest_expert`, how many times its share the expert got that got most in its layer.
        """
        nats = sums["loss"] / sums["weight"]
        figures = {
            "loss": nats,
            "bits_per_byte": sums["loss"] / math.log(2) / sums["bytes"],
            "perplexity": math.exp(min(nats, 700.0)),
        }
        if "expert_tokens" in sums:
            tokens = np.array(sums["expert_tokens"])  # [L, E]
            figures["balance"] = sums["balance"] / sums["weight"]
            figures["busiest_expert"] = float((tokens / tokens.mean(-1, keepdims=True)).max())
        return figures

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """Continuations of the first 32 tokens of four rows, sampled with fixed keys."""
        batch = next(iter(batches))
        prompt = batch["inputs"][:4, :32]
        tokens = sample(model, prompt, self.sample_tokens, self.sample_temperature, info["context"], jax.random.key(0))
        decode = info["decode"]
        samples = [
            {
                "prompt": decode(row[: prompt.shape[1]]),
                "text": decode(row[prompt.shape[1] :]),
                "temperature": self.sample_temperature,
            }
            for row in jax.device_get(tokens)
        ]
        return {"kind": "text", "samples": samples}


def sample(
    model: nnx.Module, prompt: jax.Array, num_tokens: int, temperature: float, context: int, key: jax.Array
) -> jax.Array:
    """Draws `num_tokens` more tokens, one at a time, each seeing at most the `context` tokens before it.

    Args:
      model: any language model.
      prompt: int32 [B, P].

    Returns:
      int32 [B, P + num_tokens], the prompt included.
    """
    length = prompt.shape[1]
    context = min(context, length + num_tokens)

    @jax.jit
    def draw(model: nnx.Module, tokens: jax.Array) -> jax.Array:
        def one(position: jax.Array, tokens: jax.Array) -> jax.Array:
            begin = jnp.maximum(position - context, 0)
            window = jax.lax.dynamic_slice_in_dim(tokens, begin, context, axis=1)
            logits = model(window)[0].astype(jnp.float32)
            last = jax.lax.dynamic_index_in_dim(logits, position - begin - 1, axis=1, keepdims=False)
            token = jax.random.categorical(jax.random.fold_in(key, position), last / temperature)
            return tokens.at[:, position].set(token.astype(tokens.dtype))

        return jax.lax.fori_loop(length, length + num_tokens, one, tokens)

    return draw(model, jnp.pad(prompt, ((0, 0), (0, num_tokens))))
