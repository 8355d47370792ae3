"""The report: complete, self-contained, well-formed, and safe to open whatever a model wrote."""

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from bigjax.errors import UserError
from bigjax.report import plot_metrics, write_report
from bigjax.report.markup import duration, figure, visible
from bigjax.report.plots import MAX_POINTS, collect_curves, is_steep, main_metric, thin

pytestmark = pytest.mark.filterwarnings("error")  # matplotlib warns of a layout that fails

EVIL = "<script>alert('x')</script>&\"\x1b\u202e\ud800"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """A parsed page: fails on unbalanced tags, keeps attributes and the text of each element."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(source)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.texts if name == tag]


CONFIG = {
    "experiment": "digits_cnn",
    "seed": 7,
    "model": {"name": "cnn", "channels": [32, 64], "block": {"activation": "gelu"}},
    "task": {"name": "image_classification"},
    "data": {"name": "digits"},
}
MANIFEST = {
    "versions": {"jax": "0.12.0"},
    "git": {"commit": "3f2a9d1c", "dirty": True},
    "num_parameters": 123456,
    "command": "bigjax train --config=experiments/digits_cnn.py",
}
ROWS = [
    {"step": 10, "split": "train", "loss": 2.0, "accuracy": 0.3, "grad_norm": 1.5}
    | {"seconds": 1.0, "images_per_second": 900.0, "flops_per_second": 1e10},
    {"step": 10, "split": "validation", "loss": 1.75, "accuracy": 0.4},
    {"step": 20, "split": "train", "loss": 1.0, "accuracy": 0.6, "grad_norm": 1.25}
    | {"seconds": 2.0, "images_per_second": 1100.0, "flops_per_second": 3e10},
    {"step": 20, "split": "validation", "loss": 1.25, "accuracy": 0.5},
    {"step": 20, "split": "test", "loss": 1.5, "accuracy": 0.4375, "never_seen": 0.625},
]
RESULT = {
    "status": "completed",
    "step": 20,
    "metrics": {"validation": {"loss": 1.25}, "test": {"loss": 1.5, "accuracy": 0.4375}},
    "params_sha256": "ab" * 32,
    "wall_seconds": 200.0,
}


def run_folder(folder: Path, rows: list[dict] = ROWS, tail: str = "", **files: dict) -> Path:
    files = {"config": CONFIG, "manifest": MANIFEST, "result": RESULT} | files
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines + tail, encoding="utf-8")
    return folder


def report(folder: Path, examples: dict | None = None, **changes) -> tuple[str, Page]:
    path = write_report(run_folder(folder, **changes), examples or {})
    assert path == folder / "report.html"
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def image_examples(names: list[str], size: int = 8, channels: int = 1) -> dict:
    """Three images whose first is taken for class 1; the confusion matrix is 83s but in row 0."""
    generator = np.random.default_rng(0)
    confusion = np.diag(np.full(len(names), 83))
    confusion[0, :2] = 41, 17
    return {
        "kind": "images",
        "images": generator.integers(0, 256, (3, size, size, channels), np.uint8),
        "labels": np.array([0, 1, 2]),
        "predictions": np.array([1, 1, 2]),
        "probabilities": np.array([0.515, 0.875, 0.99]),
        "class_names": names,
        "confusion": confusion,
    }


def text_examples(prompt: str, text: str) -> dict:
    return {"kind": "text", "samples": [{"prompt": prompt, "text": text, "temperature": 0.75}]}


def sections(source: str) -> dict[str, str]:
    """The page's sections by title."""
    return dict(re.findall(r"<section><h2>(.*?)</h2>(.*?)</section>", source, flags=re.S))


def test_every_metric_has_its_plot_and_timing_stands_apart(tmp_path):
    source, page = report(tmp_path)
    parts = sections(source)
    plots = {part: re.findall(r'data-metric="(\w+)"', parts[part]) for part in ("Curves", "Throughput")}
    assert plots["Curves"] == ["loss", "accuracy", "never_seen", "grad_norm"]
    assert plots["Throughput"] == ["images_per_second", "flops_per_second"]
    assert len(page.named("svg")) == 6
    loss = parts["Curves"].split("</figure>")[0]
    for split, value in (("train", "1"), ("validation", "1.25"), ("test", "1.5")):
        assert f"{split} <b>{value}</b>" in loss
        assert f"stroke: var(--{split})" in loss.split("<svg")[1]
    assert "median <b>1000</b>" in parts["Throughput"]


def test_header_headline_config_and_environment(tmp_path):
    source, page = report(tmp_path)
    assert page.text("h1") == ["digits_cnn"]
    facts = dict(zip(page.text("dt"), page.text("dd"), strict=True))
    assert facts["wall time"] == "3 min 20 s"
    assert facts["parameters"] == "123,456"
    assert "✓ completed" in source
    headline = sections(source)["Results on test"]
    assert re.findall("<dd>(.*?)</dd>", headline) == ["0.4375", "1.5"]  # accuracy is the main one
    assert {"model", "block", "versions", "git"} <= set(page.text("summary"))
    assert {"[32, 64]", "gelu", "3f2a9d1c", "true", "0.12.0", "7"} <= set(page.text("td"))
    assert page.text("pre") == [MANIFEST["command"], RESULT["params_sha256"]]


