"""The runtime's own profile: what it wrote of each node in each run."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.errors import BackendError

Tensor = tuple[str, tuple[int, ...]]
"""A type as the runtime names it, and a shape."""

_SUFFIX = "_kernel_time"
_RUN = "model_run"
_KEPT = ("op_name", "provider", "node_index", "input_type_shape", "output_type_shape")
_BETWEEN = re.compile(r"[\s,]*")

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """One execution of a node. inputs, outputs: the tensors among them, without weights that the runtime repacked."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Timed:
    """A node. name: as the runtime calls it. ms: of one run, without what ran inside it. calls: of the last run."""

    name: str
    operator: str
    provider: str
    ms: float
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True)
class Recorded:
    """What a trace holds of the runs that count. Every time is of one run, where others disturbed it least.

    wall_ms: of a whole run. between_ms: before, between and after the nodes. nodes: as they were first seen.
    """

    wall_ms: float
    between_ms: float
    nodes: tuple[Timed, ...]


def undisturbed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of the fastest quarter along the last axis: what other processes add is never negative, and a mean is
    finer than the whole microseconds of a trace.
    """
    ordered = np.sort(values, axis=-1)
    found: NDArray[np.float64] = ordered[..., : -(-ordered.shape[-1] // 4)].mean(axis=-1)
    return found


def read(path: Path, counted: Sequence[bool]) -> Recorded:
    """What a trace file holds, see `recorded`. Raises BackendError when it is not whole."""
    collects = gc.isenabled()
    gc.disable()  # it would look again and again at a million small objects, and double the time
    try:
        return recorded(_events(path.read_text(encoding="utf-8", errors="replace")), counted)
    except (OSError, ValueError) as error:
        raise BackendError("the runtime left no readable profile", why=str(error)) from error
    finally:
        if collects:
            gc.enable()


def recorded(events: Iterable[Event], counted: Sequence[bool]) -> Recorded:
    """The runs that count. counted: of each run of the trace, whether it does. Raises BackendError when some lack."""
    whole, nodes = [], []
    for event in events:
        if event.get("cat") == "Session" and event.get("name") == _RUN:
            whole.append(event)
        elif event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX):
            nodes.append(event)
    if len(whole) != len(counted) or not any(counted):
        raise BackendError("the runtime's profile is not whole", why=f"it holds {len(whole)} of {len(counted)} runs")
    whole.sort(key=lambda event: event["ts"])
    nodes.sort(key=lambda event: (event["ts"], -event["dur"]))
    starts = np.array([event["ts"] for event in whole], np.int64)
    owner = np.searchsorted(starts, np.array([event["ts"] for event in nodes], np.int64), side="right") - 1
    table = _Table()
    for run in np.flatnonzero(counted):
        first, last = np.searchsorted(owner, [run, run + 1])
        table.add(nodes[first:last], whole[run])
    table.set_calls(nodes[first:last])
    return table.recorded()


def _events(text: str) -> Iterator[Event]:
    """One after the other, with what is needed of them: a large model's trace as a whole would need gigabytes.

    Raises ValueError.
    """
    decode = json.JSONDecoder().raw_decode
    at = text.find("[") + 1
    while not text.startswith("]", at := _end(_BETWEEN.match(text, at))):
        event, at = decode(text, at)
        if event.get("cat") == "Node":
            args = event.get("args", {})
            event["args"] = {key: args[key] for key in _KEPT if key in args}
        yield event


def _end(found: re.Match[str] | None) -> int:
    return found.end() if found else 0


@dataclass
class _Node:
    name: str
    operator: str
    provider: str
    number: int


@dataclass
class _Table:
    """Runs as they are added. us, before: (node, run, microseconds) in the node itself, and since the node before."""

    nodes: dict[tuple[str, str, str], _Node] = field(default_factory=dict)
    us: list[tuple[int, int, int]] = field(default_factory=list)
    before: list[tuple[int, int, int]] = field(default_factory=list)
    wall: list[int] = field(default_factory=list)
    after: list[int] = field(default_factory=list)
    calls: dict[int, list[Call]] = field(default_factory=dict)

    def add(self, events: Sequence[Event], whole: Event) -> None:
        """The next run: its nodes in order, and itself."""
        run, free = len(self.wall), whole["ts"]
        found = [self._node(event) for event in events]
        open_on: dict[Any, list[int]] = {}
        for place, (event, node) in enumerate(zip(events, found, strict=True)):
            self.us.append((node.number, run, event["dur"]))
            stack = open_on.setdefault(event.get("tid"), [])
            while stack and not _holds(events[stack[-1]], event):
                stack.pop()
            if stack:  # in the body of an If, Loop or Scan
                self.us.append((found[stack[-1]].number, run, -event["dur"]))
            else:
                self.before.append((node.number, run, max(0, event["ts"] - free)))
                free = max(free, event["ts"] + event["dur"])
            stack.append(place)
        self.wall.append(whole["dur"])
        self.after.append(max(0, whole["ts"] + whole["dur"] - free))

    def set_calls(self, events: Sequence[Event]) -> None:
        """What nodes were called with in a run."""
        for event in events:
            args = event["args"]
            call = Call(_tensors(args, "input_type_shape"), _tensors(args, "output_type_shape"))
            self.calls.setdefault(self._node(event).number, []).append(call)

    def recorded(self) -> Recorded:
        """All runs."""
        ms = np.maximum(0.0, undisturbed(self._matrix(self.us))) / 1000
        between = undisturbed(self._matrix(self.before)).sum() + undisturbed(np.array(self.after, np.float64))
        nodes = (
            Timed(node.name, node.operator, node.provider, time, tuple(self.calls.get(node.number, ())))
            for node, time in zip(self.nodes.values(), ms.tolist(), strict=True)
        )
        return Recorded(float(undisturbed(np.array(self.wall, np.float64))) / 1000, float(between) / 1000, tuple(nodes))

    def _node(self, event: Event) -> _Node:
        args = event["args"]
        name, operator = str(event["name"]).removesuffix(_SUFFIX), str(args.get("op_name", ""))
        key = (name, operator, str(args.get("node_index", "")))
        if key not in self.nodes:
            self.nodes[key] = _Node(name, operator, str(args.get("provider", "")), len(self.nodes))
        return self.nodes[key]

    def _matrix(self, entries: Sequence[tuple[int, int, int]]) -> NDArray[np.float64]:
        """[nodes, runs]"""
        made = np.zeros((len(self.nodes), len(self.wall)))
        if entries:
            node, run, value = np.array(entries, np.int64).T
            np.add.at(made, (node, run), value)
        return made


def _holds(outer: Event, inner: Event) -> bool:
    """Whole microseconds: an event inside may seem to end one later than the one around it."""
    end = outer["ts"] + outer["dur"]
    return bool(inner["ts"] < end and inner["ts"] + inner["dur"] <= end + 1)


def _tensors(args: Mapping[str, Any], name: str) -> tuple[Tensor, ...]:
    listed = args.get(name) or ()
    return tuple((kind, tuple(map(int, dims))) for each in listed for kind, dims in each.items())
