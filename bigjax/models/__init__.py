"""What is trained: one file per architecture. A new model is a file here and a line in MODELS."""

from collections.abc import Callable

from flax import nnx

from bigjax.models import gpt
from bigjax.models.cnn import CNN
from bigjax.models.conformer import Conformer
from bigjax.models.encoder_decoder import EncoderDecoder
from bigjax.models.gpt import GPT
from bigjax.models.rnn import RNN
from bigjax.models.whisper import Whisper

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "cnn": CNN,
    "conformer": Conformer,
    "encoder_decoder": EncoderDecoder,
    "gpt": GPT,
    "rnn": RNN,
    "whisper": Whisper,
}

# How parameters lie on the mesh, for models that say more than "along fsdp".
SHARDING = {
    "encoder_decoder": gpt.SHARDING,  # their parts have the same names
    "gpt": gpt.SHARDING,
    "whisper": gpt.SHARDING,
}
