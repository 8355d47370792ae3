"""ImageNet from tiny archives of the official form, through `bigjax data prepare` to a step of every recipe."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigjax.cli import main
from bigjax.config import experiment_config
from bigjax.data.prepare import has_tensorflow
from bigjax.data.tfds import tfds_images
from bigjax.errors import UserError
from bigjax.training.setup import resolve, set_up

ROOT = Path(__file__).parents[2]
SYNSETS = ("n01440764", "n01751748", "n02105855")  # of labels 0, 65 and 233
VALIDATION = {1: 65, 2: 970, 3: 230}  # the published label of an image's number
EXPERIMENT = ROOT / "experiments/imagenet.py"


def jpeg(shade, mode="RGB"):
    """An image of one colour, of a size of its own."""
    file = io.BytesIO()
    Image.new("RGB", (40 + shade % 7, 48), (shade, 100, 50)).convert(mode).save(file, "JPEG")
    return file.getvalue()


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def manual(tmp_path_factory) -> Path:
    """The two archives: a tar of tars, and a tar whose order is not that of the numbers."""
    folder = tmp_path_factory.mktemp("manual")
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as train:
        for label, synset in enumerate(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as images:
                for i in range(4):
                    add(images, f"{synset}_{i}.JPEG", jpeg(60 * label + i, "CMYK" if i == 3 else "RGB"))
            add(train, f"{synset}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as validation:
        for number in (3, 1, 2):
            add(validation, f"ILSVRC2012_val_{number:08}.JPEG", jpeg(50 * number))
    return folder


@pytest.fixture(scope="module")
def prepared(manual, tmp_path_factory) -> str:
    """Where `bigjax data prepare` put it."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    assert main(["data", "prepare", "imagenet2012", f"--data-dir={folder}", f"--manual-dir={manual}"]) == 0
    return folder


def test_what_is_prepared_is_what_the_archives_hold(prepared: str) -> None:
    data = tfds_images("imagenet2012", "train", "validation", data_dir=prepared, image_size=32)
    assert data.info["num_classes"] == 1000 and data.info["class_names"][65] == SYNSETS[1]
    batches = [split.eval_batch(0, len(split), slice(None)) for split in data.splits.values()]
    train, validation = (
        sorted(zip(b["label"].tolist(), b["image"][:, 16, 16, 0].astype(int).tolist(), strict=True)) for b in batches
    )
    classes = [data.info["class_names"].index(synset) for synset in SYNSETS]
    expected = [(label, 60 * row + i) for row, label in enumerate(classes) for i in range(4)]
    assert [label for label, _ in train] == [label for label, _ in sorted(expected)]
    np.testing.assert_allclose([s for _, s in train], [s for _, s in sorted(expected)], atol=3)
    for (label, shade), number in zip(validation, sorted(VALIDATION, key=lambda n: VALIDATION[n]), strict=True):
        assert label == VALIDATION[number] and abs(shade - 50 * number) < 4


@pytest.mark.skipif(has_tensorflow(), reason="TFDS reads the archives itself")
@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda f: (f / "ILSVRC2012_img_val.tar").unlink(), r"There is no '.*ILSVRC2012_img_val.tar': register at"),
        (lambda f: (f / "ILSVRC2012_img_train.tar").write_bytes(b"x" * 2000), r"is damaged or no tar archive"),
        (
            lambda f: (f / "ILSVRC2012_img_train.tar").write_bytes((f / "ILSVRC2012_img_val.tar").read_bytes()),
            r"train.tar' holds 'ILSVRC2012_val_00000003.JPEG', which is none of ImageNet's classes",
        ),
        (
            lambda f: (f / "ILSVRC2012_img_val.tar").write_bytes((f / "ILSVRC2012_img_train.tar").read_bytes()),
            r"val.tar' holds 'n01440764.tar', which is no image of ImageNet's validation set",
        ),
    ],
)
def test_archives_that_are_others(manual: Path, tmp_path: Path, harm, sentence: str) -> None:
    from bigjax.data.prepare import prepare

    (tmp_path / "manual").mkdir()
    for file in manual.iterdir():
        (tmp_path / "manual" / file.name).write_bytes(file.read_bytes())
    harm(tmp_path / "manual")
    with pytest.raises(UserError, match=sentence):
        prepare("imagenet2012", str(tmp_path / "data"), str(tmp_path / "manual"))


SMALL = {
    "alexnet": {"model.hidden": 8},
    "vgg16": {"model.hidden": 8, "model.depth": 11},
    "resnet18": {"model.width": 4, "model.blocks": (1, 1, 1, 1)},
    "resnet50": {"model.width": 4, "model.blocks": (1, 1, 1, 1)},
    "vit-s16": {"model.d_model": 12, "model.num_layers": 1, "model.num_heads": 2},
    "cnn": {"model.channels": (4, 4), "model.hidden": 8},
}
TINY = {"data.image_size": 72, "data.crop": 64, "train.batch_size": 4, "train.precision": "float32"}


@pytest.mark.parametrize("recipe", SMALL)
def test_recipes_take_a_step(recipe: str, prepared: str, tmp_path: Path) -> None:
    overrides = {"data.data_dir": prepared, "train.steps": 20_000, **TINY, **SMALL[recipe]}
    experiment = set_up(resolve(experiment_config(f"{EXPERIMENT}:{recipe}"), overrides))
    batch = experiment.dataset.splits["train"].train_batch(0, 0, 4, slice(0, 4))
    first, batch = experiment.initial_state(), experiment.to_devices(batch)
    step = experiment.train_step.lower(first, batch).compile({"xla_backend_optimization_level": 0})
    state, sums = step(first, batch)
    assert int(state.step) == 1 and 0 < float(sums["loss"] / sums["weight"]) < 20


def test_folders_have_the_same_recipes():
    configs = [resolve(experiment_config(f"{EXPERIMENT}:{arg}")) for arg in ("resnet50", "resnet50,folder")]
    data = [config.pop("data") for config in configs]
    assert configs[0] == configs[1] and [d["name"] for d in data] == ["tfds_images", "image_folder"]
    shared = data[0].keys() & data[1].keys() - {"name"}
    assert len(shared) > 10 and all(data[0][key] == data[1][key] for key in shared)
    for arg in ("resnet51", "resnet50,files"):
        with pytest.raises(UserError, match=r"get_config takes one of alexnet, vgg16, .*',folder' after it if wanted"):
            experiment_config(f"{EXPERIMENT}:{arg}")
