"""The plan that saves most time among those inside the quality budget, from what each change should bring."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from accelc.budget import Judgement

from .bench import is_inside
from .choices import Choice, Step, fastest, frontier, steps
from .fewest import fewest
from .gains import Gains
from .plan import Form, Parts, Plan
from .sensitivity import Sensitivity
from .smoothing import Remedy

_TRIES = 10
_RETRIES, _FAILURES = 4, 2
"""Units that were given up and are tried once more, until some are too much."""
_CHECKS = 16
"""Tries to find remedies that do harm."""
_KEPT_PROMISE = 0.15
"""Remedies that bring less of what they should are looked at one by one."""
_DOUBT = 1.2
_MUL_S, _BYTES = 3e-6, 2.5e10
"""Of a Mul: seconds to start it, and bytes that it reads and writes in a second."""

Frontiers = Mapping[int, Sequence[Choice]]


@dataclass
class Within:
    """start: the fastest plan, which is too much. known: what each form costs in quality. frontiers: the choices of
    each unit, given which units are smoothed. glance: what a plan does to a few samples.
    proceed: whether there is time to try more.
    """

    parts: Parts
    gains: Gains
    start: Plan
    known: Sensitivity
    frontiers: Callable[[Collection[int]], Frontiers]
    judge: Callable[[Plan], Judgement]
    glance: Callable[[Plan], float]
    proceed: Callable[[], bool]
    allowed: float
    tries: int = _TRIES

    def find(self) -> tuple[Plan, Judgement] | None:
        """The plan and its quality; None where none is inside the budget."""
        down, after = self._changes(self._helpful())
        most = next((count for count in range(len(down), 0, -1) if _products(after(count))), 0)
        if not most:
            return None
        left = [self._expected(after(count)) for count in range(most + 1)]

        def attempt(count: int) -> tuple[float, bool]:
            judged = self.judge(after(count))
            return judged.lost, is_inside(judged)

        count = fewest(most, attempt, left, self.allowed, self.proceed, self.tries)
        return None if count is None else self._retried(after(count), down[:count])

    def _changes(self, remedies: Sequence[Remedy]) -> tuple[list[Step], Callable[[int], Plan]]:
        """Changes from the fastest plan on, the cheapest error first, and the plan after so many of them."""
        forms = self.start.by_unit
        smoothed_units = {self.parts.unit_of[i].index for each in remedies for i in each.layers}
        frontiers = {
            unit: frontier((each for each in choices if _is_safer(each.form, forms.get(unit))), unit)
            for unit, choices in self.frontiers(smoothed_units).items()
        }
        top = fastest(frontiers)
        smoothed = [Step(-1, None, self._price(each), each.layers) for each in remedies]
        down = sorted([*steps(frontiers), *smoothed], key=lambda step: (step.price, step.unit, step.form is None))

        def after(count: int) -> Plan:
            taken = {**top, **{step.unit: step.form for step in down[:count] if not step.smooth}}
            return self._plan(taken, (i for step in down[:count] for i in step.smooth))

        return down, after

    def _plan(self, forms: Mapping[int, Form | None], smooth: Iterable[int]) -> Plan:
        units = self.parts.unit_of
        return Plan.of(forms, (i for i in smooth if forms.get(units[i].index) == "dynamic"), self.start.ranges)

    def _price(self, remedy: Remedy) -> float:
        """Seconds that smoothing costs for each error that it removes."""
        units = [self.parts.unit_of[i].index for i in remedy.layers]
        removed = sum(
            self.known.cost(unit, "dynamic") - self.known.cost(unit, "dynamic", smooth=True) for unit in units
        )
        if remedy.free or removed <= 0:
            return 0.0 if remedy.free else float("inf")
        elements = max((self.gains.rows.get(i, 1) for i in remedy.layers), default=1) * len(remedy.divisors)
        return (_MUL_S + 8 * elements / _BYTES) / removed

    def _expected(self, plan: Plan) -> float:
        layers = self.parts.units
        return sum(
            self.known.cost(unit, form, smooth=bool(plan.smooth & {*layers[unit].layers})) for unit, form in plan.forms
        )

    # --- remedies that keep their promise

    @cached_property
    def _remedies(self) -> list[Remedy]:
        forms, units = self.start.by_unit, self.parts.unit_of
        return [
            each for each in self.known.remedies if all(forms.get(units[i].index) == "dynamic" for i in each.layers)
        ]

    def _helpful(self) -> list[Remedy]:
        """The remedies without those that make the outputs worse, found by halving."""
        kept: list[Remedy] = []
        waiting = [sorted(self._remedies, key=lambda each: each.layers)] if self._remedies else []
        damage = self.glance(self.start) if waiting else 0.0
        for _ in range(_CHECKS):
            if not waiting or not self.proceed():
                break
            part = waiting.pop(0)
            before, after = self._smoothed(kept), self._smoothed([*kept, *part])
            found, expected = self.glance(after), self._expected(before)
            hoped = damage * (1 - self._expected(after) / expected) if expected > 0 else 0.0
            if damage - found > _KEPT_PROMISE * hoped or (len(part) == 1 and found < damage):
                kept += part
                damage = found
            elif len(part) > 1:
                middle = len(part) // 2
                waiting[:0] = [part[:middle], part[middle:]]
        return kept

    def _smoothed(self, remedies: Iterable[Remedy]) -> Plan:
        return replace(self.start, smooth=frozenset(i for each in remedies for i in each.layers))

    # --- room that is left

    def _retried(self, plan: Plan, given_up: Sequence[Step]) -> tuple[Plan, Judgement]:
        """Bring back units that were given up, those first that save most time, as long as the budget allows."""
        best, forms = self.judge(plan), self.start.by_unit
        units = self.parts.units
        lost = dict.fromkeys(step.unit for step in given_up if not step.smooth)
        order = sorted(lost, key=lambda unit: (-self.gains.gain(units[unit], forms[unit]), unit))
        tried = failed = 0
        for unit in order:
            if tried == _RETRIES or failed == _FAILURES or not self.proceed():
                break
            more = self._plan({**plan.by_unit, unit: forms[unit]}, plan.smooth)
            if best.lost * self._expected(more) > _DOUBT * self.allowed * self._expected(plan):
                continue
            tried += 1
            judged = self.judge(more)
            if is_inside(judged):
                plan, best = more, judged
            else:
                failed += 1
        return plan, best


def _products(plan: Plan) -> bool:
    return any(form != "table" for _, form in plan.forms)


def _is_safer(form: Form | None, fastest_form: Form | None) -> bool:
    """Whether a form may replace the fastest: fixed ranges are no remedy where ranges of each input fail."""
    return form != "static" or fastest_form != "dynamic"
