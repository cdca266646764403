"""Charts with two axes: points, lines and their names. Texts are elements of the page, so they keep their size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree.ElementTree import Element

from accelc.pages.charts import ticks
from accelc.pages.document import tag
from accelc.pages.scales import Scale

_SMALL_WIDTH, _SMALL_HEIGHT = 300, 225
"""The size in pixels of the smallest plot: names that would overlap there are left to the table."""
_LETTER, _LINE = 7, 12
_FAR_RIGHT = 75
_Box: TypeAlias = tuple[float, float, float, float]
"""Left, bottom, right and top."""


@dataclass(frozen=True)
class Point:
    """kind: classes of the style, which give shape and colour. name: text beside it. low, high: an interval that goes
    up and down. size: of the mark in pixels. title: what a pointer shows. always: whether the name must be shown.
    """

    x: float
    y: float
    name: str
    title: str
    kind: str = ""
    low: float | None = None
    high: float | None = None
    size: float = 11
    always: bool = False


@dataclass(frozen=True)
class Line:
    """Through places in order. steps: goes right, then up or down. name: text at its end."""

    places: Sequence[tuple[float, float]]
    kind: str
    name: str = ""
    steps: bool = False


@dataclass(frozen=True)
class Axis:
    """scale and what it counts. show: a tick as text."""

    scale: Scale
    title: str
    show: Callable[[float], str]


def plot(x: Axis, y: Axis, points: Sequence[Point], lines: Sequence[Line] = ()) -> Element:
    """Points over lines in a box with axes."""
    grid = [tag("span", class_="grid", style=f"left:{x.scale.at(tick)}%") for tick in x.scale.ticks]
    grid += [tag("span", class_="grid across", style=f"bottom:{y.scale.at(tick)}%") for tick in y.scale.ticks]
    taken = [_mark_box(each, x.scale, y.scale) for each in points]
    named = [made for line in lines if line.name for made in _line_name(line, x.scale, y.scale, taken)]
    marks = [_point(each, x.scale, y.scale, taken) for each in _order(points)]
    box = tag("div", tag("div", grid, _drawn(lines, x.scale, y.scale), named, marks, class_="area"), class_="box")
    return tag(
        "div",
        tag("p", y.title, class_="axis-title up"),
        tag("div", ticks(y.scale, y.show, "bottom"), class_="axis-y", aria_hidden="true"),
        box,
        tag("div", ticks(x.scale, x.show), class_="axis-x", aria_hidden="true"),
        tag("p", x.title, class_="axis-title along"),
        class_="plot",
    )


def legend(entries: Iterable[tuple[str, str]]) -> Element:
    """What the marks mean: classes of a mark with words."""
    return tag("p", [tag("span", tag("span", class_=f"key {kind}"), text) for kind, text in entries], class_="legend")


def _order(points: Sequence[Point]) -> list[Point]:
    """Those whose names must be shown first, then the large ones."""
    return sorted(points, key=lambda each: (not each.always, -each.size))


def _drawn(lines: Sequence[Line], x: Scale, y: Scale) -> Element | None:
    if not lines:
        return None
    paths = []
    for line in lines:
        places = [(x.at(a), 100 - y.at(b)) for a, b in line.places]
        path = f"M{places[0][0]:.2f} {places[0][1]:.2f}"
        path += "".join(f"H{a:.2f}V{b:.2f}" if line.steps else f"L{a:.2f} {b:.2f}" for a, b in places[1:])
        paths.append(tag("path", d=path, class_=line.kind, vector_effect="non-scaling-stroke"))
    box = {"viewBox": "0 0 100 100", "preserveAspectRatio": "none"}
    return tag("svg", paths, class_="lines", aria_hidden="true", **box)


def _line_name(line: Line, x: Scale, y: Scale, taken: list[_Box]) -> list[Element]:
    """The name at the upper end of a line, to the left of it."""
    a, b = max(line.places, key=lambda place: (y.at(place[1]), x.at(place[0])))
    left, bottom = x.at(a), y.at(b)
    at_right = left > 50
    taken.append(_name_box(left, bottom, line.name, at_right))
    side = f"right:{round(100 - left, 3)}%" if at_right else f"left:{left}%"
    below = " below" if bottom > 90 else ""
    return [tag("span", line.name, class_=f"label of-line {line.kind}{below}", style=f"{side};bottom:{bottom}%")]


def _point(each: Point, x: Scale, y: Scale, taken: list[_Box]) -> list[Element]:
    left, bottom = x.at(each.x), y.at(each.y)
    made = []
    if each.low is not None and each.high is not None:
        low, high = y.at(each.low), y.at(each.high)
        style = f"left:{left}%;bottom:{low}%;height:{round(high - low, 3)}%"
        made.append(tag("span", class_="whisker", style=style))
    style = f"left:{left}%;bottom:{bottom}%;--size:{each.size:.0f}px"
    kind = f"point {each.kind}".strip()
    made.append(tag("span", class_=kind, style=style, title=each.title, role="img", aria_label=each.title))
    side = _side(each, left, bottom, taken) if each.name else ""
    if side:
        place = f"right:{round(100 - left, 3)}%" if side == "left-of" else f"left:{left}%"
        style = f"{place};bottom:{bottom}%;--size:{each.size:.0f}px"
        made.append(tag("span", each.name, class_=f"label {side}", style=style))
    return made


def _side(each: Point, left: float, bottom: float, taken: list[_Box]) -> str:
    """On which side of a mark its name has room in the smallest plot; empty where it has none and may be left out."""
    sides = ("right-of", "left-of") if left <= _FAR_RIGHT else ("left-of", "right-of")
    for side in sides:
        box = _name_box(left, bottom, each.name, side == "left-of", each.size / 2 + 4)
        if box[0] >= 0 and box[2] <= _SMALL_WIDTH + 8 and _free(box, taken):
            taken.append(box)
            return side
    return sides[0] if each.always else ""


# --- places that are taken, in pixels of the smallest plot -----------------------------------------------------------


def _mark_box(each: Point, x: Scale, y: Scale) -> _Box:
    left, bottom, half = x.at(each.x) / 100 * _SMALL_WIDTH, y.at(each.y) / 100 * _SMALL_HEIGHT, each.size / 2
    return left - half, bottom - half, left + half, bottom + half


def _name_box(left: float, bottom: float, name: str, before: bool, gap: float = 4) -> _Box:
    """Where a name stands: right of a place, or before it, and a little above."""
    width = _LETTER * len(name)
    start = left / 100 * _SMALL_WIDTH + (-gap - width if before else gap)
    low = bottom / 100 * _SMALL_HEIGHT + 3
    return start, low, start + width, low + _LINE


def _free(box: _Box, taken: Sequence[_Box]) -> bool:
    return all(box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1] for other in taken)
