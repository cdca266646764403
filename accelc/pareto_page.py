"""Curves of speed and quality as one HTML page: a drawing and a table for each target, without scripts or network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

Points = Sequence[Mapping[str, Any]]

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 24, 56
_MOST_NUMBERED = 30
"""With more points only those on the front carry their number."""
_TICKS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --quiet: #59636e; --line: #c8ced6; --paper: #ffffff;
  --front: #0b57d0; --dot: #6e7781; --chosen: #a33b00; --budget: #8a3ffc; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --quiet: #a3adb8; --line: #3d444d; --paper: #14181d;
  --front: #7db2ff; --dot: #9aa4af; --chosen: #ffa766; --budget: #c6a3ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.35rem; } h2 { font-size: 1.1rem; margin-top: 2.5rem; overflow-wrap: anywhere; }
p.quiet, figcaption { color: var(--quiet); }
code { overflow-wrap: anywhere; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--quiet); }
svg text.number { fill: var(--ink); font-size: 11px; }
.axis { stroke: var(--line); } .front { stroke: var(--front); fill: none; stroke-width: 2; }
.budget { stroke: var(--budget); stroke-dasharray: 5 4; } svg text.budget { fill: var(--budget); stroke: none; }
.bar { stroke: var(--dot); } circle { stroke: var(--dot); stroke-width: 1.5; fill: var(--dot); }
circle.on-front { stroke: var(--front); fill: var(--front); } circle.estimated { fill: var(--paper); }
circle.ring { stroke: var(--chosen); fill: none; stroke-width: 2.5; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--quiet); padding-bottom: .4rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.right { text-align: right; white-space: nowrap; }
tr.chosen { font-weight: 600; } tr.chosen td { color: var(--chosen); }
"""


def page(curves: Sequence[Mapping[str, Any]]) -> str:
    """The page for curves as `accelc.pareto.curve` gives them."""
    body = "".join(_section(each, index) for index, each in enumerate(curves, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>Speed and quality after quantization</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>Speed and quality after quantization</h1>\n{body}</body>\n</html>\n"
    )


def _section(curve: Mapping[str, Any], index: int) -> str:
    head = f"<h2>{_text(curve['source'])} on {_text(str(curve['target']).partition(' (')[0])}</h2>\n"
    points: Points = curve["points"]
    if not points:
        return f"<section>\n{head}<p>There is no curve: {_text(curve['reason'])}.</p>\n</section>\n"
    chosen = next((each for each in points if each["chosen"]), None)
    said = f"<p>Chosen: {_text(chosen['label'])}, {_of_point(chosen)}.</p>\n" if chosen else ""
    return (
        f"<section>\n{head}{said}{_figure(points, curve['budget'], index)}{_table(points)}"
        f'<p class="quiet">Pipeline: <code>{_text(curve["pipeline"])}</code></p>\n</section>\n'
    )


# --- the drawing -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """From drops and ratios to places in the drawing. Drops go by their roots, so that small ones stand apart."""

    low_drop: float
    high_drop: float
    low: float
    high: float

    @classmethod
    def around(cls, points: Points, budget: float | None) -> _Frame:
        drops = [each["drop"] for each in points if _drawn(each)] + [0.0, 1.25 * (budget or 0.0)]
        shown = [each[name] for each in points if _drawn(each) for name in ("ratio", "low", "high")]
        ratios = [each for each in shown if each is not None] + [1.0]
        margin = 0.08 * (max(ratios) - min(ratios)) or 0.1
        return cls(min(drops), max(max(drops), 1e-4), max(0.0, min(ratios) - margin), max(ratios) + margin)

    def x(self, drop: float) -> float:
        low, high = _root(self.low_drop), _root(self.high_drop)
        share = (_root(drop) - low) / (high - low)
        return _LEFT + 12 + share * (_WIDTH - _LEFT - _RIGHT - 24)

    def y(self, ratio: float) -> float:
        return _HEIGHT - _BOTTOM - (ratio - self.low) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)


def _drawn(each: Mapping[str, Any]) -> bool:
    """Whether both speed and loss are known: those that are not finite are null in reports."""
    return each["ratio"] is not None and each["drop"] is not None


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value)


def _figure(points: Points, budget: float | None, index: int) -> str:
    frame = _Frame.around(points, budget)
    parts = [*_axes(frame), *_budget(frame, budget), *_front(frame, points), *_dots(frame, points)]
    absent = sum(not _drawn(each) for each in points)
    more = f" Not timed, or without a finite loss, and so only in the table: {absent}." if absent else ""
    return (
        f'<figure>\n<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-labelledby="title{index} desc{index}">\n'
        f'<title id="title{index}">Speed against loss of quality</title>\n'
        f'<desc id="desc{index}">{len(points)} candidates; the table below has the same figures.</desc>\n'
        + "\n".join(parts)
        + "\n</svg>\n<figcaption>Up is faster, left is more exact. Line: no other candidate is both faster and more "
        "exact. Ring: chosen. Bars: 95 % interval. Hollow: estimated from layers timed alone. Numbers: rows of the "
        f"table.{more}</figcaption>\n</figure>\n"
    )


