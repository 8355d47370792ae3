"""What the bits of a run depend on, beside its config."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from bigjax.config import differences
from bigjax.errors import UserError
from bigjax.training.setup import Experiment
from bigjax.training.workdir import Workdir

PACKAGES = (
    *("bigjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ml-collections"),
    *("tokenizers", "pillow", "simplejpeg", "soundfile", "soxr", "jiwer", "sacrebleu"),
)


def manifest(experiment: Experiment) -> dict[str, Any]:
    """Versions, platform, devices, mesh, flags, git commit, and what the data are: prediction needs no more of them."""
    params = jax.tree.leaves(experiment.abstract.params)
    return {
        "versions": {name: found for name in PACKAGES if (found := package_version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "devices": [device.device_kind for device in jax.devices()],
        "backend": jax.default_backend(),
        "processes": jax.process_count(),
        "mesh": dict(experiment.mesh.shape),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("JAX_", "NVIDIA_TF32", "NPROC"))},
        "git": git_state(),
        "data_fingerprint": experiment.dataset.fingerprint(),
        "data_notes": list(experiment.dataset.notes),
        "data": {key: value for key, value in experiment.dataset.info.items() if not callable(value)},
        "num_parameters": sum(p.size for p in params),
        "command": command(),
    }


# What the bits depend on; the rest of a manifest describes the run, or follows from its config.
CONDITIONS = (
    *("versions", "python", "platform", "cpu", "devices", "backend", "processes", "mesh", "xla_flags", "environment"),
    *("git", "data_fingerprint"),
)


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The conditions that two manifests have not in common, each with both values."""
    return differences({key: old.get(key) for key in CONDITIONS}, {key: new.get(key) for key in CONDITIONS})


def read_manifest(workdir: Workdir) -> dict[str, Any]:
    """A run's manifest.

    Raises:
      UserError: it is missing or damaged.
    """
    found = workdir.read("manifest.json")
    resumed = found.setdefault("resumed", [])
    whole = (
        all(isinstance(found.get(key, {}), dict) for key in ("config", "data"))
        and isinstance(resumed, list)
        and all(
            isinstance(one, dict) and isinstance(one.get("step"), int) and isinstance(one.get("changed"), list)
            for one in resumed
        )
    )
    if not whole:
        raise UserError(f"{workdir.path / 'manifest.json'} is damaged: it is no manifest of a run.")
    return found


def continued(old: Mapping[str, Any], new: Mapping[str, Any], step: int) -> dict[str, Any]:
    """The manifest of a run that is resumed at `step`: that of its beginning, and what has changed since."""
    return {**old, "resumed": [*old["resumed"], {"step": step, "changed": changed(old, new)}]}


def command() -> str | None:
    """What was typed, a `bigjax` command or a script; None in a notebook."""
    name = Path(sys.argv[0]).name
    if name.startswith("ipykernel"):
        return None
    return shlex.join(["bigjax" if name == "__main__.py" else name, *sys.argv[1:]])


def package_version(name: str) -> str | None:
    """The installed version, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name and the number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {available_cores()} cores"


def git_state() -> dict[str, Any] | None:
    """The commit that bigjax runs from and whether files differ from it; None outside a git checkout."""

    def git(*words: str) -> str:
        here = Path(__file__).resolve().parent
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout

    try:
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None
