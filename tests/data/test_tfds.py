"""Sources from TFDS, and preparing them, with tiny real builders and no TensorFlow."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_builders.builders  # noqa: F401  (importing them registers them)

from bigjax.data.prepare import prepare
from bigjax.data.tfds import tfds_images, tfds_labelled_text, tfds_text
from bigjax.errors import UserError

ALL = slice(None)
without_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed, and so nothing needs it"
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the tiny data sets are prepared."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    for name in ("tiny_images", "tiny_mixed_sizes", "tiny_bad_images", "tiny_texts", "tiny_bad_texts"):
        prepare(name, folder)
    return folder


def test_images_and_labels(data_dir: str) -> None:
    data = tfds_images("tiny_images", data_dir=data_dir, test_split="test")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 20, "test": 6}
    assert data.info == {"num_classes": 2, "image_shape": (8, 8, 3), "class_names": ["cat", "dog"]}
    batch = data.splits["train"].eval_batch(0, 20, ALL)
    shade = batch["image"][:, 0, 0, 0].astype(int)
    assert sorted(shade) == sorted(i * 31 % 256 for i in range(20))
    assert batch["label"].tolist() == [next(i for i in range(20) if i * 31 % 256 == s) % 2 for s in shade]


def test_a_batch_depends_on_seed_and_step_alone(data_dir: str) -> None:
    options = {"data_dir": data_dir, "crop": 6, "padding": 1, "flip": True}
    cached, streamed = tfds_images("tiny_images", **options), tfds_images("tiny_images", cache=False, **options)
    for step in (0, 3):
        whole = cached.splits["train"].train_batch(7, step, 8, ALL)
        parts = [streamed.splits["train"].train_batch(7, step, 8, rows) for rows in (slice(0, 4), slice(4, 8))]
        for key, value in whole.items():
            np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))
    images = [d.splits["train"].eval_batch(0, 20, ALL)["image"] for d in (cached, streamed)]
    np.testing.assert_array_equal(*images)


def test_parts_of_splits(data_dir: str) -> None:
    whole = tfds_images("tiny_images", data_dir=data_dir)
    cut = tfds_images("tiny_images", "train[:90%]", "train[90%:]", "train+test", data_dir)
    assert {name: len(split) for name, split in cut.splits.items()} == {"train": 18, "validation": 2, "test": 26}
    images = [cut.splits[name].eval_batch(0, count, ALL)["image"] for name, count in (("train", 18), ("validation", 2))]
    np.testing.assert_array_equal(np.concatenate(images), whole.splits["train"].eval_batch(0, 20, ALL)["image"])


def test_fingerprints(data_dir: str) -> None:
    prints = [
        tfds_images("tiny_images", split, data_dir=data_dir, cache=cache).fingerprint()
        for split in ("train", "train[:50%]")
        for cache in (True, False)
    ]
    assert len(set(prints)) == 4
    assert prints[0] == tfds_images("tiny_images", data_dir=data_dir).fingerprint()
    assert prints[1] == tfds_images("tiny_images", data_dir=data_dir, cache=False).fingerprint()


def test_texts_are_joined_by_newlines(data_dir: str) -> None:
    data = tfds_text("tiny_texts", test_split="test", data_dir=data_dir, context=16)
    tokens = data.splits["train"].text.tokens
    lines = data.info["decode"](tokens).splitlines()
    assert sorted(lines) == sorted(f"sentence number {i} é" for i in range(10)) and tokens[-1] == ord("\n")
    assert data.splits["train"].train_batch(0, 0, 4, ALL)["inputs"].shape == (4, 16)
    assert len(tfds_text("tiny_texts", "train[:50%]", data_dir=data_dir, context=16).splits["train"].text.tokens) < 120


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dataset": "tiny_image"}, r"no TFDS data set 'tiny_image'; did you mean 'tiny_images'\?"),
        ({"dataset": "cifr10"}, r"no TFDS data set 'cifr10'; did you mean 'cifar10'\?"),
        (
            {"dataset": "imdb_reviews/plain_txt"},
            r"'imdb_reviews' has no config 'plain_txt'; did you mean 'plain_text'\?",
        ),
        ({"dataset": "tiny_images:9.9.9"}, r"'tiny_images:9.9.9' cannot be found by TFDS: .*only: 1.0.0"),
        ({"dataset": "cifar10"}, r"not prepared in .*; do it with `bigjax data prepare cifar10 --data-dir=/"),
        ({"train_split": "trian"}, r"'trian' \(config.data.train_split\) is no split of .*there are: train, test"),
        ({"test_split": "train[:x]"}, r"'train\[:x\]' \(config.data.test_split\) is no split"),
        ({"validation_split": "train[:0]"}, r"The validation split of tiny_images/1.0.0 is empty"),
        ({"image_key": "img"}, r"has no feature 'img' \(config.data.image_key\); there are: image, label, weight"),
        ({"label_key": "weight"}, r"The feature 'weight' .* \(config.data.label_key\) is a .*, not a ClassLabel"),
        ({"dataset": "tiny_mixed_sizes"}, r"has \d+x\d+ pixels, but .* set config.data.image_size"),
        ({"crop": 9}, r"config.data.crop is 9, but the images are only 8x8"),
    ],
)
def test_what_is_wrong_is_named(data_dir: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tfds_images(**{"dataset": "tiny_images", "data_dir": data_dir} | options)


def test_images_of_many_sizes_are_resized(data_dir: str) -> None:
    assert tfds_images("tiny_mixed_sizes", data_dir=data_dir, image_size=6).info["image_shape"] == (6, 6, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_bad_images_are_skipped_counted_and_told(data_dir: str, cache: bool) -> None:
    data = tfds_images("tiny_bad_images", data_dir=data_dir, cache=cache, on_error="skip")
    assert len(data.splits["train"]) == 19
    assert re.match(r"skipped 1 bad record: Example \d+ of 'train' of 'tiny_bad_images': damaged", data.notes[0])
    shades = data.splits["train"].eval_batch(0, 19, ALL)["image"][:, 0, 0, 0]
    assert sorted(shades.tolist()) == sorted(i * 31 % 256 for i in range(20) if i != 3)
    with pytest.raises(UserError, match=r"Example \d+ of 'train' of 'tiny_bad_images'(:| is) damaged"):
        tfds_images("tiny_bad_images", data_dir=data_dir, cache=cache).splits["train"].eval_batch(0, 20, ALL)


def test_labels_that_are_not_published(data_dir: str) -> None:
    with pytest.raises(UserError, match="Examples of 'secret' have no label"):
        tfds_images("tiny_bad_images", "secret", data_dir=data_dir)


def test_random_parts_are_the_same_for_any_share_of_the_rows(data_dir: str) -> None:
    options = {"cache": False, "image_size": 8, "crop": 6, "crop_scale": (0.3, 1.0), "flip": True}
    split = tfds_images("tiny_mixed_sizes", data_dir=data_dir, **options).splits["train"]
    whole = split.train_batch(7, 3, 8, ALL)
    parts = [split.train_batch(7, 3, 8, rows) for rows in (slice(0, 2), slice(2, 8))]
    for key, value in whole.items():
        np.testing.assert_array_equal(value, np.concatenate([part[key] for part in parts]))


def test_texts_that_are_none(data_dir: str) -> None:
    with pytest.raises(UserError, match=r"has no feature 'txt' \(config.data.text_key\); there are: text, stars"):
        tfds_text("tiny_texts", data_dir=data_dir, text_key="txt")
    with pytest.raises(UserError, match=r"The feature 'stars' .* \(config.data.text_key\) is a .*, not a Text"):
        tfds_text("tiny_texts", data_dir=data_dir, text_key="stars")


DOWNLOAD = "tensorflow_datasets.download.DownloadManager.download_and_extract"
NOT_UTF8 = r"Example \d of 'train' of 'tiny_bad_texts': a text of it is not UTF-8 at byte 3"


def test_texts_that_are_not_utf8(data_dir: str) -> None:
    options = {"dataset": "tiny_bad_texts", "data_dir": data_dir, "context": 16}
    with pytest.raises(UserError, match=NOT_UTF8):
        tfds_text(**options)
    data = tfds_text(**options, on_error="skip")
    lines = data.info["decode"](data.splits["train"].text.tokens).splitlines()
    assert sorted(lines) == [f"sentence number {i} é" for i in range(8) if i != 3]
    assert re.match(f"skipped 1 bad record: {NOT_UTF8}", data.notes[0])
    with pytest.raises(
        UserError, match=r"No example of 'bad' of 'tiny_bad_texts' can be used \(skipped 2 bad records: "
    ):
        tfds_text(**options, validation_split="bad", on_error="skip")


def test_labelled_texts_that_are_not_utf8(data_dir: str) -> None:
    options = {"dataset": "tiny_bad_texts", "data_dir": data_dir, "vocab_size": 60}
    with pytest.raises(UserError, match=NOT_UTF8):
        tfds_labelled_text(**options)
    data = tfds_labelled_text(**options, on_error="skip")
    assert sorted(data.splits["train"].labels.tolist()) == [0] * 4 + [1] * 3
    assert re.match(f"skipped 1 bad record: {NOT_UTF8}", data.notes[0])


def test_preparing_twice_says_where(data_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = prepare("tiny_texts", data_dir)
    assert path == Path(data_dir) / "tiny_texts" / "1.0.0" and path.is_dir()
    assert capsys.readouterr().out == f"tiny_texts/1.0.0 is already prepared in {path}.\n"


def test_files_that_only_tensorflow_reads(tmp_path: Path) -> None:
    info = prepare("tiny_images", str(tmp_path)) / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    for use in (prepare, lambda name, folder: tfds_images(name, data_dir=folder)):
        with pytest.raises(UserError, match=r"as tfrecord, which needs TensorFlow to read; remove that folder"):
            use("tiny_images", str(tmp_path))


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damaged_records(tmp_path: Path, harm: str) -> None:
    file = next(prepare("tiny_images", str(tmp_path)).glob("*-train.array_record-*"))
    good = file.read_bytes()
    if harm == "remove":
        file.unlink()
    else:
        file.write_bytes(good[:1000] if harm == "cut" else good[:700] + bytes([good[700] ^ 1]) + good[701:])
    with pytest.raises(
        UserError, match=r"The records of tiny_images/1.0.0 in .* are damaged .*; remove that folder and"
    ):
        tfds_images("tiny_images", data_dir=str(tmp_path))


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "tiny_images" / "1.0.0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"is in the way: it holds no complete tiny_images/1.0.0"):
        prepare("tiny_images", str(tmp_path))


@without_tensorflow
def test_tensorflow_is_asked_for_where_it_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"cannot be prepared without TensorFlow: pip install 'bigjax\[tf\]'"):
        prepare("tiny_arrays_need_tensorflow", str(tmp_path))
    with pytest.raises(UserError, match=r"features that cannot be read without TensorFlow: pip install 'bigjax\[tf\]'"):
        tfds_text("tiny_sounds_need_tensorflow", data_dir=str(tmp_path))
    assert "****" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"'glue/sst2'.*Some names are known only with TensorFlow"):
        prepare("glue/sst2", str(tmp_path))


@without_tensorflow
@pytest.mark.parametrize("dataset", ["cifar10", "lm1b", "mnist"])
def test_archives_are_not_downloaded_to_find_that_tensorflow_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    monkeypatch.setattr(DOWNLOAD, lambda *_: pytest.fail("something was downloaded"))
    with pytest.raises(UserError, match=rf"{dataset}/.* cannot be prepared without TensorFlow: pip install 'bigjax"):
        prepare(dataset, str(tmp_path))


def test_what_is_no_archive_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = tmp_path / "fetched.json"
    question = {"id": "a", "question": "Who?", "answers": [{"text": "Zoé", "answer_start": 0}]}
    article = {"title": "Zoé", "paragraphs": [{"context": "Zoé lives in Bonn.", "qas": [question]}]}
    fetched.write_text(json.dumps({"data": [article]}))
    monkeypatch.setattr(DOWNLOAD, lambda _, urls: dict.fromkeys(urls, str(fetched)))
    assert prepare("squad/v1.1", str(tmp_path)).is_dir()


def test_what_cannot_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"by hand: .*downloads/manual does not exist.*Fetch tiny.tar from example.org"):
        prepare("tiny_manual", str(tmp_path))
    with pytest.raises(UserError, match=r"could not be downloaded .*Failed to resolve .*; check the network"):
        prepare("tiny_offline", str(tmp_path))


def test_neither_jax_nor_tfds_is_imported_before_it_is_used() -> None:
    script = "import sys, bigjax.data, bigjax.data.prepare; print([m for m in sys.modules if m in sys.argv[1:]])"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, "jax", "tensorflow", "tensorflow_datasets", "rich"]
    assert subprocess.check_output(command, text=True, env=environment) == "[]\n"
