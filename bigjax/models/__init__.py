"""What is trained: one file per architecture. A new model is a file here and a line in MODELS."""

from collections.abc import Callable

from flax import nnx

from bigjax.models import gpt
from bigjax.models.cnn import CNN
from bigjax.models.gpt import GPT
from bigjax.models.rnn import RNN

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "cnn": CNN,
    "gpt": GPT,
    "rnn": RNN,
}

# How parameters lie on the mesh, for models that say more than "along fsdp".
SHARDING = {
    "gpt": gpt.SHARDING,
}
