"""image_folder: layout, sizes, damage, determinism."""

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigjax.data.decoding import Format
from bigjax.data.image_folder import hold_out, image_folder, list_images
from bigjax.errors import UserError

SHARED = Path(os.environ.get("BIGJAX_SHARED_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
CIFAR = SHARED / "cifar10_jpeg.tar.xz"
ALL = slice(None)


def save(path: Path, size: tuple[int, int] = (12, 12), shade: int = 0) -> Path:
    """An image of `size` (width, height) with a smooth gradient that differs by `shade`."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    pixels = np.stack([x * 9 + shade, y * 9 + shade, x + y + shade], -1) % 256
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """30 training images of three classes, with every suffix, and three test images."""
    for c, name in enumerate(("cat", "dog", "owl")):
        for i, suffix in enumerate((".jpg", ".JPEG", ".png", ".bmp", ".WebP") * 2):
            save(tmp_path / "train" / name / f"{i}{suffix}", shade=c * 60 + i)
        save(tmp_path / "test" / name / "0.png", shade=c)
    return tmp_path


def test_splits_classes_and_shapes(root: Path) -> None:
    (root / "train" / "cat" / ".hidden.jpg").write_bytes(b"")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    data = image_folder(str(root))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 27, "validation": 3, "test": 3}
    assert data.info == {"num_classes": 3, "image_shape": (12, 12, 3), "class_names": ["cat", "dog", "owl"]}
    batch = data.splits["test"].eval_batch(0, 4, ALL)
    assert batch["image"].dtype == np.uint8 and batch["image"].shape == (4, 12, 12, 3)
    assert batch["label"].tolist()[:3] == [0, 1, 2] and batch["mask"].tolist() == [1, 1, 1, 0]
    assert (batch["image"][1] == np.asarray(Image.open(root / "test" / "dog" / "0.png"))).all()
    (note,) = data.notes
    assert note.startswith("passed over 1 file, such as 'train/cat/notes.txt': only .jpg")


def test_what_is_passed_over_is_told(root: Path) -> None:
    assert image_folder(str(root)).notes == ()
    for name in ("dog/b.gif", "dog/old/a.png", "owl/old/older/a.HEIC", "owl/.git/a.gif", "owl/old/.a.png"):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).write_bytes(b"")
    save(root / "test" / "cat" / "more" / "0.png")
    (note,) = image_folder(str(root)).notes
    assert note.startswith("passed over 4 files, such as 'test/cat/more/0.png'")


def test_a_batch_depends_on_seed_and_step_alone(root: Path) -> None:
    options = {"crop": 10, "padding": 2, "flip": True, "cutout": 3}
    cached, streamed = image_folder(str(root), **options), image_folder(str(root), cache=False, **options)
    for step in (0, 3):
        whole = cached.splits["train"].train_batch(7, step, 8, ALL)
        parts = [streamed.splits["train"].train_batch(7, step, 8, rows) for rows in (slice(0, 4), slice(4, 8))]
        for key, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))
    other = cached.splits["train"].train_batch(8, 0, 8, ALL)["image"]
    assert not np.array_equal(other, cached.splits["train"].train_batch(7, 0, 8, ALL)["image"])
    for name in ("train", "validation", "test"):
        images = [data.splits[name].eval_batch(0, 30, ALL)["image"] for data in (cached, streamed)]
        np.testing.assert_array_equal(*images)


def test_fingerprint_follows_the_content(root: Path) -> None:
    pixels, files = image_folder(str(root)), image_folder(str(root), cache=False)
    assert pixels.fingerprint() == image_folder(str(root)).fingerprint() != files.fingerprint()
    save(root / "train" / "cat" / "2.png", shade=200)
    assert image_folder(str(root)).fingerprint() != pixels.fingerprint()
    save(root / "test" / "cat" / "1.png")
    assert image_folder(str(root), cache=False).fingerprint() != files.fingerprint()


def test_the_holdout_is_fixed(root: Path) -> None:
    files = list_images(root, "train", ["cat", "dog", "owl"], [])
    train, validation = hold_out(files, 0.2)
    assert hold_out(files, 0.2) == (train, validation)
    assert len(validation) == 6 and sorted(train + validation) == files
    assert [path for path, _ in validation][:2] == ["train/cat/2.png", "train/dog/0.jpg"]
    with pytest.raises(UserError, match=r"config.data.holdout must be between 0 and 1, not 1"):
        image_folder(str(root), holdout=1.0)
    assert {name: len(split) for name, split in image_folder(str(root), holdout=0.0).splits.items()} == {
        "train": 30,
        "test": 3,
    }


@pytest.mark.parametrize("name", ["validation", "val"])
def test_a_validation_folder_is_used_whole(root: Path, name: str) -> None:
    save(root / name / "owl" / "x.png")
    data = image_folder(str(root))
    assert len(data.splits["train"]) == 30
    assert data.splits["validation"].eval_batch(0, 1, ALL)["label"].tolist() == [2]
    save(root / "validation" / "owl" / "x.png")
    save(root / "val" / "owl" / "x.png")
    with pytest.raises(UserError, match=r"both 'validation' and 'val'"):
        image_folder(str(root))


def test_image_size_resizes_and_takes_the_middle(root: Path) -> None:
    save(root / "train" / "cat" / "wide.jpg", (64, 32))
    data = image_folder(str(root), image_size=8, grayscale=True)
    assert data.info["image_shape"] == (8, 8, 1)
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = 255
    Image.fromarray(wide).save(root / "wide.png")
    middle = Format(8, False).decode((root / "wide.png").read_bytes(), "wide.png")
    assert middle.shape == (8, 8, 3) and (middle[:, 1:-1] == 255).all()  # the filter reaches over the edges


def test_transparent_palette_and_cmyk_images_become_rgb(root: Path) -> None:
    save(root / "train" / "cat" / "p.png")
    for mode, suffix in (("RGBA", "png"), ("P", "png"), ("L", "png"), ("1", "png"), ("CMYK", "jpg")):
        image = Image.open(root / "train" / "cat" / "p.png").convert(mode)
        image.save(root / "train" / "cat" / f"{mode}.{suffix}")
    assert image_folder(str(root)).info["image_shape"] == (12, 12, 3)


def no_train(root: Path) -> None:
    (root / "train").rename(root / "training")


def no_classes(root: Path) -> None:
    for folder in list((root / "train").iterdir()):
        folder.rename(root / folder.name)


def empty_class(root: Path) -> None:
    (root / "train" / "fox").mkdir()


def unknown_class(root: Path) -> None:
    save(root / "test" / "dogs" / "0.png")


def empty_split(root: Path) -> None:
    (root / "validation").mkdir()


def odd_size(root: Path) -> None:
    save(root / "test" / "owl" / "odd.png", (12, 9))


def truncated(root: Path) -> None:
    file = save(root / "train" / "dog" / "cut.jpg", (12, 12))
    file.write_bytes(file.read_bytes()[:-40])


def no_image(root: Path) -> None:
    (root / "train" / "dog" / "text.png").write_text("hello")


def deep(root: Path) -> None:
    Image.fromarray(np.full((12, 12), 3000, np.uint16)).save(root / "train" / "owl" / "deep.png")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (no_train, r"There is no folder '.*/train' .*expected train/<class>/\*\.jpg"),
        (no_classes, r"'.*/train' has no class folders .*expected train/<class>/\*\.jpg"),
        (empty_class, r"class folder '.*/train/fox' has no images"),
        (unknown_class, r"'.*/test/dogs' is no class of the train folder; did you mean 'dog'\?"),
        (empty_split, r"The validation split of '.*' is empty"),
        (odd_size, r"'.*owl/odd.png' has 9x12 pixels, but .* 12x12; set config.data.image_size"),
        (truncated, r"'.*dog/cut.jpg': damaged or not an image \(.*runcated.*\); replace or remove it"),
        (no_image, r"'.*dog/text.png': damaged or not an image \(no known format\)"),
        (deep, r"'.*owl/deep.png': of more than 8 bits a channel"),
    ],
)
def test_what_is_wrong_is_named(root: Path, harm, sentence: str) -> None:
    harm(root)
    with pytest.raises(UserError, match=sentence):
        image_folder(str(root))


@pytest.mark.parametrize("harm", [truncated, odd_size, no_image])
def test_without_cache_damage_is_named_when_it_is_reached(root: Path, harm) -> None:
    harm(root)
    data = image_folder(str(root), cache=False)
    with pytest.raises(UserError, match=r"is damaged or not an image|set config.data.image_size"):
        for split in data.splits.values():
            split.eval_batch(0, 40, ALL)


def test_a_file_that_vanished_is_named(root: Path) -> None:
    data = image_folder(str(root), cache=False)
    (root / "test" / "dog" / "0.png").unlink()
    with pytest.raises(UserError, match=r"'.*dog/0.png' cannot be read: No such file"):
        data.splits["test"].eval_batch(0, 3, ALL)


def test_numbers_that_cannot_be(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"config.data.image_size must be positive, not 0"):
        image_folder(str(root), image_size=0)
    with pytest.raises(UserError, match=r"config.data.crop is 13, but the images are only 12x12"):
        image_folder(str(root), crop=13)
    monkeypatch.setattr(os, "sysconf", lambda name: 1000 if "PHYS" in name else 1)
    with pytest.raises(UserError, match=r"config.data.cache=False decodes them at every step"):
        image_folder(str(root))


@pytest.mark.slow
def test_real_photographs(tmp_path: Path) -> None:
    """CIFAR-10 as JPEG files: the archive's first 300 images of airplanes, and as many more as it takes."""
    if not CIFAR.is_file():
        pytest.skip(f"{CIFAR} is absent; BIGJAX_SHARED_DATA says where it is")
    with tarfile.open(CIFAR, "r|xz") as archive:
        for count, member in enumerate(archive):
            if (content := archive.extractfile(member)) is not None:  # a file, not a folder
                path = tmp_path / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
            if count == 400:
                break
    data = image_folder(str(tmp_path), crop=32, padding=4, flip=True)
    assert data.info["class_names"][0] == "airplane" and data.info["image_shape"] == (32, 32, 3)
    streamed = image_folder(str(tmp_path), cache=False, crop=32, padding=4, flip=True)
    batches = [d.splits["train"].train_batch(0, 2, 128, ALL)["image"] for d in (data, streamed)]
    np.testing.assert_array_equal(*batches)
    assert 90 < batches[0].mean() < 170  # skies
