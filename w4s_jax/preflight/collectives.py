"""What a compiled program sends between devices, read from its HLO text with the trip counts of its loops.

compiled.as_text(), mesh → **collectives** → bytes by kind and mesh axis

The compiler's own cost analysis counts the body of a loop once, whatever its trip count; a
scan over layers would be off by the number of layers. Bytes are those that one device
sends in a ring of n: (n − 1)/n of the gathered or scattered array, twice that for an
all-reduce, all of it for a permutation (Thakur et al., IJHPCA 19(1), 2005).
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = (.+?) ({'|'.join(KINDS)})(-start)?\(")
_LOOP = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLS = re.compile(
    r"(?:calls|to_apply|called_computations|branch_computations|true_computation|false_computation)="
    r"(\{[^}]*\}|%?[\w.\-]+)"
)
_SHAPE = re.compile(r"\b(pred|bf16|[sufc]\d+\w*)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{(\{[\d,]+\}(?:,\{[\d,]+\})*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{(\{\d+,\d+\}(?:,\{\d+,\d+\})*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}")


class Traffic(NamedTuple):
    """What one device sends in one run of a program."""

    bytes: Mapping[tuple[str, str], int]
    """(kind, mesh axes joined by `+`) → bytes."""
    loops_of_unknown_length: int
    """Loops with a collective inside whose trip count the program does not know; counted once."""


class _Sent(NamedTuple):
    kind: str
    axes: str
    bytes: int


class _Call(NamedTuple):
    computation: str
    times: int | None = 1
    """As the instruction itself says; None where it does not."""
    condition: str = ""
    """Of a loop."""


@dataclasses.dataclass
class _Computation:
    sent: list[_Sent] = dataclasses.field(default_factory=list)
    calls: list[_Call] = dataclasses.field(default_factory=list)
    constants: dict[str, int] = dataclasses.field(default_factory=dict)
    counts_to: str = ""
    """What a condition compares its counter with."""


def collectives(hlo_text: str, mesh: Mesh) -> Traffic:
    """Reads a compiled program.

    Args:
        hlo_text: `compiled.as_text()`.
        mesh: What it was compiled for; partitions are its devices in order.
    """
    computations, entry = _parse(hlo_text, mesh)
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    unknown = 0

    def visit(name: str, times: int) -> bool:
        """Adds a computation `times` over; says whether anything was sent in it."""
        nonlocal unknown
        computation = computations.get(name)
        if computation is None:
            return False
        sends = bool(computation.sent)
        for sent in computation.sent:
            total[sent.kind, sent.axes] += times * sent.bytes
        for call in computation.calls:
            trips = call.times or _counted(computations.get(call.condition))
            below = visit(call.computation, times * (trips or 1))
            unknown += below and trips is None
            sends |= below
        return sends

    visit(entry, 1)
    return Traffic(dict(total), unknown)


def _parse(hlo_text: str, mesh: Mesh) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", _Computation()
    for line in hlo_text.splitlines():
        if header := _COMPUTATION.match(line):
            current = computations.setdefault(header[2], _Computation())
            entry = header[2] if header[1] else entry
        elif found := _COLLECTIVE.search(line):
            current.sent.append(_sent(found, line, mesh))
        elif loop := _LOOP.search(line):
            trips = _TRIPS.search(line)
            current.calls.append(_Call(loop[2], int(trips[1]) if trips else None, loop[1]))
        elif constant := _CONSTANT.search(line):
            current.constants[constant[1]] = int(constant[2])
        else:
            if below := _BELOW.search(line):
                current.counts_to = below[1]
            current.calls.extend(_Call(name) for name in _called(line))
    return computations, entry


def _counted(condition: _Computation | None) -> int | None:
    """Trips of a loop that counts up to a constant, from 0 by 1 as the scans of jax do."""
    return None if condition is None else condition.constants.get(condition.counts_to)


def _called(line: str) -> Iterator[str]:
    for names in _CALLS.findall(line):
        yield from (name.strip(" %") for name in names.strip("{}").split(","))


def _sent(found: re.Match[str], line: str, mesh: Mesh) -> _Sent:
    result, kind, started = found[1], found[2], bool(found[3])
    if kind == "collective-permute":
        group = _pairs(line)
        return _Sent(kind, _axes(group, mesh), _bytes(_result_of_start(result) if started else result))
    group = _group(line, mesh.size)
    size = _bytes(_result_of_start(result) if started and kind != "all-reduce" else result)
    n = len(group)
    if kind == "reduce-scatter":
        size *= n  # what was reduced, not what is left of it
    return _Sent(kind, _axes(group, mesh), (2 if kind == "all-reduce" else 1) * size * (n - 1) // max(n, 1))


def _result_of_start(result: str) -> str:
    """The results in `(operands, results, …)`, the type of an asynchronous start."""
    depth, parts, start = 0, [], 1
    for i, character in enumerate(result):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or (i == len(result) - 1):
            parts.append(result[start:i])
            start = i + 1
    return parts[1] if len(parts) > 1 else result


def _bytes(shapes: str) -> int:
    return sum(
        _item_bytes(dtype) * int(np.prod(_numbers(dims), dtype=np.int64)) for dtype, dims in _SHAPE.findall(shapes)
    )


def _item_bytes(dtype: str) -> int:
    if dtype == "pred":
        return 1
    bits = int(re.sub(r"\D*(\d+).*", r"\1", dtype))
    return max(1, bits // 8)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _pairs(line: str) -> Sequence[int]:
    """Source and target of the first pair."""
    found = _PAIRS.search(line)
    return _numbers(found[1].split("}")[0].strip("{")) if found else ()


def _group(line: str, devices: int) -> Sequence[int]:
    """The first replica group, in any of the spellings of HLO; all devices where there is none."""
    if listed := _LISTED.search(line):
        return _numbers(listed[1].split("}")[0].strip("{"))
    if iota := _IOTA.search(line):
        shape, of, order = (_numbers(part or "") for part in iota.groups())
        ids = np.arange(np.prod(of)).reshape(of)
        first: list[int] = (ids.transpose(order) if order else ids).reshape(shape)[0].ravel().tolist()
        return first
    if named := _NAMED.search(line):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", named[1])}
        of, order = _numbers(named[2] or ""), _numbers(named[3] or "")
        ids = np.arange(int(np.prod(list(sizes.values()))))
        if of:
            ids = ids.reshape(of).transpose(order or range(len(of)))
        varied = re.findall(r"'([^']+)'", named[4])
        index = tuple(slice(None) if axis in varied else 0 for axis in sizes)
        return ids.reshape(list(sizes.values()))[index].ravel().tolist()
    return range(devices)


def _axes(group: Sequence[int], mesh: Mesh) -> str:
    """The mesh axes along which the members of a group differ, e.g. `data+fsdp`."""
    places = np.array(np.unravel_index(np.asarray(group, int), mesh.devices.shape))
    return "+".join(name for name, row in zip(mesh.axis_names, places, strict=True) if len(set(row.tolist())) > 1)