def test_page_asks_for_nothing_outside_itself(tmp_path):
    source, page = report(tmp_path, image_examples(["a", "b", "c"]))
    assert not re.search(r"https?://", source)
    references = re.findall(r"url\(([^)]*)\)", source)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        references += [attributes[n] for n in ("src", "href", "xlink:href") if n in attributes]
    assert len(references) > 3
    assert all(reference.startswith(("#", "data:image/png;")) for reference in references)
    assert not page.named("script") and not page.named("link")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for reference in references:
        assert not reference.startswith("#") or reference[1:] in ids


def test_untrusted_text_stays_text(tmp_path):
    rows = [{"step": 1, "split": "test", "loss": 1.0, EVIL: 0.5, "$x": 2.0}]
    evil = {"name": EVIL, EVIL: EVIL, "deep": {EVIL: [EVIL]}}
    files = {
        "rows": rows,
        "config": {"experiment": EVIL, "model": evil, "task": evil, "data": evil},
        "manifest": {"command": EVIL, "versions": evil},
        "result": {"status": EVIL, "metrics": {"test": {EVIL: 0.5}}, "params_sha256": EVIL},
    }
    for examples in (
        image_examples([EVIL, "b", EVIL]),
        image_examples([EVIL] * 40),
        text_examples(EVIL, EVIL),
    ):
        source, page = report(tmp_path, examples, **files)
        assert not page.named("script")
        assert "\x1b" not in source and "\u202e" not in source
        assert "⟨U+001B⟩⟨U+202E⟩⟨U+D800⟩" in source
        assert visible(EVIL) in [plot.get("data-metric") for plot in page.named("figure")]
        assert page.text("h1")[0].startswith("<script>alert('x')</script>&\"")


def test_prompt_and_continuation_are_told_apart(tmp_path):
    _, page = report(tmp_path, text_examples("ROMEO:\n", "  What\tlight\n\n<b>?"))
    assert page.text("mark") == ["Underlined", "ROMEO:\n"]
    assert page.text("pre")[0] == "  What\tlight\n\n<b>?"
    assert "0.75" in page.text("b")


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_are_the_given_pixels_and_errors_are_marked(tmp_path, channels, mode):
    import base64
    import io

    from PIL import Image

    examples = image_examples(["猫", "dog", "naïve"], channels=channels)
    source, page = report(tmp_path, examples)
    for given, attributes in zip(examples["images"], page.named("img"), strict=True):
        data = base64.b64decode(attributes["src"].split(",")[1])
        picture = Image.open(io.BytesIO(data))
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture).reshape(given.shape), given)
        assert attributes["class"] == "pixelated"
    assert "1 of these 3 predictions are wrong" in source
    cards = re.findall(r"<figure[^>]*><img.*?</figure>", source)
    assert ["✕" in card for card in cards] == [True, False, False]
    assert [re.findall("true: (.*?)<", card) for card in cards] == [["猫"], [], []]
    assert ["52%" in card or "88%" in card or "99%" in card for card in cards] == [True] * 3


def test_large_images_become_thumbnails(tmp_path):
    source, _ = report(tmp_path, image_examples(["a", "b", "c"], size=512, channels=3))
    assert len(source) < 400_000
    assert 'class="pixelated"' not in source


def test_confusion_matrix_shows_counts_and_recall(tmp_path):
    source, _ = report(tmp_path, image_examples(["a", "b", "c"]))
    table = re.search(r'<table class="matrix">.*?</table>', source)[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows == [
        ["41", "17", "0", "70.7%"],
        ["0", "83", "0", "100.0%"],
        ["0", "0", "83", "100.0%"],
    ]


def test_many_classes_show_only_what_is_confused(tmp_path):
    source, _ = report(tmp_path, image_examples([f"class {i}" for i in range(31)]))
    table = re.search(r'<table class="pairs">.*?</table>', source)[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    assert rows == [["class 0", "class 1", "17", "29.3%", "70.7%"]]
    assert 'class="matrix' not in source


def test_a_cut_line_is_left_out_and_said(tmp_path):
    source, _ = report(tmp_path, tail='{"step": 30, "split": "tra')
    assert "Unreadable lines of metrics.jsonl, left out here: 1." in source
    assert "train <b>1</b>" in source
    source, _ = report(tmp_path)
    assert "Unreadable" not in source


def test_values_that_are_not_finite_are_drawn_around_and_said(tmp_path):
    values = [1.0, math.nan, math.inf, None, 0.5]
    rows = [{"step": i, "split": "train", "loss": v} for i, v in enumerate(values)]
    source, _ = report(tmp_path, rows=rows, result={"metrics": {"train": {"loss": None}}})
    curves = sections(source)["Curves"]
    assert "✕ 3 not finite" in curves and "stroke: var(--bad)" in curves
    assert "train <b>0.5</b>" in curves
    assert "nan" not in curves.split("<svg")[1]
    assert "<dd>n/a</dd>" in source


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[1:2], ROWS[4:]])
def test_few_rows_are_enough(tmp_path, rows):
    source, page = report(tmp_path, rows=rows, result={"status": "completed", "metrics": {}})
    assert len(page.named("svg")) == len({k for r in rows for k in r} - {"step", "split", "seconds"})
    assert ("No metrics were logged." in source) == (not rows)
    assert not any(title.startswith("Results") for title in sections(source))


