"""Scenarios on the page of `accelc bench`: throughput by concurrency, latency of queries that come as they like."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from xml.etree.ElementTree import Element

from accelc.benchmark import words
from accelc.benchmark.results import BenchResult, Row
from accelc.benchmark.scenarios import Load
from accelc.pages.charts import Mark, bars
from accelc.pages.document import Child, figure, items, table, tag
from accelc.pages.plots import Axis, Line, Point, legend, plot
from accelc.pages.scales import linear, logarithmic
from accelc.units import milliseconds
from accelc.words import Said, Tone

Naming = Callable[[BenchResult, Row], str]
Loaded = tuple[str, Row, Load]

_KINDS = ("s1", "s2", "s3", "")


def parts(result: BenchResult, name: Naming) -> Iterator[Child]:
    """What rows did under load."""
    found = [(name(result, row), row, row.load) for row in result.rows if row.load is not None]
    if not found:
        return
    yield items([each for label, row, load in found for each in _said(label, row, load)])
    yield _throughput(found)
    offered = [each for each in found if any(seen.offered is not None for seen in each[2].windows)]
    if offered:
        yield _arrivals(offered)


def _said(label: str, row: Row, load: Load) -> list[Said]:
    tone: Tone = "" if load.valid is None else "good" if load.valid else "bad"
    first, *more = words.under_load(row)
    return [Said(f"{label}: {first}", tone), *(Said(f"{label}: {each}", "caution") for each in more)]


def _throughput(found: Sequence[Loaded]) -> Element:
    marks = [_rate(label, load) for label, _, load in found]
    same = table(
        "Queries per second, and milliseconds of a query.",
        [
            "",
            "scenario",
            "threads",
            "queries",
            "offered /s",
            "served /s",
            "low",
            "high",
            "p50",
            "p90",
            "p99",
            "in time",
        ],
        [[label, load.scenario, str(load.concurrency), *_figures(row, load)] for label, row, load in found],
        numbers=range(2, 12),
    )
    searched = any(load.most for _, _, load in found)
    thin = "The highest rate within the bound." if searched else "Thin lines below a bar: single windows."
    caption = f"Longer is more. Whiskers: 95 % interval. {thin}"
    return figure("Queries served per second", caption, bars(marks, lambda tick: f"{tick:,.4g}"), same)


def _rate(label: str, load: Load) -> Mark:
    """What was served; where the rate was searched, the highest that meets the bound."""
    rate = load.most or load.achieved
    return Mark(
        label,
        rate.value,
        [f"{rate.value:,.4g} /s", tag("span", words.between(rate.low, rate.high, "{:,.4g}".format), class_="quiet")],
        rate.low,
        rate.high,
        rounds=[] if load.most else [seen.achieved for seen in load.windows],
        more=f"{load.scenario}, {load.concurrency} thread{'s' if load.concurrency > 1 else ''}",
    )


def _figures(row: Row, load: Load) -> list[Child]:
    timed = row.latency
    times: list[float | None] = [None] * 3 if timed is None else [timed.p50_ms.value, timed.p90_ms, timed.p99_ms]
    return [
        f"{load.queries:,}",
        "" if load.offered is None else f"{load.offered:,.4g}",
        *(words.finite(value, ",.4g") for value in (load.achieved.value, load.achieved.low, load.achieved.high)),
        *("" if value is None else words.number(value) for value in times),
        "" if load.within is None else f"{100 * load.within.value:.4g} %",
    ]


def _arrivals(found: Sequence[Loaded]) -> Element:
    """Median latency of windows over the rate at which queries came."""
    kinds = {label: _KINDS[min(index, len(_KINDS) - 1)] for index, (label, _, _) in enumerate(found)}
    seen = [
        (label, window, window.offered)
        for label, _, load in found
        for window in load.windows
        if window.offered is not None
    ]
    bounds = sorted({load.bound_ms for _, _, load in found if load.bound_ms is not None})
    x = linear([offered for _, _, offered in seen], margin=0.08)
    y = logarithmic([*(window.p50_ms for _, window, _ in seen), *bounds], factor=1.3)
    points = [
        Point(
            offered,
            window.p50_ms,
            "overloaded" if window.overloaded else "",
            f"{label}: {offered:,.4g} queries/s, median {milliseconds(window.p50_ms)}",
            f"{kinds[label]} hollow" if window.overloaded else kinds[label],
        )
        for label, window, offered in seen
    ]
    lines = [Line([(x.low, bound), (x.high, bound)], "limit", f"bound {bound:g} ms") for bound in bounds]
    drawing = plot(
        Axis(x, "queries per second that arrived", lambda tick: f"{tick:,.4g}"),
        Axis(y, "median latency of a window (ms, logarithmic)", lambda tick: f"{tick:.3g}"),
        points,
        lines,
    )
    same = table(
        "Windows in order.",
        ["", "load", "offered /s", "served /s", "median ms", "in time", "queries", ""],
        [
            [
                label,
                str(window.load),
                f"{offered:,.4g}",
                f"{window.achieved:,.4g}",
                words.number(window.p50_ms),
                "" if window.within is None else f"{100 * window.within:.4g} %",
                f"{window.queries:,}",
                "overloaded" if window.overloaded else "",
            ]
            for label, window, offered in seen
        ],
        numbers=range(1, 7),
    )
    caption = (
        "A mark for each window; latency counts from the scheduled arrival. Hollow: queries came faster than served."
    )
    keys = [(kind, label) for label, kind in kinds.items()]
    return figure("Latency under load", caption, tag("div", legend(keys), drawing), same)
