"""Data sets of a few examples, which TFDS prepares without TensorFlow unless their name says otherwise."""

import io
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def png(size: tuple[int, int], shade: int) -> io.BytesIO:
    """A PNG of `size` (width, height) with a gradient, that differs by `shade`."""
    pixels = (np.arange(size[0] * size[1] * 3).reshape(size[1], size[0], 3) * 7 + shade * 31) % 256
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


class TinyImages(tfds.core.GeneratorBasedBuilder):
    """20 and 6 images of 8x8 of two classes, and a feature that nobody wants."""

    VERSION = tfds.core.Version("1.0.0")
    SIZES = ((8, 8),)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                    "weight": np.float32,
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(6)}

    def _generate_examples(self, count: int):
        for i in range(count):
            yield i, {"image": png(self.SIZES[i % len(self.SIZES)], i), "label": i % 2, "weight": 1.0}


class TinyMixedSizes(TinyImages):
    """The same with images of two sizes."""

    VERSION = tfds.core.Version("1.0.0")
    SIZES = ((8, 8), (12, 10))


class TinyBadImages(TinyImages):
    """An image that is none, and a split whose labels nobody knows."""

    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "secret": self._generate_secrets()}

    def _generate_examples(self, count: int):
        for i, example in super()._generate_examples(count):
            yield i, example | ({"image": io.BytesIO(b"hello")} if i == 3 else {})

    def _generate_secrets(self):
        for i, example in super()._generate_examples(4):
            yield i, example | {"label": -1}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """Some sentences; half of them end with a newline already."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "stars": np.int64})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(10), "test": self._generate_examples(4)}

    def _generate_examples(self, count: int):
        for i in range(count):
            yield i, {"text": f"sentence number {i} é" + "\n" * (i % 2), "stars": i}


class TinyBadTexts(tfds.core.GeneratorBasedBuilder):
    """Labelled sentences of which one is not UTF-8, and a split of that one alone."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["even", "odd"])}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(8)), "bad": self._generate_examples([3])}

    def _generate_examples(self, numbers):
        for i in numbers:
            yield i, {"text": b"caf\xe9" if i == 3 else f"sentence number {i} é", "label": i % 2}


class TinySquad(tfds.core.GeneratorBasedBuilder):
    """Two questions like SQuAD's."""

    VERSION = tfds.core.Version("1.0.0")
    MORE: ClassVar[dict] = {}  # features of version 2.0

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {key: tfds.features.Text() for key in ("id", "title", "context", "question")}
        answers = tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32})
        features = tfds.features.FeaturesDict({**texts, "answers": answers, **self.MORE})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self):
        about = {"title": "Zoé", "context": "Zoé lives in Bonn; she was born in Köln."}
        yield 0, {"id": "a", "question": "Who lives in Bonn?", **about, **self.answered(("Zoé", 0), ("Zoé lives", 0))}
        yield 1, {"id": "b", "question": "Where was she born?", **about, **self.answered(("Köln", 35))}

    def answered(self, *answers: tuple[str, int]) -> dict:
        return {"answers": [{"text": text, "answer_start": start} for text, start in answers]}


class TinySquad2(TinySquad):
    """The same, but the second question has no answer."""

    VERSION = tfds.core.Version("2.0.0")
    MORE: ClassVar[dict] = {"is_impossible": np.bool_}

    def answered(self, *answers: tuple[str, int]) -> dict:
        impossible = len(answers) == 1
        return super().answered(*(() if impossible else answers)) | {"is_impossible": impossible}


class TinyBadSquad(TinySquad):
    """The same, but an answer of the second question is not UTF-8."""

    VERSION = tfds.core.Version("1.0.0")

    def answered(self, *answers: tuple[str, int]) -> dict:
        bad = [{"text": b"K\xf6ln", "answer_start": 35}]
        return super().answered(*answers) if len(answers) == 2 else {"answers": bad}


class TinyArraysNeedTensorflow(TinyImages):
    """Images from arrays, which TFDS encodes with TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _generate_examples(self, count: int):
        for i in range(count):
            yield i, {"image": np.zeros((8, 8, 3), np.uint8), "label": 0, "weight": 1.0}


class TinySoundsNeedTensorflow(TinyTexts):
    """A feature that TFDS cannot even describe without TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Audio()}))


class TinyManual(TinyTexts):
    """Files that the user must fetch by hand."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Fetch tiny.tar from example.org."

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(len(list(dl_manager.manual_dir.iterdir())))}


class TinyOffline(TinyTexts):
    """A download that fails at once, as without a network."""

    VERSION = tfds.core.Version("1.0.0")

    def _split_generators(self, dl_manager):
        raise ConnectionError("Failed to resolve 'example.org'")


class TinyTranslations(tfds.core.GeneratorBasedBuilder):
    """Pairs of texts as WMT's; one has nothing on one side."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="de-en"),)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=tfds.features.Translation(languages=("de", "en")))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(10), "test": self._generate_examples(4)}

    def _generate_examples(self, count: int):
        for i in range(count):
            yield i, {"de": f"Häuser {i}" if i != 5 or count < 10 else "", "en": f"houses {i}"}
