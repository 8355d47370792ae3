"""Where examples come from: numpy only, never jax."""

from collections.abc import Callable

from bigjax.data.dataset import Dataset
from bigjax.data.digits import digits
from bigjax.data.image_folder import image_folder
from bigjax.data.speech_sources import fsdd, librispeech, speech_commands, speech_manifest
from bigjax.data.text import pydoc, text_file
from bigjax.data.tfds import tfds_images, tfds_text

SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fsdd": fsdd,
    "image_folder": image_folder,
    "librispeech": librispeech,
    "pydoc": pydoc,
    "speech_commands": speech_commands,
    "speech_manifest": speech_manifest,
    "text_file": text_file,
    "tfds_images": tfds_images,
    "tfds_text": tfds_text,
}
