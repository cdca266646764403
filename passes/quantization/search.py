"""The fastest mix of forms that stays inside the quality budget."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from time import monotonic

from accelc.budget import Judgement
from accelc.measure import Comparison

from .bench import Bench
from .choices import Choice, fastest, frontier
from .finalists import Candidate, Finalists, inexactness
from .gains import Gains
from .impact import GROUPS, damage_of, impacts
from .plan import BLOCK_FORMS, Form, Plan, Unit
from .sensitivity import Sensitivity, measure_errors
from .trial import ratio_text
from .within import Frontiers, Within

_ALONE_SHARE, _TRIES_SHARE = 0.2, 0.6
"""Of the time: for shapes alone, and for them and the tries together; the rest is for timing whole models."""
_IMPACT_SHARE, _SAMPLES, _LEAST_GROUPS = 0.4, 4, 3
"""Of the time for tries: for groups of units alone, which are judged on so many samples."""
_ROOM = 0.5
"""Ranges are not compared where the first ones cost no more than this share of the budget."""
_PAYS = 1.03
_LATE = "the time for the search ran out: the best of what was tried is taken (a longer --search-time tries more)"


@dataclass(frozen=True)
class Outcome:
    """What a search found. skipped: why nothing is to be changed, or empty. reasons: why units stay in float."""

    plan: Plan
    judged: Judgement | None = None
    speed: Comparison | None = None
    skipped: str = ""
    reasons: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class Search:
    """forms: that may be used, in the order in which they are tried. islands: sensitive units may stay in float.

    measure: choose by speed; else every form counts as faster. seconds: for tries and timings.
    """

    bench: Bench
    gains: Gains
    forms: tuple[Form, ...]
    islands: bool = True
    measure: bool = True
    seconds: float = 30.0
    ranges: str = ""
    reasons: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _known: dict[tuple[Form, ...], Sensitivity] = field(default_factory=dict)
    _impact: dict[int, float] = field(default_factory=dict)

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.bench.parts.units

    def run(self) -> Outcome:
        """Raises RuntimeFailure."""
        begins = monotonic()
        self._ends = begins + _TRIES_SHARE * self.seconds
        self.bench.start_curve()
        if self.measure:
            self.gains.find_rows()
            self.gains.time_shapes([form for form in self.forms if form != "table"], _ALONE_SHARE * self.seconds)
        starts = self._starts()
        if not starts:
            return Outcome(Plan(), skipped="nothing beats float: every layer is faster in float", reasons=self.reasons)
        found: list[Candidate] = []
        over = ""
        starts = self._promising(starts)
        for place, forms in enumerate(starts):
            if found and not self._proceed():
                break
            self._share_ends = monotonic() + (self._ends - monotonic()) / min(len(starts) - place, 2)
            best = max((self.gains.estimate(each.plan) or 0.0 for each in found), default=0.0)
            candidate = self._within_budget(forms, best if self.measure else 0.0)
            if candidate is None or not self._products(candidate.plan):
                over = over or self._over
            else:
                found.append(candidate)
        if not found:
            return Outcome(Plan(), skipped=f"no layer stays inside --max-drop: {over}", reasons=self.reasons)
        if not self.measure:
            return self._outcome(found[0], None)
        seconds = max(begins + self.seconds - monotonic(), (1 - _TRIES_SHARE) * self.seconds)
        finalists = Finalists(self.bench, self.gains, self._judge, seconds, self.notes)
        chosen, speed = finalists.choose(found)
        if speed.verdict != "faster":
            reasons, text = {**self.reasons, **chosen.reasons}, ratio_text(speed)
            return Outcome(Plan(), None, speed, f"nothing beats float: ratio {text}", reasons, tuple(self.notes))
        return self._outcome(chosen, speed)

    def _outcome(self, chosen: Candidate, speed: Comparison | None) -> Outcome:
        return Outcome(
            chosen.plan, chosen.judged, speed, reasons={**self.reasons, **chosen.reasons}, notes=tuple(self.notes)
        )

    # --- where to start

    def _starts(self) -> list[tuple[Form, ...]]:
        """Sets of forms whose fastest plans differ: any of them, and each kind by itself."""
        kinds: tuple[tuple[Form, ...], ...] = (
            self.forms,
            ("dynamic", "table"),
            ("static", "table"),
            ("weight8", "weight4", "table"),
        )
        seen: dict[Plan, tuple[Form, ...]] = {}
        for forms in kinds:
            usable = self._paying(tuple(form for form in self.forms if form in forms))
            plan = Plan.of(fastest(self._frontiers(usable, None)), ranges=self.ranges)
            if self._products(plan):
                seen.setdefault(plan, usable)
        if not seen:
            self._say_slow()
        return list(seen.values())

    def _promising(self, starts: list[tuple[Form, ...]]) -> list[tuple[Form, ...]]:
        """Starts in the order of how little their fastest plans lose; what is inside the budget by how fast it is."""
        if len(starts) == 1 or not self.measure:
            return starts

        def promise(forms: tuple[Form, ...]) -> tuple[float, float]:
            plan = self._ranged(Plan.of(fastest(self._frontiers(forms, None)), ranges=self.ranges))
            judged = self._judge(plan)
            return (judged.lost if judged.reason else 0.0), -(self.gains.estimate(plan) or 0.0)

        return sorted(starts, key=promise)

    def _paying(self, forms: tuple[Form, ...]) -> tuple[Form, ...]:
        """Forms without those that are the fastest of some units but hardly save time: fewer bits cost quality."""
        for form in (*BLOCK_FORMS[::-1], "dynamic") if self.measure else ():
            others = tuple(each for each in forms if each != form)
            with_it, without = (Plan.of(fastest(self._frontiers(some, None))) for some in (forms, others))
            if form not in with_it.by_unit.values() or with_it.by_unit.keys() != without.by_unit.keys():
                continue
            if (self.gains.estimate(without) or 0.0) * _PAYS >= (self.gains.estimate(with_it) or 0.0):
                forms = others
        return forms

    def _say_slow(self) -> None:
        for unit in self.units:
            ratios = [ratio for form in unit.forms if (ratio := self.gains.ratio(unit, form)) is not None]
            if ratios:
                self.reasons[unit.index] = f"float is faster alone: {max(ratios):.2f}"

    def _products(self, plan: Plan) -> bool:
        return any(form != "table" for _, form in plan.forms)

    def _frontiers(self, forms: Sequence[Form], known: Sensitivity | None, smooth: Collection[int] = ()) -> Frontiers:
        """The choices of each unit. smooth: units whose activations are smoothed in the dynamic form."""
        found = {}
        for unit in self.units:
            choices = [
                Choice(
                    unit.index,
                    form,
                    self._gain(unit, form),
                    known.cost(unit.index, form, smooth=unit.index in smooth) if known else 0.0,
                )
                for form in unit.forms
                if form in forms
            ]
            found[unit.index] = frontier(choices, unit.index)
        return found

    def _gain(self, unit: Unit, form: Form) -> float:
        if self.measure or form == "table":
            return self.gains.gain(unit, form)
        return max(unit.bytes, 1) * 1e-9 * (1 + 0.1 * (len(self.forms) - self.forms.index(form)))

    # --- quality

    _over: str = ""
    _ranges_known: bool = False
    _ends: float = 0.0
    _share_ends: float = inf
    _trial_seconds: float = 0.0

    def _proceed(self) -> bool:
        """Whether there is time to try more; if not, the report says it."""
        late = monotonic() >= min(self._ends, self._share_ends)
        if late and _LATE not in self.notes:
            self.notes.append(_LATE)
        return not late

    def _judge(self, plan: Plan) -> Judgement:
        start = monotonic()
        known = self.bench.knows(plan)
        if not known:
            self.bench.trial.ctx.progress(f"quantize: quality of {self.bench.parts.label(plan)}")
        judged = self.bench.judge(plan, self.gains.estimate(plan) if self.measure else None)
        if not known:
            self._trial_seconds = monotonic() - start
        return judged

    def _within_budget(self, forms: tuple[Form, ...], known_ratio: float) -> Candidate | None:
        """The plan that saves most time by estimates and is inside the budget, or None.

        known_ratio: what another candidate is expected to reach; what cannot come near is not looked for.

        Where the fastest is too much, activations are smoothed and units give up speed, what costs least time for the
        quality that it brings first.
        """
        start = self._ranged(Plan.of(fastest(self._frontiers(forms, None)), ranges=self.ranges))
        judged = self._judge(start)
        slow = self._slow_reasons(start)
        if not judged.reason or not self.islands:
            return Candidate(start, judged, slow)
        self._over = judged.reason
        if (self.gains.estimate(start) or known_ratio) < known_ratio:
            return None  # it can only become slower
        known = self._sensitivity(forms, start)
        found = Within(
            self.bench.parts,
            self.gains,
            start,
            known,
            lambda smooth: self._frontiers(forms, known, smooth),
            self._judge,
            self._glance,
            self._proceed,
            self.bench.trial.budget.drop,
        ).find()
        if found is None:
            for unit, _ in start.forms:
                self.reasons[unit] = self._too_sensitive(unit, start, Plan(), known, judged.reason)
            return None
        plan, best = found
        lost = {unit for unit, form in start.forms if plan.by_unit.get(unit) != form}
        reasons = {unit: self._too_sensitive(unit, start, plan, known, judged.reason) for unit in lost}
        return Candidate(plan, best, {**slow, **reasons})

    def _slow_reasons(self, plan: Plan) -> dict[int, str]:
        taken = plan.by_unit
        return {
            unit.index: f"float is faster alone: {ratio:.2f}"
            for unit in self.units
            if unit.index not in taken
            and (ratio := max((r for f in unit.forms if (r := self.gains.ratio(unit, f)) is not None), default=None))
            is not None
        }

    def _too_sensitive(self, unit: int, start: Plan, plan: Plan, known: Sensitivity, over: str) -> str:
        form = start.by_unit[unit]
        error = known.error(unit, form)
        instead = plan.by_unit.get(unit)
        taken = f"{instead} instead of {form}: " if instead is not None else ""
        return f"{taken}too sensitive: relative error {error:.4f} of its own; with all layers the {over}"

    def _ranged(self, plan: Plan) -> Plan:
        """A plan with static parts, with the ranges that give the best quality."""
        if plan.ranges and not self._ranges_known:
            self._ranges_known = True
            tried = [replace(plan, ranges=method) for method in self.bench.parts.ranges]
            best = tried[0]
            for each in tried[1:]:
                if self._judge(best).lost <= _ROOM * self.bench.trial.budget.drop or not self._proceed():
                    break
                best = min(best, each, key=lambda one: inexactness(self._judge(one)))
            self.ranges = best.ranges
        return replace(plan, ranges=self.ranges) if plan.ranges else plan

    def _sensitivity(self, forms: tuple[Form, ...], plan: Plan) -> Sensitivity:
        if forms not in self._known:
            begins = monotonic()
            known = measure_errors(self.bench.trial, self.bench.parts, self._gaining(forms), plan.ranges or self.ranges)
            spent = monotonic() - begins  # looking at data is no try
            self._ends, self._share_ends = self._ends + spent, self._share_ends + spent
            for remedy in known.remedies:
                self.bench.parts.divisors.update(dict.fromkeys(remedy.layers, remedy.divisors))
            if not self._impact:
                self._impact.update(self._measure_impact(known, plan))
            mean = sum(self._impact.values()) / len(self._impact) if self._impact else 1.0
            known.impact = {unit.index: self._impact.get(unit.index, mean) for unit in self.units}
            self._known[forms] = known
        return self._known[forms]

    def _gaining(self, forms: tuple[Form, ...]) -> tuple[Form, ...]:
        """Forms that save time somewhere; what others cost in quality need not be known."""
        return tuple(f for f in forms if any(f in unit.forms and self._gain(unit, f) > 0 for unit in self.units))

    def _glance(self, plan: Plan) -> float:
        """What a plan does to the outputs on a few samples."""
        return damage_of(self.bench.trial.quality(self.bench.candidate(plan), _SAMPLES))

    def _measure_impact(self, known: Sensitivity, plan: Plan) -> dict[int, float]:
        """How much the outputs suffer from errors of each unit, by groups as small as time allows."""
        form, bench = plan.by_unit, self.bench
        ends = monotonic() + _IMPACT_SHARE * (min(self._ends, self._share_ends) - monotonic())
        groups = min(GROUPS, int((ends - monotonic()) / max(self._trial_seconds, 1e-6)), len(form))
        if groups < _LEAST_GROUPS:
            return {}

        def damage(group: tuple[int, ...]) -> float:
            bench.trial.ctx.progress(f"quantize: what the outputs suffer from {len(group)} of {len(form)} layers")
            part = Plan.of({unit: form[unit] for unit in group}, ranges=plan.ranges)
            return self._glance(part)

        def squared(unit: int) -> float:
            return known.error(unit, form[unit]) ** 2

        return impacts(list(form), squared, damage, lambda: monotonic() < ends, groups)
