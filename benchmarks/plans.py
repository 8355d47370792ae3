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
CHIPS = ("2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")  # of v5p, on which llama3-8b is planned
MESHES = ({"fsdp": 64}, {"fsdp": 32, "tensor": 2}, {"fsdp": 16, "tensor": 4}, {"fsdp": 8, "tensor": 8})
MESHES += ({"data": 2, "fsdp": 32}, {"data": 4, "fsdp": 16}, {"data": 8, "fsdp": 8})


def works() -> list[tuple[str, str, dict[str, int]]]:
    """Model, topology, and what is set of its config."""
    found: list[tuple[str, str, dict[str, int]]] = []

    def add(model: str, topology: str, accumulate: int = 1, **mesh: int) -> None:
        one = {} if accumulate == 1 else {"optimizer.accumulate_steps": accumulate}
        sizes = {"data": 1, "fsdp": 1} | mesh if mesh else {}
        found.append((model, topology, one | {f"mesh.{axis}": size for axis, size in sizes.items()}))

    for shape in CHIPS:
        devices = 1
        for size in shape.split("x"):
            devices *= int(size)
        add("llama3-8b", f"v5p:{shape}", max(512 // devices, 1))
    for mesh in MESHES[1:]:
        add("llama3-8b", "v5p:4x4x4", 8, **mesh)
    add("bert-large", "h200:8", data=8)
    add("bert-large", "v5e:4x4", data=16)
    add("bert-large", "v6e:2x4", data=8)
    add("bert-large", "v5p:2x2x2", data=8)
    add("resnet50", "v5e:4x4", data=16)
    add("resnet50", "v5p:2x2x2", data=8)
    add("resnet50", "v6e:2x4", data=8)
    add("resnet50", "h200:8", data=8)
    add("vit-g14", "v5e:8x8")
    add("vit-g14", "v5p:2x4x4")
    add("vit-g14", "v6e:4x8")
    add("vit-g14", "h200:4x8", dcn_data=4, fsdp=8)
    add("gpt3-175b", "v5p:8x8x8", 3, fsdp=64, tensor=8)
    add("gpt3-175b", "v6e:16x16", 6)
    add("gpt3-175b", "h200:32x8", 12, dcn_fsdp=32, tensor=8)
    add("gpt3-175b", "v5e:16x16", 6)
    add("llama3-8b", "v5e:16x16", 2)
    add("llama3-8b", "v6e:8x8", 8)
    add("llama3-8b", "h200:8x8", 8, dcn_data=8, fsdp=8)
    add("llama3-70b", "v5p:8x8x8", 4)
    add("llama3-70b", "2xv5p:8x8x8", 2, dcn_data=2, fsdp=512)
    add("llama3-70b", "v6e:16x16", 8)
    add("llama3-70b", "h200:32x8", 8, dcn_fsdp=32, fsdp=8)
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