def test_only_nan(tmp_path):
    _, page = report(tmp_path, rows=[{"step": 1, "split": "train", "loss": math.nan, "mfu": None}])
    assert len(page.named("svg")) == 2


def test_a_run_under_way_has_a_report(tmp_path):
    run_folder(tmp_path, config={"seed": 0})
    (tmp_path / "result.json").unlink()
    (tmp_path / "metrics.jsonl").unlink()
    page = Page(write_report(tmp_path, {}).read_text(encoding="utf-8"))
    assert page.text("h1") == [tmp_path.name]
    assert "unfinished" in page.text("span")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        write_report(tmp_path, {})
    run_folder(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        write_report(tmp_path, {})
    assert not (tmp_path / "report.html").exists()


def test_a_failed_report_leaves_the_older_one(tmp_path):
    source, _ = report(tmp_path)
    with pytest.raises(ValueError, match="'sounds'"):
        write_report(tmp_path, {"kind": "sounds"})
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == source
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_run_gives_the_same_page(tmp_path):
    assert report(tmp_path)[0] == report(tmp_path)[0]


def test_plot_metrics_is_a_figure_with_one_plot_per_metric():
    plot = plot_metrics(ROWS)
    titles = [axes.get_title(loc="left") for axes in plot.axes]
    assert titles == ["loss", "accuracy", "never_seen", "grad_norm"]
    labels = [text.get_text() for text in plot.axes[0].get_legend().get_texts()]
    assert labels == ["train 1", "validation 1.25", "test 1.5"]
    np.testing.assert_array_equal(plot.axes[0].lines[0].get_xydata(), [[10, 2.0], [20, 1.0]])
    assert plot._repr_png_().startswith(b"\x89PNG")
    assert plot_metrics([])._repr_png_().startswith(b"\x89PNG")


def test_curves_are_sorted_and_a_repeated_step_counts_once():
    rows = [
        {"step": step, "split": "train", "loss": loss, "note": "text", "flag": True}
        for step, loss in ((2, 5.0), (1, 4.0), (2, 3.0))
    ]
    curves = collect_curves(rows)
    assert list(curves) == ["loss"]
    np.testing.assert_array_equal(curves["loss"]["train"], [[1, 2], [4.0, 3.0]])


def test_main_metric_is_the_first_held_out_one():
    assert main_metric(collect_curves(ROWS)) == "accuracy"
    assert main_metric(collect_curves(ROWS[:1])) == "loss"


def test_thinning_keeps_ends_and_spikes():
    x = np.arange(100_000)
    y = np.sin(x / 9000)
    y[[31_234, 70_001]] = 50.0, -50.0
    few_x, few_y = thin(x, y)
    assert len(few_x) <= MAX_POINTS + 2
    assert few_x[0] == 0 and few_x[-1] == x[-1] and (np.diff(few_x) > 0).all()
    assert few_y.max() == 50.0 and few_y.min() == -50.0
    np.testing.assert_array_equal(few_y, y[few_x])


def test_only_steep_curves_get_a_log_axis():
    steps = np.arange(100)
    assert is_steep({"train": (steps, np.exp(-steps / 10.0))})
    assert not is_steep({"train": (steps, 2.0 - steps / 100)})
    assert not is_steep({"train": (steps, np.exp(-steps / 10.0) - 0.01)})


def test_a_long_run_stays_small(tmp_path):
    rows = [{"step": i, "split": "train", "loss": math.sin(i) + 2} for i in range(20_000)]
    source, _ = report(tmp_path, rows=rows)
    assert len(source) < 60_000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5e-5, "5e-05"),
        (0.97224, "0.9722"),
        (9999.9, "10k"),
        (12_345, "12.35k"),
        (-2.5e6, "-2.5M"),
        (1e10, "10G"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_figures_read_well(value, text):
    assert figure(value) == text


def test_durations_read_well():
    assert [duration(s) for s in (0.5, 59, 200.4, 7512)] == [
        "0.5 s",
        "59 s",
        "3 min 20 s",
        "2 h 05 min",
    ]


def test_import_is_light():
    code = "import sys, bigjax.report; sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
