"""Random parts of images, resizing, and images that cannot be used."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigjax.data.decoding import BadImage, Format
from bigjax.data.image_folder import image_folder
from bigjax.data.images import DRAWS, TRIES, Augment
from bigjax.errors import UserError

ALL = slice(None)
PARTS = {"cache": False, "image_size": 16, "crop": 12, "crop_scale": (0.2, 1.0), "flip": True, "cutout": 3}


def photograph(width, height, kind="JPEG"):
    """A smooth picture, encoded, and its pixels."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([127 + 100 * np.sin(x / 40), 127 + 100 * np.cos(y / 50), (x + y) / (width + height) * 255], -1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve photographs of two classes, each of another size, and two to validate on."""
    for i in range(14):
        split = "validation" if i > 11 else "train"
        path = tmp_path / split / ("cat", "dog")[i % 2] / f"{i:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photograph(30 + 7 * i, 80 - 3 * i))
    return tmp_path


def test_parts_have_the_areas_and_ratios_asked_for_and_lie_anywhere():
    augment, rng = Augment(crop=8, crop_scale=(0.1, 0.5), crop_ratio=(0.5, 2.0)), np.random.default_rng(0)
    parts = np.array([augment.part(rng.random(DRAWS), 400, 600) for _ in range(4000)])
    left, top, right, bottom = parts.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 600 and bottom.max() <= 400
    area, ratio = (right - left) * (bottom - top) / 240_000, (right - left) / (bottom - top)
    assert area.min() == pytest.approx(0.1, abs=0.01) and area.max() == pytest.approx(0.5, abs=0.01)
    assert area.mean() == pytest.approx(0.3, abs=0.01)
    assert ratio.min() == pytest.approx(0.5, rel=0.02) and ratio.max() == pytest.approx(2, rel=0.02)
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.05)
    slack = 600 - (right - left)
    assert (left / slack).mean() == pytest.approx(0.5, abs=0.02) and left.min() == 0 and (left == slack).any()


def test_the_first_try_that_fits_is_taken_and_else_the_middle():
    augment = Augment(crop=8, crop_scale=(0.25, 1.0), crop_ratio=(1.0, 1.0))
    draws = np.zeros(DRAWS)
    assert augment.part(draws, 100, 100) == (0, 0, 50, 50)
    draws[-2:] = 0.999
    assert augment.part(draws, 100, 100) == (50, 50, 100, 100)
    draws[0] = 1.0  # all of a 100x400 image as a square does not fit; the next try, a quarter, just does
    assert augment.part(draws, 100, 400) == (300, 0, 400, 100)
    draws[: 2 * TRIES : 2] = 1.0
    assert augment.part(draws, 100, 400) == (150, 0, 250, 100)
    assert augment.part(draws, 400, 100) == (0, 150, 100, 250)
    assert Augment(crop=8, crop_scale=(0.5, 1.0)).part(np.ones(DRAWS), 1, 50)[1::2] == (0, 1)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_a_part_is_cut_out_and_resized(interpolation):
    data = photograph(90, 70, "PNG")
    part = Format(None, False, interpolation).decode(data, "x", lambda h, w: (10, 20, w - 20, h), 24)
    cut = Image.open(io.BytesIO(data)).crop((10, 20, 70, 70))
    expected = cut.resize((24, 24), Image.Resampling[interpolation.upper()])
    # Pillow's filters see over the edges of a part, but not of an image that was cut out.
    np.testing.assert_array_equal(part[4:-4, 4:-4], np.asarray(expected)[4:-4, 4:-4])
    whole = Format(20, True, interpolation).decode(data, "x")
    assert whole.shape == (20, 20, 1)


def test_large_jpegs_are_decoded_at_a_fraction_that_nobody_sees():
    data, box = photograph(1600, 1200), (100, 50, 1500, 1150)
    exact = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BILINEAR, box)
    found = Format(None, False, "bilinear").decode(data, "x", lambda h, w: box, 64)
    difference = np.abs(found - np.asarray(exact, float))
    assert 0 < difference.max() <= 3  # it was, and by how much

    data = photograph(200, 150)  # not twice as large as what is wanted: every pixel counts
    exact = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BILINEAR, (0, 0, 127, 127))
    found = Format(None, False, "bilinear").decode(data, "x", lambda h, w: (0, 0, 127, 127), 64)
    np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("kind", ["usual", "progressive", "full colour", "gray", "cmyk", "flipped", "grown"])
