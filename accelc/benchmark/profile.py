"""Where the time goes, operator by operator, and what made the operators."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from accelc import ir
from accelc.benchmark import roofline
from accelc.benchmark.attribution import Attribution, Stand
from accelc.benchmark.changes import changes
from accelc.benchmark.events import Recorded, read
from accelc.benchmark.peaks import peaks
from accelc.benchmark.plan import Case
from accelc.benchmark.profiled import Change, NodeTime, Peaks, Profile, Share
from accelc.benchmark.scopes import layers
from accelc.data import Feed
from accelc.errors import UsageError
from accelc.runner import CPU, Runner, RuntimeFailure, Session
from accelc.streamed import STREAMING_THRESHOLD, weight_bytes

__all__ = ["Change", "NodeTime", "Peaks", "Profile", "Share", "changes", "profile"]

RUN_S = 2.0
MOST_EVENTS = 20_000
"""A trace has one for each node and run, of about a kilobyte; the runtime stops at a million."""
_LEAST, _FEWEST, _MOST = 3, 8, 200
_ASYNCHRONOUS = "this provider runs nodes on its own: their times are of handing them over, so no limits are given"
_UNSEEN = "the graph that really runs could not be had: nodes are known by their names, and their work is not counted"
_DISTURBED = 1.2
_NO_PEAKS = "the peaks of the machine could not be measured"


def profile(case: Case, feeds: Sequence[Feed], *, trace: Path | None = None) -> Profile:
    """Run a model with the runtime's profiling on, in a process of its own, on the first of the feeds.

    trace: where the runtime's Chrome trace is kept. Raises RuntimeFailure, BackendError for a profile that is not
    whole, and UsageError when the trace cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="accelc-") as name, Runner() as runner:
        ran = _run(runner, case, feeds[0], Path(name))
        recorded = read(ran.trace, ran.runs)
        graph = None if ran.optimized is None else onnx.load(ran.optimized, load_external_data=False)
        attribution = Attribution(ran.file, graph, case.source.imported.generated_names)
        stands = [attribution.of(node.name, node.operator) for node in recorded.nodes]
        counter = None if graph is None else roofline.Counter(ir.from_proto(graph, Path(name)))
        found = _peaks(case)
        nodes = _node_times(recorded, stands, counter, found)
        if trace is not None:
            _keep(ran.trace, trace)
    kept = "" if trace is None else str(trace)
    made = Profile(nodes, recorded.wall_ms, recorded.between_ms, ran.runs, found, kept)
    return replace(made, notes=_notes(case, ran, made))


@dataclass(frozen=True)
class _Ran:
    """file: the model that ran. optimized: the graph that the runtime made of it, when it was written."""

    file: onnx.ModelProto
    trace: Path
    optimized: Path | None
    runs: int


def _run(runner: Runner, case: Case, feed: Feed, folder: Path) -> _Ran:
    file, form, home = _form(case)
    light = weight_bytes(file) <= STREAMING_THRESHOLD
    optimized = folder / "optimized.onnx" if light else None
    with (
        _session(runner, case, form, folder=home, optimized=optimized, profile=folder / "profile") as session,
        case.backend.hold(runner, [feed.values], case.setting.memory) as (held,),
    ):
        seconds = float(case.backend.measure(runner, session, held, 1, 1)[0])
        runs = _runs(seconds, len(file.graph.node))
        case.backend.measure(runner, session, held, runs)
        path = runner.end_profile(session)
    return _Ran(file, path, optimized if optimized is not None and optimized.is_file() else None, runs)


def _runs(seconds: float, nodes: int) -> int:
    """How many runs to record of a model that takes so long."""
    wanted = min(_MOST, round(RUN_S / max(seconds, 1e-6)), MOST_EVENTS // max(1, nodes))
    return max(_FEWEST if nodes <= MOST_EVENTS // 4 else _LEAST, wanted)


@contextmanager
def _session(runner: Runner, case: Case, form: bytes | Path, **more: Path | None) -> Iterator[Session]:
    session = case.backend.load(runner, form, threads=case.setting.threads, **more)
    try:
        yield session
    finally:
        runner.close(session)


def _form(case: Case) -> tuple[onnx.ModelProto, bytes | Path, Path | None]:
    """The model's proto, what to load, and the folder of its data: the file, or a copy with names for all its nodes."""
    source = case.source
    proto = source.imported.proto
    if not source.imported.generated_names or weight_bytes(proto) > STREAMING_THRESHOLD:
        return proto, case.path, None
    proto = source.proto()
    return proto, proto.SerializeToString(), source.base_dir


def _node_times(
    recorded: Recorded, stands: Sequence[Stand], counter: roofline.Counter | None, found: Peaks | None
) -> tuple[NodeTime, ...]:
    total = sum(node.ms for node in recorded.nodes) or 1.0
    made = []
    for node, stand, layer in zip(recorded.nodes, stands, layers([stand.scope for stand in stands]), strict=True):
        work = roofline.Work(None, None)
        if counter is not None:
            work = counter.work(node.name, node.operator, node.calls)
        limit = None
        if counter is not None and found is not None:
            limit = roofline.limit_ms(work, found, counter.weight_bytes)
            limit = None if limit is None else min(limit, node.ms)
        made.append(
            NodeTime(
                name=stand.name,
                operator=node.operator,
                provider=node.provider,
                layer=layer,
                origin=stand.origin,
                ms=node.ms,
                share=node.ms / total,
                flops=work.flops,
                bytes=work.bytes,
                limit_ms=limit,
                parts=stand.parts,
                calls=len(node.calls),
                inputs=stand.inputs,
                outputs=stand.outputs,
            )
        )
    return tuple(sorted(made, key=lambda each: -each.ms))


def _peaks(case: Case) -> Peaks | None:
    if _is_asynchronous(case):
        return None
    try:
        return peaks(case.backend, case.setting.threads)
    except RuntimeFailure:
        return None  # the profile holds without


def _is_asynchronous(case: Case) -> bool:
    return case.backend.target().provider != CPU[0][0]


def _keep(found: Path, path: Path) -> None:
    try:
        shutil.copyfile(found, path)
    except OSError as error:
        raise UsageError("the trace cannot be written", where=str(path), why=error.strerror or str(error)) from error


def _notes(case: Case, ran: _Ran, made: Profile) -> tuple[str, ...]:
    notes = []
    if _is_asynchronous(case):
        notes.append(_ASYNCHRONOUS)
    elif made.peaks is None:
        notes.append(_NO_PEAKS)
    if ran.optimized is None:
        notes.append(_UNSEEN)
    if made.wall_ms > _DISTURBED * (made.nodes_ms + made.overhead_ms):
        notes.append(f"something else took {made.wall_ms - made.nodes_ms - made.overhead_ms:.3g} ms of each run")
    return tuple(notes)
