"""Checkpoints of Hugging Face and torchvision, in and out. A new family is a file here and a line in FAMILIES."""

from bigjax.pretrained import resnet, torchvision
from bigjax.pretrained.bert import BERTS
from bigjax.pretrained.gpt2 import GPT2
from bigjax.pretrained.llama import LLAMA, QWEN3
from bigjax.pretrained.mapping import Family
from bigjax.pretrained.vit import VIT
from bigjax.pretrained.whisper import WHISPER

CNNS = (resnet.RESNET, torchvision.ALEXNET, torchvision.VGG, torchvision.RESNET)
TRANSFORMERS = (*BERTS, GPT2, LLAMA, QWEN3, VIT, WHISPER)

# Where several families have a model, it is saved as the first of them unless it came from another.
FAMILIES: dict[str, Family] = {family.architecture: family for family in (*TRANSFORMERS, *CNNS)}
