"""Models run in turn with the runtime's profiling on, so that their profiles are of the same machine."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from accelc import ir
from accelc.backend_base import Backend
from accelc.benchmark.plan import Case
from accelc.benchmark.rounds import blocks_of
from accelc.data import Feed
from accelc.measure import turn
from accelc.runner import Runner, RuntimeFailure, Session
from accelc.streamed import STREAMING_THRESHOLD, weight_bytes

RUN_S = 2.0
"""Seconds of rounds for each model, up to twice that for a few of them; LEAST_ROUNDS are always made."""
MOST_EVENTS = 40_000
"""Of a model: one for each node and run, of about a kilobyte; the runtime itself stops at a million."""
LEAST_ROUNDS, _GOOD_ROUNDS, _ENOUGH_ROUNDS = 2, 12, 30
_LONG_S = 0.1
_EVENT_S = 4e-6


@dataclass(frozen=True)
class Subject:
    """What is profiled, and on which inputs. latency_ms: of a run without profiling, where it is known."""

    case: Case
    feed: Feed
    latency_ms: float | None = None


@dataclass(frozen=True)
class Ran:
    """file: the model that ran. graph: what the runtime made of it, without its large weights; None where that could
    not be had. trace: the runtime's file, of as many runs as `counted` has entries, True for those that count.
    """

    file: onnx.ModelProto
    graph: onnx.ModelProto | None
    trace: Path
    counted: tuple[bool, ...]


def record(
    subjects: Sequence[Subject], folder: Path, *, memory: int | None = None, seed: int = 0
) -> list[Ran | RuntimeFailure]:
    """Run short blocks of all in turn, in random order, for about RUN_S each; those of a backend share a process.

    folder: where the traces lie afterwards. memory: bytes that a process may hold resident. One that fails has its
    failure; the others are run again without it.
    """
    found: dict[int, Ran | RuntimeFailure] = {}
    while len(found) < len(subjects):
        live = {at: each for at, each in enumerate(subjects) if at not in found}
        try:
            found.update(_together(live, folder, memory, random.Random(seed)))
        except _Failed as failed:
            found[failed.at] = failed.failure
    return [found[at] for at in range(len(subjects))]


class _Failed(Exception):
    def __init__(self, at: int, failure: RuntimeFailure) -> None:
        super().__init__(failure)
        self.at, self.failure = at, failure


@contextmanager
def _of(at: int) -> Iterator[None]:
    """What goes wrong inside is the failure of one of the subjects."""
    try:
        yield
    except RuntimeFailure as failure:
        raise _Failed(at, failure) from failure


def _together(live: Mapping[int, Subject], folder: Path, memory: int | None, order: random.Random) -> dict[int, Ran]:
    with ExitStack() as stack:
        runners: dict[Backend, Runner] = {}
        lanes: dict[int, _Lane] = {}
        for at, subject in live.items():
            backend = subject.case.backend
            if backend not in runners:
                runners[backend] = stack.enter_context(Runner(memory=memory))
            with _of(at):
                lanes[at] = _open(subject, runners[backend], folder / str(at), stack)
        _rounds(lanes, order)
        found = {}
        for at, lane in lanes.items():
            with _of(at):
                trace = lane.runner.end_profile(lane.session)
            found[at] = Ran(lane.file, lane.graph, trace, tuple(lane.counted))
        return found


def _rounds(live: Mapping[int, _Lane], order: random.Random) -> None:
    places, lanes = list(live), list(live.values())

    def block(lane: int, feed: int, runs: int, warm: int) -> None:
        with _of(places[lane]):
            lanes[lane].block(runs, warm)

    for lane in range(len(lanes)):
        block(lane, 0, 1, 0)
        if lanes[lane].seconds < _LONG_S:
            block(lane, 0, 1, 0)
        lanes[lane].forget()
    start, done = time.perf_counter(), 0
    while done < LEAST_ROUNDS or not any(lane.full for lane in lanes):
        share = RUN_S if done >= _GOOD_ROUNDS else 2 * RUN_S
        if done >= LEAST_ROUNDS and time.perf_counter() - start >= share * len(lanes):
            break
        runs, warm = blocks_of([lane.seconds for lane in lanes])
        runs = [min(many, lane.most) for many, lane in zip(runs, lanes, strict=True)]
        for _ in turn(block, runs, warm, 0, order):
            pass
        done += 1


@dataclass(eq=False)
class _Lane:
    """A loaded subject. counted: of each run so far, whether it counts. seconds: of a run, in the fastest block."""

    case: Case
    file: onnx.ModelProto
    graph: onnx.ModelProto | None
    runner: Runner
    session: Session
    held: int
    counted: list[bool] = field(default_factory=list)
    seconds: float = math.inf

    def __post_init__(self) -> None:
        nodes = list(ir.proto_nodes(self.file))
        self._nodes = max(1, len(nodes))
        self._repeats = bool(self.file.functions) or any(node.op_type in ("Loop", "Scan") for node in nodes)

    @property
    def events(self) -> int:
        """Of a run, about; at most where nodes run again and again."""
        return max(self._nodes, int(self.seconds / _EVENT_S) if self._repeats else 0)

    @property
    def most(self) -> int:
        """Runs that a block may have."""
        return max(1, MOST_EVENTS // (_ENOUGH_ROUNDS * self.events))

    @property
    def full(self) -> bool:
        """Whether the trace holds enough."""
        return len(self.counted) * self.events >= MOST_EVENTS

    def block(self, runs: int, warm: int) -> None:
        """Runs that count, after some that do not. Raises RuntimeFailure."""
        times = self.case.backend.measure(self.runner, self.session, self.held, runs, warm)
        self.counted += [False] * warm + [True] * runs
        self.seconds = min(self.seconds, float(np.median(times)))

    def forget(self) -> None:
        """No run so far counts."""
        self.counted = [False] * len(self.counted)


def _open(subject: Subject, runner: Runner, folder: Path, stack: ExitStack) -> _Lane:
    """Load with profiling; the feed is held as long as the stack. folder: for the runtime's files.

    Raises RuntimeFailure.
    """
    case = subject.case
    folder.mkdir(exist_ok=True)
    file, form, home = _form(case)
    path = folder / "optimized.onnx" if weight_bytes(file) <= STREAMING_THRESHOLD else None
    threads = case.setting.threads
    session = case.backend.load(runner, form, threads=threads, folder=home, optimized=path, profile=folder / "profile")
    graph = None
    if path is not None and path.is_file():
        graph = onnx.load(path, load_external_data=False)
        for each in folder.glob(f"{path.name}*"):  # as large as the model
            each.unlink()
    (held,) = stack.enter_context(case.backend.hold(runner, [subject.feed.values], case.setting.memory))
    return _Lane(case, file, graph, runner, session, held)


def _form(case: Case) -> tuple[onnx.ModelProto, bytes | Path, Path | None]:
    """The model's proto, what to load, and the folder of its data: the file, or a copy with names for all its nodes."""
    source = case.source
    proto = source.imported.proto
    if not source.imported.generated_names or weight_bytes(proto) > STREAMING_THRESHOLD:
        return proto, case.path, None
    proto = source.proto()
    return proto, proto.SerializeToString(), source.base_dir
