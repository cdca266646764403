"""Curves of speed and quality: a plot and a table for each target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element

from accelc.pages.document import Child, facts, figure, section, table, tag
from accelc.pages.document import page as whole_page
from accelc.pages.plots import Axis, Line, Point, legend, plot
from accelc.pages.scales import linear, roots

Points = Sequence[Mapping[str, Any]]

_MOST_NUMBERED = 30
"""With more points only those on the front carry their number."""
_TICKS = (0.0, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
TITLE = "Speed and quality after quantization"


def page(curves: Sequence[Mapping[str, Any]]) -> str:
    """The page for curves as `accelc.pareto.curve` gives them."""
    lead = tag("p", "Every candidate that was tried: how much faster it is, and what it loses.", class_="quiet")
    return whole_page("accelc quantize", TITLE, lead, [_section(each, index) for index, each in enumerate(curves, 1)])


def _section(curve: Mapping[str, Any], index: int) -> Element:
    target = str(curve["target"]).partition(" (")[0]
    about = facts([("model", curve["source"]), ("passes", tag("code", curve["pipeline"]))])
    title = f"{PurePath(str(curve['source'])).name} on {target}"
    return section(title, *drawing(curve), about, id_=f"curve{index}")


def drawing(curve: Mapping[str, Any], level: int = 3) -> Iterator[Child]:
    """The plot, the table and what was chosen, or why there is no curve. level: of the heading."""
    points: Points = curve["points"]
    if not points:
        yield tag("p", f"There is no curve: {curve['reason']}.")
        return
    chosen = next((each for each in points if each["chosen"]), None)
    if chosen is not None:
        yield tag("p", "Chosen: ", tag("strong", chosen["label"]), f", {_of_point(chosen)}.")
    yield _figure(points, curve["budget"], level)


# --- the plot --------------------------------------------------------------------------------------------------------


def _drawn(each: Mapping[str, Any]) -> bool:
    """Whether both speed and loss are known: those that are not finite are null in reports."""
    return each["ratio"] is not None and each["drop"] is not None


def _figure(points: Points, budget: float | None, level: int) -> Element:
    drawn = [(number, each) for number, each in enumerate(points, 1) if _drawn(each)]
    x = roots([*(each["drop"] for _, each in drawn), 1.25 * (budget or 0.0)], _TICKS)
    shown = [each[name] for _, each in drawn for name in ("ratio", "low", "high") if each[name] is not None]
    y = linear([*shown, 0.9, 1.1], low=None, margin=0.08)
    lines = [Line([(x.low, 1.0), (x.high, 1.0)], "even")]
    if budget is not None:
        lines.append(Line([(budget, y.low), (budget, y.high)], "limit", f"budget {_percent(budget)}"))
    front = sorted((each["drop"], each["ratio"]) for _, each in drawn if each["front"])
    if len(front) > 1:
        lines.append(Line(front, "front", steps=True))
    box = plot(
        Axis(x, "loss of quality (root scale)", _percent),
        Axis(y, "times as fast as the original", lambda tick: f"{tick:.3g}"),
        [_point(number, each, len(points)) for number, each in drawn],
        lines,
    )
    absent = len(points) - len(drawn)
    more = f" Not timed, or without a finite loss, and so only in the table: {absent}." if absent else ""
    words = f"Up is faster, left is more exact. Numbers are rows of the table.{more}"
    entries = [
        ("front", "nothing is both faster and more exact"),
        ("", "something is"),
        ("chosen", "chosen"),
        ("hollow", "estimated from layers timed alone"),
        ("whisker", "95 % interval"),
    ]
    return figure(
        "Speed against loss of quality",
        words,
        tag("div", legend(entries), box),
        _table(points),
        level=level,
    )


def _point(number: int, each: Mapping[str, Any], count: int) -> Point:
    kinds = [
        name for name, wanted in (("front", "front"), ("hollow", "estimated"), ("chosen", "chosen")) if each[wanted]
    ]
    important = bool(each["front"] or each["chosen"])
    return Point(
        each["drop"],
        each["ratio"],
        str(number) if important or count <= _MOST_NUMBERED else "",
        f"{number}. {each['label']}: {_of_point(each)}",
        " ".join(kinds),
        each["low"],
        each["high"],
        always=important,
    )


# --- the table -------------------------------------------------------------------------------------------------------


def _table(points: Points) -> Element:
    names = list(dict.fromkeys(name for each in points for name in each["quality"] if name != "metric"))
    metric = next((each["quality"]["metric"] for each in points if "metric" in each["quality"]), "score")
    shown = [str(metric) if name == "score" else name.replace("_", " ") for name in names]
    return table(
        "Every candidate whose quality was measured.",
        ["candidate", "layers", "times as fast", "95 % interval", "loss", *shown, "weights", "standing"],
        [_row(number, each, names) for number, each in enumerate(points, 1)],
        numbers=range(2, 6 + len(names)),
        marked=[index for index, each in enumerate(points) if each["chosen"]],
    )


def _row(number: int, each: Mapping[str, Any], names: Sequence[str]) -> list[Child]:
    timed = each["low"] is not None and each["high"] is not None
    outside = f"outside the budget: {each['reason']}" if each["reason"] else "outside the budget"
    words = ["chosen"] * each["chosen"] + ["front"] * each["front"] + [outside] * (not each["inside"])
    return [
        f"{number}. {each['label']}",
        ", ".join(f"{form} {count}" for form, count in each["units"].items()),
        _ratio(each),
        f"{each['low']:.2f} to {each['high']:.2f}" if timed else "",
        _percent(each["drop"]),
        *(_number(each["quality"].get(name)) for name in names),
        f"{each['bytes'] / 1e6:,.2f} MB",
        ", ".join(words),
    ]


def _ratio(each: Mapping[str, Any]) -> str:
    if each["ratio"] is None:
        return "not timed"
    return f"{each['ratio']:.2f}{' (estimated)' if each['estimated'] else ''}"


def _of_point(each: Mapping[str, Any]) -> str:
    speed = "not timed" if each["ratio"] is None else f"{_ratio(each)} times as fast"
    return f"{speed}, loss {_percent(each['drop'])}, weights {each['bytes'] / 1e6:,.2f} MB"


def _percent(share: float | None) -> str:
    return "not finite" if share is None else f"{100 * share:.3g} %"


def _number(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | int) else ("" if value is None else str(value))
