"""The README's own examples run as they stand there, and learn."""

import re
from pathlib import Path

import pytest

from bigjax.data import SOURCES
from bigjax.models import MODELS
from bigjax.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = dict(section.split("\n", 1) for section in (ROOT / "README.md").read_text().split("\n## ")[1:])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Executes the Python block below a heading, in an empty folder with the experiments in it; returns its run."""
    for registry, name in ((MODELS, "mlp"), (TASKS, "digit_regression"), (SOURCES, "stripes")):
        monkeypatch.setitem(registry, name, None)  # taken out again afterwards
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)

    def execute(heading):
        (block,) = re.findall(r"```python\n(.*?)```", SECTIONS[heading], re.S)
        scope = {"__name__": "example"}
        exec(block, scope)
        return scope["run"]

    return execute


def test_notebook_example(run):
    assert run("Training").result["status"] == "completed"


def test_own_model(run):
    done = run("Your own model")
    assert type(done.model).__name__ == "MLP"
    assert done.config["model"]["width"] == 64
    assert done.result["metrics"]["test"]["accuracy"] > 0.9


def test_own_task(run):
    done = run("Your own task")
    assert done.config["task"]["scale"] == 9
    assert done.result["metrics"]["test"]["mean_absolute_error"] < 1  # guessing 4.5 always is off by 2.5


def test_own_data(run):
    done = run("Your own data")
    assert done.config["data"] == {"name": "stripes", "size": 8, "noise": 60.0, "flip": True}
    assert done.result["metrics"]["test"]["accuracy"] > 0.95
