"""Bidirectional LSTMs over speech of varying length, scored for CTC: the acoustic model before there was attention."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from bigjax.models.checks import check_dropout, check_sizes
from bigjax.models.linear import Linear
from bigjax.models.recurrent import Recurrent


class SpeechLSTM(nnx.Module):
    """Recurrent layers that read both ways (Graves et al. 2013) with a linear head for CTC (Graves et al. 2006).

    Neighbouring frames are read side by side, so that the layers run over fewer positions (Sak et al. 2015).

    Args:
      vocab_size: what the head scores, blank included, V.
      num_mels: features of a frame, F.
      d_hidden: width of each layer and direction, D.
      num_layers: layers.
      dropout: rate, on what the first layer reads, between layers and on what the head reads.
      subsampling: frames that are read as one, S.
      dtype: what is computed in; parameters are float32.

    Raises:
      ValueError: a size is not positive, or the dropout not a rate.
    """

    def __init__(
        self,
        vocab_size: int,
        num_mels: int,
        d_hidden: int = 320,
        num_layers: int = 4,
        dropout: float = 0.1,
        *,
        subsampling: int,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        check_sizes(vocab_size=vocab_size, num_mels=num_mels, d_hidden=d_hidden, num_layers=num_layers)
        check_sizes(subsampling=subsampling)
        check_dropout(dropout)
        self.subsampling = subsampling
        self.layers = Recurrent(
            subsampling * num_mels, d_hidden, num_layers, bidirectional=True, dropout=dropout, dtype=dtype, rngs=rngs
        )
        self.head = Linear(2 * d_hidden, vocab_size, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)

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
        real = jnp.arange(features.shape[1]) < lengths[:, None]
        x = jnp.where(real[..., None], features, 0)
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % self.subsampling), (0, 0)))
        x = x.reshape(x.shape[0], -1, self.subsampling * x.shape[2])
        lengths = -(-lengths // self.subsampling)
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        x, _ = self.layers(x, lengths=lengths, train=train, rngs=rngs)
        return self.head(self.dropout(x, deterministic=not train, rngs=rngs)), lengths
