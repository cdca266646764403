"""Where the time goes, operator by operator, and what made the operators."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from accelc import ir
from accelc.benchmark import roofline
from accelc.benchmark.attribution import Attribution, Stand
from accelc.benchmark.changes import changes
from accelc.benchmark.events import Timed, read
from accelc.benchmark.peaks import peaks
from accelc.benchmark.plan import Case
from accelc.benchmark.profiled import Change, NodeTime, Peaks, Profile, Share
from accelc.benchmark.recording import Ran, Subject, record
from accelc.benchmark.scopes import layers
from accelc.errors import AccelcError, UsageError
from accelc.runner import CPU, RuntimeFailure

__all__ = ["Change", "NodeTime", "Peaks", "Profile", "Share", "Subject", "changes", "profiles"]

_ASYNCHRONOUS = "this provider runs nodes on its own: their times are of handing them over, so no limits are given"
_UNSEEN = "the graph that really runs could not be had: nodes are known by their names, and their work is not counted"
_NO_PEAKS = "the peaks of the machine could not be measured"


def profiles(
    subjects: Sequence[Subject], *, traces: Sequence[Path] = (), memory: int | None = None, seed: int = 0
) -> list[Profile | AccelcError]:
    """Profiles that can be compared, as the models run in turn, in processes of their own; see `record`.

    traces: where to keep the runtime's Chrome traces, one for each. In place of a profile: RuntimeFailure where the
    model does not run, BackendError where the trace is not whole, UsageError where it cannot be kept.
    """
    with tempfile.TemporaryDirectory(prefix="accelc-") as name:
        ran = record(subjects, Path(name), memory=memory, seed=seed)
        found: list[Profile | AccelcError] = []
        for at, (subject, each) in enumerate(zip(subjects, ran, strict=True)):
            try:
                found.append(_profile(subject, each, traces[at] if traces else None))
            except AccelcError as error:
                found.append(error)
    return found


def _profile(subject: Subject, ran: Ran | RuntimeFailure, kept: Path | None) -> Profile:
    if isinstance(ran, RuntimeFailure):
        raise ran
    case, latency = subject.case, subject.latency_ms
    recorded = read(ran.trace, ran.counted)
    if kept is not None:
        _keep(ran.trace, kept)
    attribution = Attribution(ran.file, ran.graph, case.source.imported.generated_names)
    stands = [attribution.of(node.name, node.operator) for node in recorded.nodes]
    counter = None if ran.graph is None else roofline.Counter(ir.from_proto(ran.graph, ran.trace.parent))
    found = _peaks(case)
    timed = recorded.nodes if latency is None else corrected(recorded.nodes, latency)
    return Profile(
        nodes=_node_times(timed, stands, counter, found),
        wall_ms=recorded.wall_ms,
        overhead_ms=recorded.between_ms if latency is None else 0.0,
        runs=sum(ran.counted),
        peaks=found,
        trace=str(kept or ""),
        notes=tuple(_notes(case, ran, found)),
        latency_ms=latency,
    )


def corrected(nodes: Sequence[Timed], latency_ms: float) -> tuple[Timed, ...]:
    """The same nodes with times that add up to what a run takes without profiling.

    Writing a node down takes the runtime microseconds, which it counts as the node's. So the same is taken off every
    call: what the sum is too long by, but no more than the quickest node takes. What is still missing or too much is
    shared out by time.
    """
    calls = sum(_calls(node) for node in nodes)
    total = sum(node.ms for node in nodes)
    quickest = min((node.ms / _calls(node) for node in nodes), default=0.0)
    taken_off = min(max(0.0, total - latency_ms) / max(1, calls), quickest)
    left = total - calls * taken_off
    scale = latency_ms / left if left > 0 else 1.0
    return tuple(replace(node, ms=scale * (node.ms - _calls(node) * taken_off)) for node in nodes)


def _calls(node: Timed) -> int:
    return max(1, len(node.calls))


def _node_times(
    timed: Sequence[Timed], stands: Sequence[Stand], counter: roofline.Counter | None, found: Peaks | None
) -> tuple[NodeTime, ...]:
    total = sum(node.ms for node in timed) or 1.0
    made = []
    for node, stand, layer in zip(timed, stands, layers([stand.scope for stand in stands]), strict=True):
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


def _notes(case: Case, ran: Ran, found: Peaks | None) -> Iterator[str]:
    if _is_asynchronous(case):
        yield _ASYNCHRONOUS
    elif found is None:
        yield _NO_PEAKS
    if ran.graph is None:
        yield _UNSEEN
