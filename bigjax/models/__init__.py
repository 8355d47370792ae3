"""What is trained: one file per architecture. A new model is a file here and a line in MODELS."""

from collections.abc import Callable

from flax import nnx

from bigjax.models import bert, gpt, vit
from bigjax.models.alexnet import AlexNet
from bigjax.models.bert import BERT
from bigjax.models.cnn import CNN
from bigjax.models.conformer import Conformer
from bigjax.models.encoder_decoder import EncoderDecoder
from bigjax.models.gpt import GPT
from bigjax.models.quick_cnn import QuickCNN
from bigjax.models.resnet import ResNet
from bigjax.models.rnn import RNN
from bigjax.models.rnn_classifier import RNNClassifier
from bigjax.models.speech_lstm import SpeechLSTM
from bigjax.models.vgg import VGG
from bigjax.models.vit import ViT
from bigjax.models.whisper import Whisper

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "alexnet": AlexNet,
    "bert": BERT,
    "cnn": CNN,
    "conformer": Conformer,
    "encoder_decoder": EncoderDecoder,
    "gpt": GPT,
    "quick_cnn": QuickCNN,
    "resnet": ResNet,
    "rnn": RNN,
    "rnn_classifier": RNNClassifier,
    "speech_lstm": SpeechLSTM,
    "vgg": VGG,
    "vit": ViT,
    "whisper": Whisper,
}

# How parameters lie on the mesh, for models that say more than "along fsdp".
SHARDING = {
    "bert": bert.SHARDING,
    "encoder_decoder": gpt.SHARDING,  # their parts have the same names
    "gpt": gpt.SHARDING,
    "vit": vit.SHARDING,
    "whisper": gpt.SHARDING,
}

# Whose rows are positions that a mesh's axis `sequence` may cut.
CUTS_POSITIONS = ("bert", "encoder_decoder", "gpt")
