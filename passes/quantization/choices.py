"""Which form for each unit: the most time saved for the least error, a multiple-choice knapsack solved greedily.

Errors are squared, so those of several units add up as independent ones do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .plan import Form


@dataclass(frozen=True)
class Choice:
    """One form of one unit. gain: seconds saved against float. error: what it adds to the squared relative error."""

    unit: int
    form: Form | None
    gain: float
    error: float


@dataclass(frozen=True)
class Step:
    """A unit gives up speed for quality: another form, None for float. price: seconds lost for each error removed.

    smooth: positions of layers whose activation is smoothed instead; then there is no unit and no form.
    """

    unit: int
    form: Form | None
    price: float
    smooth: tuple[int, ...] = ()


def frontier(choices: Iterable[Choice], unit: int) -> list[Choice]:
    """The choices of a unit that some exchange rate between time and error prefers, float first, the fastest last.

    Each saves more time than the one before, at a worse rate.
    """
    kept = [Choice(unit, None, 0.0, 0.0)]
    for each in sorted(choices, key=lambda one: (one.gain, -one.error)):
        if each.gain <= 0:
            continue
        while len(kept) > 1 and (kept[-1].error >= each.error or _rate(kept[-2], each) >= _rate(kept[-2], kept[-1])):
            kept.pop()
        kept.append(each)
    return kept


def _rate(safe: Choice, fast: Choice) -> float:
    """Seconds saved for each error added."""
    added = fast.error - safe.error
    return (fast.gain - safe.gain) / added if added > 0 else float("inf")


def fastest(frontiers: Mapping[int, Sequence[Choice]]) -> dict[int, Form]:
    """Every unit in the form that saves most time."""
    return {unit: last for unit, choices in frontiers.items() if (last := choices[-1].form) is not None}


def steps(frontiers: Mapping[int, Sequence[Choice]]) -> list[Step]:
    """From the fastest plan to the float model, the cheapest error first."""
    found = [
        Step(unit, safe.form, _rate(safe, fast))
        for unit, choices in frontiers.items()
        for safe, fast in pairwise(choices)
    ]
    return sorted(found, key=lambda step: (step.price, step.unit, step.form is None))
