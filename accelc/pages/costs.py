"""Sizes, memory, load times and errors on the page of `accelc bench`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element

from accelc.benchmark import words
from accelc.benchmark.results import BenchResult, Row
from accelc.pages.charts import Mark, bars, dots, ms_tick, size_tick
from accelc.pages.document import Child, figure, table, tag
from accelc.pages.scales import decades
from accelc.units import milliseconds, size

Naming = Callable[[BenchResult, Row], str]

_EXACT = 1e-9
"""Where errors of zero stand on a logarithmic axis."""


def parts(result: BenchResult, name: Naming) -> Iterator[Child]:
    """What rows cost besides time, and how far they are from the first model."""
    made: list[Child] = []
    models = {row.label: row for row in result.rows if row.bytes}
    if models:
        marks = [Mark(row.label, row.bytes, size(row.bytes), more=f"{row.nodes:,} nodes") for row in models.values()]
        lines = [[row.label, f"{row.bytes:,}", f"{row.nodes:,}"] for row in models.values()]
        same = table("Files, external data included.", ["model", "bytes", "nodes"], lines, numbers=(1, 2))
        made.append(figure("File size", "External data included.", bars(marks, size_tick), same))
    held = [(row, row.peak_bytes) for row in result.rows if row.peak_bytes is not None]
    if held:
        marks = [Mark(row.label, peak, size(peak), more=str(row.setting)) for row, peak in held]
        lines = [[name(result, row), f"{peak:,}"] for row, peak in held]
        same = table("What a process of its own held resident at most.", ["", "bytes"], lines, numbers=(1,))
        caption = "What a process of its own held resident at most, less what it held before the model was loaded."
        made.append(figure("Peak memory", caption, bars(marks, size_tick), same))
    loaded = [(row, row.load_ms, row.first_run_ms) for row in result.rows if row.load_ms is not None]
    if loaded:
        marks = [
            Mark(
                row.label,
                load,
                [milliseconds(load), _first(first)],
                more=str(row.setting),
            )
            for row, load, first in loaded
            if load is not None
        ]
        lines = [
            [name(result, row), words.number(load or 0.0), "" if first is None else words.number(first)]
            for row, load, first in loaded
        ]
        same = table("Milliseconds.", ["", "load", "first run"], lines, numbers=(1, 2))
        made.append(figure("Load time", "In a process of its own, the file read before.", bars(marks, ms_tick), same))
    made += _errors(result, name)
    if made:
        yield tag("div", made, class_="side")


def _first(first: float | None) -> Element | None:
    return None if first is None else tag("span", f"first run {milliseconds(first)}", class_="quiet")


def _errors(result: BenchResult, name: Naming) -> Iterator[Element]:
    found = [(row, row.error) for row in result.rows if row.error is not None]
    shown = [(row, error, error.relative) for row, error in found if error.relative is not None]
    if not shown:
        return
    finite = [relative for _, _, relative in shown if math.isfinite(relative)]
    scale = decades([*(max(each, _EXACT) for each in finite), 1e-6, 1e-2])
    marks = [
        Mark(
            row.label,
            max(relative, _EXACT),
            words.error(error),
            more=f"{row.setting}, against {result.rows[error.against].label}",
        )
        for row, error, relative in shown
    ]
    same = table(
        "Outputs against those of the first model that ran on the same inputs.",
        ["", "largest relative error", "lowest cosine", "lowest top-1"],
        [
            [
                name(result, row),
                error.text or ("" if error.relative is None else f"{error.relative:.2e}"),
                "" if error.cosine is None else f"{error.cosine:.9g}",
                "" if error.top1 is None else f"{100 * error.top1:.2f} %",
            ]
            for row, error in found
        ],
        numbers=(1, 2, 3),
    )
    caption = "Largest difference of an output from the first model's, over its largest element; left is more exact."
    yield figure("Error", caption, dots(marks, scale, lambda tick: f"{tick:.0e}".replace("e-0", "e-")), same)
