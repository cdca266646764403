"""Which of several equal graphs is the fastest on the target: asked by rules, measured on small models, kept on disk.

Without measuring the answer is the shipped default and nothing is read from disk, so results do not depend on the
machine. One service serves a whole compile: every attempt gets the answers of the first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np

from accelc import ir
from accelc.decision_store import Decision, Store, folder
from accelc.measure import MIN_ROUNDS, TOLERANCE, Comparison, compare_times, is_settled
from accelc.runner import Runner, RuntimeFailure, Session

if TYPE_CHECKING:
    import onnx

    from accelc.backend_base import Backend

    Buildable: TypeAlias = onnx.ModelProto | ir.Model | bytes
Build: TypeAlias = "Callable[[], Mapping[str, Buildable]]"
T = TypeVar("T")

SAME = 1e-3
"""Share of an output's range by which the graphs may differ; the steps of a half-precision type count if larger."""
QUESTION_S = 1.5
COMPILE_S = 20.0
"""Seconds that timing two graphs may take, and all measurements of one compile."""
_MORE_S = 0.5
_LONGEST_S = 6.0
_ROUNDS = 10
_FIRST_LOOK = 12
_KEPT_ROUNDS = 6
"""Fewer rounds decide this compile only."""
_LOAD_LIMIT_S, _RUN_LIMIT_S = 20.0, 5.0
_SEARCH_S = 2.0
_SAMPLES = 2
_STEPS = 4
_TINY = 1e-6
_UNDECIDED = 1.08
"""A ratio that may lie above this, without evidence for it, says that the machine was too busy to tell."""


