"""Image classification: the loss against closed forms, and what masks and mixing do to it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bigjax.tasks.image_classification import ImageClassification

KEY = jax.random.key(3)


class Stub:
    """A model whose logits are a fixed linear map of the mean pixel, and which keeps what it was shown."""

    def __init__(self, slope, offset=0.0):
        self.slope, self.offset = jnp.float32(slope), jnp.float32(offset)

    def __call__(self, image, train=False, rngs=None):
        self.image = image
        return image.mean((1, 2, 3))[:, None] * self.slope + self.offset


class Corner:
    """Looks at the upper left pixel alone."""

    def __call__(self, image, train=False, rngs=None):
        return image[:, 0, 0] * jnp.array([1.0, -1.0, 0.0])


class Head(nnx.Module):
    """Always class 1 of 3."""

    def __init__(self):
        self.logits = nnx.Param(jnp.array([0.0, 1.0, 0.0]))

    def __call__(self, image, train=False, rngs=None):
        return jnp.broadcast_to(self.logits[...], (len(image), 3))


def batch(labels, pixels=None, mask=None):
    labels = jnp.array(labels)
    pixels = jnp.zeros(len(labels)) if pixels is None else jnp.array(pixels)
    image = jnp.broadcast_to(pixels[:, None, None, None], (len(labels), 2, 2, 1)).astype(jnp.uint8)
    mask = jnp.ones(len(labels)) if mask is None else jnp.array(mask, jnp.float32)
    return {"image": image, "label": labels, "mask": mask}


def losses(task, model, batch, train=False, key=KEY):
    rngs = nnx.Rngs(augment=key) if train else None
    sums, carry = task.loss(model, batch, None, train=train, rngs=rngs)
    assert carry is None
    return {name: float(value) for name, value in sums.items()}


def cross_entropy(logits, target):
    """Of a distribution, in float64."""
    logits = np.asarray(logits, np.float64)
    return float(np.log(np.exp(logits).sum()) * np.sum(target) - (logits * target).sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uniform_logits_cost_log_of_the_classes(smoothing):
    task = ImageClassification(label_smoothing=smoothing)
    sums = losses(task, Stub(np.zeros(7)), batch([0, 3, 6]), train=True)
    assert sums["loss"] == pytest.approx(3 * np.log(7), abs=1e-6)
    assert sums["weight"] == 3


def test_label_smoothing_by_formula_and_only_in_training():
    logits, label, share = np.array([2.0, -1.0, 0.5, 0.0]), 1, 0.3
    task, model = ImageClassification(label_smoothing=share), Stub(np.zeros(4), logits)
    one_hot = np.eye(4)[label]
    smooth = cross_entropy(logits, (1 - share) * one_hot + share / 4)
    assert losses(task, model, batch([label]), train=True)["loss"] == pytest.approx(smooth, abs=1e-6)
    hard = cross_entropy(logits, one_hot)
    assert losses(task, model, batch([label]), train=False)["loss"] == pytest.approx(hard, abs=1e-6)
    assert abs(smooth - hard) > 0.1


def test_masked_rows_add_nothing():
    task, model = ImageClassification(), Stub([1, -1, 0.5], [0.1, 0.2, 0.3])
    part = losses(task, model, batch([0, 1, 2], [10, 60, 200]))
    for label, pixel in ((0, 0), (2, 255)):
        whole = losses(task, model, batch([0, 1, 2, label], [10, 60, 200, pixel], [1, 1, 1, 0]))
        assert whole == part
    two = losses(task, model, batch([0, 1, 2], [10, 60, 200], [1, 0, 1]))
    one = losses(task, model, batch([1], [60]))
    assert two["loss"] + one["loss"] == pytest.approx(part["loss"], abs=1e-6)
    assert two["weight"] == 2


def test_accuracy_counts_real_rows_that_are_right():
    model = Stub([0, 0, 0], [0, 1, 0])  # always class 1
    sums = losses(ImageClassification(), model, batch([1, 1, 0, 1, 2], mask=[1, 1, 1, 0, 1]))
    metrics = ImageClassification().metrics(sums)
    assert sums["correct"] == 2
    assert metrics["accuracy"] == 0.5
    assert metrics["loss"] == sums["loss"] / 4


def test_images_are_normalised_per_channel():
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 3), np.uint8)
    task = ImageClassification(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    expected = (image / 255.0 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    np.testing.assert_allclose(task.normalise(jnp.array(image)), expected, atol=1e-6)


def test_mixup_mixes_images_and_labels_by_one_share():
    task = ImageClassification(mean=(0.0,), std=(1.0,), mixup=0.7)
    model, data = Stub([1.0, -2.0, 0.5]), batch([0, 1, 2], [0, 51, 255])
    pixels = np.array([0, 0.2, 1])
    shares = []
    for seed in range(4):
        found = losses(task, model, data, train=True, key=jax.random.key(seed))
        mixed = np.asarray(model.image).mean((1, 2, 3))
        share = 1 - mixed[0]  # row 0 is black, its partner is white
        shares.append(share)
        np.testing.assert_allclose(mixed, share * pixels + (1 - share) * pixels[::-1], atol=1e-6)
        targets = share * np.eye(3) + (1 - share) * np.eye(3)[::-1]
        expected = [cross_entropy(m * np.array([1.0, -2.0, 0.5]), t) for m, t in zip(mixed, targets, strict=True)]
        assert found["loss"] == pytest.approx(sum(expected), abs=2e-6)
    assert len(set(np.round(shares, 4))) == 4
    assert 0 <= min(shares) < max(shares) <= 1


def test_mixup_is_off_in_evaluation():
    model, data = Stub([1.0, -2.0, 0.5]), batch([0, 1, 2], [0, 51, 255])
    assert losses(ImageClassification(mixup=0.7), model, data) == losses(ImageClassification(), model, data)


def test_mixup_share_follows_the_beta_distribution():
    task = ImageClassification(mean=(0.0,), std=(1.0,), mixup=0.4)
    data = batch([0, 1], [0, 255])

    def share(key):
        model = Stub([1.0, 0.0])
        task.loss(model, data, None, train=True, rngs=nnx.Rngs(augment=key))
        return model.image[1].mean()

    found = np.asarray(jax.jit(jax.vmap(share))(jax.random.split(KEY, 4000)))
    assert found.mean() == pytest.approx(0.5, abs=0.03)
    assert found.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # of Beta(a, a)


def test_cutmix_pastes_a_rectangle_and_mixes_labels_by_its_area():
    task = ImageClassification(mean=(0.0,), std=(1.0,), cutmix=1.0)
    model, sides = Stub([1.0, -2.0, 0.5]), []
    image = jnp.broadcast_to(jnp.array([0, 51, 255])[:, None, None, None], (3, 12, 8, 1)).astype(jnp.uint8)
    data = batch([0, 1, 2]) | {"image": image}
    for seed in range(40):
        found = losses(task, model, data, train=True, key=jax.random.key(seed))
        mixed = np.asarray(model.image)
        pasted = mixed[0, :, :, 0] == 1  # row 0 is black, its partner is white
        np.testing.assert_array_equal(pasted, pasted.any(1)[:, None] & pasted.any(0))
        assert all(
            np.ptp(np.flatnonzero(pasted.any(axis))) + 1 == pasted.any(axis).sum() for axis in (0, 1) if pasted.any()
        )
        np.testing.assert_array_equal(mixed[1], image[1] / np.float32(255))
        share = 1 - pasted.mean()
        targets = share * np.eye(3) + (1 - share) * np.eye(3)[::-1]
        logits = mixed.mean((1, 2, 3))[:, None] * np.array([1.0, -2.0, 0.5])
        expected = sum(cross_entropy(z, t) for z, t in zip(logits, targets, strict=True))
        assert found["loss"] == pytest.approx(expected, abs=1e-5)
        sides.append(pasted.shape[0] * pasted.shape[1] * (1 - share))
    assert min(sides) < 12 and max(sides) > 60


def test_cutmix_keeps_the_share_that_beta_says_where_nothing_hangs_over_the_edge():
    task = ImageClassification(cutmix=1.0)

    def area(key):
        own, share = task.mixing(64, 64, nnx.Rngs(augment=key))
        return share, own

    shares, own = jax.jit(jax.vmap(area))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(shares, own.mean((1, 2, 3)), atol=1e-6)
    inner = ~np.asarray(own == 0)[:, [0, -1]].any((1, 2, 3)) & ~np.asarray(own == 0)[:, :, [0, -1]].any((1, 2, 3))
    assert np.asarray(shares)[inner].min() > 0 and 0.5 < np.asarray(shares).mean() < 0.75


def test_mixup_and_cutmix_take_turns():
    task = ImageClassification(mean=(0.0,), std=(1.0,), mixup=1.0, cutmix=1.0)
    model, data = Stub([1.0, -2.0]), batch([0, 1], [0, 255])
    data["image"] = jnp.broadcast_to(data["image"][:, :1, :1], (2, 16, 16, 1))
    whole = []
    for seed in range(60):
        losses(task, model, data, train=True, key=jax.random.key(seed))
        values = np.unique(np.asarray(model.image)[0])
        whole.append(len(values) == 1 and 0 < values[0] < 1)
        assert whole[-1] or set(values) <= {0.0, 1.0}
    assert 15 < sum(whole) < 45


def test_the_mirror_image_counts_as_much():
    data = batch([0, 1]) | {"image": jnp.arange(32, dtype=jnp.uint8).reshape(2, 4, 4, 1)}
    model = Corner()
    plain, mirrored = (ImageClassification(mirror=mirror) for mirror in (False, True))
    image = plain.normalise(data["image"])
    expected = (plain.logits(model, image) + plain.logits(model, image[:, :, ::-1])) / 2
    np.testing.assert_allclose(mirrored.logits(model, image), expected, atol=1e-6)
    assert losses(mirrored, model, data) != losses(plain, model, data)
    assert losses(mirrored, model, data, train=True) == losses(plain, model, data, train=True)


@pytest.mark.parametrize(
    "options", [{"label_smoothing": 1.0}, {"label_smoothing": -0.1}, {"mixup": -1.0}, {"cutmix": -1.0}, {"std": (0.0,)}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ImageClassification(**options)


def test_examples_show_mistakes_first_and_count_all():
    batches = [batch([1, 0, 1], [1, 2, 3]), batch([2, 1], [4, 5], [1, 0])]
    info = {"num_classes": 3, "class_names": ["a", "b", "c"]}
    shown = ImageClassification().examples(Head(), batches, info)
    assert shown["labels"].tolist() == [0, 2, 1, 1]
    assert shown["images"][:, 0, 0, 0].tolist() == [2, 4, 1, 3]
    assert shown["predictions"].tolist() == [1, 1, 1, 1]
    assert shown["confusion"].tolist() == [[0, 1, 0], [0, 2, 0], [0, 1, 0]]
    np.testing.assert_allclose(shown["probabilities"], np.e / (np.e + 2), rtol=1e-6)
