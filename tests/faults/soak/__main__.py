"""`python -m tests.faults.soak [kills=200] [damage=100] [mutations=1000] [elastic=1] [reproduce=1] [seed=0]`."""

import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import bigjax
from tests.faults.soak import fuzz, kills
from tests.faults.soak.runs import ROOT, config, finish, start

DEFAULTS = {"kills": 200, "damage": 100, "mutations": 1000, "elastic": 1, "reproduce": 1, "seed": 0}
QUICK = {  # shipped experiments that need no data and take less than two minutes on two cores
    "digits_cnn": {},
    "digits_vit": {},
    "numerals_transformer": {"train.steps": 100, "optimizer.warmup_steps": 50},
    "pydoc_gpt": {"train.steps": 300},
    "pydoc_lstm": {"train.epochs": 2},
    "bert_pretraining": {"train.steps": 100, "optimizer.warmup_steps": 20},
}
Outcome = tuple[Counter, list[str]]


def elastic(folder: Path) -> Outcome:
    """One hash for each model on 1, 2, 4 and 8 devices, and where they change from 8 to 2 to 4 at resumes."""
    ends, wrong = Counter(), []
    for name in ("resnet", "lstm", "gpt"):
        whole = config(name, checkpoint_every=8) | {"reproducible": "elastic"}
        hashes = {n: finish(start(whole, folder / f"{name}{n}", n)) for n in (1, 2, 4, 8)}
        workdir = folder / f"{name}-changing"
        for devices, step in ((8, 8), (2, 16)):
            process = start(whole, workdir, devices)
            while not (workdir / "checkpoints" / str(step) / "commit_success.txt").exists() and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.communicate()
        hashes["8 to 2 to 4"] = finish(start(whole, workdir, 4))
        ends[f"{name}: {len(set(hashes.values()))} hash of {len(hashes)} runs"] += 1
        if len(set(hashes.values())) != 1:
            wrong.append(f"{name}: {hashes}")
    return ends, wrong


def reproduce(folder: Path) -> Outcome:
    """Untouched runs of shipped experiments, reproduced."""
    ends, wrong = Counter(), []
    for name, overrides in QUICK.items():
        run = bigjax.train(f"{ROOT}/experiments/{name}.py", overrides, folder / name, quiet=True)
        verdict = bigjax.reproduce(run.workdir, quiet=True)
        ends["different" if verdict.differences else "identical"] += 1
        wrong += [f"{name}: {line}" for line in verdict.differences[:1]]
    return ends, wrong


def main() -> int:
    """Runs what is asked for and prints the figures; 1 where anything went wrong."""
    options = DEFAULTS | {key: int(value) for key, _, value in (word.partition("=") for word in sys.argv[1:])}
    rng = random.Random(options["seed"])
    work: dict[str, Callable[[Path], Outcome]] = {
        "kills": lambda folder: kills.kills(options["kills"], rng, folder),
        "damage": lambda folder: kills.damage(options["damage"], rng, folder),
        "elastic": elastic,
        "reproduce": reproduce,
        "mutations": lambda folder: mutations(options["mutations"], rng, folder),
    }
    failed = False
    for name, action in work.items():
        if not options[name]:
            continue
        begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix=f"bigjax-soak-{name}-"))
        ends, wrong = action(folder)
        print(f"{name}: {json.dumps(ends)} in {time.monotonic() - begun:.0f} s", *wrong, sep="\n  ", flush=True)
        failed |= bool(wrong)
    return int(failed)


def mutations(count: int, rng: random.Random, folder: Path) -> Outcome:
    """Half of configs, half of a run's files."""
    (ends, wrong), (more, others) = fuzz.configs(count // 2, rng), fuzz.workdirs(count - count // 2, rng, folder)
    return ends + more, wrong + others


if __name__ == "__main__":
    sys.exit(main())
