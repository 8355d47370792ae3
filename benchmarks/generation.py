"""Greedy tokens per second of a model of GPT-2's size, bigjax beside transformers, in turns.

    python -m benchmarks.generation --peers=PYTHON

PYTHON is one that has torch and transformers (`pip install -e ".[peers]"` in an environment of its own).
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

PROMPT, TOKENS, TURNS = 16, 256, 5


def ours(batch: int) -> Callable[[], object]:
    """Generates with bigjax; weights are random, and nothing depends on them."""
    import numpy as np
    from flax import nnx

    from bigjax.inference.generate import generate
    from bigjax.inference.sampling import Sampling
    from bigjax.models.gpt import GPT

    model = nnx.jit(lambda: GPT(50257, 1024, rngs=nnx.Rngs(0)))()
    prompts = np.random.default_rng(0).integers(0, 50257, (batch, PROMPT)).tolist()
    return lambda: generate(model, prompts, TOKENS, Sampling(temperature=0))


def theirs(batch: int) -> Callable[[], object]:
    """The same with transformers."""
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    prompts = torch.randint(0, 50257, (batch, PROMPT))
    options = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}

    def run() -> object:
        with torch.inference_mode():
            return model.generate(prompts, attention_mask=torch.ones_like(prompts), **options)

    return run


def measure(side: str, batch: int) -> float:
    """Tokens per second of the faster of two runs, after one that compiles."""
    run = {"ours": ours, "theirs": theirs}[side](batch)
    run()
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return batch * TOKENS / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "BATCH"), help="print one figure of one side")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.measure[0], int(arguments.measure[1])))
        return

    def figure(python: str, side: str, batch: int) -> float:
        words = [python, "-m", "benchmarks.generation", "--measure", side, str(batch)]
        return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    print("| batch | bigjax, tokens/s | transformers, tokens/s | ratio of the medians |\n|---|---|---|---|")
    for batch in (1, 8):
        found: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(TURNS):
            found["ours"].append(figure(sys.executable, "ours", batch))
            found["theirs"].append(figure(arguments.peers, "theirs", batch))
        cells = [f"{min(speeds):.0f}-{max(speeds):.0f}" for speeds in found.values()]
        ratio = statistics.median(found["ours"]) / statistics.median(found["theirs"])
        print(f"| {batch} | {cells[0]} | {cells[1]} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
