"""docs/images.md: its commands on a few tiny photographs, and what prediction then reads."""

import io
import json
import re
import shlex

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

import bigjax
from bigjax.cli import main
from bigjax.data.image_folder import image_folder
from bigjax.prediction.image_classification import ImagePredictor
from bigjax.training.setup import arguments

GUIDE = (ROOT / "docs/images.md").read_text()
# The guide's own command but for the sizes: small enough for a test.
SMALL = {
    "data.image_size": 20,
    "data.crop": 16,
    "data.interpolation": "lanczos",
    "train.epochs": 1,
    "train.batch_size": 4,
    "model.width": 4,
    "model.blocks": "(1,1)",
}


def photograph(path, size, shade):
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x * 3 + shade, y * 2 + shade, x + y], -1) % 256
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder with `photos/` as the guide draws it, in which its first commands have run; and what they printed."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    for split, count in (("train", 6), ("test", 2)):
        for i in range(count):
            for c, name in enumerate(("cat", "dog")):
                photograph(folder / "photos" / split / name / f"{i}.jpg", (30 + 5 * i, 44 - 3 * i), 40 * c + i)
    commands = next(
        block for block in re.findall(r"```\n(.*?)```", GUIDE, re.S) if "photos/test/cat --workdir" in block
    )
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in commands.splitlines():
            words = shlex.split(line)[1:]
            if words[0] == "train":
                words += [f"--config.{key}={value}" for key, value in SMALL.items()]
            with pytest.MonkeyPatch.context() as screen:
                screen.setattr("sys.stdout", out := io.StringIO())
                assert main(words) == 0
            printed.append(out.getvalue())
    return folder, printed


def test_the_commands_run(ran):
    folder, (trained, evaluated, predicted) = ran
    assert "test: loss" in trained and "accuracy" in evaluated
    assert len(predicted.splitlines()) >= 2 and re.search("cat|dog", predicted)
    assert (folder / "runs/photos/report.html").is_file()


def test_prediction_reads_an_image_of_any_size_as_evaluation_does(ran):
    folder, _ = ran
    run = bigjax.load(folder / "runs/photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = image_folder(**arguments(run.config["data"]))
        test = data.splits["test"].eval_batch(0, 4, slice(0, 4))["image"]
        read = [ImagePredictor(run).read(f"photos/test/{name}/{i}.jpg") for name in ("cat", "dog") for i in range(2)]
    np.testing.assert_array_equal(np.stack(read), test)
    logits = run.model((test / 255 - np.array(run.config["task"]["mean"])) / np.array(run.config["task"]["std"]))
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    answers = [answer for _, answer in bigjax.predict(run.workdir, str(folder / "photos/test/cat"))]
    assert [answer["probability"] for answer in answers] == pytest.approx(chances[:2].max(-1).tolist(), abs=1e-5)


def test_the_guides_keys_exist():
    keys = set(re.findall(r"`([a-z_]+)`", GUIDE.split("| key | what |")[1].split("\n\n")[0]))
    known = set(json.loads(json.dumps(list(image_folder.__annotations__))))
    words = {"bicubic", "bilinear", "lanczos", "nearest", "stop", "skip"}
    assert keys - words <= known and known - keys == {"root", "grayscale", "holdout", "return"}
