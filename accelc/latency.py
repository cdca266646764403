"""The latency gate: a result that is slower on the target, or does not run there, is taken back, best in parts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accelc.candidate import Attempt
from accelc.errors import PassError
from accelc.gates import Timing
from accelc.measure import Comparison, never_slower
from accelc.runner import RuntimeFailure
from accelc.verdict import Verdict

if TYPE_CHECKING:
    from accelc.compilation import Compilation

_MOST_SUSPECTS = 6
_SEARCH_S = 10.0
"""Once making variants has taken so long, only the one without any of the suspects is still tried."""


@dataclass(frozen=True)
class Outcome:
    """What the gate lets through. comparison: None where nothing was measured, and note says why."""

    attempt: Attempt
    verdict: Verdict
    comparison: Comparison | None
    note: str


def gate(compilation: Compilation, attempt: Attempt, verdict: Verdict, seconds: float) -> Outcome:
    """Measure the result against the original on the target, and undo what makes it slower."""
    reference = compilation.reference()
    if reference.skipped:
        return Outcome(attempt, verdict, None, f"latency was not measured: {reference.skipped}")
    with Timing(compilation.backend, compilation.judging, compilation.source, reference) as timing:
        try:
            timing.start()
        except RuntimeFailure as failure:
            return Outcome(attempt, verdict, None, f"latency was not measured: the original: {failure}")
        found = _compare(timing, [attempt], seconds)[0]
        if isinstance(found, Comparison) and never_slower(found):
            return Outcome(attempt, verdict, found, found.note)
        if isinstance(found, Comparison) and (asked := compilation.insisted(attempt)):
            note = f"slower than the original, and kept because {', '.join(sorted(asked))} was asked for"
            return Outcome(attempt, verdict, found, "; ".join(filter(None, (note, found.note))))
        return _without(compilation, timing, attempt, _reason(found))


def _compare(timing: Timing, attempts: list[Attempt], seconds: float) -> list[Comparison | RuntimeFailure]:
    """Each attempt against the original; where one does not run, the others are measured without it."""
    try:
        return list(timing.compare([each.path for each in attempts], seconds))
    except RuntimeFailure as failure:
        if len(attempts) == 1:
            return [failure]
        share = seconds / len(attempts)
        return [found for each in attempts for found in _compare(timing, [each], share)]


def _reason(found: Comparison | RuntimeFailure) -> str:
    if isinstance(found, RuntimeFailure):
        return f"the result does not run under the runtime's defaults: {found}"
    return f"the result ran at {found.ratio:.3f} of the original's speed [{found.low:.3f}, {found.high:.3f}]"


def _without(compilation: Compilation, timing: Timing, attempt: Attempt, reason: str) -> Outcome:
    """Measure the result without each of the passes that changed it, side by side, and keep the best."""
    suspects = list(dict.fromkeys(record.pass_name for record in reversed(attempt.patches)))[:_MOST_SUSPECTS]
    choices = [frozenset({name}) for name in suspects]
    choices += [frozenset(suspects)] if len(suspects) > 1 else []
    made: list[tuple[frozenset[str], Attempt, Verdict]] = []
    end = time.monotonic() + _SEARCH_S
    for choice in choices:
        if time.monotonic() > end and choice != choices[-1]:
            continue
        try:
            variant = compilation.attempt(off=choice)
        except PassError:
            continue
        judged = compilation.judge(variant)
        if judged.passed and variant.patches and variant.bytes <= compilation.source.file_bytes:
            made.append((choice, variant, judged))
        else:
            compilation.discard(variant)
    times = _compare(timing, [each for _, each, _ in made], 2.0 + len(made)) if made else []
    kept = [
        (found, *each)
        for found, each in zip(times, made, strict=True)
        if isinstance(found, Comparison) and never_slower(found)
    ]
    if kept:
        best, choice, variant, judged = max(kept, key=lambda each: each[0].ratio)
        for name in sorted(choice):
            compilation.refuse("pass", name, "latency", reason)
        return Outcome(variant, judged, best, best.note)
    for name in suspects:
        compilation.refuse("pass", name, "latency", reason)
    original = compilation.attempt(limit=0)
    return Outcome(original, compilation.judge(original), None, "the original is kept: nothing found is as fast")
