"""Image augmentation by its definition, and image data sets."""

import numpy as np
import pytest

from bigjax.data.dataset import random
from bigjax.data.digits import digits
from bigjax.data.images import Augment, image_dataset, in_memory
from bigjax.errors import UserError


def noise(count, side=8, depth=1):
    """Images in which no two pixels of a window repeat, none black and none mid-grey."""
    pixels = np.random.default_rng(0).integers(1, 255, (count, side, side, depth), np.uint8)
    return np.where(pixels == 128, 129, pixels).astype(np.uint8)


def augmented(augment, images, step=0):
    return augment.train(images, random(0, "augment", step), len(images), slice(0, len(images)))


def windows(image, side):
    """All windows of an image, by their bytes."""
    spots = range(image.shape[0] - side + 1)
    return {image[y : y + side, x : x + side].tobytes(): (y, x) for y in spots for x in spots}


@pytest.mark.parametrize(("crop", "padding"), [(6, 0), (8, 2), (5, 1), (None, 2)])
def test_crops_are_windows_of_the_padded_image_from_everywhere(crop, padding):
    images = noise(400)
    out = augmented(Augment(crop=crop, padding=padding), images)
    side = crop or 8
    assert out.shape == (400, side, side, 1)
    assert out.dtype == np.uint8
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    spots = {windows(image, side)[cut.tobytes()] for image, cut in zip(padded, out, strict=True)}
    reach = 8 + 2 * padding - side + 1
    assert {y for y, _ in spots} == {x for _, x in spots} == set(range(reach))
    assert len(spots) > 0.8 * reach**2


def test_half_of_the_images_are_flipped_left_to_right():
    images = noise(1000, side=4, depth=3)
    out = augmented(Augment(flip=True), images)
    same, flipped = (out == images).all((1, 2, 3)), (out == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ flipped).all()
    assert 0.45 < flipped.mean() < 0.55


def test_without_options_nothing_varies():
    images = noise(10)
    np.testing.assert_array_equal(augmented(Augment(), images), images)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_cutout_blanks_one_square_that_may_hang_over_the_edge(size):
    images = noise(500, depth=2)
    out = augmented(Augment(cutout=size), images)
    blank = (out == 128).all(-1)
    np.testing.assert_array_equal(out[~blank], images[~blank])
    counts = blank.sum((1, 2))
    assert counts.max() == size**2
    assert size == 1 or counts.min() < size**2  # at an edge
    assert counts.min() > 0
    for picture in blank:
        rows, columns = picture.any(1), picture.any(0)
        np.testing.assert_array_equal(picture, rows[:, None] & columns)
        assert max(rows.sum(), columns.sum()) <= size
        assert all(np.ptp(np.flatnonzero(side)) == side.sum() - 1 for side in (rows, columns))
    assert blank.any(0).all()


def test_augmenting_leaves_the_source_alone():
    images = noise(50)
    before = images.copy()
    augmented(Augment(cutout=4), images)
    np.testing.assert_array_equal(images, before)


def test_steps_and_seeds_are_augmented_differently():
    pixels = noise(1)
    data = image_dataset({"train": in_memory(pixels, np.array([0]))}, ["a"], Augment(crop=4), "one image")
    batches = [
        data.splits["train"].train_batch(seed, step, 6, slice(0, 6))["image"].tobytes()
        for seed in (0, 1)
        for step in (0, 1, 2)
    ]
    assert len(set(batches)) == 6


def test_evaluation_takes_the_middle():
    images = noise(2, side=9)
    np.testing.assert_array_equal(Augment(crop=5, flip=True, cutout=3).evaluate(images), images[:, 2:7, 2:7])
    np.testing.assert_array_equal(Augment(padding=2).evaluate(images), images)


def make(labels=(0, 1, 2), augment=None, **splits):
    splits = {"train": in_memory(noise(len(labels)), np.array(labels))} | splits
    return image_dataset(splits, ["a", "b", "c"], augment or Augment(), "noise")


def test_data_set_says_what_models_need():
    data = make(augment=Augment(crop=6))
    assert data.info == {"num_classes": 3, "image_shape": (6, 6, 1), "class_names": ["a", "b", "c"]}
    batch = data.splits["train"].train_batch(0, 0, 4, slice(0, 4))
    assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
        "image": ((4, 6, 6, 1), np.uint8),
        "label": ((4,), np.int32),
        "mask": ((4,), np.float32),
    }


def test_labels_go_with_their_images():
    pixels = np.broadcast_to(np.arange(30, dtype=np.uint8)[:, None, None, None], (30, 2, 2, 1))
    split = image_dataset({"train": in_memory(pixels, np.arange(30))}, list(map(str, range(30))), Augment(), "n")
    for step in range(5):
        batch = split.splits["train"].train_batch(1, step, 8, slice(0, 8))
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    batch = split.splits["train"].eval_batch(3, 8, slice(0, 8))
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    assert batch["mask"].tolist() == [1] * 6 + [0] * 2


def test_data_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="test split of noise is empty"):
        make(test=in_memory(noise(1), np.array([])))
    with pytest.raises(UserError, match="Example 1 of the train split of noise has label 3"):
        make(labels=(0, 3, 1))
    with pytest.raises(UserError, match="label -1"):
        make(labels=(0, -1, 1))
    with pytest.raises(UserError, match="crop is 9, but the images are only 8x8"):
        make(augment=Augment(crop=9))


def test_digits_are_split_without_overlap():
    data = digits()
    sizes = {name: len(split) for name, split in data.splits.items()}
    assert sizes == {"train": 1257, "validation": 180, "test": 360}
    seen = [split.eval_batch(0, len(split), slice(0, len(split))) for split in data.splits.values()]
    images, labels = (np.concatenate([batch[key] for batch in seen]) for key in ("image", "label"))
    assert np.bincount(labels).min() > 170
    assert images.shape == (1797, 8, 8, 1)
    assert images.max() == 255
    assert digits().fingerprint() == data.fingerprint() != digits(image_size=9).fingerprint()
    assert digits(image_size=28, crop=24).info["image_shape"] == (24, 24, 1)
