"""TFDS's own code for CIFAR-10, lm1b and WMT on small archives as their authors publish them.

It unpacks and opens files by TensorFlow. Where that is not installed the standard library does, but for CIFAR-10, whose
pixels are written as PNG by TensorFlow.
"""

import glob
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import etils.epath
import numpy as np
import pytest
import tensorflow_datasets as tfds
from promise import Promise
from tensorflow_datasets.datasets.lm1b import lm1b_dataset_builder

from bigjax.data import prepare
from bigjax.data.tfds import tfds_images, tfds_text, tfds_translation

with tfds.core.registered.skip_registration():  # what TFDS does not know without TensorFlow stays unknown
    from tensorflow_datasets.translate.wmt14 import Wmt14Translate


Serve = Callable[[str, dict[str, bytes]], None]

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NEWS = "1-billion-word-language-modeling-benchmark-r13output/"
WMT13, WMT14, WMT19 = (f"http://{host}" for host in (
    "www.statmt.org/wmt13/", "www.statmt.org/wmt14/", "data.statmt.org/wmt19/translation-task/"
))  # fmt: skip


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Puts an archive of some files where a URL would be downloaded from; nothing else can be."""
    archives = {}

    def add(url: str, files: dict[str, bytes]) -> None:
        archives[url] = tmp_path / Path(url).name
        with tarfile.open(archives[url], "w:gz") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))

    def fetch(_: object, resource: tfds.download.Resource) -> Promise:
        return Promise.resolve(etils.epath.Path(archives[resource.url]))

    def extract(_: object, resource: tfds.download.Resource) -> Promise:
        folder = tmp_path / "extracted" / resource.path.name
        with tarfile.open(resource.path) as archive:
            for entry in archive:
                (folder / entry.name).parent.mkdir(parents=True, exist_ok=True)
                (folder / entry.name).write_bytes(archive.extractfile(entry).read())
        return Promise.resolve(etils.epath.Path(folder))

    monkeypatch.setattr(tfds.download.DownloadManager, "_download_or_get_cache", fetch)
    if not prepare.has_tensorflow():
        monkeypatch.setattr(prepare, "has_tensorflow", lambda: True)
        monkeypatch.setattr(tfds.download.DownloadManager, "_extract", extract)
        tensorflow = SimpleNamespace(io=SimpleNamespace(gfile=SimpleNamespace(glob=glob.glob)))
        monkeypatch.setattr(lm1b_dataset_builder, "tf", tensorflow)
    return add


@pytest.mark.skipif(not prepare.has_tensorflow(), reason="TFDS encodes images by TensorFlow")
def test_cifar10(serve: Serve, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 3, 32, 32), np.uint8), rng.integers(0, 10, 12, np.uint8)
    rows = [bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True)]
    files = {f"data_batch_{i + 1}.bin": b"".join(rows[2 * i : 2 * i + 2]) for i in range(5)}
    files |= {"test_batch.bin": b"".join(rows[10:]), "batches.meta.txt": "\n".join([*CLASSES, ""]).encode()}
    serve(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        {f"cifar-10-batches-bin/{name}": content for name, content in files.items()},
    )
    prepare.prepare("cifar10", str(tmp_path))
    data = tfds_images("cifar10", test_split="test", data_dir=str(tmp_path))
    assert data.info["class_names"] == CLASSES and data.info["image_shape"] == (32, 32, 3)
    for name, numbers in (("train", range(10)), ("test", range(10, 12))):
        batch = data.splits[name].eval_batch(0, len(numbers), slice(None))
        found = sorted(
            (int(label), image.tobytes()) for label, image in zip(batch["label"], batch["image"], strict=True)
        )
        assert found == sorted((int(labels[i]), images[i].transpose(1, 2, 0).tobytes()) for i in numbers)


def test_lm1b(serve: Serve, tmp_path: Path) -> None:
    lines = [f"The n°{i} sentence , as tokenized ." for i in range(5)]
    train, held_out = (
        NEWS + "training-monolingual.tokenized.shuffled/",
        NEWS + "heldout-monolingual.tokenized.shuffled/",
    )
    serve(
        "http://www.statmt.org/lm-benchmark/1-billion-word-language-modeling-benchmark-r13output.tar.gz",
        {
            train + "news.en-00001-of-00100": "\n".join([*lines[:2], ""]).encode(),
            train + "news.en-00002-of-00100": "\n".join([lines[2], ""]).encode(),
            held_out + "news.en.heldout-00000-of-00050": "\n".join([*lines[3:], ""]).encode(),
        },
    )
    prepare.prepare("lm1b", str(tmp_path))
    data = tfds_text("lm1b", validation_split="test", data_dir=str(tmp_path), context=8)
    texts = {name: data.info["decode"](split.text.tokens).splitlines() for name, split in data.splits.items()}
    assert {name: sorted(some) for name, some in texts.items()} == {"train": lines[:3], "validation": lines[3:]}


def test_wmt14(serve: Serve, tmp_path: Path) -> None:
    def sides(*pairs: tuple[str, str]) -> list[bytes]:
        return ["\n".join(side).encode() for side in zip(*pairs, strict=True)]

    def sgm(*lines: str) -> bytes:
        segments = "\n".join(f'<seg id="{i}">{line}</seg>' for i, line in enumerate(lines, 1))
        return f'<srcset setid="newstest2014" srclang="any">\n<doc docid="a">\n{segments}\n</doc>\n</srcset>\n'.encode()

    for url, name, pairs in (
        (WMT13 + "training-parallel-europarl-v7.tgz", "training/europarl-v7.de-en.", [("Haus", "house"), ("", "lost")]),
        (WMT13 + "training-parallel-commoncrawl.tgz", "commoncrawl.de-en.", [("Bär", "bear")]),
        (WMT14 + "training-parallel-nc-v9.tgz", "training/news-commentary-v9.de-en.", [("neu", "new")]),
    ):
        german, english = sides(*pairs)
        serve(url, {name + "de": german, name + "en": english})
    german, english = sides(("eins", "one"), ("zwei", "two"))
    files = {"newstest2013.de": german, "newstest2013.en": english}
    files |= {"newstest2014-deen-src.de.sgm": sgm("drei"), "newstest2014-deen-ref.en.sgm": sgm("three")}
    serve(WMT19 + "dev.tgz", {"dev/" + name: content for name, content in files.items()})

    Wmt14Translate(config="de-en", data_dir=str(tmp_path)).download_and_prepare(file_format="array_record")
    data = tfds_translation(
        "wmt14_translate/de-en",
        "en",
        "de",
        validation_split="validation",
        test_split="test",
        data_dir=str(tmp_path),
        vocab_size=261,
    )
    decode, found = data.info["decode"], {}
    for name, split in data.splits.items():
        batch = split.eval_batch(0, len(split), slice(None))
        sources = [decode(row[real]) for row, real in zip(batch["source"], batch["source_mask"], strict=True)]
        found[name] = sorted(zip(sources, map(decode, batch["targets"]), strict=True))
    assert found == {
        "train": [("bear", "Bär"), ("house", "Haus"), ("new", "neu")],
        "validation": [("one", "eins"), ("two", "zwei")],
        "test": [("three", "drei")],
    }
