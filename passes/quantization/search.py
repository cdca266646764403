"""The fastest mix of forms that stays inside the quality budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from accelc.budget import Judgement
from accelc.measure import Comparison

from .bench import Bench, drop_of, is_inside
from .choices import Choice, Step, fastest, frontier, steps
from .finalists import Candidate, Finalists, inexactness
from .gains import Gains
from .plan import BLOCK_FORMS, Form, Plan, Unit
from .sensitivity import Sensitivity, measure_errors
from .trial import ratio_text

_ALONE_SHARE = 0.3
_TRIALS, _GUESSES = 12, 4
"""Plans that are tried to find how many units must give up speed; so many of them by a guess, the others halve."""
_NEAR = 0.9
"""Near enough to the budget to stop looking."""
_RETRIES, _FAILURES = 6, 3
"""Units that were given up and are tried once more, until some more are too much."""
_DOUBT = 1.15
"""Estimates may be off by so much."""
_MARGIN = 0.6
"""Smoothing costs little time, so it goes on until other inputs than those at hand have room too."""
_PAYS = 1.03

Frontiers = Mapping[int, Sequence[Choice]]


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

    measure: choose by speed; else every form counts as faster. seconds: for timing.
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

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.bench.parts.units

    def run(self) -> Outcome:
        """Raises RuntimeFailure."""
        self.bench.start_curve()
        if self.measure:
            self.gains.find_rows()
            self.gains.time_shapes([form for form in self.forms if form != "table"], _ALONE_SHARE * self.seconds)
        starts = self._starts()
        if not starts:
            return Outcome(Plan(), skipped="nothing beats float: every layer is faster in float", reasons=self.reasons)
        found: list[Candidate] = []
        over = ""
        for forms in starts:
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
        finalists = Finalists(self.bench, self.gains, self._judge, (1 - _ALONE_SHARE) * self.seconds, self.notes)
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
            ("static", "table"),
            ("dynamic", "table"),
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

    def _frontiers(self, forms: Sequence[Form], known: Sensitivity | None, *, smooth: bool = False) -> Frontiers:
        found = {}
        for unit in self.units:
            choices = [
                Choice(
                    unit.index,
                    form,
                    self._gain(unit, form),
                    known.error(unit.index, form, smooth=smooth) ** 2 if known else 0.0,
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

    def _judge(self, plan: Plan) -> Judgement:
        return self.bench.judge(plan, self.gains.estimate(plan) if self.measure else None)

    def _within_budget(self, forms: tuple[Form, ...], known_ratio: float) -> Candidate | None:
        """The plan that saves most time by estimates and is inside the budget, or None.

        known_ratio: what another candidate is expected to reach; what cannot come near is not looked for.

        Where the fastest is too much, activations are smoothed first, those that suffer most, and when that is not
        enough units give up speed. How many is found by trying.
        """
        start = self._ranged(Plan.of(fastest(self._frontiers(forms, None)), ranges=self.ranges))
        judged = self._judge(start)
        slow = self._slow_reasons(start)
        if not judged.reason or not self.islands:
            return Candidate(start, judged, slow)
        self._over = judged.reason
        if (self.gains.estimate(start) or known_ratio) * _DOUBT < known_ratio:
            return None
        known = self._sensitivity(forms, start)
        smoothing = [group for group, _ in known.remedies if all(self._form_of(start, i) == "dynamic" for i in group)]

        def smoothed(count: int) -> Plan:
            return replace(start, smooth=frozenset(i for group in smoothing[:count] for i in group))

        if smoothing and is_inside(self._judge(smoothed(len(smoothing)))):
            enough = self._fewest(len(smoothing), smoothed, share=_MARGIN)
            count, best = enough or (len(smoothing), self._judge(smoothed(len(smoothing))))
            return Candidate(smoothed(count), best, slow)
        found = self._stepped(forms, smoothed(len(smoothing)), known)
        if found is None:
            for unit, _ in start.forms:
                self.reasons[unit] = self._too_sensitive(unit, start, Plan(), known, judged.reason)
            return None
        plan, best = found
        lost = {unit for unit, form in start.forms if plan.by_unit.get(unit) != form}
        reasons = {unit: self._too_sensitive(unit, start, plan, known, judged.reason) for unit in lost}
        return Candidate(plan, best, {**slow, **reasons})

    def _stepped(self, forms: tuple[Form, ...], base: Plan, known: Sensitivity) -> tuple[Plan, Judgement] | None:
        """The plan with the fewest units that are not in their fastest form; None where none is inside the budget."""
        start = base.by_unit
        frontiers = {
            unit: frontier((each for each in choices if self._is_safer(each.form, start.get(unit))), unit)
            for unit, choices in self._frontiers(forms, known, smooth=bool(base.smooth)).items()
        }
        down = steps(frontiers)
        top = Plan.of(fastest(frontiers), base.smooth, self.ranges)

        def after(count: int) -> Plan:
            return Plan.of({**top.by_unit, **{step.unit: step.form for step in down[:count]}}, top.smooth, self.ranges)

        most = next((count for count in range(len(down), 0, -1) if self._products(after(count))), 0)
        left = [sum(known.error(*each, smooth=bool(base.smooth)) ** 2 for each in after(n).forms) for n in range(most)]
        found = self._fewest(most, after, left) if most else None
        return None if found is None else self._retry(after(found[0]), found[1], down[: found[0]], top)

    @staticmethod
    def _is_safer(form: Form | None, fastest_form: Form | None) -> bool:
        """Whether a form may replace the fastest: fixed ranges are no remedy where ranges of each input fail."""
        return form != "static" or fastest_form != "dynamic"

    def _form_of(self, plan: Plan, layer: int) -> Form | None:
        unit = self.bench.parts.unit_of.get(layer)
        return None if unit is None else plan.by_unit.get(unit.index)

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
        methods = list(self.bench.parts.ranges)
        if plan.ranges and len(methods) > 1 and not self._ranges_known:
            plans = [replace(plan, ranges=method) for method in methods]
            self.ranges = min(plans, key=lambda each: inexactness(self._judge(each))).ranges
            self._ranges_known = True
        return replace(plan, ranges=self.ranges) if plan.ranges else plan

    def _sensitivity(self, forms: tuple[Form, ...], plan: Plan) -> Sensitivity:
        if forms not in self._known:
            self._known[forms] = measure_errors(self.bench.trial, self.bench.parts, forms, plan.ranges or self.ranges)
            for group, divisors in self._known[forms].remedies:
                self.bench.parts.divisors.update(dict.fromkeys(group, divisors))
        return self._known[forms]

    def _some(self, most: int) -> int:
        """How often something is tried: less often where a model takes long."""
        return most // 2 if self.gains.is_large else most

    def _fewest(
        self, most: int, choose: Callable[[int], Plan], left: Sequence[float] = (), share: float = 1.0
    ) -> tuple[int, Judgement] | None:
        """A small count in 1..most whose plan is inside a share of the budget, and its quality; None where none is.

        left: what errors of 0, 1, ... add up to; the drop in quality is about proportional to it. Without it, halving.
        """
        allowed = share * self.bench.trial.budget.drop
        low, high = 0, most + 1  # `low` is too few, `high` is enough or was not tried
        best: Judgement | None = None
        for tried in range(self._some(_TRIALS)):
            if high - low <= 1:
                break
            middle = (low + high) // 2
            if left and tried < _GUESSES:
                worst = max(drop_of(self._judge(choose(low))), 1e-12) / max(left[low], 1e-30)
                wanted = next((n for n in range(low, most) if left[n] * worst <= allowed), most)
                middle = min(max(wanted, low + 1), high - 1)
            self.bench.trial.ctx.progress(f"quantize: quality with {middle} of {most} changes")
            judged = self._judge(choose(middle))
            if is_inside(judged) and (share == 1.0 or drop_of(judged) <= allowed):
                high, best = middle, judged
                if drop_of(judged) >= _NEAR * allowed:
                    break
            else:
                low = middle
        return None if best is None else (high, best)

    def _retry(self, plan: Plan, best: Judgement, given_up: Iterable[Step], top: Plan) -> tuple[Plan, Judgement]:
        """Bring back units that were given up, those first that save most time, as long as the budget allows."""
        lost = dict.fromkeys(step.unit for step in given_up)
        forms = top.by_unit
        order = sorted(lost, key=lambda unit: (-self._gain(self.units[unit], forms[unit]), unit))
        failed = 0
        for unit in order[: self._some(_RETRIES)]:
            trial = Plan.of({**plan.by_unit, unit: forms[unit]}, plan.smooth, self.ranges)
            judged = self._judge(trial)
            if is_inside(judged):
                plan, best = trial, judged
            elif (failed := failed + 1) == _FAILURES:
                break
        return plan, best
