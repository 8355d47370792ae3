"""Opening an encoded image: JPEG files without Pillow, which takes six times as long for the same small pixels."""

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import simplejpeg
from PIL import Image

COLOURS = {"RGB": ("YCbCr", "RGB", "Gray"), "L": ("Gray",)}  # of JPEG files: where Pillow's pixels are the same
LARGE = 2**26  # pixels, from which on it is left to Pillow, which refuses what would fill the memory

Size = tuple[int, int]  # width and height, as in Pillow


def open_image(data: bytes, mode: str) -> tuple[Size, Callable[[Size | None], Image.Image | np.ndarray]]:
    """The size of an encoded image, and what decodes it.

    That takes the least size that is of use: a JPEG may come at a half, a quarter or an eighth of its own. It gives
    uint8 [H, W, C] in Pillow's `mode`, "RGB" or "L", or an image of any mode.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        usual = colours in COLOURS[mode] and height * width < LARGE
    except ValueError:
        usual = False
    if usual:
        return (width, height), partial(decode_jpeg, data, mode, (width, height))
    image = Image.open(io.BytesIO(data))
    return image.size, partial(load, image, mode)


def decode_jpeg(data: bytes, mode: str, size: Size, least: Size | None) -> Image.Image | np.ndarray:
    """By libjpeg-turbo, at the same fraction as by Pillow, which only reads on where something is damaged."""
    scale = min(size[0] // least[0], size[1] // least[1]) if least else 1
    part = max(part for part in (1, 2, 4, 8) if part <= max(scale, 1))
    width, height = (-(-side // part) for side in size)
    colours = "GRAY" if mode == "L" else mode
    try:
        return simplejpeg.decode_jpeg(data, colours, min_height=height, min_width=width, min_factor=part)
    except ValueError:
        return load(Image.open(io.BytesIO(data)), mode, least)


def load(image: Image.Image, mode: str, least: Size | None) -> Image.Image:
    """By Pillow."""
    if least:
        image.draft(mode, least)
    image.load()
    return image
