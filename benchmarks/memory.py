"""Memory and speed of a large text: sets a source up and draws 200 batches of 8 x 1024 tokens, in a process of its own.

python -m benchmarks.memory [--gigabytes=2] [--tokenizer=bytes]

Pages of memory-mapped files are counted by RSS, though the system takes them back when it needs them; RssAnon is what
is the process's own.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BATCHES, SEQUENCE = 200, 1024


def write(path: Path, size: int) -> None:
    """A text of `size` bytes: shuffled lines of words, of which few are frequent."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9))) for _ in range(50_000)]
    frequent = rng.choices(words, [1 / (rank + 1) for rank in range(len(words))], k=1_000_000)
    lines = [" ".join(rng.choices(frequent, k=rng.randint(5, 20))) + "\n" for _ in range(100_000)]
    with path.open("w") as file:
        while file.tell() < size:
            file.write("".join(rng.choices(lines, k=20_000)))


def status(*keys: str) -> list[float]:
    """Figures of /proc/self/status, in MiB."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(found[key].split()[0]) / 1024 for key in keys]


def measure(path: str, tokenizer: str) -> None:
    """Sets up and draws batches; prints a line."""
    from bigjax.data.text_files import text_file

    start = time.perf_counter()
    vocab_size = 8192 if tokenizer == "bpe" else None
    split = text_file(path, context=SEQUENCE, tokenizer=tokenizer, vocab_size=vocab_size).splits["train"]
    ready = time.perf_counter()
    split.fingerprint()
    hashed = time.perf_counter()
    anonymous = 0.0
    for step in range(BATCHES):
        split.train_batch(0, step, 8, slice(0, 8))
        anonymous = max(anonymous, *status("RssAnon"))
    rate = BATCHES / (time.perf_counter() - hashed)
    (peak,) = status("VmHWM")
    print(
        f"{Path(path).stat().st_size / 1e9:.2f} GB, {tokenizer}: ready in {ready - start:.1f} s, fingerprint in "
        f"{hashed - ready:.1f} s, {rate:.0f} batches/s, "
        f"peak RSS {peak:.0f} MiB, RssAnon while drawing {anonymous:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--tokenizer", default="bytes")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.txt"
        write(path, int(arguments.gigabytes * 1e9))
        command = [sys.executable, "-m", "benchmarks.memory", f"--measure={path}", f"--tokenizer={arguments.tokenizer}"]
        for _ in range(2):  # the second finds the cache
            subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": folder})


if __name__ == "__main__":
    main()
