"""`report.html`: one self-contained page that says what a run did, from the files it left."""

import json
from pathlib import Path

from bigjax.errors import UserError
from bigjax.report.examples import images_section, table_section, text_section
from bigjax.report.markup import Html, duration, figure, join, settings, tag
from bigjax.report.plots import card, collect_curves, is_timing, main_metric
from bigjax.report.style import CSS


def write_report(workdir: Path, examples: dict) -> Path:
    """Write `workdir/report.html` from the run's files there and return its path.

    Needs `config.json` and `manifest.json`; a run that is not over may still lack `metrics.jsonl`
    and `result.json`. `examples` is empty, or has "kind": "images" and what `images_section` takes,
    or is {"kind": "text", "samples": what `text_section` takes}.
    """
    workdir = Path(workdir)
    config, manifest = _read_json(workdir / "config.json"), _read_json(workdir / "manifest.json")
    finished = (workdir / "result.json").exists()
    result = _read_json(workdir / "result.json") if finished else {}
    rows, unreadable = read_metrics(workdir / "metrics.jsonl")
    name = config.get("experiment") or workdir.resolve().name
    curves = collect_curves(rows)

    body = join(
        _header(name, config, manifest, result, rows),
        _headline(result.get("metrics", {}), main_metric(curves)),
        _curves(curves, unreadable),
        _throughput(curves),
        _profile(workdir / "profile.json"),
        _examples(examples),
        _run_again(manifest, result),
        _settings("Config", config),
        _settings("Environment", {k: v for k, v in manifest.items() if k != "command"}),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name} · bigjax"),
        tag("style", Html(CSS)),
    )
    path = workdir / "report.html"
    partial = workdir / "report.html.partial"
    page = tag("html", head, tag("body", tag("main", body)), lang="en")
    partial.write_text(f"<!doctype html>\n{page}\n", encoding="utf-8")
    partial.replace(path)
    return path


def read_metrics(path: Path) -> tuple[list[dict], int]:
    """The rows of a `metrics.jsonl`, and how many lines are unreadable (a kill may cut one)."""
    rows, unreadable = [], 0
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            unreadable += 1
    return rows, unreadable


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: is {path.parent} the folder of a run?") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged and cannot be read as JSON: {error}.") from None


def _header(name: str, config: dict, manifest: dict, result: dict, rows: list[dict]) -> Html:
    status = result.get("status", "unfinished")
    step = result.get("step", max((row["step"] for row in rows), default=0))
    facts = {key: config.get(key, {}).get("name") for key in ("task", "model", "data")}
    facts["step"] = f"{step:,}"
    if "wall_seconds" in result:
        facts["wall time"] = duration(result["wall_seconds"])
    if "num_parameters" in manifest:
        facts["parameters"] = f"{manifest['num_parameters']:,}"
    shown = [tag("div", tag("dt", key), tag("dd", fact)) for key, fact in facts.items() if fact]
    if status == "completed":
        pill = tag("span", "✓ completed", class_="status done")
    else:
        pill = tag("span", status, class_="status")
    return tag(
        "header",
        tag("h1", name, pill),
        tag("dl", *shown),
    )


def _headline(metrics: dict, main: str) -> Html | None:
    """The final figures of test, else of validation, else of train; the main one comes first."""
    split = next((s for s in ("test", "validation", "train") if metrics.get(s)), None)
    if split is None:
        return None
    names = [name for name in metrics[split] if not is_timing(name)]
    cards = []
    for name in sorted(names, key=lambda name: (name != main, name != "loss")):
        value = metrics[split][name]
        shown = "n/a" if value is None else figure(value)
        cards.append(tag("div", tag("dt", name), tag("dd", shown)))
    return tag("section", tag("h2", f"Results on {split}"), tag("dl", *cards, class_="headline"))


def _curves(curves: dict, unreadable: int) -> Html:
    cards = [card(name, by_split) for name, by_split in curves.items() if not is_timing(name)]
    note = None
    if unreadable:
        note = tag("p", f"Unreadable lines of metrics.jsonl, left out here: {unreadable}.")
    if not cards:
        cards = [tag("p", "No metrics were logged.")]
    return tag("section", tag("h2", "Curves"), note, tag("div", *cards, class_="plots"))


def _throughput(curves: dict) -> Html | None:
    names = [name for name in curves if is_timing(name) and name != "seconds"]
    if not names:
        return None
    cards = [card(name, curves[name], throughput=True) for name in names]
    return tag("section", tag("h2", "Throughput"), tag("div", *cards, class_="plots"))


def _profile(path: Path) -> Html | None:
    """Where the time of a step went, if some were traced."""
    if not path.exists():
        return None
    profile = _read_json(path)
    whole = profile["step_ms"]
    idle = {"idle, waiting for input": profile["input_ms"], "idle, while the host works": profile["host_ms"]}
    rows = [
        tag("tr", tag("th", name, scope="row"), tag("td", f"{ms:.2f} ms"), tag("td", f"{ms / whole:.1%}"))
        for name, ms in (profile["device_ms"] | idle).items()
    ]
    head = tag("tr", tag("td"), tag("th", "a step", scope="col"), tag("th", "share", scope="col"))
    return tag(
        "section",
        tag("h2", "Where a step's time went"),
        tag(
            "p",
            f"Of {profile['steps']} traced steps, {whole:.2f} ms each: what the device did, and why it was idle. "
            "The trace, for Perfetto and TensorBoard, is in the folder profile.",
        ),
        tag("div", tag("table", head, *rows, class_="rows"), class_="scroll"),
    )


def _examples(examples: dict) -> Html | None:
    match examples.get("kind"):
        case None:
            return None
        case "images":
            return images_section(examples)
        case "text":
            return text_section(examples["samples"])
        case "table":
            return table_section(examples)
        case kind:
            raise ValueError(f"examples of kind {kind!r}: a report shows 'images', 'text' and 'table'")


def _run_again(manifest: dict, result: dict) -> Html | None:
    parts = []
    if manifest.get("command"):
        parts += [tag("h3", "The same command"), tag("pre", manifest["command"], class_="command")]
    if "params_sha256" in result:
        parts += [tag("h3", "params_sha256"), tag("pre", result["params_sha256"], class_="command")]
    return tag("section", tag("h2", "Run it again"), *parts) if parts else None


def _settings(title: str, values: dict) -> Html:
    return tag("section", tag("h2", title), tag("div", settings(values), class_="settings-columns"))
