"""Where the time of a step goes: a trace for Perfetto or TensorBoard, and a table of it."""

import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from bigjax.errors import UserError
from bigjax.tasks.task import Batch

WARM_UP = 5  # steps before: compilation and first touches of memory are not what a step costs
CONTROL = {"while", "conditional", "call"}  # their time is that of the operations in them
KINDS = (  # the first that an operation, or what was fused into it, has
    ("collectives", ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")),
    ("convolutions", ("convolution",)),
    ("products", ("dot", "custom-call")),
    ("gather, scatter, sort", ("gather", "scatter", "sort", "dynamic-update-slice")),
    ("reductions", ("reduce", "reduce-window", "select-and-scatter")),
)
MOVES = {"copy", "transpose", "bitcast", "broadcast", "reshape", "slice", "pad", "concatenate"}
MOVES |= {"parameter", "constant", "tuple", "get-tuple-element"}
WAITING = "waiting for a batch"  # of the trace
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (?:\(.*?\) |\S+ )([\w-]+)\(")

Span = tuple[float, float]  # nanoseconds, from and to


class Operation(NamedTuple):
    """A stretch of work: nanoseconds, from and to, and its kind."""

    start: float
    stop: float
    kind: str


class Event(NamedTuple):
    """Of a trace: nanoseconds, from and to; the operation that it is, if any; which work it hands on or takes."""

    start: float
    stop: float
    name: str
    operation: str
    gives: Any
    takes: Any


@dataclass
class Profile:
    """Traces some steps of a run.

    Attributes:
      folder: where the trace goes.
      steps: how many.
      table: after them, `steps`, and `step_ms` of each.
    """

    folder: Path
    steps: int
    table: dict[str, Any] | None = None

    def check(self, steps: int) -> None:
        """Raises UserError where a run of `steps` steps, or those that are left of it, are too few."""
        if self.steps < 1:
            raise UserError(f"--profile is a number of steps, at least 1, not {self.steps}.")
        if steps < WARM_UP + self.steps:
            raise UserError(
                f"--profile={self.steps} begins after {WARM_UP} steps, and the run has {steps} to go: take fewer."
            )

    def over(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, traced from the one after the warm-up until all work on the last of `steps` is done."""
        iterator = iter(batches)
        yield from (batch for _, batch in zip(range(WARM_UP), iterator, strict=False))
        jax.block_until_ready(jax.live_arrays())
        begun = time.perf_counter()
        with jax.profiler.trace(self.folder, create_perfetto_trace=True):
            for _ in range(self.steps):
                with jax.profiler.TraceAnnotation(WAITING):
                    batch = next(iterator, None)
                if batch is None:  # a signal came before the first step
                    return
                yield batch
            jax.block_until_ready(jax.live_arrays())
            seconds = time.perf_counter() - begun
        self.table = {"steps": self.steps, "step_ms": 1e3 * seconds / self.steps}
        yield from iterator

    def tabulated(self, hlo: str) -> dict[str, Any]:
        """The table, with `device_ms` by kind of work, and how long the devices were idle.

        That is `input_ms` while the loop waited for a batch, and `host_ms` while it did anything else: called the step,
        logged, wrote. What either did while the devices were busy is no one's loss, and in neither.

        Args:
          hlo: the text of the compiled step, which tells what its operations are.
        """
        assert self.table is not None
        file = max(self.folder.glob("plugins/profile/*/*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        times, busy, input_idle = device_times(file, kinds_of(hlo))
        scale = 1e3 * busy / self.steps / (sum(times.values()) or 1)  # operations that run at once share the time
        device = {kind: scale * seconds for kind, seconds in sorted(times.items(), key=lambda of: -of[1])}
        idle = max(0.0, self.table["step_ms"] - sum(device.values()))
        waiting = min(idle, 1e3 * input_idle / self.steps)
        return self.table | {"device_ms": device, "input_ms": waiting, "host_ms": idle - waiting}


def kinds_of(hlo: str) -> dict[str, str]:
    """What kind of work each instruction of a compiled module is, by name."""
    own, members, callees = {}, defaultdict(set), {}
    computation = ""
    for line in hlo.splitlines():
        if line and not line[0].isspace():
            computation = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
        elif found := INSTRUCTION.match(line):
            name, opcode = found.groups()
            own[name] = opcode
            members[computation].add(opcode)
            if opcode == "fusion" and (called := re.search(r"calls=%?([\w.-]+)", line)):
                callees[name] = called[1]
    return {name: kind(members[callees[name]] if name in callees else {opcode}) for name, opcode in own.items()}


def kind(opcodes: set[str]) -> str:
    """The kind of work of an operation that is made of these."""
    opcodes = {opcode.removesuffix("-start").removesuffix("-done") for opcode in opcodes}
    if opcodes & CONTROL:
        return ""
    for name, members in KINDS:
        if opcodes & set(members):
            return name
    return "copies" if opcodes <= MOVES else "elementwise"


def device_times(file: Path, kinds: dict[str, str]) -> tuple[dict[str, float], float, float]:
    """What the devices did, in seconds, the mean over them.

    Args:
      file: a trace.
      kinds: of operations by name; those of other programs are "other programs".

    Returns:
      The time of each kind, of all threads together on a CPU; that in which a device computed anything; and that in
      which it did not, and the loop waited for its batch.
    """
    devices: list[list[Operation]] = []
    waits: list[Span] = []
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        lines = [sorted(map(event_of, line.events), key=lambda event: event.start) for line in plane.lines]
        waits += [(event.start, event.stop) for line in lines for event in line if event.name == WAITING]
        done = [
            Operation(event.start, event.stop, what)
            for event in itertools.chain(*lines)
            if event.operation and (what := kinds.get(event.operation, "other programs"))
        ]
        if done:
            devices.append(done + handed_on(lines, kinds))
    times: dict[str, float] = defaultdict(float)
    busy = either = 0.0
    for done in devices:
        spans = [(operation.start, operation.stop) for operation in done]
        for operation in done:
            times[operation.kind] += (operation.stop - operation.start) / 1e9 / len(devices)
        busy += covered(spans) / len(devices)
        either += covered(spans + waits) / len(devices)
    return times, busy, either - busy


def event_of(event: Any) -> Event:
    """An event of a trace, with what is asked of it."""
    stats = {key: value for key, value in event.stats if key in ("hlo_op", "_p", "_c")}
    operation = str(stats.get("hlo_op", ""))
    return Event(
        event.start_ns, event.start_ns + event.duration_ns, event.name, operation, stats.get("_p"), stats.get("_c")
    )


def handed_on(lines: list[list[Event]], kinds: dict[str, str]) -> list[Operation]:
    """What the threads of a CPU did for operations whose own events end as soon as other threads have the work.

    A thread notes each piece of work that it hands on, and the one that takes it when it starts and stops. What is
    handed on by a piece is for the same operation.
    """
    owners: dict[int, str | int] = {}  # of a piece: the kind of its operation, or the piece that it comes from
    pieces: list[tuple[int, float, float]] = []  # from and to, less the operations that are computed meanwhile
    for line in lines:
        operation, piece = Operation(0, 0, ""), None
        for event in line:
            if event.operation and (what := kinds.get(event.operation, "other programs")):
                operation = Operation(event.start, event.stop, what)
                if piece is not None:
                    pieces.append((piece[0], piece[1], event.start))
                    piece = piece[0], event.stop
            elif event.name == "ThreadpoolListener::Record":
                within = piece[0] if piece and piece[0] < event.gives else ""  # pieces are numbered as they come
                owners[event.gives] = operation.kind if event.start <= operation.stop else within
            elif event.name == "ThreadpoolListener::StartRegion":
                piece = event.takes, event.start
            elif event.name == "ThreadpoolListener::StopRegion" and piece is not None:
                pieces.append((*piece, event.start))
                piece = None
    found = []
    for number, start, stop in pieces:
        owner: str | int = number
        while isinstance(owner, int):
            owner = owners.get(owner, "")
        if owner and stop > start:
            found.append(Operation(start, stop, owner))
    return found


def covered(spans: Iterable[Span]) -> float:
    """Seconds that lie in any of these spans."""
    total = end = 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e9
