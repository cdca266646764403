"""The chart: how many times as fast each variant is, with its interval, model by model; readable on dark and light."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from benchmarks.measuring import Study, Variant

_WIDTH, _LEFT, _RIGHT, _TOP = 860, 190, 130, 66
_ROW, _GAP, _FOOT = 22, 34, 44
_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #57606a }
.title { font-size: 16px; font-weight: 600; fill: #24292f }
.model { font-weight: 600; fill: #24292f }
.grid { stroke: #d0d7de; stroke-width: 1 }
.one { stroke: #6e7781; stroke-width: 1.5 }
.accelc { fill: #0969da; stroke: #0969da }
.peer { fill: #9a6700; stroke: #9a6700 }
line.accelc, line.peer { stroke-width: 3; stroke-linecap: round; stroke-opacity: .45 }
text.accelc, text.peer { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #9198a1 } .title, .model { fill: #f0f6fc } .grid { stroke: #30363d } .one { stroke: #8b949e }
  .accelc { fill: #58a6ff; stroke: #58a6ff } .peer { fill: #d29922; stroke: #d29922 }
}
"""


def chart(studies: Sequence[Study]) -> str:
    """An SVG picture. accelc's are filled dots, the peers' are open diamonds: colour is not needed to tell them."""
    shown = [(study, [each for each in study.variants if each.ratio]) for study in studies]
    values = [
        value for _, variants in shown for each in variants for value in (each.ratio, each.low, each.high) if value
    ]
    low, high = max(0.05, 0.9 * min([0.9, *values])), min(100.0, 1.1 * max([1.2, *values]))
    span = math.log(high / low)

    def x(value: float) -> float:
        place = math.log(min(max(value, low), high) / low) / span
        return round(_LEFT + place * (_WIDTH - _LEFT - _RIGHT), 1)

    body: list[str] = []
    y = float(_TOP)
    for study, variants in shown:
        body.append(f'<text class="model" x="16" y="{y + 4:g}">{escape(study.model)}</text>')
        body += [part for at, each in enumerate(variants) for part in _row(each, x, y + (at + 1) * _ROW)]
        y += len(variants) * _ROW + _GAP
    bottom = y - _GAP + _ROW
    grid = []
    for tick in (tick for tick in _TICKS if low <= tick <= high):
        kind, at = "one" if tick == 1 else "grid", x(tick)
        grid.append(f'<line class="{kind}" x1="{at}" x2="{at}" y1="{_TOP - 12}" y2="{bottom:g}"/>')
        grid.append(f'<text x="{at}" y="{bottom + 18:g}" text-anchor="middle">{tick:g}x</text>')
    height = round(bottom + _FOOT)
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title"',
            f'     viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}">',
            f"<style>{_STYLE}</style>",
            '<title id="title">Times as fast as the original, by model and optimizer</title>',
            '<text class="title" x="16" y="28">Times as fast as the original (right is faster), 95 % intervals</text>',
            *grid,
            *body,
            "</svg>",
            "",
        ]
    )


def _row(each: Variant, x: Callable[[float], float], y: float) -> list[str]:
    kind = "accelc" if each.optimizer.startswith("accelc") else "peer"
    assert each.ratio is not None
    assert each.low is not None
    assert each.high is not None
    at, text = x(each.ratio), f"{each.ratio:.2f}x"
    said = f"{each.optimizer}: {text} [{each.low:.2f}, {each.high:.2f}], {each.verdict}"
    mark = (
        f'<circle class="{kind}" cx="{at}" cy="{y:g}" r="5"/>'
        if kind == "accelc"
        else f'<path class="{kind}" fill-opacity=".2" stroke-width="1.5" d="M{at} {y - 5:g}l5 5l-5 5l-5-5z"/>'
    )
    return [
        f"<g><title>{escape(said)}</title>",
        f'<text x="{_LEFT - 12}" y="{y + 4:g}" text-anchor="end">{escape(each.optimizer)}</text>',
        f'<line class="{kind}" x1="{x(each.low)}" x2="{x(each.high)}" y1="{y:g}" y2="{y:g}"/>',
        mark,
        f'<text class="{kind}" x="{_WIDTH - 16}" y="{y + 4:g}" text-anchor="end">{text} {each.verdict}</text></g>',
    ]
