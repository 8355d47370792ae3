"""The plans of docs/plan.md: asks the compilers of TPUs and GPUs for them, keeps their answers, and draws two of them.

    python -m benchmarks.plans [--draw]

Each is a `bigjax plan` of experiments/large.py, some minutes of one core; what docs/plans.json has already is kept.
Then, or with --draw at once, it prints the table and draws docs/plan_chips.png and docs/plan_meshes.png.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILE = Path("docs/plans.json")
CURVE = "llama3-8b"  # what is drawn, on so many hosts of 8 H200, and on one of them over these meshes
HOSTS = (1, 2, 4, 8)
MESHES = (
    {"fsdp": 8},
    {"data": 2, "fsdp": 4},
    {"data": 4, "fsdp": 2},
    {"fsdp": 4, "tensor": 2},
    {"fsdp": 2, "tensor": 4},
)


def works() -> list[tuple[str, str, dict[str, int]]]:
    """Model, topology, and what is set of its config."""
    found: list[tuple[str, str, dict[str, int]]] = []

    def add(model: str, topology: str, accumulate: int = 1, **mesh: int) -> None:
        sizes = {"data": 1, "fsdp": 1} | mesh if mesh else {}
        overrides = {f"mesh.{axis}": size for axis, size in sizes.items()}
        overrides |= {} if accumulate == 1 else {"optimizer.accumulate_steps": accumulate}
        found.append((model, topology, overrides))

    for model in ("resnet50", "bert-large"):
        for topology, devices in (("h200:8", 8), ("v5e:4x4", 16), ("v5p:2x2x2", 8), ("v6e:2x4", 8)):
            add(model, topology, data=devices)
    for hosts in HOSTS:
        across = {"dcn_data": hosts} if hosts > 1 else {}
        add(CURVE, f"h200:{hosts}x8" if hosts > 1 else "h200:8", 16 // hosts, fsdp=8, **across)
    for mesh in MESHES[1:]:
        add(CURVE, "h200:8", 16, **mesh)
    add("vit-g14", "v5e:8x8")
    add("vit-g14", "h200:4x8", dcn_data=4, fsdp=8)
    add("vit-g14", "v5p:2x4x4")
    add("vit-g14", "v6e:4x8")
    add("llama3-8b", "v5p:4x4x4", 4)
    add("llama3-8b", "v5e:8x8", 8)
    add("llama3-8b", "v6e:8x8", 4)
    add("gpt3-175b", "h200:32x8", 12, dcn_fsdp=32, tensor=8)
    add("gpt3-175b", "v5e:16x16", 6)
    add("gpt3-175b", "v5p:8x8x8", 3, fsdp=64, tensor=8)
    add("gpt3-175b", "v6e:16x16", 6)
    add("llama3-70b", "h200:32x8", 2, dcn_fsdp=32, fsdp=8)
    add("llama3-70b", "v5p:8x8x8", 2)
    add("llama3-70b", "v6e:16x16", 8)
    add("llama3-70b", "v5e:16x16", 8)
    add("llama3-70b", "2xv5p:8x8x8", 1, dcn_data=2, fsdp=512)
    return found


def ask(model: str, topology: str, overrides: dict[str, int]) -> dict[str, Any]:
    """One plan, by the command that anybody would type."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--config=experiments/large.py:{model}", f"--topology={topology}", f"--output={folder}/plan.json"]
        words += [f"--config.{key}={value}" for key, value in overrides.items()]
        code = "from bigjax.cli import script; script()"
        subprocess.run([sys.executable, "-c", code, "plan", *words], check=True, stdout=subprocess.DEVNULL)
        return {"model": model, "overrides": overrides} | json.loads(Path(folder, "plan.json").read_text())


def mesh_of(found: dict[str, Any]) -> str:
    """The mesh of a plan in words."""
    return " ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1)


def table(plans: list[dict[str, Any]]) -> str:
    """All plans as the rows of a table."""
    rows = ["| model | chips | mesh, microbatches | GiB per device | bound | ms | units/s | MFU |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for found in sorted(plans, key=lambda found: (found["model"], found["topology"])):
        parts = found["overrides"].get("optimizer.accumulate_steps", 1)
        start = f"| {found['model']} | {found['topology']} | {mesh_of(found)}, {parts} |"
        if found["fits"] is False and "seconds" not in found:
            rows.append(f"{start} does not fit: {found['compiler']} | | | | |")
            continue
        fits = "" if found["fits"] else "does not fit: "
        times = f"{1e3 * found['step_seconds']:,.1f} to {1e3 * found['serial_seconds']:,.1f}"
        rows.append(
            f"{start} {fits}{found['memory']['all'] / 2**30:.1f} of {found['room'] / 2**30:.1f} | {found['bound']} | "
            f"{times} | {found['units_per_second']:,.0f} {found['unit']} | {found['mfu']:.0%} |"
        )
    return "\n".join(rows)


def draw(plans: list[dict[str, Any]]) -> None:
    """Cost by number of chips, and memory by mesh, of CURVE."""
    from matplotlib.figure import Figure

    ours = [found for found in plans if found["model"] == CURVE and found["topology"].startswith("h200:")]
    curve = sorted((f for f in ours if f["overrides"]["mesh.fsdp"] == 8), key=lambda found: found["devices"])
    plot = Figure(figsize=(6, 3.6), layout="constrained")
    axes = plot.add_subplot()
    chips = [found["devices"] for found in curve]
    hours = [
        [f["devices"] * f[key] / f["units"] * 1e12 / 3600 for f in curve] for key in ("step_seconds", "serial_seconds")
    ]
    axes.fill_between(chips, *hours, color="#2f6fdb", alpha=0.2, label="from all overlapped to nothing")
    axes.plot(chips, hours[0], "o-", color="#2f6fdb", label="at least")
    axes.set_xscale("log", base=2)
    axes.set_xticks(chips, map(str, chips))
    axes.set(xlabel="H200, fsdp within each host of 8", ylabel="GPU-hours", ylim=(0, None))
    axes.set_title(f"{CURVE}: GPU-hours for 1e12 tokens", loc="left", fontsize=11)
    axes.legend(frameon=False)
    plot.savefig("docs/plan_chips.png", dpi=120)

    bars = [found for found in ours if found["topology"] == "h200:8" and "temporaries" in found["memory"]]
    plot = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = plot.add_subplot()
    left = [0.0] * len(bars)
    for part, color in (("parameters", "#2f6fdb"), ("optimizer", "#8b3fd1"), ("temporaries", "#d9680d")):
        sizes = [found["memory"][part] / 2**30 for found in bars]
        axes.barh([mesh_of(found) for found in bars], sizes, left=left, color=color, label=part)
        left = [before + size for before, size in zip(left, sizes, strict=True)]
    axes.axvline(bars[0]["room"] / 2**30, color="#d02b3d", label="of a GPU")
    axes.set_xlabel("GiB per device")
    axes.set_title(f"{CURVE} on 8 H200: memory by mesh", loc="left", fontsize=11)
    plot.legend(loc="outside right center", frameon=False)
    plot.savefig("docs/plan_meshes.png", dpi=120)


def main() -> None:
    plans = json.loads(FILE.read_text()) if FILE.exists() else []
    kept = [(found["model"], found["topology"], found["overrides"]) for found in plans]
    for work in works() if "--draw" not in sys.argv else ():
        if work not in kept:
            print(*work, file=sys.stderr, flush=True)
            plans.append(ask(*work))
            FILE.write_text(json.dumps(plans, indent=1) + "\n")
    print(table(plans))
    draw(plans)


if __name__ == "__main__":
    main()
