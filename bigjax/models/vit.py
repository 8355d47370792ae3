"""The Vision Transformer: an image as a sequence of patches."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype
from jax.sharding import PartitionSpec as P

from bigjax.models.attention import Attention
from bigjax.models.blocks import MLP, Block
from bigjax.models.checks import check_choice, check_dropout, check_positive, check_sizes
from bigjax.models.convolution import Conv
from bigjax.models.dropout import Dropout
from bigjax.models.linear import Linear
from bigjax.models.norms import LayerNorm
from bigjax.models.stacked import Remat, make_layers, through_layers

SHARDING = (
    (r"(query|key|value|up)/kernel", P("fsdp", "tensor")),
    (r"(out|down)/kernel", P("tensor", "fsdp")),
)


class ViT(nnx.Module):
    """Pre-norm Transformer encoder of image patches (Dosovitskiy et al. 2021).

    Args:
      num_classes: classes, K.
      image_shape: height, width and channels of the images.
      patch_size: height and width of a patch, which divides those of the images.
      d_model: width, D.
      num_layers: blocks.
      num_heads: attention heads.
      d_ff: width of the MLP; None is 4 D.
      pool: what the head sees: "cls", a learned token put before the patches, or "mean" of the patches.
      norm_epsilon: of all LayerNorms.
      dropout: rate, on the embedding and on what each block adds.
      scan_layers: the blocks are one stack and compiled once, as in `GPT`.
      remat: what of a block is kept for the backward pass, as in `GPT`.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: sizes are not positive or do not divide.
    """

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        patch_size: int = 16,
        d_model: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        d_ff: int | None = None,
        pool: Literal["cls", "mean"] = "cls",
        norm_epsilon: float = 1e-6,
        dropout: float = 0.0,
        scan_layers: bool = False,
        remat: Remat = None,
        *,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        height, width, depth = image_shape
        check_sizes(num_classes=num_classes, patch_size=patch_size, d_model=d_model, num_layers=num_layers, d_ff=d_ff)
        check_sizes(num_heads=num_heads, height=height, width=width, channels=depth)
        check_dropout(dropout)
        check_positive(norm_epsilon=norm_epsilon)
        check_choice("pool", pool, ("cls", "mean"))
        if height % patch_size or width % patch_size:
            raise ValueError(f"image height and width must divide by patch_size={patch_size}, not {height}x{width}")
        init = nnx.initializers.xavier_uniform()
        parts: dict[str, Any] = {"dtype": dtype, "rngs": rngs}

        def norm(rngs: nnx.Rngs) -> LayerNorm:
            return LayerNorm(d_model, epsilon=norm_epsilon, dtype=dtype, rngs=rngs)

        def block(rngs: nnx.Rngs) -> Block:
            inits: dict[str, Any] = {"kernel_init": init, "out_init": init, "dtype": dtype, "rngs": rngs}
            attention, mlp = Attention(d_model, num_heads, **inits), MLP(d_model, d_ff, "exact_gelu", **inits)
            return Block(norm(rngs), attention, norm(rngs), mlp, dropout, causal=False)

        self.pool = pool
        self.patches = Conv(depth, d_model, (patch_size,) * 2, (patch_size,) * 2, padding="VALID", **parts)
        self.cls = nnx.Param(jnp.zeros((1, 1, d_model))) if pool == "cls" else None
        length = (height // patch_size) * (width // patch_size) + (pool == "cls")
        self.positions = nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), (1, length, d_model)))
        self.remat = remat
        self.blocks = make_layers(block, num_layers, scan_layers, rngs)
        self.norm = norm(rngs)
        # The paper's head starts at zero, so that all classes are as likely.
        self.head = Linear(d_model, num_classes, kernel_init=nnx.initializers.zeros, **parts)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to logits [B, K]."""
        x = self.features(x, train=train, rngs=rngs)
        return self.head(x[:, 0] if self.pool == "cls" else x.mean(1))

    def features(self, x: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [B, H, W, C] to [B, T, D], the patches row by row, behind the class token where there is one."""
        x = self.patches(x)  # [B, H / P, W / P, D]
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        if self.cls is not None:
            x = jnp.concatenate([jnp.broadcast_to(self.cls.astype(x.dtype), (x.shape[0], 1, x.shape[2])), x], 1)
        x = self.dropout(x + self.positions.astype(x.dtype), deterministic=not train, rngs=rngs)
        x = through_layers(self.blocks, x, lambda b, x, _, key: b(x, key=key)[0], rngs if train else None, self.remat)
        return self.norm(x)
