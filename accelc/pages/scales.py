"""From numbers to places: scales with round ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_MOST_TICKS = 6


def _same(value: float) -> float:
    return value


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


@dataclass(frozen=True)
class Scale:
    """Numbers from low to high as percent of a length. ticks: where marks stand; bend: what makes the scale even."""

    low: float
    high: float
    ticks: tuple[float, ...]
    bend: Callable[[float], float] = _same

    def at(self, value: float) -> float:
        """The place in percent; what lies outside stands at the edge."""
        low, high = self.bend(self.low), self.bend(self.high)
        if math.isnan(value):
            return 0.0
        share = (self.bend(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(100 * min(max(share, 0.0), 1.0), 3)

    def holds(self, value: float) -> bool:
        """Whether a number lies on the scale."""
        return self.low <= value <= self.high


def linear(values: Iterable[float], *, low: float | None = 0.0, margin: float = 0.04) -> Scale:
    """An even scale around numbers, from `low` where it is given."""
    found = _finite(values) or [1.0]
    start = min(found) if low is None else low
    span = (max(found) - start) or abs(start) or 1.0
    first, last = (start - margin * span if low is None else start), start + (1 + margin) * span
    return Scale(first, last, _even(first, last))


def roots(values: Iterable[float], candidates: Sequence[float]) -> Scale:
    """A scale by square roots, on which small numbers stand apart. candidates: where ticks may stand."""
    found = [*_finite(values), 0.0]
    low, high = min(found), max(*found, 1e-4)
    made = Scale(low, high, (), _root)
    kept: list[float] = []
    for tick in candidates:
        if made.holds(tick) and (not kept or made.at(tick) - made.at(kept[-1]) >= 14):
            kept.append(tick)
    return Scale(low, high, tuple(kept), _root)


def logarithmic(values: Iterable[float], *, factor: float = 1.15) -> Scale:
    """A scale on which equal ratios are equally long. factor: the margin at both ends."""
    found = [value for value in _finite(values) if value > 0] or [1.0]
    low, high = min(found) / factor, max(found) * factor
    return Scale(low, high, _round(low, high), math.log)


def decades(values: Iterable[float]) -> Scale:
    """A logarithmic scale from a power of ten to a power of ten."""
    found = [value for value in _finite(values) if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(found)) + 1e-9), math.ceil(math.log10(max(found)) - 1e-9)
    high += low == high
    step = -(-(high - low) // (_MOST_TICKS - 1))
    return Scale(10.0**low, 10.0**high, tuple(10.0**power for power in range(low, high + 1, step)), math.log)


def _finite(values: Iterable[float]) -> list[float]:
    return [float(value) for value in values if math.isfinite(value)]


def _even(low: float, high: float) -> tuple[float, ...]:
    span = (high - low) / (_MOST_TICKS - 1)
    base = 10.0 ** math.floor(math.log10(span))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= span * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def _round(low: float, high: float) -> tuple[float, ...]:
    """Round numbers on a logarithmic scale."""
    if high / low < 2.5:
        return _even(low, high)
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [digit * 10.0**power for power in powers for digit in digits]
        kept = [tick for tick in ticks if low <= tick <= high]
        if len(kept) <= _MOST_TICKS + 1:
            return tuple(kept)
    return tuple(kept[:: -(-len(kept) // _MOST_TICKS)])
