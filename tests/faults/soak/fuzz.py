"""Random mutations of configs and of a run's files: each works or is told in a sentence; nothing is overwritten."""

import contextlib
import hashlib
import io
import json
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bigjax
from bigjax.cli import main
from bigjax.errors import UserError
from bigjax.training.setup import resolve, set_up
from tests.faults.soak.runs import config

FILES = ("config.json", "manifest.json", "metrics.jsonl", "result.json")
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**40, -(2**63), 0.5, -0.5, 1e308, float("nan"), float("inf")),
    *(
        "",
        "x",
        "adamw",
        "\0",
        "ä" * 300,
        "../..",
        "1e-3",
        [],
        [1, 2],
        ["a"],
        [[]],
        {},
        {"name": "gpt"},
        {"a": {"b": 1}},
    ),
)


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The paths of everything in nested dicts and lists."""
    found = [path] if path else []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found += places(value, (*path, key))
    return found


def mutate(tree: Any, rng: random.Random) -> Any:
    """A copy with one thing removed, replaced, renamed or added."""
    tree = json.loads(json.dumps(tree))
    *way, last = rng.choice(places(tree))
    inner = tree
    for key in way:
        inner = inner[key]
    match rng.choice(("remove", "replace", "replace", "rename", "add")):
        case "remove":
            del inner[last]
        case "rename" if isinstance(inner, dict):
            inner[f"{last}{rng.choice('sx_')}"] = inner.pop(last)
        case "add" if isinstance(inner, dict):
            inner[rng.choice(("name", "steps", "depth", "zz", ""))] = rng.choice(VALUES)
        case _:
            inner[last] = rng.choice(VALUES)
    return tree


def garble(text: str, rng: random.Random) -> str | bytes:
    """A file's text with bytes changed, cut off, doubled or put in."""
    data = bytearray(text.encode())
    place = rng.randrange(len(data) + 1)
    match rng.choice(("cut", "flip", "insert", "double", "empty")):
        case "cut":
            return bytes(data[:place])
        case "flip":
            data[min(place, len(data) - 1)] ^= 1 << rng.randrange(8)
        case "insert":
            data[place:place] = rng.choice((b"{", b"\xff", b"\0", b"NaN", b"[" * 3000, b"\n\n", b"9" * 5000))
        case "double":
            data += bytes(data)
        case "empty":
            return b""
    return bytes(data)


def attempt(action: Callable[[], Any]) -> str:
    """How it ended: "worked", "refused" in a sentence, or what went wrong."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
            code = action()
    except UserError as error:
        return (
            "refused" if "\n" not in str(error) and str(error).endswith((".", "?", ")")) else f"no sentence: {error!r}"
        )
    except SystemExit as error:
        return f"exit {error.code}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if code in (2, 1):
        lines = told.getvalue().strip().splitlines()
        return "refused" if code == 1 or len(lines) <= 1 else f"{len(lines)} lines: {lines[-1]}"
    return "worked"


def contents(folder: Path) -> dict[Path, str]:
    """The sha256 of every file."""
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def configs(count: int, rng: random.Random) -> tuple[Counter, list[str]]:
    """Mutated configs, set up and not trained."""
    ends, wrong = Counter(), []
    for _ in range(count):
        name = rng.choice(("cnn", "lstm", "gpt"))
        mutated = mutate(config(name), rng)
        for _ in range(rng.choice((0, 0, 1, 2))):
            mutated = mutate(mutated, rng)
        end = attempt(lambda mutated=mutated: (set_up(resolve(mutated)), 0)[1])
        ends[end if end in ("worked", "refused") else "wrong"] += 1
        if end not in ("worked", "refused"):
            wrong.append(f"{end} of {json.dumps(mutated)}")
    return ends, wrong


def workdirs(count: int, rng: random.Random, folder: Path) -> tuple[Counter, list[str]]:
    """A run's files mutated or garbled; then it is used as users do. Weights and figures must stay as they are."""
    original = folder / "original"
    bigjax.train(config("cnn"), workdir=original, quiet=True)
    experiment = folder / "experiment.py"
    experiment.write_text(f"def get_config(arg=None):\n    return {config('cnn')!r}\n")
    verbs = (
        lambda run: main(["train", f"--config={experiment}", f"--workdir={run}", "--config.experiment=experiment"]),
        lambda run: main(["evaluate", f"--workdir={run}"]),
        lambda run: main(["reproduce", f"--workdir={run}", "--steps=4"]),
        lambda run: main(["export", f"--workdir={run}", f"--output={folder / 'exported'}"]),
        lambda run: main(["predict", "nothing.png", f"--workdir={run}"]),
        lambda run: (bigjax.load(run).metrics, 0)[1],
    )
    ends, wrong = Counter(), []
    for number in range(count):
        run = folder / f"run{number}"
        shutil.copytree(original, run)
        name = rng.choice(FILES)
        text = (run / name).read_text()
        if name != "metrics.jsonl" and rng.random() < 0.6:
            changed = json.dumps(mutate(json.loads(text), rng)).encode()
        else:
            changed = garble(text, rng)
        (run / name).write_bytes(changed)
        if name == "result.json" and rng.random() < 0.5:
            (run / name).unlink()
        before = contents(run)
        verb = rng.randrange(len(verbs))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            end = attempt(lambda verb=verb, run=run: verbs[verb](run))
        lost = [p for p in before if "checkpoints" in p.parts and not p.exists() and "damaged" not in p.parts]
        if end == "refused":
            lost += [p for p, sha in contents(run).items() if before.get(p, sha) != sha]
        ends[end if end in ("worked", "refused") and not lost else "wrong"] += 1
        if end not in ("worked", "refused") or lost:
            wrong.append(f"{end} {lost} of verb {verb} with {name} {changed[:400]!r}")
        shutil.rmtree(run)
    return ends, wrong
