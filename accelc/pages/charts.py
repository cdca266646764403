"""Charts that are lists: a row for each thing, its name and figure as text beside what is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from xml.etree.ElementTree import Element

from accelc.pages.document import Child, tag
from accelc.pages.scales import Scale, linear, logarithmic
from accelc.units import size

SERIES = 6
"""How many colours there are; further keys are put together."""
REST = "other"


@dataclass(frozen=True)
class Mark:
    """A row. figure: its value as text. low, high: an interval. rounds: single measurements behind it. more: a second
    line under the name. tone: good, bad, or empty.
    """

    name: str
    value: float
    figure: Child
    low: float | None = None
    high: float | None = None
    rounds: Sequence[float] = ()
    more: str = ""
    tone: str = ""


def bars(marks: Sequence[Mark], show: Callable[[float], str]) -> Element:
    """Bars from zero with intervals. show: a tick as text."""
    ends = [end for mark in marks for end in (mark.value, mark.high) if end is not None]
    scale = linear(ends)
    rows = [
        _row(mark, scale, [_span(scale, 0.0, mark.value, "bar"), *_interval(scale, mark), *_rounds(scale, mark)])
        for mark in marks
    ]
    return _chart(rows, scale, show, "bars")


def dots(
    marks: Sequence[Mark], scale: Scale, show: Callable[[float], str], *, band: tuple[float, float] | None = None
) -> Element:
    """Points with intervals on any scale. band: a range that stands for no difference."""
    rows = [
        _row(
            mark,
            scale,
            [
                _span(scale, *band, "band") if band else None,
                *_interval(scale, mark),
                tag("span", class_=f"dot {mark.tone}".strip(), style=f"left:{scale.at(mark.value)}%"),
            ],
        )
        for mark in marks
    ]
    return _chart(rows, scale, show, "dots")


def ratios(marks: Sequence[Mark], tolerance: float) -> Element:
    """Ratios around a line at 1, with the band of the tolerance."""
    ends = [end for mark in marks for end in (mark.value, mark.low, mark.high) if end is not None]
    scale = logarithmic([*ends, 1 / 1.1, 1.1], factor=1.03)
    chart = dots(marks, scale, lambda tick: f"{tick:.3g}", band=(1 - tolerance, 1 + tolerance))
    for row in chart.iterfind("li/span[@class='track'][@aria-hidden]"):
        row.append(tag("span", class_="one", style=f"left:{scale.at(1.0)}%"))
    return chart


@dataclass(frozen=True)
class Pair:
    """A row with what was and what is. figure: both as text. more: a second line under the name."""

    name: str
    before: float
    after: float
    figure: Child
    more: str = ""


def pairs(rows: Sequence[Pair], show: Callable[[float], str], names: tuple[str, str] = ("before", "after")) -> Element:
    """Two bars in each row, one above the other."""
    scale = linear([end for each in rows for end in (each.before, each.after)])
    made = [
        _row(
            Mark(each.name, each.after, each.figure, more=each.more),
            scale,
            [_span(scale, 0.0, each.before, "bar was"), _span(scale, 0.0, each.after, "bar now")],
        )
        for each in rows
    ]
    chips = [
        tag("span", tag("span", class_="chip was"), names[0]),
        tag("span", tag("span", class_="chip now"), names[1]),
    ]
    return tag("div", tag("p", chips, class_="legend"), _chart(made, scale, show, "pairs"))


@dataclass(frozen=True)
class Span:
    """A row of a timeline."""

    name: str
    start: float
    length: float
    figure: Child
    more: str = ""


def timeline(spans: Sequence[Span], show: Callable[[float], str]) -> Element:
    """What began when and how long it took."""
    scale = linear([span.start + span.length for span in spans], margin=0.0)
    made = [
        _row(
            Mark(span.name, span.start, span.figure, more=span.more),
            scale,
            [_span(scale, span.start, span.start + span.length, "bar")],
        )
        for span in spans
    ]
    return _chart(made, scale, show, "timeline")


@dataclass(frozen=True)
class Stack:
    """A row of parts that make a whole. parts: size by key."""

    name: str
    parts: Mapping[str, float]
    figure: Child
    more: str = ""


def keys(rows: Iterable[Mapping[str, float]]) -> list[str]:
    """The largest keys over all rows, as many as there are colours, and REST where there are more."""
    totals: dict[str, float] = {}
    for parts in rows:
        for key, value in parts.items():
            totals[key] = totals.get(key, 0.0) + value
    order = sorted((key for key in totals if key != REST), key=lambda key: (-totals[key], key))
    return order[:SERIES] + ([REST] if len(order) > SERIES or REST in totals else [])


def stacks(
    rows: Sequence[Stack], show: Callable[[float], str], tick: Callable[[float], str] | None = None, last: str = ""
) -> Element:
    """Bars of parts on one scale, with a legend; letters say which part is which.

    show, tick: a part, and a tick where that is shorter, as text. last: a key that is drawn pale.
    """
    order = keys({key: value for key, value in each.parts.items() if key != last} for each in rows)
    letters = dict(zip(order, ascii_uppercase, strict=False))
    scale = linear([sum(each.parts.values()) for each in rows], margin=0.0)
    made = []
    for each in rows:
        merged = dict.fromkeys(order, 0.0)
        for key, value in each.parts.items():
            if key != last:
                merged[key if key in merged else REST] += value
        segments = [
            _segment(letters[key], _class(order, key), value, scale, f"{key}: {show(value)}")
            for key, value in merged.items()
        ]
        if last in each.parts:
            segments.append(_segment("", "pale", each.parts[last], scale, f"{last}: {show(each.parts[last])}"))
        made.append(_row(Mark(each.name, 0.0, each.figure, more=each.more), scale, segments, "stack"))
    legend = [tag("span", tag("span", letters[key], class_=f"chip {_class(order, key)}"), key) for key in order]
    if any(last in each.parts for each in rows):
        legend.append(tag("span", tag("span", class_="chip pale"), last))
    return tag("div", tag("p", legend, class_="legend"), _chart(made, scale, tick or show, "stacks"))


# --- parts of charts -------------------------------------------------------------------------------------------------


def ms_tick(value: float) -> str:
    """A tick in milliseconds."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


