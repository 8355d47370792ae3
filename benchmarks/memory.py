"""Memory and speed of a large text or table: sets it up and draws 200 batches of 8 rows, in a process of its own.

python -m benchmarks.memory [--gigabytes=2] [--tokenizer=bytes]
python -m benchmarks.memory --gigabytes=0.2 --source=labels    # or pairs; WordPiece or BPE of 8,000 tokens

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


HEADERS = {"text": "", "labels": "text\tlabel\n", "pairs": "source\ttarget\n"}


def write(path: Path, size: int, source: str) -> None:
    """A text or table of `size` bytes: shuffled lines of words, of which few are frequent."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgk", k=rng.randint(2, 9))) for _ in range(50_000)]
    frequent = rng.choices(words, [1 / (rank + 1) for rank in range(len(words))], k=1_000_000)
    lines = [" ".join(rng.choices(frequent, k=rng.randint(5, 20))) for _ in range(100_000)]
    with path.open("w") as file:
        file.write(HEADERS[source])
        while file.tell() < size:
            first, second = rng.choices(lines, k=20_000), rng.choices(lines, k=20_000)
            if source == "labels":
                second = [str(len(line) % 2) for line in first]
            rows = first if source == "text" else map("\t".join, zip(first, second, strict=True))
            file.write("\n".join(rows) + "\n")


def status(*keys: str) -> list[float]:
    """Figures of /proc/self/status, in MiB."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(found[key].split()[0]) / 1024 for key in keys]


def measure(path: str, source: str, tokenizer: str) -> None:
    """Sets up and draws batches; prints a line."""
    from bigjax.data.labelled_text import text_table
    from bigjax.data.pairs import translation_pairs
    from bigjax.data.text_files import text_file

    start = time.perf_counter()
    if source == "text":
        vocab_size = 8192 if tokenizer == "bpe" else None
        split = text_file(path, context=SEQUENCE, tokenizer=tokenizer, vocab_size=vocab_size).splits["train"]
    else:
        split = {"labels": text_table, "pairs": translation_pairs}[source](path, vocab_size=8000).splits["train"]
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
        f"{Path(path).stat().st_size / 1e9:.2f} GB, {source}, {tokenizer}: ready in {ready - start:.1f} s, fingerprint "
        f"in {hashed - ready:.1f} s, {rate:.0f} batches/s, "
        f"peak RSS {peak:.0f} MiB, RssAnon while drawing {anonymous:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--source", default="text", choices=HEADERS)
    parser.add_argument("--tokenizer", default="bytes", help="of a text")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.source, arguments.tokenizer)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.tsv"
        write(path, int(arguments.gigabytes * 1e9), arguments.source)
        command = [sys.executable, "-m", "benchmarks.memory", f"--measure={path}"]
        command += [f"--source={arguments.source}", f"--tokenizer={arguments.tokenizer}"]
        for _ in range(2 if arguments.source == "text" else 1):  # the second finds the cache
            subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": folder})


if __name__ == "__main__":
    main()
