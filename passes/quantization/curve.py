"""The trade-off between speed, size and quality: every candidate whose quality is known is a point of it.

`PassResult.details["curve"]` is a list of points, the float model first, each a JSON object:

    label       what the candidate is, a few words that are unique in the list: "float", "dynamic", "mixed, 4 in float"
    units       {form: how many layers have it}; forms: float, dynamic, static, weight8, weight4, table
    quality     {figure: number}: cosine, relative_error, rmse_relative; top1 where it is defined; accuracy where there
                are labels; metric (its name, a text) and score where the user named a metric
    drop        how much worse than the original, as --max-drop counts it; 0 for float
    inside      whether that is within the budget
    reason      why it is not, or an empty text
    ratio       the original's time over the candidate's; above 1 is faster. null where nothing is known
    low, high   its 95 % interval; null where the ratio is estimated or unknown
    estimated   whether the ratio was put together from layers timed alone
    bytes       of the weights
    chosen      the one that was kept (true once; for float when nothing beats it)
    front       no other point is both at least as fast and at least as exact, and better in one of them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from accelc.measure import Comparison


@dataclass(frozen=True)
class Point:
    """A candidate; the fields are those of the module's text."""

    label: str
    units: Mapping[str, int]
    quality: Mapping[str, float | str] = field(default_factory=dict)
    drop: float = 0.0
    inside: bool = True
    reason: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    estimated: bool = False
    bytes: int = 0
    chosen: bool = False
    front: bool = False

    def timed(self, found: Comparison) -> Point:
        """The point with a measured ratio."""
        return replace(self, ratio=found.ratio, low=found.low, high=found.high, estimated=False)

    def beats(self, other: Point) -> bool:
        """Whether the point is no worse than another one in speed and quality, and better in one of them."""
        mine, theirs = (self.ratio or 0.0, -self.drop), (other.ratio or 0.0, -other.drop)
        return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]


class Curve:
    """The points of one search, by what tells the candidates apart."""

    def __init__(self) -> None:
        self._points: dict[Any, Point] = {}

    def put(self, key: Any, point: Point) -> None:
        """Add a point or replace it. A label that another point has gets a number."""
        taken = {each.label for other, each in self._points.items() if other != key}
        label, number = point.label, 1
        while label in taken:
            number += 1
            label = f"{point.label} ({number})"
        self._points[key] = replace(point, label=label)

    def __getitem__(self, key: Any) -> Point:
        return self._points[key]

    def timed(self, key: Any, found: Comparison) -> None:
        """Say how fast a candidate is; one whose quality is not known makes no point."""
        if key in self._points:
            self._points[key] = self._points[key].timed(found)

    def expect(self, estimate: Callable[[Any], float | None]) -> None:
        """Estimate anew how fast those are that were not timed."""
        for key, point in self._points.items():
            if point.estimated:
                self._points[key] = replace(point, ratio=estimate(key))

    def untimed(self, most: int) -> list[Any]:
        """The keys of the points worth timing: inside the budget and on the front, spread over it."""
        points = list(self._points.values())
        keys = [
            key
            for key, each in self._points.items()
            if each.estimated and each.inside and not any(other.beats(each) for other in points)
        ]
        keys.sort(key=lambda key: self._points[key].drop)
        return keys if len(keys) <= most else [keys[round(i * (len(keys) - 1) / (most - 1))] for i in range(most)]

    def details(self, chosen: Any) -> list[dict[str, Any]]:
        """The points as the report has them; chosen: the key of the one that was kept."""
        points = {key: replace(each, chosen=key == chosen) for key, each in self._points.items()}
        return [
            asdict(replace(each, front=not any(other.beats(each) for other in points.values())))
            for each in points.values()
        ]


def tally(forms: Mapping[str, int] | Counter[str]) -> dict[str, int]:
    """Counts by form in the order that reports show, without those that do not occur."""
    order = ("float", "dynamic", "static", "weight8", "weight4", "table")
    return {form: forms[form] for form in order if forms.get(form)}