def size_tick(value: float) -> str:
    """A tick in bytes: 1.5 MB."""
    number, _, unit = size(value).partition(" ")
    return f"{float(number.replace(',', '')):g} {unit}" if value else "0"


def ticks(scale: Scale, show: Callable[[float], str], side: str = "left") -> list[Element]:
    """The texts of an axis, none beyond its ends. side: left, or bottom for an axis that goes up."""
    made = []
    for value in scale.ticks:
        place = scale.at(value)
        edge = " first" if place < 4 else " last" if place > 96 else ""
        made.append(tag("span", show(value), class_=f"tick{edge}", style=f"{side}:{place}%"))
    return made


def _chart(rows: Sequence[Element], scale: Scale, show: Callable[[float], str], kind: str) -> Element:
    axis = tag("li", tag("span", ticks(scale, show), class_="track"), class_="axis", aria_hidden="true")
    return tag("ol", rows, axis, class_=f"chart {kind}")


def _row(mark: Mark, scale: Scale, drawn: Iterable[Child], kind: str = "") -> Element:
    lines = [tag("span", class_="grid", style=f"left:{scale.at(tick)}%") for tick in scale.ticks]
    name = tag("span", mark.name, tag("span", mark.more, class_="quiet more") if mark.more else None, class_="name")
    track = tag("span", lines, drawn, class_="track", aria_hidden="true")
    return tag("li", name, track, tag("span", mark.figure, class_="figure"), class_=kind or None)


def _span(scale: Scale, start: float, end: float, kind: str) -> Element:
    left, right = scale.at(start), scale.at(end)
    return tag("span", class_=kind, style=f"left:{left}%;width:{round(right - left, 3)}%")


def _interval(scale: Scale, mark: Mark) -> list[Element]:
    if mark.low is None or mark.high is None:
        return []
    return [_span(scale, mark.low, mark.high, f"interval {mark.tone}".strip())]


def _rounds(scale: Scale, mark: Mark) -> list[Element]:
    """Single measurements as thin lines; those beyond the scale are left out."""
    inside = [value for value in mark.rounds if math.isfinite(value) and scale.holds(value)]
    if not inside:
        return []
    path = "".join(f"M{scale.at(value):.2f} 0V1" for value in inside)
    box = {"viewBox": "0 0 100 1", "preserveAspectRatio": "none"}
    return [tag("svg", tag("path", d=path), class_="rounds", **box)]


def _class(order: Sequence[str], key: str) -> str:
    return "rest" if key == REST else f"s{order.index(key) + 1}"


def _segment(letter: str, kind: str, value: float, scale: Scale, title: str) -> Element | None:
    width = scale.at(value)
    if width <= 0:
        return None
    shown = letter if width >= 3.5 else ""
    return tag("span", shown, class_=f"part {kind}", style=f"width:{width}%", title=title)
