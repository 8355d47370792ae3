"""What it takes to read a checkpoint of 1 GB: seconds, and memory above the interpreter's; transformers beside it.

    python -m benchmarks.pretrained --peers=PYTHON

PYTHON is one that has torch and transformers. `load` is `bigjax.load_pretrained`, `import` the whole verb, which writes
the weights again; transformers maps the file into memory, so that its weights are read when they are first used: here
when they are summed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TURNS = 5
SIDES = ("load", "import", "theirs", "theirs, summed")


def kilobytes(key: str) -> int:
    """A figure of this process's memory: VmRSS, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def measure(side: str, folder: Path) -> tuple[float, float]:
    """Seconds, and gigabytes above what the interpreter with its libraries takes."""
    if side.startswith("theirs"):
        import torch
        import transformers

        base, start = kilobytes("VmRSS"), time.perf_counter()
        model = transformers.GPT2LMHeadModel.from_pretrained(folder)
        if "summed" in side:
            torch.stack([parameter.sum() for parameter in model.parameters()]).sum().item()
    else:
        import jax

        from bigjax.run import import_checkpoint, load_pretrained

        jax.block_until_ready(jax.numpy.zeros(1))
        base, start = kilobytes("VmRSS"), time.perf_counter()
        if side == "load":
            jax.block_until_ready(jax.tree.leaves(load_pretrained(folder).model))
        else:
            with tempfile.TemporaryDirectory() as run:
                import_checkpoint(folder, Path(run) / "run")
    return time.perf_counter() - start, (kilobytes("VmHWM") - base) * 1024e-9


def make(folder: Path) -> None:
    """A random GPT-2 of 16 layers, 1024 wide: 1.02 GB."""
    from flax import nnx

    from bigjax.config import schema
    from bigjax.models.gpt import GPT
    from bigjax.pretrained.save import save_pretrained

    sizes = {"vocab_size": 50257, "context": 1024, "d_model": 1024, "num_layers": 16, "num_heads": 16}
    model = nnx.jit(lambda: GPT(**sizes, rngs=nnx.Rngs(0)))()
    defaults = {key: parameter.default for key, parameter in schema(GPT, without=("rngs", "dtype")).items()}
    save_pretrained(folder, model, {"name": "gpt"} | defaults | sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help="print the figures of one side")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "checkpoint"
        make(folder)
        size = (folder / "model.safetensors").stat().st_size * 1e-9
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
        for _ in range(TURNS):
            for side, figures in found.items():
                python = arguments.peers if side.startswith("theirs") else sys.executable
                words = [python, "-m", "benchmarks.pretrained", "--measure", side, str(folder)]
                printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
                figures.append(json.loads(printed.splitlines()[-1]))
    print("| what | seconds | median | peak memory above the interpreter's / checkpoint |\n|---|---|---|---|")
    for side, figures in found.items():
        seconds, memory = zip(*figures, strict=True)
        print(f"| {side} | {min(seconds):.2f}-{max(seconds):.2f} | {statistics.median(seconds):.2f} | ", end="")
        print(f"{max(memory) / size:.2f} |")


if __name__ == "__main__":
    main()
