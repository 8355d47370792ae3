"""How cost grows: a GPT's step by depth, width, context and batch; a text's set-up; compiling; memory by context.

    JAX_PLATFORMS=cpu python -m benchmarks.scaling [--draw]

Keeps what it measured in benchmarks/scaling.json, and draws benchmarks/scaling.png; with --draw only that. An exponent
is the slope of a line through the logarithms of a curve's larger half.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path("benchmarks/scaling.json")
SIZES = {"model.num_layers": 4, "model.d_model": 256, "data.context": 128, "train.batch_size": 8}
STEPS = {
    "layers": ("model.num_layers", (1, 2, 4, 8, 16)),
    "width": ("model.d_model", (64, 128, 256, 512, 1024)),
    "context": ("data.context", (64, 128, 256, 512, 1024, 2048)),
    "batch": ("train.batch_size", (1, 2, 4, 8, 16, 32, 64)),
}
DEPTHS = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384)
MEGABYTES = (1, 4, 16, 64, 256, 1024)
TURNS = 7


def gpt(**overrides: Any) -> Any:
    """An experiment with a GPT of SIZES but for what is overridden, on random text."""
    from bigjax.run import read_config
    from bigjax.training.setup import set_up

    sizes = SIZES | overrides
    sections = {
        "model": {"name": "gpt", "num_heads": sizes["model.d_model"] // 64},
        "task": {"name": "language_modelling"},
        "data": {"name": "random_text", "vocab_size": 256},
        "optimizer": {"name": "adamw", "learning_rate": 1e-4},
        "train": {"steps": 1000},
    }
    return set_up(read_config(sections, sizes | {"model.context": sizes["data.context"]}))


def step_seconds(**overrides: Any) -> float:
    """Of the median step, on one batch that lies on the device."""
    import jax

    experiment = gpt(**overrides)
    rows = experiment.options.batch_size
    batch = experiment.to_devices(experiment.dataset.splits["train"].train_batch(0, 0, rows, slice(0, rows)))
    state, _ = jax.block_until_ready(experiment.train_step(experiment.initial_state(), batch))
    times = []
    for _ in range(TURNS):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(experiment.train_step(state, batch))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compiled(**overrides: Any) -> tuple[float, int]:
    """Seconds to trace and compile a step, and the bytes of what it holds beside its state and batch."""
    experiment = gpt(**overrides)
    start = time.perf_counter()
    step = experiment.jitted_step.lower(experiment.abstract, experiment.abstract_batch).compile()
    return time.perf_counter() - start, step.memory_analysis().temp_size_in_bytes


def text_seconds(megabytes: int) -> tuple[float, float]:
    """Seconds until a text of so many megabytes, never seen before, can be trained on, and then for a batch."""
    from benchmarks.memory import write

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write(path, megabytes * 10**6)
        code = "import sys; from benchmarks.scaling import draw_text; draw_text(sys.argv[1])"
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, check=True, capture_output=True, env=os.environ | {"XDG_CACHE_HOME": folder})
        ready, drawn = json.loads(done.stdout)
        return ready, drawn


def draw_text(path: str) -> None:
    """In a process of its own: prints both."""
    from bigjax.data.text_files import text_file

    start = time.perf_counter()
    split = text_file(path, context=SIZES["data.context"], tokenizer="bytes").splits["train"]
    split.fingerprint()
    ready = time.perf_counter()
    for step in range(200):
        split.train_batch(0, step, 8, slice(0, 8))
    print(json.dumps([ready - start, (time.perf_counter() - ready) / 200]))


def curve(name: str, xs: Iterable[int], y: Callable[[int], float]) -> dict[str, list[float]]:
    """Points of a curve, each printed when it is known."""
    points: dict[str, list[float]] = {"x": [], "y": []}
    for x in xs:
        points["x"].append(x)
        points["y"].append(y(x))
        print(name, x, points["y"][-1], flush=True)
    return points


def measure() -> dict[str, dict[str, list[float]]]:
    """All curves, by name."""
    from bigjax.process import prepare_process

    prepare_process()
    curves = {}
    for name, (key, xs) in STEPS.items():
        curves[name] = curve(name, xs, lambda x, key=key: step_seconds(**{key: x}))  # type: ignore[misc]
    for name, scanned in (("compile, each layer", False), ("compile, scanned", True)):
        curves[name] = curve(
            name, DEPTHS, lambda x, scan=scanned: compiled(**{"model.num_layers": x, "model.scan_layers": scan})[0]
        )  # type: ignore[misc]
    for name, remat in (("memory, all kept", None), ("memory, remat", "nothing_saveable")):
        curves[name] = curve(
            name, CONTEXTS, lambda x, remat=remat: compiled(**{"data.context": x, "model.remat": remat})[1]
        )  # type: ignore[misc]
    found = {}
    curves["text, set-up"] = curve("text, set-up", MEGABYTES, lambda x: found.setdefault(x, text_seconds(x))[0])
    curves["text, batch"] = curve("text, batch", MEGABYTES, lambda x: found[x][1])
    return curves


def exponent(points: dict[str, list[float]]) -> float:
    """The slope in logarithms of the larger half."""
    half = len(points["x"]) // 2
    return float(np.polyfit(np.log(points["x"][half:]), np.log(points["y"][half:]), 1)[0])


def draw(curves: dict[str, dict[str, list[float]]]) -> None:
    """A panel for what is varied, with exponents."""
    from matplotlib.figure import Figure

    panels: dict[str, tuple[str, float, list[str]]] = {
        "layers": ("ms a step", 1e3, ["layers"]),
        "width": ("ms a step", 1e3, ["width"]),
        "context": ("ms a step", 1e3, ["context"]),
        "batch": ("ms a step", 1e3, ["batch"]),
        "layers, compiled": ("s to compile", 1, ["compile, each layer", "compile, scanned"]),
        "context, memory": ("MiB of temporaries", 2**-20, ["memory, all kept", "memory, remat"]),
        "MB of text, set up": ("s until ready", 1, ["text, set-up"]),
        "MB of text, drawn from": ("ms a batch", 1e3, ["text, batch"]),
    }
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    for axes, (title, (label, scale, names)) in zip(figure.subplots(2, 4).flat, panels.items(), strict=True):
        for name, color in zip(names, ("#2f6fdb", "#d9680d"), strict=False):
            points = curves[name]
            words = ", ".join(filter(None, (name.partition(", ")[2], f"{round(exponent(points), 2) + 0.0:.2f}")))
            axes.plot(points["x"], np.multiply(points["y"], scale), "o-", ms=4, color=color, label=words)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(title.partition(",")[0])
        axes.set_title(label, loc="left", fontsize=11)
        axes.legend(frameon=False, title="exponent", loc="upper left")
    figure.savefig(FILE.with_suffix(".png"), dpi=110)


def main() -> None:
    if "--draw" not in sys.argv:
        FILE.write_text(json.dumps(measure(), indent=1) + "\n")
    draw(json.loads(FILE.read_text()))


if __name__ == "__main__":
    main()
