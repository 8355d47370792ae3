"""Where examples come from: numpy only, never jax."""

from collections.abc import Callable

from bigjax.data.dataset import Dataset
from bigjax.data.digits import digits
from bigjax.data.image_folder import image_folder
from bigjax.data.labelled_text import text_table
from bigjax.data.numerals import numerals
from bigjax.data.pairs import translation_pairs
from bigjax.data.random_data import random_images, random_text
from bigjax.data.speech_sources import fsdd, librispeech, speech_commands, speech_manifest
from bigjax.data.squad import squad, tfds_squad
from bigjax.data.text_files import pydoc, text_file, word_files
from bigjax.data.text_masked import text_masked
from bigjax.data.tfds import tfds_images, tfds_labelled_text, tfds_text, tfds_translation

SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fsdd": fsdd,
    "image_folder": image_folder,
    "librispeech": librispeech,
    "numerals": numerals,
    "pydoc": pydoc,
    "random_images": random_images,
    "random_text": random_text,
    "speech_commands": speech_commands,
    "speech_manifest": speech_manifest,
    "squad": squad,
    "text_file": text_file,
    "text_masked": text_masked,
    "text_table": text_table,
    "tfds_images": tfds_images,
    "tfds_labelled_text": tfds_labelled_text,
    "tfds_squad": tfds_squad,
    "tfds_text": tfds_text,
    "tfds_translation": tfds_translation,
    "translation_pairs": translation_pairs,
    "word_files": word_files,
}
