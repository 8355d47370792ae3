"""SIGKILL at random moments, and damage to the newest checkpoint: the end is that of a run left alone."""

import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import bigjax
from bigjax.training.checkpoint import saved_steps
from tests.faults.soak.runs import RUNS, config, finish, start
from tests.faults.test_checkpoints import DAMAGE


def phase(workdir: Path) -> str:
    """Where a run is, as far as its files tell."""
    if not (workdir / "metrics.jsonl").exists():
        return "start-up"
    if list((workdir / "checkpoints").glob("*-tmp*")):
        return "save"
    return "step or evaluation"


def kills(count: int, rng: random.Random, folder: Path) -> tuple[Counter, list[str]]:
    """Kills runs again and again, lets each go on, and compares its end with its twin's."""
    ends, wrong = Counter(), []
    twins, seconds = {}, {}
    for name in RUNS:
        finish(start(config(name), folder / f"warm-{name}"))  # compiled once
        begun = time.monotonic()
        twins[name] = finish(start(config(name), folder / f"twin-{name}"))
        seconds[name] = time.monotonic() - begun
    number = 0
    while ends["killed"] < count:
        name = rng.choice(tuple(RUNS))
        workdir = folder / f"run{number}"
        number += 1
        for _ in range(rng.randint(1, 12)):
            process = start(config(name), workdir)
            time.sleep(rng.uniform(0.05, 1.0) * seconds[name])
            if process.poll() is None:
                ends[f"killed in {phase(workdir)}"] += 1
                ends["killed"] += 1
                process.send_signal(signal.SIGKILL)
            process.communicate()
            if (workdir / "result.json").exists():
                break
        try:
            same = finish(start(config(name), workdir)) == twins[name]
            ends["same" if same else "different"] += 1
        except Exception as error:
            same = False
            ends["lost or stuck"] += 1
            wrong.append(f"{name} {number}: {error}")
        if not same:
            wrong.append(f"{name} {number} is not its twin, see {workdir}")
        else:
            shutil.rmtree(workdir)
    return ends, wrong


def damage(count: int, rng: random.Random, folder: Path) -> tuple[Counter, list[str]]:
    """Damages the newest checkpoint in some random way; training must go on from the one before to the same end."""
    ends, wrong = Counter(), []
    twins = {name: bigjax.train(config(name), workdir=folder / name, quiet=True) for name in RUNS}
    kinds = dict(DAMAGE) | {"a random bit": lambda folder: flip_anywhere(folder, rng)}
    for number in range(count):
        name, kind = rng.choice(tuple(RUNS)), rng.choice(tuple(kinds))
        workdir = folder / f"run{number}"
        shutil.copytree(twins[name].workdir, workdir)
        (workdir / "result.json").unlink()
        newest = max(saved_steps(workdir / "checkpoints"))
        kinds[kind](workdir / "checkpoints" / str(newest))
        run = bigjax.train(config(name), workdir=workdir, quiet=True)
        found, harmless = (workdir / "damaged").exists(), kind == "a random bit"  # it may be in bytes that nobody reads
        ends["found and set aside" if found else "harmless" if harmless else "not found"] += 1
        same = run.result["params_sha256"] == twins[name].result["params_sha256"]
        ends["same" if same else "different"] += 1
        if not same or not (found or harmless):
            wrong.append(f"{name} with {kind}, see {workdir}")
        else:
            shutil.rmtree(workdir)
    return ends, wrong


def flip_anywhere(folder: Path, rng: random.Random) -> None:
    """One bit of the arrays' own files; other files also hold what nobody reads."""
    data = [p for p in folder.rglob("*") if p.is_file() and p.parent.name == "d" and p.stat().st_size > 2000]
    file = rng.choice(data)
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
