"""RandAugment: every operation by its closed form."""

import numpy as np
import pytest
from PIL import Image

from bigjax.data.dataset import random
from bigjax.data.images import Augment
from bigjax.data.randaugment import OPERATIONS, rand_augment

NOISE = np.random.default_rng(0).integers(0, 256, (331, 331, 3), np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(60)[:, None] * 3, np.arange(80) * 2, 50), -1).astype(np.uint8)


def apply(name, pixels, level):
    return np.asarray(OPERATIONS[name](Image.fromarray(pixels), level))


def grey(pixels):
    """As the eye sees it (ITU-R 601), rounded as Pillow does."""
    return (pixels @ np.array([19595, 38470, 7471]) + 0x8000 >> 16).astype(np.float64)


def blend(a, b, factor):
    return np.clip(a + factor * (b.astype(np.float64) - a), 0, 255)


def test_the_papers_fourteen():
    assert len(OPERATIONS) == 14
    np.testing.assert_array_equal(apply("identity", NOISE, 1), NOISE)


@pytest.mark.parametrize("level", [0.5, 1.0, -1.0])
def test_what_moves_pixels(level):
    shift = round(150 * level)  # of 331
    x, y = apply("translate_x", NOISE, level), apply("translate_y", NOISE, level)
    expected = np.full_like(NOISE, 128)
    if shift > 0:
        expected[:, :-shift] = NOISE[:, shift:]
    else:
        expected[:, -shift:] = NOISE[:, :shift]
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y.swapaxes(0, 1), apply("translate_x", NOISE.swapaxes(0, 1).copy(), level))


@pytest.mark.parametrize("level", [0.4, -1.0])
def test_shearing_and_turning_a_slope_give_the_slope_that_geometry_says(level):
    """Bilinear interpolation is exact on a plane, and pixels have their middles at halves."""
    y, x = np.mgrid[:60, :80] + 0.5
    for name, (sx, sy) in {
        "shear_x": (x + 0.3 * level * y, y),
        "shear_y": (x, y + 0.3 * level * x),
        "rotate": (
            40 + np.cos(np.radians(30 * level)) * (x - 40) - np.sin(np.radians(30 * level)) * (y - 30),
            30 + np.sin(np.radians(30 * level)) * (x - 40) + np.cos(np.radians(30 * level)) * (y - 30),
        ),
    }.items():
        inside = (sx > 1) & (sx < 79) & (sy > 1) & (sy < 59)
        assert inside.mean() > 0.5
        expected = np.stack([3 * (sy - 0.5), 2 * (sx - 0.5)], -1)
        np.testing.assert_allclose(apply(name, SMOOTH, level)[..., :2][inside], expected[inside], atol=1.01)
        outside = (sx < -1) | (sx > 81) | (sy < -1) | (sy > 61)
        assert (apply(name, SMOOTH, level)[outside] == 128).all()


@pytest.mark.parametrize("level", [0.3, 1.0, -0.7, -1.0])
def test_what_changes_values(level):
    factor, pixels = 1 + 0.9 * level, NOISE[:64, :64]
    luma = grey(pixels)
    limits = {"atol": 1.01}
    np.testing.assert_allclose(apply("brightness", pixels, level), np.clip(factor * pixels, 0, 255), **limits)
    np.testing.assert_allclose(apply("color", pixels, level), blend(luma[..., None], pixels, factor), **limits)
    middle = int(luma.mean() + 0.5)
    np.testing.assert_allclose(apply("contrast", pixels, level), blend(np.float64(middle), pixels, factor), **limits)
    flat = np.full((8, 8, 3), 90, np.uint8)
    np.testing.assert_array_equal(apply("sharpness", flat, level), flat)
    threshold = round(256 * (1 - abs(level)))
    solar = np.where(pixels < threshold, pixels, 255 - pixels)
    np.testing.assert_array_equal(apply("solarize", pixels, level), solar)
    bits = 8 - round(4 * abs(level))
    np.testing.assert_array_equal(apply("posterize", pixels, level), pixels >> (8 - bits) << (8 - bits))


def test_contrast_is_stretched_and_histograms_are_levelled():
    ramp = np.repeat(np.arange(50, 150, dtype=np.uint8), 40).reshape(40, 100)[..., None].repeat(3, -1)
    stretched = apply("auto_contrast", ramp, 1)
    np.testing.assert_allclose(stretched, (ramp.astype(float) - 50) * 255 / 99, atol=1)
    levelled = apply("equalize", (ramp // 50 * 50).astype(np.uint8), 1)
    assert levelled.min() == 0 and levelled.max() == 255


def test_draws_choose_operations_and_directions():
    names = list(OPERATIONS)
    for i, name in enumerate(names):
        for direction, level in ((0.2, 0.5), (0.8, -0.5)):
            found = rand_augment(NOISE, np.array([[(i + 0.5) / 14, direction]]), 5.0)
            np.testing.assert_array_equal(found, apply(name, NOISE, level))
    two = np.array([[names.index("solarize") / 14 + 0.01, 0.1], [names.index("posterize") / 14 + 0.01, 0.1]])
    expected = apply("posterize", apply("solarize", NOISE, 1), 1)
    np.testing.assert_array_equal(rand_augment(NOISE, two, 10.0), expected)


def test_strong_magnitudes_and_grey_images_will_do():
    grey = NOISE[:16, :16, :1]
    for i in range(14):
        out = rand_augment(grey, np.array([[(i + 0.5) / 14, 0.9]]), 30.0)
        assert out.shape == grey.shape and out.dtype == np.uint8


def test_a_rows_operations_do_not_depend_on_the_rows_beside_it():
    augment, images = Augment(flip=True, randaugment_ops=2), NOISE[None, :32, :32].repeat(8, 0)
    whole = augment.train(images, random(0, "augment", 3), 8, slice(0, 8))
    parts = [augment.train(images[:2], random(0, "augment", 3), 8, slice(i, i + 2)) for i in (0, 2, 4, 6)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert len({image.tobytes() for image in whole}) > 5
