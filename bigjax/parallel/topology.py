"""Devices by name, which need not be here."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import jax
from jax.experimental import topologies

from bigjax.errors import UserError, first_line
from bigjax.parallel.chips import CHIPS, GPUS, gpu_target

FORMS = {
    "cpu": r"cpu:(?P<shape>\d+)",
    "gpu": r"[a-z]\w*:((?P<slices>\d+)x)?(?P<shape>[1-8])",
    "tpu": r"((?P<slices>\d+)x)?[a-z]\w*:(?P<shape>\d+x\d+(x\d+)?)",
}
WRITTEN = (
    "TPUs are written v5p:4x4x4, in a shape that exists, and 2xv5p:4x4x4 for two slices; "
    "GPUs h200:8, and h200:2x8 for two hosts of 1 to 8; fake devices of this machine cpu:8."
)
MOST = 2**14  # devices


@dataclass(frozen=True)
class Topology:
    """Devices of one kind.

    Attributes:
      text: as it was written.
      kind: of CHIPS, or "cpu".
      platform: "tpu", "gpu" or "cpu".
      slices: of TPUs, or hosts of GPUs.
      shape: of a slice; of a host its number of devices.
    """

    text: str
    kind: str
    platform: str
    slices: int
    shape: str

    @property
    def slice_size(self) -> int:
        """Devices of one slice."""
        return math.prod(int(size) for size in self.shape.split("x"))


@dataclass(frozen=True)
class Imagined:
    """A device that nothing here can compile for: enough of one to say which array lies where."""

    id: int
    process_index: int
    device_kind: str
    platform: str = "imagined"


def read_topology(text: str) -> Topology:
    """The topology that a text such as "v5p:4x4x4" names; raises UserError where it cannot be."""
    kind = re.sub(r"^\d+x", "", text.partition(":")[0])
    platform = "cpu" if kind == "cpu" else "gpu" if kind in GPUS else "tpu"
    found = re.fullmatch(FORMS[platform], text)
    if kind not in (*CHIPS, "cpu") or not found:
        raise UserError(f"There is no topology {text!r}: kinds are {', '.join(sorted((*CHIPS, 'cpu')))}. {WRITTEN}")
    topology = Topology(text, kind, platform, int(found.groupdict().get("slices") or 1), found["shape"])
    if not 1 <= topology.slices * topology.slice_size <= MOST:
        raise UserError(f"A topology has 1 to {MOST:,} devices, not as many as {text!r}.")
    return topology


def devices_of(topology: Topology) -> tuple[Sequence[Any], str]:
    """The devices of a topology, and what is missing to compile for them, "" where nothing is.

    Raises:
      UserError: the compiler knows no such topology, or there are other fake devices.
    """
    if topology.platform == "cpu":
        if topology.shape != str(jax.device_count()):
            here = f"there are {jax.device_count()} devices"
            raise UserError(f"{topology.text} needs JAX_NUM_CPU_DEVICES={topology.shape}, and {here}.")
        return jax.devices(), ""
    if topology.platform == "gpu":
        plugin, extra, library = "cuda", "cuda", "jax_cuda13_plugin"
        given: dict[str, Any] = {
            "target_config": gpu_target(topology.kind),
            "topology": f"1x{topology.slices}x{topology.shape}",
        }
    else:
        plugin, extra, library = "tpu", "plan", "libtpu"
        given = {"topology_name": f"{topology.kind}:{topology.shape}"}
        given |= {"num_slices": topology.slices} if topology.slices > 1 else {}
    if find_spec(library) is None:
        each = topology.slice_size
        devices = [Imagined(i, i // each, topology.kind) for i in range(topology.slices * each)]
        return devices, f"{library} is not installed, which compiles for them: pip install 'bigjax[{extra}]'"
    try:
        return topologies.get_topology_desc(platform=plugin, **given).devices, ""
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UserError(f"The compiler knows no topology {topology.text!r}: {first_line(error)}. {WRITTEN}") from error
