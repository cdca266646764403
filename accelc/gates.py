"""Gates a candidate must pass besides equality: no larger, no slower, and on request right after every single pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from accelc import ir
from accelc.backend_base import Backend
from accelc.context import Context, PatchRecord
from accelc.errors import PassError
from accelc.exporter import write_model
from accelc.instrument import Instrument
from accelc.measure import Comparison, compare
from accelc.pass_base import Pass, PassRecord, PassResult
from accelc.placement import not_on_processor
from accelc.runner import Runner, RuntimeFailure, Session
from accelc.source import Source
from accelc.verdict import Judge, Reference
from accelc.verify import Verifier


def grower(records: Sequence[PassRecord], weights: int) -> str:
    """The pass that added most bytes of weights, or the last one that changed anything when none added any.

    weights: bytes of all weights before the first pass.
    """
    growth: dict[str, int] = {}
    for record in records:
        if record.changes:
            growth[record.name] = growth.get(record.name, 0) + record.bytes - weights
            weights = record.bytes
    if not growth:
        return ""
    most = max(growth, key=lambda name: growth[name])
    return most if growth[most] > 0 else list(growth)[-1]


_RUN_LIMIT_S = 600.0
_SLOW_RUN_S = 0.1
_ROUNDS = 10
_LONGEST_S = 20.0
"""A model that runs for long is measured for up to ten rounds, and for at most so many seconds."""


class Timing:
    """Paired latency against the original, on one backend, under the runtime's default optimizations."""

    def __init__(self, backend: Backend, runner: Runner, source: Source, reference: Reference) -> None:
        self.backend, self.runner, self.source = backend, runner, source
        self.feeds = [feed.values for feed in reference.measuring]
        self._original: Session | None = None
        self._seconds = 0.0

    def __enter__(self) -> Timing:
        return self

    def __exit__(self, *error: object) -> None:
        if self._original is not None:
            self.runner.close(self._original)

    def start(self) -> None:
        """Load the original and run it once, to know how much time a measurement takes. Raises RuntimeFailure."""
        self._original = self._load_original()
        started = time.perf_counter()
        self.runner.run(self._original, self.feeds[0], timeout=_RUN_LIMIT_S)
        self._seconds = time.perf_counter() - started

    def compare(self, results: Sequence[Path], seconds: float) -> list[Comparison]:
        """The results against the original, interleaved; longer where one run is long. Raises RuntimeFailure."""
        assert self._original is not None
        sessions: list[Session] = []
        feeds = self.feeds if self._seconds < _SLOW_RUN_S else self.feeds[:1]
        seconds = min(max(seconds, _ROUNDS * self._seconds * (1 + len(results))), max(seconds, _LONGEST_S))
        try:
            sessions.extend(self.backend.load(self.runner, path) for path in results)
            return compare(self.runner, self._original, sessions, feeds, seconds)
        finally:
            for session in sessions:
                self.runner.close(session)

    def _load_original(self) -> Session:
        failure: RuntimeFailure | None = None
        for form in self.source.runnable():
            try:
                folder = self.source.base_dir if isinstance(form, bytes) else None
                return self.backend.load(self.runner, form, folder=folder)
            except RuntimeFailure as error:
                failure = failure or error
        assert failure is not None
        raise failure


class NumbersError(PassError):
    """A pass changed the model's results."""


class VerifyEach(Instrument):
    """Judges the numbers after every pass that changed something (`--verify each`)."""

    def __init__(self, verifier: Verifier, folder: Path, judge_of: Callable[[Sequence[PatchRecord]], Judge]) -> None:
        self.verifier, self.folder, self.judge_of = verifier, folder, judge_of

    def after(self, each: Pass, result: PassResult, model: ir.Model, ctx: Context) -> None:
        if not result.changes or each.name == "fixpoint" or not_on_processor(model):
            return
        path = self.folder / "each.onnx"
        write_model(model, path)
        verdict = self.verifier.judge(path, self.judge_of(ctx.fuel.records))
        if not verdict.passed:
            raise NumbersError(verdict.reason, where=f"pass {each.name}")
