"""Which of several plans inside the budget is the fastest, measured on the whole model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from accelc.budget import Judgement
from accelc.measure import Comparison
from accelc.runner import RuntimeFailure

from .bench import Bench, is_inside
from .gains import Gains
from .plan import Plan
from .trial import ratio_text

_WHOLE_SHARE, _AGAIN_SHARE, _CURVE_SHARE = 0.6, 0.2, 0.2
_FINALISTS = 3
_TIMED = 3
"""Points of the curve that are timed besides."""
_CLEARLY = 1.3
"""A layer that is so much faster alone is so in the model too."""
_TIED, _LARGER_BY = 1.05, 1.05
_SLOWER_BY, _SLOWER_BY_WHERE_SMALL = 1.02, 1.05
_MUCH = 0.25
"""Tables that make up so much of the file may cost a little more time."""


@dataclass(frozen=True)
class Candidate:
    """A plan that was judged. reasons: why units are not in the form that is fastest."""

    plan: Plan
    judged: Judgement
    reasons: Mapping[int, str] = field(default_factory=dict)


def inexactness(judged: Judgement) -> tuple[float, float]:
    """What is lost; where that is as good as the same, the largest error."""
    return round(judged.lost, 4), judged.quality.relative_error if judged.quality is not None else 1.0


@dataclass
class Finalists:
    """judge: gives the quality of a plan. seconds: for timing. notes: what the report must say."""

    bench: Bench
    gains: Gains
    judge: Callable[[Plan], Judgement]
    seconds: float
    notes: list[str]

    def choose(self, found: Sequence[Candidate]) -> tuple[Candidate, Comparison]:
        """The fastest candidate, and its speed against the model, which may not be faster. Raises RuntimeFailure."""
        self.bench.trial.ctx.progress("quantize: timing the model")
        found = sorted(found, key=lambda each: -(self.gains.estimate(each.plan) or 0.0))[:_FINALISTS]
        bare = self._without_tables(found[0], "")
        plans = [each.plan for each in found] + ([bare.plan] if bare is not None else [])
        speeds = self.bench.time(plans, _WHOLE_SHARE * self.seconds)
        best = self._best(found, speeds)
        chosen, speed = found[best], speeds[best]
        if bare is not None and self._tables_cost_time(found[0].plan, speeds[0], speeds[-1]):
            reason = f"slower with it: {ratio_text(speeds[0])} against {ratio_text(speeds[-1])}"
            without = self._without_tables(chosen, reason)
            if without is not None and is_inside(without.judged):
                chosen, speed = without, speeds[-1] if without.plan == bare.plan else speed
        if speed.verdict != "faster":
            chosen, speed = self._clear_ones(chosen, speed)
        self._fill_curve(chosen.plan, speed)
        return chosen, speed

    def _without_tables(self, each: Candidate, reason: str) -> Candidate | None:
        """A candidate with its tables in float; None where it has none."""
        tables = [unit for unit, form in each.plan.forms if form == "table"]
        if not tables:
            return None
        plan = each.plan.without(tables)
        judged = self.judge(plan) if reason else each.judged
        return Candidate(plan, judged, {**each.reasons, **dict.fromkeys(tables, reason)})

    def _best(self, found: Sequence[Candidate], speeds: Sequence[Comparison]) -> int:
        """The position of the fastest; of those as good as that the smallest, and of those the most exact."""
        top = max(range(len(found)), key=lambda at: (speeds[at].verdict == "faster", speeds[at].ratio))
        tied = [
            at
            for at in range(len(found))
            if speeds[at].verdict == speeds[top].verdict
            and speeds[at].high >= speeds[top].low
            and speeds[at].ratio * _TIED >= speeds[top].ratio
        ]
        sizes = {at: self.bench.curve[found[at].plan].bytes for at in tied}
        small = [at for at in tied if sizes[at] <= _LARGER_BY * min(sizes.values())]
        return min(small, key=lambda at: (inexactness(found[at].judged), at))

    def _tables_cost_time(self, plan: Plan, with_them: Comparison, without: Comparison) -> bool:
        """Whether tables in int8 surely slow the model down; they are there for size, so a little is accepted."""
        if with_them.verdict != "faster" and without.verdict == "faster":
            return True
        units = self.bench.parts.units
        size = sum(units[unit].bytes for unit, form in plan.forms if form == "table")
        total = sum(unit.bytes for unit in units)
        allowed = _SLOWER_BY_WHERE_SMALL if size > _MUCH * total else _SLOWER_BY
        return with_them.high * allowed < without.low

    def _clear_ones(self, chosen: Candidate, speed: Comparison) -> tuple[Candidate, Comparison]:
        """Where a plan as a whole does not pay: only the units that are clearly faster alone, if that does."""
        units = self.bench.parts.units
        unclear = {
            unit: f"float is faster alone, or nearly: {ratio:.2f}"
            for unit, form in chosen.plan.forms
            if (ratio := self.gains.ratio(units[unit], form)) is not None and ratio < _CLEARLY
        }
        plan = chosen.plan.without(unclear)
        if not unclear or all(form == "table" for _, form in plan.forms):
            return chosen, speed
        judged = self.judge(plan)
        if not is_inside(judged):
            return chosen, speed
        (again,) = self.bench.time([plan], _AGAIN_SHARE * self.seconds)
        fewer = Candidate(plan, judged, {**chosen.reasons, **unclear})
        return (fewer, again) if again.verdict == "faster" else (chosen, speed)

    def _fill_curve(self, plan: Plan, speed: Comparison) -> None:
        """Make the other points of the curve better known."""
        self.gains.learn(plan, speed.ratio)
        self.bench.curve.expect(self.gains.estimate)
        wanted = self.bench.curve.untimed(_TIMED) if speed.verdict == "faster" and not self.gains.is_large else []
        if wanted:
            self.bench.trial.ctx.progress("quantize: timing points of the trade-off curve")
            try:
                self.bench.time(wanted, _CURVE_SHARE * self.seconds)
            except RuntimeFailure as failure:
                self.notes.append(f"points of the trade-off curve could not be timed: {failure}")
