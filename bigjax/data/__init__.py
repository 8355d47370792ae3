"""Where examples come from: numpy only, never jax."""

from collections.abc import Callable

from bigjax.data.dataset import Dataset
from bigjax.data.digits import digits
from bigjax.data.image_folder import image_folder
from bigjax.data.text_files import pydoc, text_file, word_files
from bigjax.data.text_masked import text_masked
from bigjax.data.tfds import tfds_images, tfds_text

SOURCES: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "image_folder": image_folder,
    "pydoc": pydoc,
    "text_file": text_file,
    "text_masked": text_masked,
    "tfds_images": tfds_images,
    "tfds_text": tfds_text,
    "word_files": word_files,
}