@pytest.mark.parametrize("grayscale", [False, True])
def test_jpegs_have_the_pixels_that_pillow_gives(kind, grayscale, monkeypatch):
    image, file = Image.open(io.BytesIO(photograph(203, 151))), io.BytesIO()
    image = image.convert({"gray": "L", "cmyk": "CMYK"}.get(kind, "RGB"))
    image.save(file, "JPEG", progressive=kind == "progressive", subsampling=0 if kind == "full colour" else 2)
    data = bytearray(file.getvalue())
    if kind == "flipped":  # which Pillow does not notice
        data[len(data) // 2] ^= 0x55
    if kind == "grown":
        data += b"more"

    def decoded():
        for size in (None, 90, 20):
            yield Format(size, grayscale).decode(bytes(data), "x")
        yield Format(None, grayscale, "bilinear").decode(bytes(data), "x", lambda h, w: (3, 5, w - 20, h - 9), 31)

    found = [*decoded()]
    assert found[0].shape == (151, 203, 1 if grayscale else 3)
    monkeypatch.setattr("bigjax.data.opening.COLOURS", {"RGB": (), "L": ()})  # all is left to Pillow
    for mine, other in zip(found, decoded(), strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("end", [100, 2000, -10])
def test_a_jpeg_that_ends_too_soon_is_damaged(end):
    with pytest.raises(BadImage, match="runcated"):
        Format(None, False).decode(photograph(203, 151)[:end], "x")


def test_a_jpeg_that_says_it_is_enormous_is_refused_before_it_takes_memory(monkeypatch):
    data = bytearray(photograph(203, 151))
    start = data.index(b"\xff\xc0") + 5  # height and width in the frame's header
    data[start : start + 4] = (65_000).to_bytes(2, "big") * 2
    monkeypatch.setattr("simplejpeg.decode_jpeg", None)
    with pytest.raises(BadImage, match="exceeds limit"):
        Format(None, False).decode(bytes(data), "x")


def test_a_row_depends_on_seed_step_and_row_alone(root: Path) -> None:
    split = image_folder(str(root), **PARTS, randaugment_ops=1).splits["train"]
    for step in (0, 5):
        whole = split.train_batch(7, step, 8, ALL)
        assert whole["image"].shape == (8, 12, 12, 3)
        for cuts in ((0, 4, 8), (0, 1, 2, 5, 8)):
            rows = [slice(a, b) for a, b in pairwise(cuts)]
            parts = [split.train_batch(7, step, 8, some) for some in rows]
            for key, value in whole.items():
                np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))
    again = [split.train_batch(seed, step, 8, ALL)["image"] for seed, step in ((7, 5), (7, 4), (8, 5))]
    np.testing.assert_array_equal(again[0], whole["image"])
    assert len({image.tobytes() for image in again}) == 3


def test_evaluation_resizes_and_takes_the_middle(root: Path) -> None:
    data = image_folder(str(root), **PARTS, interpolation="bilinear")
    assert data.info["image_shape"] == (12, 12, 3)
    found = data.splits["validation"].eval_batch(0, 2, ALL)["image"]
    for image, path in zip(found, sorted(root.glob("validation/*/*.jpg")), strict=True):
        pixels = Image.open(path)
        scale = 16 / min(pixels.size)
        size = [round(scale * side) for side in pixels.size]
        left, top = ((side - 12) / 2 for side in size)
        reference = np.asarray(pixels.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 12, top + 12)))
        assert np.abs(image - reference.astype(float)).mean() < 4  # their middles may differ by half a pixel


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"crop": None}, "crop_scale needs config.data.crop"),
        ({"cache": True}, "crop_scale takes parts of whole images: it needs config.data.cache=False"),
        ({"image_size": None}, "needs .* and config.data.image_size for evaluation"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be two numbers that rise in 0 to 1"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale must be two numbers that rise in 0 to 1"),
        ({"crop_ratio": (2.0, 0.5)}, "crop_ratio must be two positive numbers that rise"),
        ({"randaugment_ops": -1}, "randaugment_ops must be at least 0"),
    ],
)
def test_options_that_cannot_be(root: Path, options, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        image_folder(str(root), **PARTS | options)


@pytest.fixture
def damaged(root: Path) -> Path:
    """The first image is none, another is cut off, a third has more than 8 bits."""
    (root / "train/cat/00.jpg").write_bytes(b"hello")
    file = root / "train/dog/05.jpg"
    file.write_bytes(file.read_bytes()[:-200])
    Image.fromarray(np.full((40, 40), 3000, np.uint16)).save(root / "validation/cat/deep.png")
    return root


@pytest.mark.parametrize("cache", [True, False])
def test_bad_images_are_skipped_counted_and_told(damaged: Path, cache: bool) -> None:
    options = {"image_size": 16, "cache": cache, "on_error": "skip"}
    data = image_folder(str(damaged), **options)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 10, "validation": 2}
    (note,) = data.notes
    assert note.startswith("skipped 3 bad records: ")
    assert all(name in note for name in ("00.jpg", "05.jpg", "deep.png"))
    assert data.splits["train"].eval_batch(0, 10, ALL)["label"].tolist() == [0] * 5 + [1] * 5
    for name in ("00.jpg", "05.jpg", "deep.png"):
        next(damaged.glob(f"*/*/{name}")).unlink()
    clean = image_folder(str(damaged), **options)
    assert not clean.notes
    for batch in (
        lambda d: d.splits["train"].train_batch(0, 3, 8, ALL),
        lambda d: d.splits["train"].eval_batch(0, 10, ALL),
    ):
        for key, value in batch(data).items():
            np.testing.assert_array_equal(value, batch(clean)[key])
    assert cache == (data.fingerprint() == clean.fingerprint())


def test_bad_images_stop_the_run_otherwise(damaged: Path) -> None:
    with pytest.raises(UserError, match=r"00.jpg' is damaged or not an image \(no known format\)"):
        image_folder(str(damaged), image_size=16, cache=False)
    (damaged / "train/cat/00.jpg").unlink()
    with pytest.raises(UserError, match=r"05.jpg': damaged .*\(config.data.on_error='skip' leaves such records out\)"):
        image_folder(str(damaged), image_size=16)
    data = image_folder(str(damaged), image_size=16, cache=False)  # nothing is read before it is needed
    with pytest.raises(BadImage, match=r"05.jpg' is damaged or not an image"):
        data.splits["train"].eval_batch(0, 12, ALL)


def test_where_nothing_is_left(root: Path) -> None:
    for path in root.glob("train/*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"None of 12 training images can be used, such as '.*train/cat/00.jpg'"):
        image_folder(str(root), on_error="skip")
