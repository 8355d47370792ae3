"""From rows of `metrics.jsonl` to curves, and from curves to figures and inline SVG.

matplotlib is imported inside functions, to keep the package light, and used through `Figure` alone,
which needs neither a display nor pyplot.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from bigjax.report.markup import Html, figure, tag, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One metric: split -> (steps int64 [P] ascending, values float64 [P]); a null is NaN.
Curves = dict[str, tuple[np.ndarray, np.ndarray]]


def is_timing(name: str) -> bool:
    """Whether a figure tells how fast a run was; what a rate counts is the task's own unit."""
    return name in ("seconds", "mfu") or name.endswith("_per_second")


MAX_POINTS = 500
MAX_CROSSES = 50
NICE = (1, 2, 2.5, 5, 10)  # distances between ticks
SPLIT_COLORS = {"train": "#2f6fdb", "validation": "#d9680d", "test": "#8b3fd1"}
OTHER_SPLIT, INK, GRID, BAD = "#0d8a6a", "#6b7281", "#e4e7ec", "#d02b3d"
# In the page each colour becomes a CSS variable, so that dark mode can have its own.
VARIABLES = {
    **{color: f"var(--{split})" for split, color in SPLIT_COLORS.items()},
    OTHER_SPLIT: "var(--other)",
    INK: "var(--muted)",
    GRID: "var(--line)",
    BAD: "var(--bad)",
}


def collect_curves(rows: Iterable[dict]) -> dict[str, Curves]:
    """Every number in `rows`, by metric and split; of a step logged twice the later row counts.

    Loss comes first, then the main metric, then the others that a held-out split has too.
    """
    points: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and (value is None or type(value) in (int, float)):
                of_split = points.setdefault(name, {}).setdefault(row.get("split", "train"), {})
                of_split[row["step"]] = np.nan if value is None else float(value)
    curves = {
        name: {
            split: (np.array(sorted(by_step)), np.array([by_step[s] for s in sorted(by_step)]))
            for split, by_step in by_split.items()
        }
        for name, by_split in points.items()
    }
    main = main_metric(curves)
    order = sorted(curves, key=lambda n: (n != "loss", n != main, curves[n].keys() <= {"train"}))
    return {name: curves[name] for name in order}


def main_metric(curves: dict[str, Curves]) -> str:
    """The first metric but the loss that a held-out split has; the loss where there is none."""
    held_out = (n for n in curves if n != "loss" and not is_timing(n) and curves[n].keys() - {"train"})
    return next(held_out, "loss")


def plot_metrics(rows: list[dict]) -> Figure:
    """Small multiples of the metrics in `rows` (as in `metrics.jsonl`), one plot for all splits."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    curves = {name: c for name, c in collect_curves(rows).items() if not is_timing(name)}
    columns = min(3, max(1, len(curves)))
    lines = max(1, -(-len(curves) // columns))
    plot = Figure(figsize=(4.4 * columns, 2.9 * lines), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    for index, (name, by_split) in enumerate(curves.items(), start=1):
        axes = plot.add_subplot(lines, columns, index)
        draw(axes, by_split)
        axes.set_title(name, loc="left", fontsize=11, pad=20, parse_math=False)
        legend = axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.2,
            borderpad=0,
            ncols=3,
            fontsize=8,
            frameon=False,
            handlelength=1,
            columnspacing=1,
        )
        legend.set_in_layout(False)  # as wide as the plot, it would squeeze it
    if not curves:
        plot.text(0.5, 0.5, "No metrics were logged.", ha="center", va="center", color=INK)
    # Notebooks show a bare Figure as text unless pyplot is loaded; this shows it as a picture.
    plot._repr_png_ = lambda: _png(plot)  # type: ignore[attr-defined]
    return plot


def draw(axes: Axes, curves: Curves, from_zero: bool = False) -> None:
    """Draw one metric: a line per split, a diamond for a lone value, crosses where not finite."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    rim = axes.get_xaxis_transform()  # x in steps, y from 0 (bottom) to 1
    for split, (steps, values) in curves.items():
        color = SPLIT_COLORS.get(split, OTHER_SPLIT)
        finite = np.isfinite(values)
        x, y = thin(steps[finite], values[finite])
        axes.plot(x, y, color=color, linewidth=1.3, label=f"{split} {figure(values[-1])}")
        # An unclipped marker without a point would still count in the layout, at (0, 0).
        if finite.any():
            shape = "o" if len(steps) > 1 else "D"
            axes.plot(x[-1], y[-1], shape, color=color, markersize=4.5, clip_on=False)
        for step in steps[~finite][:MAX_CROSSES]:
            axes.plot(step, 0, "x", color=BAD, markersize=5, transform=rim, clip_on=False)
    if is_steep(curves) and not from_zero:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=NICE))
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=NICE))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: figure(value, digits=6)))
    axes.tick_params(which="both", length=0, labelsize=9, labelcolor=INK, pad=5)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def is_steep(curves: Curves) -> bool:
    """Whether a linear axis would press half of all values into its lowest twentieth."""
    values = np.concatenate([values for _, values in curves.values()])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > 20 * np.median(values))


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About `MAX_POINTS` of the finite points x, y [P]: the ends, each bucket's lowest and highest.

    A stride would drop the spikes, which are what one looks for in a long curve.
    """
    if len(x) <= MAX_POINTS:
        return x, y
    kept = {0, len(x) - 1}
    for bucket in np.array_split(np.arange(len(x)), MAX_POINTS // 2):
        kept |= {int(bucket[y[bucket].argmin()]), int(bucket[y[bucket].argmax()])}
    index = np.array(sorted(kept))
    return x[index], y[index]


def card(name: str, curves: Curves, throughput: bool = False) -> Html:
    """One metric as an HTML figure: its name, each split's final value, its curves.

    A throughput has its median instead of the final value, and an axis from zero.
    """
    key = []
    for split, (_, values) in curves.items():
        finite = values[np.isfinite(values)]
        value = np.median(finite) if throughput and finite.size else values[-1]
        swatch = tag("i", style=f"background:var(--{split if split in SPLIT_COLORS else 'other'})")
        label = f"{split} median " if throughput else f"{split} "
        key.append(tag("span", swatch, label, tag("b", figure(value))))
    notes = []
    if is_steep(curves) and not throughput:
        notes.append("log scale")
    if lost := sum(int((~np.isfinite(values)).sum()) for _, values in curves.values()):
        notes.append(f"✕ {lost} not finite")
    return tag(
        "figure",
        tag("h3", name, tag("small", ", ".join(notes)) if notes else None),
        tag("figcaption", *key),
        _svg(name, curves, throughput),
        data_metric=name,
    )


def _svg(name: str, curves: Curves, from_zero: bool) -> Html:
    """One metric as inline SVG in the page's colours and font, with ids of its own."""
    import matplotlib
    from matplotlib.figure import Figure

    plot = Figure(figsize=(4.4, 2.2), layout="constrained")
    draw(plot.subplots(), curves, from_zero)
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": visible(name)}):
        plot.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = re.sub(r".*<svg[^>]*(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, flags=re.S)
    svg = re.sub(r"<(style|metadata).*?</\1>", "", svg, flags=re.S)
    svg = re.sub(r"(?<=<g) id=\"[^\"]*\"|font-family: [^;\"]*;? ?", "", svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, variable)
    return Html(svg)


def _png(plot: Figure) -> bytes:
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
