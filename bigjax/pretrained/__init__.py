"""Checkpoints of Hugging Face and torchvision, in and out. A new family is a file here and a line in FAMILIES."""

from bigjax.pretrained.gpt2 import GPT2
from bigjax.pretrained.llama import LLAMA, QWEN3
from bigjax.pretrained.mapping import Family
from bigjax.pretrained.whisper import WHISPER

FAMILIES: dict[str, Family] = {family.architecture: family for family in (GPT2, LLAMA, QWEN3, WHISPER)}
