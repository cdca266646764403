"""The page of `accelc bench`: what is faster and how surely, where it ran, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from accelc.benchmark import words
from accelc.benchmark.results import BenchResult, Latency, Row, Versus
from accelc.measure import TOLERANCE
from accelc.pages import costs, loads, profiles
from accelc.pages.charts import Mark, bars, ms_tick, ratios
from accelc.pages.document import Child, became, facts, figure, items, paragraphs, section, table, tag, tiles
from accelc.pages.document import page as whole_page
from accelc.units import milliseconds, seconds, size
from accelc.words import Said

_MOST_NAMED = 3


def page(result: BenchResult) -> str:
    """The page for a result."""
    said = words.verdicts(result)
    title = said[0] if len(said) == 1 else _title(result)
    most = words.MOST_VERDICTS
    lead: list[Child] = [items(said[:most]) if len(said) > 1 else None]
    if len(said) > most:
        lead.append(tag("p", f"{len(said) - most} more comparisons are below.", class_="quiet"))
    lead += [tag("p", words.machine(result.environment), class_="quiet"), _tiles(result)]
    return whole_page("accelc bench", title, lead, list(_sections(result)), _foot(result))


def name(result: BenchResult, row: Row, *, shape: bool = True) -> str:
    """The label of a row with as much of its setting as tells it from others. shape: whether that may be part of it."""
    settings = {each.setting for each in result.rows}
    if len(settings) == 1:
        return row.label
    parts = [row.label, words.where(row)]
    if shape and row.setting.shape and len({each.shape for each in settings}) > 1:
        parts.append(row.setting.shape)
    return ", ".join(parts)


def _foot(result: BenchResult) -> str:
    date = result.environment.get("date")
    return ", ".join([f"measured in {seconds(result.seconds)}", *([str(date)] if date else [])])


# --- the result in words ---------------------------------------------------------------------------------------------


def _title(result: BenchResult) -> str:
    labels = list(dict.fromkeys(row.label for row in result.rows))
    if result.rows and all(row.failure for row in result.rows):
        return f"{', '.join(labels)}: nothing could be measured"
    if not any(row.latency for row in result.rows):
        return f"Where {', '.join(labels)} would run"
    if len(labels) == 1:
        return f"Latency of {labels[0]}"
    if len(labels) <= _MOST_NAMED:
        return " against ".join(filter(None, [", ".join(labels[1:]), *labels[:1]]))
    return f"{len(labels) - 1} models against {labels[0]}"


def _tiles(result: BenchResult) -> Element | None:
    """The figures at a glance of one model, or of two side by side; None where there are more rows."""
    rows = [row for row in result.rows if row.latency is not None]
    if not rows or len(rows) > 2 or len(rows) < len(result.rows):
        return None
    first, last = rows[0], rows[-1]
    found = [
        ("median latency", _both(first, last, _median, milliseconds), _ratio(last)),
        ("throughput", _both(first, last, _throughput, lambda value: f"{words.rate(value)} /s"), "items"),
        ("file size", _both(first, last, lambda row: row.bytes, size), f"{last.nodes:,} nodes"),
    ]
    if all(row.peak_bytes is not None for row in rows):
        found.append(
            ("peak memory", _both(first, last, lambda row: row.peak_bytes or 0, size), "beyond an empty process")
        )
    if last is not first and last.error is not None:
        found.append(("largest error", words.error(last.error), f"against {result.rows[last.error.against].label}"))
    return tiles(found)


def _ratio(row: Row) -> str:
    """How a row compares with the first, or its own interval where there is nothing to compare."""
    found = words.versus(row)
    if found is not None:
        return f"{found.ratio:.2f} times as fast {words.bounds(found.low, found.high)}"
    return "" if row.latency is None else words.interval(row.latency.p50_ms)


def _both(first: Row, last: Row, of: Callable[[Row], float], show: Callable[[float], str]) -> str:
    return show(of(first)) if first is last else became(show(of(first)), show(of(last)))


def _median(row: Row) -> float:
    return row.latency.p50_ms.value if row.latency is not None else math.nan


def _throughput(row: Row) -> float:
    return row.latency.throughput.value if row.latency is not None else math.nan


# --- sections --------------------------------------------------------------------------------------------------------


def _sections(result: BenchResult) -> Iterator[Element]:
    parts: list[tuple[str, str, list[Child]]] = [
        ("failures", "What failed", list(_failures(result))),
        ("conditions", "Conditions", list(_conditions(result))),
        ("latency", "Latency", list(_latencies(result))),
        ("load", "Under load", list(loads.parts(result, name))),
        ("rows", "All figures", list(_table(result))),
        ("providers", "Where the nodes ran", list(_placed(result))),
        ("costs", "Size, memory and error", list(costs.parts(result, name))),
        ("profile", "Where the time goes", list(profiles.parts(result, name))),
        ("environment", "Measured on", list(_environment(result))),
    ]
    for where, title, children in parts:
        if children:
            yield section(title, *children, id_=where)


def _failures(result: BenchResult) -> Iterator[Child]:
    failed = [(row, row.failure) for row in result.failures]
    without = [(row, row.profile_failure) for row in result.rows if row.profile_failure]
    for caption, found in (("Rows without figures.", failed), ("Rows without a profile.", without)):
        if found:
            lines = [[f"{row.label}, {row.setting}", why, str(row.exit_code)] for row, why in found]
            yield table(caption, ["row", "why", "exit code"], lines, numbers=(2,))


def _conditions(result: BenchResult) -> Iterator[Child]:
    if result.conditions:
        signs = {"yes": Said("holds", "bad"), "no": Said("does not hold", "good")}
        rows: list[list[Child]] = [
            [each.text, each.row, signs.get(each.holds) or Said(each.holds, "caution"), each.detail]
            for each in result.conditions
        ]
        yield table("What makes the command fail, and what became of it.", ["condition", "row", "", "why"], rows)


def _latencies(result: BenchResult) -> Iterator[Child]:
    timed = [row for row in result.rows if row.latency is not None]
    if not timed:
        return
    said = [Said(each, "caution") for each in result.noise]
    yield items([*said, *result.notes])
    for shape, rows in words.groups(result).items():
        shown = [(row, row.latency) for row in rows if row.latency is not None]
        if shown:
            yield _times(result, f"Median latency, {shape}" if shape else "Median latency", shown)
        against = [(row, each) for row in rows for each in row.versus]
        for kind in ("model", "provider"):
            compared = [(row, each) for row, each in against if each.kind == kind]
            if compared:
                others = list(dict.fromkeys(_other(result, each) for _, each in compared))
                title = f"Against {others[0] if len(others) == 1 else f'the first {kind}'}"
                yield _versus(result, f"{title}, {shape}" if shape else title, compared)


def _times(result: BenchResult, title: str, shown: Sequence[tuple[Row, Latency]]) -> Element:
    unit = max(timed.p50_ms.value for _, timed in shown)
    marks = [
        Mark(
            row.label,
            timed.p50_ms.value,
            [
                f"{words.number(timed.p50_ms.value, unit)} ms",
                tag("span", words.interval(timed.p50_ms, unit), class_="quiet"),
            ],
            timed.p50_ms.low,
            timed.p50_ms.high,
            rounds=timed.blocks_ms,
            more=words.where(row),
        )
        for row, timed in shown
    ]
    same = table(
        f"{title} in milliseconds.",
        ["", "median", "low", "high", "least", "mean", "runs", "rounds", "loads", "spread"],
        [
            [
                name(result, row),
                *(words.number(value) for value in (timed.p50_ms.value, timed.p50_ms.low, timed.p50_ms.high)),
                words.number(timed.least_ms),
                words.number(timed.mean_ms),
                *(f"{value:,}" for value in (timed.runs, timed.rounds, timed.loads)),
                f"{100 * timed.spread:.1f} %",
            ]
            for row, timed in shown
        ],
        numbers=range(1, 10),
    )
    caption = "Shorter is faster. Whiskers: 95 % interval. Thin lines below a bar: the median of each round."
    return figure(title, caption, bars(marks, ms_tick), same)


def _versus(result: BenchResult, title: str, compared: Sequence[tuple[Row, Versus]]) -> Element:
    tones = {"faster": "good", "slower": "bad"}
    marks = [
        Mark(
            row.label,
            each.ratio,
            [f"{each.ratio:.2f} {words.bounds(each.low, each.high)}", tag("span", each.verdict, class_="quiet")],
            each.low,
            each.high,
            more=words.where(row),
            tone=tones.get(each.verdict, ""),
        )
        for row, each in compared
    ]
    same = table(
        "Ratio of the times with its 95 % interval; above 1 the row is faster.",
        ["", "against", "ratio", "low", "high", "verdict"],
        [
            [
                name(result, row),
                _other(result, each),
                *(words.finite(value, ".3f") for value in (each.ratio, each.low, each.high)),
                each.verdict,
            ]
            for row, each in compared
        ],
        numbers=(2, 3, 4),
    )
    caption = (
        f"Right of the line is faster. Whiskers: 95 % interval. Shaded: no difference beyond {100 * TOLERANCE:.0f} %."
    )
    return figure(title, caption, ratios(marks, TOLERANCE), same)


def _other(result: BenchResult, found: Versus) -> str:
    other = result.rows[found.against]
    return other.label if found.kind == "model" else words.where(other)


# --- the table of everything -----------------------------------------------------------------------------------------


def _table(result: BenchResult) -> Iterator[Child]:
    hidden = words.hidden(result.rows)
    said = f"Times in milliseconds; {hidden}." if hidden else "Times in milliseconds."
    heads = [
        "model",
        "setting",
        "p50",
        "p90",
        "p99",
        "items/s",
        "load",
        "first run",
        "memory",
        "on device",
        "size",
        "error",
    ]
    rows = [[_label(row), str(row.setting), *_figures(row)] for row in result.rows]
    empty = {place for place in range(2, len(heads)) if all(line[place] in ("", "-") for line in rows)}
    kept = [place for place in range(len(heads)) if place not in empty]
    yield table(
        said,
        [heads[place] for place in kept],
        [[line[place] for place in kept] for line in rows],
        numbers=range(2, len(kept) - (heads[kept[-1]] == "error")),
    )
    yield items([f"{who}: {note}" for who, note in words.notes(result)])


def _label(row: Row) -> Child:
    return Said(row.label, "bad") if row.failure else row.label


def _figures(row: Row) -> list[Child]:
    timed = row.latency
    times: list[Child] = ["", "", "", ""]
    if timed is not None:
        times = [
            [words.number(timed.p50_ms.value), tag("span", words.interval(timed.p50_ms), class_="quiet")],
            _percentile(timed, timed.p90_ms, "p90"),
            _percentile(timed, timed.p99_ms, "p99"),
            words.rate(timed.throughput.value),
        ]
    return [
        *times,
        "" if row.load_ms is None else words.number(row.load_ms),
        "" if row.first_run_ms is None else words.number(row.first_run_ms),
        "" if row.peak_bytes is None else size(row.peak_bytes),
        "" if row.device_bytes is None else size(row.device_bytes),
        size(row.bytes) if row.bytes else "",
        words.error(row.error),
    ]


def _percentile(timed: Latency, value: float | None, which: str) -> Child:
    if value is not None:
        bounds = timed.percentiles.get(which)
        shown = words.number(value, timed.p50_ms.value)
        return [shown, tag("span", words.interval(bounds, timed.p50_ms.value), class_="quiet") if bounds else None]
    return tag("span", f"needs {timed.needed.get(which, 0):,} runs", class_="quiet needs")


# --- placement, environment -----------------------------------------------------------------------------------


def _placed(result: BenchResult) -> Iterator[Child]:
    found = [(row, row.placed) for row in result.rows if row.placed is not None]
    if not found:
        return
    providers = list(dict.fromkeys(provider for _, placed in found for provider in placed.nodes))
    yield table(
        "Nodes by the provider that runs them, as the runtime reports it; copies between devices in every run.",
        ["", *map(words.short, providers), "by choice", "fallen back", "copies", "CUDA graph"],
        [
            [
                name(result, row),
                *(f"{placed.nodes.get(provider, 0):,}" for provider in providers),
                f"{placed.by_choice:,}",
                Said(f"{len(placed.fallen):,}", "caution") if placed.fallen else "0",
                Said(f"{placed.copies:,}", "caution") if placed.copies else "-" if placed.copies is None else "0",
                placed.graph or "-",
            ]
            for row, placed in found
        ],
        numbers=range(1, 4 + len(providers)),
    )
    fallen = [(name(result, row), each) for row, placed in found for each in placed.fallen]
    if fallen:
        yield table(
            "Nodes that another provider runs than the one asked for.",
            ["node", "operator", "of", "runs on", "why"],
            [[x.node, x.operator, row, words.short(x.provider), x.reason] for row, x in fallen],
        )


def _environment(result: BenchResult) -> Iterator[Child]:
    rows: list[tuple[str, Child]] = [(key, _shown(key, value)) for key, value in result.environment.items()]
    yield facts(rows)
    chosen = {key: value for key, value in result.options.items() if value not in (None, "", [], (), {}, False)}
    if chosen:
        lines = [(key.replace("_", " "), _shown(key, value)) for key, value in chosen.items()]
        yield tag("details", tag("summary", "Options of the run"), facts(lines))
    how = words.how(result)
    if how:
        yield from paragraphs([f"{how[0].upper()}{how[1:]}."], class_="quiet")


def _shown(key: str, value: Any) -> str:
    """Any fact as text: mappings as pairs, lists with commas."""
    if key == "memory" and isinstance(value, int | float):
        return size(value)
    if isinstance(value, Mapping):
        return "; ".join(f"{inner} {_shown(str(inner), each)}" for inner, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown("", each) for each in value)
    return str(value)
