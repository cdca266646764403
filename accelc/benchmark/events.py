"""The runtime's own profile: what it wrote of each node in each run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True)
class Call:
    """One execution of a node. inputs, outputs: the tensors among them, without weights that the runtime repacked."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Timed:
    """A node over all runs. name: as the runtime calls it. us: microseconds of each run [runs], without what ran inside
    it. before: between the node before and this one [runs]. calls: of the last run.
    """

    name: str
    operator: str
    provider: str
    us: NDArray[np.float64]
    before: NDArray[np.float64]
    calls: tuple[Call, ...] = ()

    @property
    def ms(self) -> float:
        """Of one run."""
        return max(0.0, middle(self.us)) / 1000


@dataclass(frozen=True)
class Recorded:
    """What a trace holds of the last runs. wall_us: of each run [runs]; tail_us: of it, after the last node.

    nodes: as they were first seen.
    """

    wall_us: NDArray[np.float64]
    tail_us: NDArray[np.float64]
    nodes: tuple[Timed, ...]

    @property
    def wall_ms(self) -> float:
        """Of one run."""
        return middle(self.wall_us) / 1000

    @property
    def between_ms(self) -> float:
        """Before, between and after the nodes of one run. Gap by gap, so that a rare interruption does not count."""
        return (sum(middle(node.before) for node in self.nodes) + middle(self.tail_us)) / 1000


def middle(values: NDArray[np.float64]) -> float:
    """The mean of the middle half: as steady as a median, and finer than the whole microseconds of a trace."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def read(path: Path, runs: int) -> Recorded:
    """The last `runs` runs of a trace file. Raises BackendError when there are fewer or the file is not whole."""
    try:
        events = json.loads(path.read_text(encoding="utf-8", errors="replace"), object_hook=_slim)
    except (OSError, ValueError) as error:
        raise BackendError("the runtime left no readable profile", why=str(error)) from error
    return recorded(events, runs)


def _slim(made: dict[str, Any]) -> dict[str, Any]:
    """Most of an event is about threads and memory: a large model's trace would need gigabytes."""
    if "thread_pool_name" in made or "sub_threads" in made:
        return {}
    return {key: made[key] for key in _KEPT if key in made} if "op_name" in made else made


def recorded(events: Iterable[Mapping[str, Any]], runs: int) -> Recorded:
    """The same from a list of events."""
    whole, nodes = [], []
    for event in events:
        if event.get("cat") == "Session" and event.get("name") == _RUN:
            whole.append(event)
        elif event.get("cat") == "Node" and str(event.get("name", "")).endswith(_SUFFIX):
            nodes.append(event)
    whole = sorted(whole, key=lambda event: event["ts"])[-runs:]
    if len(whole) < runs or not runs:
        raise BackendError("the runtime's profile is not whole", why=f"it holds {len(whole)} of {runs} runs")
    starts = np.array([event["ts"] for event in whole], np.int64)
    nodes.sort(key=lambda event: (event["ts"], -event["dur"]))
    owner = np.searchsorted(starts, np.array([event["ts"] for event in nodes], np.int64), side="right") - 1
    found: dict[tuple[str, str, str], _Sum] = {}
    tail = np.zeros(runs)
    for run, last in enumerate(whole):
        inside = nodes[int(np.searchsorted(owner, run)) : int(np.searchsorted(owner, run, side="right"))]
        end = last["ts"] + last["dur"]
        tail[run] = _one_run([each for each in inside if each["ts"] <= end], last, run, runs, found)
    wall = np.array([event["dur"] for event in whole], np.float64)
    timed = (
        Timed(each.name, each.operator, each.provider, each.us, each.before, tuple(each.calls))
        for each in found.values()
    )
    return Recorded(wall, tail, tuple(timed))


@dataclass
class _Sum:
    name: str
    operator: str
    provider: str
    us: NDArray[np.float64]
    before: NDArray[np.float64]
    calls: list[Call] = field(default_factory=list)


def _one_run(
    events: Sequence[Mapping[str, Any]],
    whole: Mapping[str, Any],
    run: int,
    runs: int,
    found: dict[tuple[str, str, str], _Sum],
) -> float:
    """Add the events of one run, in order, to what was found. Returns the microseconds after the last node."""
    sums: list[_Sum] = []
    open_on: dict[Any, list[int]] = {}
    free = whole["ts"]
    for place, event in enumerate(events):
        args = event["args"]
        name, operator = str(event["name"]).removesuffix(_SUFFIX), str(args.get("op_name", ""))
        key = (name, operator, str(args.get("node_index", "")))
        if key not in found:
            found[key] = _Sum(name, operator, str(args.get("provider", "")), np.zeros(runs), np.zeros(runs))
        mine = found[key]
        sums.append(mine)
        mine.us[run] += event["dur"]
        if run == runs - 1:
            mine.calls.append(Call(_tensors(args, "input_type_shape"), _tensors(args, "output_type_shape")))
        stack = open_on.setdefault(event.get("tid"), [])
        while stack and not _holds(events[stack[-1]], event):
            stack.pop()
        if stack:  # in the body of an If, Loop or Scan
            sums[stack[-1]].us[run] -= event["dur"]
        else:
            mine.before[run] += max(0, event["ts"] - free)
            free = max(free, event["ts"] + event["dur"])
        stack.append(place)
    return float(max(0, whole["ts"] + whole["dur"] - free))


def _holds(outer: Mapping[str, Any], inner: Mapping[str, Any]) -> bool:
    """Whole microseconds: an event inside may seem to end one later than the one around it."""
    end = outer["ts"] + outer["dur"]
    return bool(inner["ts"] < end and inner["ts"] + inner["dur"] <= end + 1)


def _tensors(args: Mapping[str, Any], name: str) -> tuple[Tensor, ...]:
    listed = args.get(name) or ()
    return tuple((kind, tuple(map(int, dims))) for each in listed for kind, dims in each.items())
