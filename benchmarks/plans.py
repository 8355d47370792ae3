"""The plans of docs/plan.md: asks the compilers of TPUs and GPUs for them, keeps their answers, and draws two of them.

    python -m benchmarks.plans [--draw]

Each is a `bigjax plan` of experiments/large.py, some minutes of one core; what docs/plans.json has already is kept.
With --draw it only draws docs/plan_chips.png and docs/plan_meshes.png.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILE = Path("docs/plans.json")
CURVE = "vit-g14"  # what is drawn, over these slices of v5e, and on 64 chips over these meshes
SLICES = ("4x4", "4x8", "8x8", "8x16")
MESHES = (
    {"fsdp": 64},
    {"data": 2, "fsdp": 32},
    {"data": 4, "fsdp": 16},
    {"data": 8, "fsdp": 8},
    {"data": 16, "fsdp": 4},
)
MESHES += ({"fsdp": 32, "tensor": 2}, {"fsdp": 16, "tensor": 4})
SHORT = {"data.context": 2048}  # Llama 3's context of 8,192 takes the compiler of TPUs more than ten minutes


def works() -> list[tuple[str, str, dict[str, int]]]:
    """Model, topology, and what is set of its config."""
    found: list[tuple[str, str, dict[str, int]]] = []

    def add(model: str, topology: str, accumulate: int = 1, **mesh: int) -> None:
        sizes = {"data": 1, "fsdp": 1} | mesh if mesh else {}
        overrides = {f"mesh.{axis}": size for axis, size in sizes.items()}
        overrides |= {} if accumulate == 1 else {"optimizer.accumulate_steps": accumulate}
        found.append((model, topology, overrides | (SHORT if model.startswith("llama") else {})))

    for model in ("bert-large", "resnet50"):
        for topology, devices in (("v5e:4x4", 16), ("v5p:2x2x2", 8), ("v6e:2x4", 8), ("h200:8", 8)):
            add(model, topology, data=devices)
    for shape in SLICES:
        add(CURVE, f"v5e:{shape}")
    add("vit-g14", "v5p:2x4x4")
    add("vit-g14", "v6e:4x8")
    add("vit-g14", "h200:4x8", dcn_data=4, fsdp=8)
    add("gpt3-175b", "v5p:8x8x8", 3, fsdp=64, tensor=8)
    add("gpt3-175b", "v5e:16x16", 6)
    for mesh in MESHES[1:]:
        add(CURVE, "v5e:8x8", **mesh)
    add("llama3-8b", "v5p:4x4x4", 4)
    add("llama3-70b", "v5p:8x8x8", 2)
    add("gpt3-175b", "v6e:16x16", 6)
    add("gpt3-175b", "h200:32x8", 12, dcn_fsdp=32, tensor=8)
    add("llama3-8b", "h200:8x8", 2, dcn_data=8, fsdp=8)
    add("llama3-8b", "v5e:8x8", 8)
    add("llama3-8b", "v6e:8x8", 4)
    add("llama3-70b", "2xv5p:8x8x8", 1, dcn_data=2, fsdp=512)
    add("llama3-70b", "h200:32x8", 2, dcn_fsdp=32, fsdp=8)
    add("llama3-70b", "v6e:16x16", 4)
    add("llama3-70b", "v5e:16x16", 8)
    return found


def ask(model: str, topology: str, overrides: dict[str, int]) -> dict[str, Any]:
    """One plan, by the command that anybody would type."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--config=experiments/large.py:{model}", f"--topology={topology}", f"--output={folder}/plan.json"]
        words += [f"--config.{key}={value}" for key, value in overrides.items()]
        code = "from bigjax.cli import script; script()"
        subprocess.run([sys.executable, "-c", code, "plan", *words], check=True, stdout=subprocess.DEVNULL)
        return {"model": model, "overrides": overrides} | json.loads(Path(folder, "plan.json").read_text())


def main() -> None:
    plans = json.loads(FILE.read_text()) if FILE.exists() else []
    kept = [(found["model"], found["topology"], found["overrides"]) for found in plans]
    for work in works() if "--draw" not in sys.argv else ():
        if work not in kept:
            print(*work, flush=True)
            plans.append(ask(*work))
            FILE.write_text(json.dumps(plans, indent=1) + "\n")


if __name__ == "__main__":
    main()
