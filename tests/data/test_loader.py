"""Promise 2: the batch of step t is a function of (seed, t) alone, whoever asks, when, and with how many threads."""

import threading
import time

import numpy as np
import pytest
from helpers import same_bits

from bigjax.data.dataset import Dataset, in_order, permutation, random, sha256, shuffled
from bigjax.data.images import Augment, image_dataset, in_memory
from bigjax.data.loader import prefetched
from bigjax.data.text import text_dataset

BATCH = 12
TEXT = np.frombuffer(("".join(chr(32 + i * i % 90) + "\n" * (i % 7 == 0) for i in range(700))).encode(), np.uint8)


def images():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 6, 6, 2), np.uint8)
    labels = np.arange(31) % 5
    augment = Augment(crop=5, padding=1, flip=True, cutout=3)
    return image_dataset({"train": in_memory(pixels, labels)}, list("abcde"), augment, "noise").splits["train"]


def text(layout):
    return text_dataset({"train": TEXT}, 9, layout, "bytes", None, 4, "squares").splits["train"]


SPLITS = {"images": images} | {name: lambda name=name: text(name) for name in ("windows", "lines", "stream")}


def whole(split, step, seed=0):
    return split.train_batch(seed, step, BATCH, slice(0, BATCH))


@pytest.fixture(params=SPLITS)
def split(request):
    permutation.cache_clear()
    return SPLITS[request.param]()


def test_batches_do_not_depend_on_the_order_they_are_asked_for(split):
    steps = [5, 0, 61, 2, 0, 1, 60]
    forward = {step: whole(split, step) for step in sorted(set(steps))}
    permutation.cache_clear()
    for step in steps:
        same_bits(whole(split, step), forward[step])


@pytest.mark.parametrize("hosts", [2, 4])
def test_batches_do_not_depend_on_the_number_of_hosts(split, hosts):
    share = BATCH // hosts
    for step in (0, 2, 60):  # step 2 straddles two epochs of the images
        parts = [split.train_batch(0, step, BATCH, slice(h * share, (h + 1) * share)) for h in range(hosts)]
        same_bits({key: np.concatenate([p[key] for p in parts]) for key in parts[0]}, whole(split, step))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(split, workers):
    expected = [whole(split, step) for step in range(3, 15)]
    permutation.cache_clear()
    same_bits(list(prefetched(lambda step: whole(split, step), 3, 15, workers)), expected)


def test_another_seed_gives_other_batches():
    for name in ("images", "windows", "lines"):
        first, other = (whole(SPLITS[name](), 0, seed=seed) for seed in (0, 1))
        assert any((first[key] != other[key]).any() for key in first), name


@pytest.mark.parametrize("hosts", [2, 4])
def test_evaluation_batches_do_not_depend_on_the_number_of_hosts(split, hosts):
    size = 8
    for index in range(split.eval_batches(size)):
        full = split.eval_batch(index, size, slice(0, size))
        parts = [split.eval_batch(index, size, slice(h * size // hosts, (h + 1) * size // hosts)) for h in range(hosts)]
        same_bits({key: np.concatenate([p[key] for p in parts]) for key in full}, full)


@pytest.mark.parametrize(("length", "batch_size"), [(10, 4), (7, 7), (5, 13), (9, 1)])
def test_every_epoch_has_every_example_once(length, batch_size):
    epochs, examples = zip(*(shuffled(3, step, batch_size, length) for step in range(4 * length)), strict=True)
    epochs, examples = np.concatenate(epochs), np.concatenate(examples)
    orders = set()
    for epoch in range(epochs.max()):
        order = examples[epochs == epoch]
        assert sorted(order) == list(range(length))
        orders.add(tuple(order))
    assert (np.diff(epochs) >= 0).all()
    assert len(orders) > 1


def test_evaluation_has_every_example_once_and_pads_with_no_weight():
    for batch_size in (1, 4, 10, 16):
        batches = [in_order(i, batch_size, 10, slice(0, batch_size)) for i in range(-(-10 // batch_size))]
        index, mask = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert index[mask > 0].tolist() == list(range(10))
        assert len(index) == len(batches) * batch_size
        assert index.max() == 9


def test_numpy_randomness_is_addressed():
    addresses = [
        (seed, stream, at) for seed in (0, 1, 2**32 - 1) for stream in ("order", "jitter") for at in (0, 1, 256)
    ]
    draws = [random(*address).random() for address in addresses]
    assert len(set(draws)) == len(addresses)
    assert [random(*address).random() for address in addresses[::-1]] == draws[::-1]


def test_fingerprints_tell_contents_apart():
    a = np.arange(6)
    prints = [sha256(a), sha256(a.reshape(2, 3)), sha256(a.astype(np.int32)), sha256(a + 1), sha256(a, a)]
    assert len(set(prints)) == 5
    assert sha256(np.arange(12)[::2]) == sha256(np.arange(0, 12, 2))
    assert Dataset({"train": text("windows")}, {}).fingerprint() != Dataset({"train": text("lines")}, {}).fingerprint()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_an_error_comes_at_its_step(workers):
    def fetch(step):
        if step == 4:
            raise ZeroDivisionError("no batch 4")
        return step

    batches = prefetched(fetch, 0, 10, workers)
    assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError, match="no batch 4"):
        next(batches)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_than_was_allowed_is_fetched_ahead(workers):
    fetched = []
    batches = prefetched(lambda step: fetched.append(step) or step, 0, 100, workers, ahead=4)
    assert next(batches) == 0
    time.sleep(0.05)
    assert sorted(fetched) == [0, 1, 2, 3, 4]
    batches.close()


def loaders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.parametrize("ending", ["abandoned", "exhausted", "failed"])
def test_threads_end_with_the_batches(ending):
    before = set(loaders())
    held, fetched = threading.Event(), []

    def fetch(step):
        fetched.append(step)
        if ending == "failed":
            raise ZeroDivisionError
        if step > 0:
            held.wait(10)
        return step

    batches = prefetched(fetch, 0, 6, 2, ahead=4)
    if ending == "failed":
        with pytest.raises(ZeroDivisionError):
            next(batches)
    else:
        assert next(batches) == 0
        assert set(loaders()) - before
    if ending == "abandoned":
        batches.close()
    held.set()
    if ending == "exhausted":
        assert list(batches) == [1, 2, 3, 4, 5]
    deadline = time.monotonic() + 10
    while set(loaders()) - before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not set(loaders()) - before
    if ending == "abandoned":
        assert max(fetched) <= 2  # what waited in the queue was called off
