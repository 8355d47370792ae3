"""What devices send each other in a compiled program, read from its text."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bigjax.parallel.mesh import slices_of

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(-start)?\(")
TRANSFER = re.compile(r'= (\(.*?\)) recv\(.*_xla_megascale_transfer_type="(\w+)"')
ARRAY = re.compile(r"\b([a-z]+\d+(?:e\d+m\d+\w*)?|pred)\[([\d,]*)\]")
CALLED = re.compile(r"\b(body|condition|to_apply|calls)=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
NUMBER = re.compile(r"= s(?:32|64)\[\]\S* constant\((\d+)\)")


class Sent(NamedTuple):
    """What bytes are for: "links" within a slice or the "network" between them, the collective's kind, mesh axes."""

    link: str
    kind: str
    axes: tuple[str, ...]


def count_collectives(hlo: str, mesh: Mesh) -> Counter[Sent]:
    """Bytes that one device sends in one run of a program, by link, kind and the mesh axes that they go along.

    They are those of a ring: of n devices an all-reduce of B bytes sends 2 (n - 1) / n B from each, an all-gather to B
    or a reduce-scatter of B half of that. Over several slices it is a ring in each, and then one of the slices for each
    device's part. A loop counts as often as it runs: so says the program or, on a TPU, the one number that its
    condition compares with; else it counts once.

    Args:
      hlo: the compiled module's text.
      mesh: whose devices it runs on, in this order.
    """
    slices = slices_of(list(mesh.devices.flat))
    # TPUs compute in each slice as if it were alone, and send to others what the text calls a host transfer.
    alone = mesh.devices.flat[0].platform == "tpu" and len(set(slices)) > 1
    first = [place for place, slice in enumerate(slices) if slice == slices[0]]
    places = {device.id: place for place, device in enumerate(mesh.devices.flat)}
    sent: dict[str, dict[tuple[str, str], dict[Sent, int]]] = defaultdict(dict)  # by computation, channel and name
    fused: dict[str, list[str]] = defaultdict(list)
    calls: dict[str, list[tuple[str, str]]] = defaultdict(list)  # and how often, or what tells it
    numbers: dict[str, list[int]] = defaultdict(list)
    computation = entry = ""
    for line in hlo.splitlines():
        if line and not line[0].isspace():
            computation = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0]
            entry = computation if line.startswith("ENTRY") else entry
            continue
        if found := INSTRUCTION.search(line):
            groups = device_groups(line)
            if alone:
                groups = [[first[place] for place in group] for group in groups]
            # What begins an asynchronous one holds its operand, too, before its result, and numbers of its own.
            arrays = [array_bytes(*array) for array in ARRAY.findall(found[1]) if array[1] or not found[3]]
            twice = found[3] and (found[2] != "all-reduce" or found[1].startswith("(("))
            whole, kind = sum(arrays[len(arrays) // 2 :] if twice else arrays), found[2]
            if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):  # as a TPU fuses it with a slice
                whole, kind = whole // len(groups[0]), "reduce-scatter"
            sent[computation][channel_of(line)] = sends(kind, groups, whole, slices, axes_of(groups, mesh))
        elif found := TRANSFER.search(line):
            groups = [[places[device] for device in group] for group in transfer_groups(line)]
            kind = found[2].lower().replace("_", "-")
            whole = array_bytes(*ARRAY.findall(found[1])[0])
            sent[computation][channel_of(line)] = sends(kind, groups, whole, slices, axes_of(groups, mesh))
        if number := NUMBER.search(line):
            numbers[computation].append(int(number[1]))
        called, trips = dict(CALLED.findall(line)), TRIPS.search(line)
        fused[computation] += [called.pop("calls")] if "calls" in called else []
        for role, name in called.items():
            told = (trips[1] if trips else called.get("condition", "1")) if role == "body" else "1"
            calls[computation].append((name, told))
    total: Counter[Sent] = Counter()

    def with_fused(name: str) -> dict[tuple[str, str], dict[Sent, int]]:
        """What a computation sends. A TPU's is often cut over several fusions, which are of one channel."""
        parts = {channel: sizes for part in fused[name] for (channel, _), sizes in with_fused(part).items()}
        return {(channel, ""): sizes for channel, sizes in parts.items()} | sent[name]

    def add(name: str, times: int) -> None:
        for sizes in with_fused(name).values():
            total.update({key: times * size for key, size in sizes.items()})
        for inner, told in calls[name]:
            bounds = [int(told)] if told.isdecimal() else numbers[told]
            add(inner, times * (bounds[0] if len(bounds) == 1 else 1))

    add(entry, 1)
    return total


def channel_of(line: str) -> tuple[str, str]:
    """A collective's kind with its channel, or without one its name; and its name."""
    name = line.partition("=")[0].strip()
    found = re.search(r" ([a-z-]+)\(.*channel_id=(\d+)", line)
    return " ".join(found.groups()) if found else name, name


def sends(
    kind: str, groups: Sequence[Sequence[int]], result: int, slices: Sequence[int], axes: tuple[str, ...]
) -> dict[Sent, int]:
    """The bytes that a device sends so that a collective's result of so many bytes is there.

    Args:
      slices: of each place its slice.
    """
    across = max(len({slices[place] for place in group}) for group in groups)  # slices of a group
    inside = len(groups[0]) // across  # devices of each
    if kind in ("all-to-all", "collective-permute"):
        share = (inside * across - 1) / (inside * across) if kind == "all-to-all" else 1
        abroad = (across - 1) / across if kind == "all-to-all" else float(across > 1)
        found = {"links": (share - abroad) * result, "network": abroad * result}
    else:
        whole = result * inside * across if kind == "reduce-scatter" else result
        times = 2 if kind == "all-reduce" else 1
        found = {
            "links": times * (inside - 1) / inside * whole,
            "network": times * (across - 1) / across * whole / inside,
        }
    return {Sent(link, kind, axes): round(size) for link, size in found.items() if round(size)}


def transfer_groups(line: str) -> list[list[int]]:
    """The devices, by id, that exchange in a transfer between slices of TPUs."""
    target = re.search(r"_xla_megascale_target=(\S+?),_xla", line)
    text = target[1] if target else ""
    if found := re.findall(r"\{([\d,]+)\}x\{(\d+):(\d+)\}", text):
        return [
            [100_000 * int(slice) + device for slice in slices.split(",")]
            for slices, start, stop in found
            for device in range(int(start), int(stop) + 1)
        ]
    return [[int(device) for device in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", text)]


def array_bytes(dtype: str, shape: str) -> int:
    """Of an array as HLO writes its type, such as f32 and "8,128"."""
    names = {"pred": "bool", "bf16": "bfloat16"}
    found = re.fullmatch(r"([fsuc])(\d+)", dtype)
    kinds = {"f": "float", "s": "int", "u": "uint", "c": "complex"}
    name = names.get(dtype) or (f"{kinds[found[1]]}{found[2]}" if found else "int8")
    return jnp.dtype(name).itemsize * math.prod(int(size) for size in shape.split(",") if size)


def device_groups(line: str) -> list[list[int]]:
    """Which devices, by their place in the mesh, exchange with each other."""
    if found := re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        return along_axes(sizes, re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", found[2]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        dims = [int(size) for size in found[3].split(",")]
        order = [int(axis) for axis in found[4].split(",")] if found[4] else range(len(dims))
        places = np.arange(math.prod(dims)).reshape(dims).transpose(order)
        return places.reshape(int(found[1]), int(found[2])).tolist()
    if found := re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}", line):
        return [[int(place) for place in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", found[1])]
    return [[0]]


def along_axes(sizes: Mapping[str, int], axes: Sequence[tuple[str, str, str]]) -> list[list[int]]:
    """The groups that differ along some axes, or along parts of them, of a mesh whose axes have these sizes.

    Args:
      axes: of each its name and, where it is a part, the product of the parts before it and its size.
    """
    shape: list[int] = []
    varying: list[int] = []
    wanted = {name: (int(before or 1), int(size or sizes[name])) for name, before, size in axes}
    for name, size in sizes.items():
        before, part = wanted.get(name, (size, 1))
        if name in wanted:
            varying.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    places = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), varying, range(-len(varying), 0))
    return places.reshape(-1, math.prod(shape[axis] for axis in varying)).tolist()


def axes_of(groups: Sequence[Sequence[int]], mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes along which the members of the groups differ."""
    places = np.array([np.unravel_index(group, mesh.devices.shape) for group in groups])  # [groups, axes, members]
    differ = (places != places[:, :, :1]).any((0, 2))
    return tuple(axis for axis, differs in zip(mesh.axis_names, differ, strict=True) if differs)