class Decisions:
    """Answers questions of rules, the same question always alike.

    measure: whether to time what is not known. backend: where; without one nothing is timed. runner: gives the child
    process that executes models. ready: returns when nothing else runs that could disturb the timing. known: decisions
    that hold already. notes: what the report must say.
    """

    def __init__(
        self,
        *,
        measure: bool = False,
        backend: Backend | None = None,
        runner: Callable[[], Runner] | None = None,
        seed: int = 0,
        seconds: float = COMPILE_S,
        ready: Callable[[], None] | None = None,
        progress: Callable[[str], None] | None = None,
        known: Iterable[Decision] = (),
    ) -> None:
        self.measure, self.backend, self.seed = measure, backend, seed
        self.notes: list[str] = []
        self._runner = runner or Runner
        self._ready, self._progress = ready, progress
        self._seconds = self._left = seconds
        self._known = {(each.rule, each.case): each for each in known}
        self._once: dict[Hashable, Any] = {}
        self._opened: Store | None = None
        self._unusable: str | None = None

    def decide(
        self,
        rule: str,
        case: str,
        default: str,
        build: Build,
        *,
        tolerance: float = SAME,
        certain: bool = True,
        seconds: float = QUESTION_S,
    ) -> Decision:
        """The answer to a question; see Context.decide.

        tolerance: share of the range by which a graph's outputs may differ from those of the first. certain: an
        alternative is chosen on strong evidence only, else on a better figure. seconds: for the timing; with 0 nothing
        is timed. Raises ValueError when default is no name of what is built.
        """
        key = (rule, case)
        if key not in self._known:
            self._known[key] = self._find(Decision(rule, case, default), build, tolerance, certain, seconds)
        return self._known[key]

    def answer(self, rule: str, case: str) -> Decision:
        """A decision that was made. Raises KeyError where it was not."""
        return self._known[rule, case]

    def once(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What `compute` returns, computed once in a compile for each key; for measurements of whole models."""
        if key not in self._once:
            self._once[key] = compute()
        return cast(T, self._once[key])

    def recall(self, rule: str, case: str) -> Decision | None:
        """What an earlier run of a search kept of its own measurements; None where nothing is measured or known."""
        return self._store(self.backend).get(rule, case) if self.measure and self.backend is not None else None

    def keep(self, decision: Decision) -> None:
        """Keep what a search measured by itself, for `recall`."""
        if self.measure and self.backend is not None:
            self._store(self.backend).put(replace(decision, how="measured", date=_now()))

    # --- where answers come from

    def _find(self, shipped: Decision, build: Build, tolerance: float, certain: bool, seconds: float) -> Decision:
        if not self.measure:
            return shipped
        if self.backend is None:
            return replace(shipped, reason="there is no backend to measure on")
        kept = self._store(self.backend).get(shipped.rule, shipped.case)
        if kept is not None and shipped.choice in kept.names:
            return kept
        if reason := self._obstacle(self.backend, seconds):
            return replace(shipped, reason=reason)
        if self._progress is not None:
            self._progress(f"measuring {shipped.rule}")
        started = time.monotonic()
        try:
            models = {name: _bytes(model) for name, model in build().items()}
            if shipped.choice not in models:
                raise ValueError(
                    f"rule {shipped.rule}: the default {shipped.choice!r} is none of {', '.join(models) or 'nothing'}"
                )
            trial = _Trial(self.backend, self._runner(), models, tolerance, self.seed)
            found, lasts = trial.decide(shipped, certain, min(seconds, self._left))
        finally:
            self._left -= time.monotonic() - started
        if lasts:
            self._store(self.backend).put(found)
        return found

    def _store(self, backend: Backend) -> Store:
        if self._opened is None:
            self._opened = Store(folder(), environment(backend), self._note)
        return self._opened

    def _obstacle(self, backend: Backend, seconds: float) -> str:
        """Why nothing can be measured now, or an empty text."""
        if self._unusable is None:
            if self._ready is not None:
                self._ready()
            found = backend.probe(self._runner())
            self._unusable = "" if found.available else found.reason
            if self._unusable:
                self._note(f"decisions are shipped defaults: {backend.name} is not usable here: {self._unusable}")
        if self._unusable:
            return f"{backend.name} is not usable here"
        if self._left <= 0:
            self._note(
                f"measuring decisions took {self._seconds:g} s, the rest are shipped defaults; "
                "what was measured is kept, so the next run goes on from there"
            )
        return "the time for measuring is spent" if self._left <= 0 or seconds <= 0 else ""

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def environment(backend: Backend) -> dict[str, Any]:
    """What speed depends on besides the graph; decisions are kept for each of these apart."""
    import platform
    from importlib.metadata import version

    from accelc.doctor import processor_name, runtimes

    target = backend.target()
    return {
        "accelc": version("accelc"),
        "runtime": ", ".join(f"{name} {number}" for name, number in runtimes().items()),
        "system": platform.system(),
        "processor": processor_name() or platform.machine(),
        "isa": sorted(target.isa),
        "threads": target.threads,
        "backend": backend.name,
        "provider": target.provider,
        "options": dict(backend.options),
        "details": dict(backend.details()),
    }


# --- one question ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """The models of one question, the first as the graph is."""

    backend: Backend
    runner: Runner
    models: Mapping[str, bytes]
    tolerance: float
    seed: int

    def decide(self, shipped: Decision, certain: bool, seconds: float) -> tuple[Decision, bool]:
        """The answer, and whether it is worth keeping."""
        first, *others = self.models
        shipped = replace(shipped, names=tuple(self.models))
        with ExitStack() as stack:
            try:
                base = self._load(first, stack)
                expected, timed, longest = self._inputs(first, base)
            except RuntimeFailure as failure:
                return replace(shipped, reason=f"{first} does not run on {self.backend.name}: {failure}"), False
            if not expected:
                return replace(shipped, reason=f"no inputs were found on which {first} runs"), False
            sessions: dict[str, Session] = {}
            out: dict[str, str] = {}
            passing = False  # a failure that may not come again
            for name in others:
                try:
                    session = self._load(name, stack)
                    out[name] = self._difference(session, expected)
                except RuntimeFailure as failure:
                    out[name] = str(failure)
                    passing |= failure.kind in ("timeout", "memory")
                if not out[name]:
                    del out[name]
                    sessions[name] = session
            measured = replace(shipped, choice=first, how="measured", date=_now(), out=out)
            if not sessions:
                return measured, False
            seconds += _MORE_S * (len(sessions) - 1)
            seconds = max(seconds, min(_ROUNDS * longest * (1 + len(sessions)), _LONGEST_S))
            try:
                times = time_alternatives(self.runner, base, list(sessions.values()), timed, seconds, self.seed)
            except RuntimeFailure as failure:
                return replace(shipped, choice=first, reason=f"timing failed: {failure}"), False
        decision, lasts = _judge(measured, dict(zip(sessions, times, strict=True)), certain)
        return decision, lasts and not passing

    def _load(self, name: str, stack: ExitStack) -> Session:
        session = self.backend.load(self.runner, self.models[name], timeout=_LOAD_LIMIT_S)
        stack.callback(self.runner.close, session)
        return session

    def _inputs(
        self, first: str, base: Session
    ) -> tuple[list[tuple[Mapping[str, Any], Mapping[str, Any]]], list[Mapping[str, Any]], float]:
        """(inputs, outputs of the first graph) to compare on, inputs to time on, and the seconds of one run."""
        import onnx

        from accelc.data import find_feeds, infer_hints, signature, typical_feed

        proto = onnx.load_model_from_string(self.models[first])
        specs, hints, run = signature(proto), infer_hints(proto), partial(self._run, base)
        samples = find_feeds(specs, run, wanted=_SAMPLES, seed=self.seed, hints=hints, seconds=_SEARCH_S)
        typical = typical_feed(specs, run, seed=self.seed, hints=hints, seconds=_SEARCH_S) if samples else None
        expected = [(sample.feed.values, sample.outputs) for sample in samples]
        if typical is not None:
            expected.append((typical.values, run(typical.values)))
        if not expected:
            return [], [], 0.0
        timed = expected[-1][0] if typical is not None else expected[0][0]
        started = time.perf_counter()
        run(timed)
        return expected, [timed], time.perf_counter() - started

    def _run(self, session: Session, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return self.runner.run(session, feeds, timeout=_RUN_LIMIT_S)

    def _difference(self, session: Session, expected: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
        """How a graph's outputs differ from those of the first, or an empty text."""
        for feeds, outputs in expected:
            actual = self._run(session, feeds)
            if len(actual) != len(outputs):
                return f"it makes {len(actual)} outputs instead of {len(outputs)}"
            for (name, value), other in zip(outputs.items(), actual.values(), strict=True):
                if reason := difference(value, other, self.tolerance):
                    return f"{name}: {reason}"
        return ""


def time_alternatives(
    runner: Runner,
    base: Session,
    others: Sequence[Session],
    feeds: Sequence[Mapping[str, Any]],
    seconds: float,
    seed: int,
) -> list[Comparison]:
    """Each of the others against the base, interleaved, until it is sure which are faster or slower.

    The figures themselves need not be precise. Raises RuntimeFailure.
    """
    check_at = _FIRST_LOOK

    def sure(times: list[list[float]]) -> bool:
        nonlocal check_at
        if len(times[0]) < check_at:
            return False
        check_at = math.ceil(check_at * 1.5)
        return all(
            compare_times(times[0], other, seed=seed).verdict != "same"
            or is_settled(times[0], other, tolerance=TOLERANCE, seed=seed)
            for other in times[1:]
        )

    times = runner.time([base, *others], feeds, budget_s=seconds, min_rounds=MIN_ROUNDS, seed=seed, progress=sure)
    return [compare_times(times[0], other, seed=seed) for other in times[1:]]


def _judge(measured: Decision, times: Mapping[str, Comparison], certain: bool) -> tuple[Decision, bool]:
    best = max(times, key=lambda name: (certain and times[name].verdict == "faster", times[name].ratio))
    found = times[best]
    wins = found.verdict == "faster" if certain else found.ratio > 1
    known = all(np.isfinite((found.ratio, found.low, found.high)))
    decision = replace(
        measured,
        choice=best if wins else measured.choice,
        alternative=best,
        ratio=found.ratio,
        low=found.low if known else None,
        high=found.high if known else None,
        rounds=found.rounds,
    )
    return decision, known and found.rounds >= _KEPT_ROUNDS and (found.verdict != "same" or found.high < _UNDECIDED)


def difference(expected: Any, actual: Any, tolerance: float) -> str:
    """Why two outputs are not the same up to a share of the range, or an empty text."""
    if not isinstance(expected, np.ndarray) or not isinstance(actual, np.ndarray):
        return "it is no tensor"
    one, two = expected, actual
    if one.dtype != two.dtype or one.shape != two.shape:
        return f"{two.dtype}{list(two.shape)} instead of {one.dtype}{list(one.shape)}"
    if one.dtype.kind in "OUSiub":
        return "" if np.array_equal(one, two) else "other values"
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    a, b = one.astype(wide), two.astype(wide)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return "NaN or Inf in other places"
    if not finite.any():
        return ""
    size = max(float(np.abs(a[finite]).max()), _TINY)
    error = float(np.abs(a[finite] - b[finite]).max())
    allowed = max(tolerance, _STEPS * _step(one.dtype))
    return f"differs by {error / size:.2g} of the range" if error > allowed * size else ""


def _step(dtype: np.dtype[Any]) -> float:
    """The distance from 1 to the next number of a floating-point type."""
    import ml_dtypes

    if dtype.kind not in "fV":
        return 0.0
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return float(info.eps)


def _bytes(model: Buildable) -> bytes:
    if isinstance(model, bytes):
        return model
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return bytes(proto.SerializeToString())


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