def _axes(frame: _Frame) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none"/>'
    last = -math.inf
    for drop in (0.0, *_TICKS):
        if frame.low_drop <= drop <= frame.high_drop and frame.x(drop) - last > 44:
            last = frame.x(drop)
            yield f'<path class="axis" d="M{last:.1f} {bottom}v5"/>'
            yield f'<text x="{last:.1f}" y="{bottom + 19}" text-anchor="middle">{_percent(drop)}</text>'
    step = _step(frame.high - frame.low)
    for count in range(math.ceil(frame.low / step), math.floor(frame.high / step) + 1):
        y = frame.y(count * step)
        yield f'<path class="axis" d="M{_LEFT} {y:.1f}h-5"/>'
        yield f'<text x="{_LEFT - 9}" y="{y + 4:.1f}" text-anchor="end">{count * step:.3g}</text>'
    if frame.low < 1 < frame.high:
        yield f'<path class="axis" stroke-dasharray="2 4" d="M{_LEFT} {frame.y(1.0):.1f}H{right}"/>'
    middle = (_LEFT + right) / 2
    yield f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">loss of quality (root scale)</text>'
    yield f'<text x="14" y="{_TOP - 8}">times as fast as the original</text>'


def _step(span: float) -> float:
    """A round distance that divides the span into four to ten parts."""
    base = 10.0 ** math.floor(math.log10(span / 4))
    return max(base * factor for factor in (1, 2, 2.5, 5) if base * factor <= span / 4)


def _budget(frame: _Frame, budget: float | None) -> Iterator[str]:
    if budget is None:
        return
    x = frame.x(budget)
    at = "end" if x > _WIDTH / 2 else "start"
    yield f'<path class="budget" d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}"/>'
    yield (
        f'<text class="budget" x="{x + (-6 if at == "end" else 6):.1f}" y="{_TOP + 12}" text-anchor="{at}">'
        f"budget {_percent(budget)}</text>"
    )


def _front(frame: _Frame, points: Points) -> Iterator[str]:
    """The line from the most exact to the fastest: from point to point in steps, for nothing between them is known."""
    line = sorted((each["drop"], each["ratio"]) for each in points if each["front"] and _drawn(each))
    if len(line) < 2:
        return
    path = f"M{frame.x(line[0][0]):.1f} {frame.y(line[0][1]):.1f}"
    path += "".join(f"H{frame.x(drop):.1f}V{frame.y(ratio):.1f}" for drop, ratio in line[1:])
    yield f'<path class="front" d="{path}"/>'


def _dots(frame: _Frame, points: Points) -> Iterator[str]:
    for number, each in enumerate(points, 1):
        if not _drawn(each):
            continue
        x, y = frame.x(each["drop"]), frame.y(each["ratio"])
        kinds = [name for name in ("on-front", "estimated") if each["front" if name == "on-front" else name]]
        parts = [f"<title>{number}. {_text(each['label'])}: {_of_point(each)}</title>"]
        if each["low"] is not None and each["high"] is not None:
            parts.append(f'<path class="bar" d="M{x:.1f} {frame.y(each["low"]):.1f}V{frame.y(each["high"]):.1f}"/>')
        parts.append(f'<circle class="{" ".join(kinds)}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        if each["chosen"]:
            parts.append(f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
        if each["front"] or each["chosen"] or len(points) <= _MOST_NUMBERED:
            parts.append(f'<text class="number" x="{x + 10:.1f}" y="{y - 5:.1f}">{number}</text>')
        yield f"<g>{''.join(parts)}</g>"


# --- the table -------------------------------------------------------------------------------------------------------


def _table(points: Points) -> str:
    names = list(dict.fromkeys(name for each in points for name in each["quality"] if name != "metric"))
    metric = next((each["quality"]["metric"] for each in points if "metric" in each["quality"]), "score")
    heads = ["candidate", "layers", "times as fast", "95 % interval", "loss", *names, "weights", ""]
    shown = [str(metric) if name == "score" else name.replace("_", " ") for name in heads]
    right = set(range(3, 3 + 4 + len(names)))
    cells = "".join(
        f'<th scope="col"{_side(place in right)}>{_text(name)}</th>' for place, name in enumerate(["", *shown])
    )
    rows = "".join(_row(number, each, names, right) for number, each in enumerate(points, 1))
    return (
        '<div class="scroll"><table>\n<caption>Every candidate whose quality was measured.</caption>\n'
        f"<thead><tr>{cells}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )


def _row(number: int, each: Mapping[str, Any], names: Sequence[str], right: set[int]) -> str:
    timed = each["low"] is not None and each["high"] is not None
    words = ["chosen"] * each["chosen"] + ["front"] * each["front"]
    words += [f"outside the budget: {each['reason']}" if each["reason"] else "outside the budget"] * (
        not each["inside"]
    )
    cells = [
        str(number),
        str(each["label"]),
        ", ".join(f"{form} {count}" for form, count in each["units"].items()),
        _ratio(each),
        f"{each['low']:.2f} to {each['high']:.2f}" if timed else "",
        _percent(each["drop"]),
        *(_figure_of(each["quality"].get(name)) for name in names),
        f"{each['bytes'] / 1e6:,.2f} MB",
        ", ".join(words),
    ]
    body = "".join(f"<td{_side(place in right)}>{_text(cell)}</td>" for place, cell in enumerate(cells))
    mark = ' class="chosen"' if each["chosen"] else ""
    return f"<tr{mark}>{body}</tr>\n"


def _side(right: bool) -> str:
    return ' class="right"' if right else ""


def _ratio(each: Mapping[str, Any]) -> str:
    if each["ratio"] is None:
        return "not timed"
    return f"{each['ratio']:.2f}{' (estimated)' if each['estimated'] else ''}"


def _of_point(each: Mapping[str, Any]) -> str:
    speed = "not timed" if each["ratio"] is None else f"{_ratio(each)} times as fast"
    return f"{speed}, loss {_percent(each['drop'])}, weights {each['bytes'] / 1e6:,.2f} MB"


def _percent(share: float | None) -> str:
    return "not finite" if share is None else f"{100 * share:.3g} %"


def _figure_of(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float | int) else ("" if value is None else str(value))


def _text(value: object) -> str:
    """Anything as text of the page; what is not printable is escaped."""
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(value)
    )
    return escape(shown)
