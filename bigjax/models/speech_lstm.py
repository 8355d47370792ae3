"""Convolutions and bidirectional LSTMs over speech of varying length, scored for CTC: before there was attention."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_choice, check_dropout, check_sizes
from bigjax.models.conformer import Subsampling
from bigjax.models.dropout import Dropout
from bigjax.models.linear import Linear
from bigjax.models.recurrent import Recurrent


class SpeechLSTM(nnx.Module):
    """Convolutions, recurrent layers that read both ways, and a linear head for CTC (Amodei et al. 2016, section 3).

    The convolutions are the Conformer's, and no layer is followed by BatchNorm.

    Args:
      vocab_size: what the head scores, blank included, V.
      num_mels: features of a frame, F.
      channels: of the convolutions, and the width of what the first layer reads.
      d_hidden: width of each layer and direction, D.
      num_layers: layers.
      dropout: rate, on what the first layer reads, between layers and on what the head reads.
      subsampling: frames that become one position, S, 2 or 4.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: a size is not positive, the dropout not a rate, or the subsampling another.
    """

    def __init__(
        self,
        vocab_size: int,
        num_mels: int,
        channels: int = 64,
        d_hidden: int = 320,
        num_layers: int = 4,
        dropout: float = 0.1,
        *,
        subsampling: int,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, num_mels=num_mels, channels=channels)
        check_sizes(d_hidden=d_hidden, num_layers=num_layers)
        check_dropout(dropout)
        check_choice("subsampling", subsampling, (2, 4))
        self.subsampling = Subsampling(num_mels, channels, subsampling, dtype=dtype, rngs=rngs)
        self.layers = Recurrent(
            channels, d_hidden, num_layers, bidirectional=True, dropout=dropout, dtype=dtype, rngs=rngs
        )
        self.head = Linear(2 * d_hidden, vocab_size, dtype=dtype, rngs=rngs)
        self.dropout = Dropout(dropout)

    def __call__(
        self, features: jax.Array, lengths: jax.Array, *, train: bool = False, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Scores of each label at every S-th frame.

        Args:
          features: log-mel spectrograms [B, T, F].
          lengths: int32 [B]; frames from there on are padding, which changes nothing.

        Returns:
          [B, ceil(T / S), V], and how many positions of each row are real, ceil(lengths / S), int32 [B].
        """
        x, lengths = self.subsampling(features, lengths)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        x, _ = self.layers(x, lengths=lengths, train=train, rngs=rngs)
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs)), lengths
