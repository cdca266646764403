"""Results in words: what tables on a terminal, in Markdown and on pages say alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelc.benchmark.results import BenchResult, Error, Figure, Latency, Placed, Row, Versus
from accelc.units import milliseconds
from accelc.words import is_near, no_difference

if TYPE_CHECKING:
    from accelc.benchmark.baseline import Condition

MOST_VERDICTS = 12
"""As many sentences are shown before the tables speak for themselves."""
_PROVIDER = "ExecutionProvider"
_UNKNOWN = "not known"
_COARSE = 0.1


def groups(result: BenchResult) -> dict[str, list[Row]]:
    """Rows by the shape that they ran with, in order."""
    found: dict[str, list[Row]] = {}
    for row in result.rows:
        found.setdefault(row.setting.shape, []).append(row)
    return found


def where(row: Row) -> str:
    """The setting without the shape: provider, threads, memory, as cuda threads=2 (device)."""
    setting = row.setting
    parts = [setting.provider, *([f"threads={setting.threads}"] if setting.threads else [])]
    return " ".join([*parts, *(["(device)"] if setting.memory == "device" else [])])


def number(value: float, like: float | None = None) -> str:
    """Milliseconds with as many decimals as `like` (by default the value itself) needs for four digits."""
    size = abs(value if like is None else like)
    decimals = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 else 4
    return f"{value:,.{decimals}f}" if math.isfinite(value) else "?"


def interval(figure: Figure, like: float | None = None) -> str:
    """[1.990, 2.010]; like: see `number`, by default the figure."""
    size = figure.value if like is None else like
    return between(figure.low, figure.high, lambda value: number(value, size))


def bounds(low: float, high: float) -> str:
    """Of a ratio: [1.58, 1.62]."""
    return between(low, high, "{:.2f}".format)


def between(low: float, high: float, show: Callable[[float], str]) -> str:
    """An interval, which is not known where the evidence gives it no end."""
    return f"[{show(low)}, {show(high)}]" if math.isfinite(high) else f"[{_UNKNOWN}]"


def finite(value: float, form: str) -> str:
    """A number in a table; empty where it has no end."""
    return format(value, form) if math.isfinite(value) else ""


def rate(value: float) -> str:
    """Items per second, with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def versus(row: Row, kind: str = "model") -> Versus | None:
    """The comparison of one kind, if there is one."""
    return next((each for each in row.versus if each.kind == kind), None)


def ratio(found: Versus) -> str:
    """1.60 x [1.58, 1.62]; near 1 and below with a digit more."""
    decimals = 3 if found.ratio < 1.1 else 2
    return f"{found.ratio:.{decimals}f} x {between(found.low, found.high, lambda each: f'{each:.{decimals}f}')}"


def verdicts(result: BenchResult) -> list[str]:
    """A sentence for each comparison of two models, or of two providers where there is one model."""
    kinds = {each.kind for row in result.rows for each in row.versus}
    kind = "model" if "model" in kinds else "provider"
    several = len({row.setting for row in result.rows}) > 1
    return [_verdict(result, row, each, several) for row in result.rows for each in row.versus if each.kind == kind]


def _verdict(result: BenchResult, row: Row, found: Versus, several: bool) -> str:
    other = result.rows[found.against]
    if found.kind == "model":
        mine, theirs = row.label, other.label
        setting = f" ({row.setting})" if several else ""
    else:
        mine, theirs = f"{row.label} with {where(row)}", f"with {where(other)}"
        setting = f" ({row.setting.shape})" if row.setting.shape else ""
    interval = bounds(found.low, found.high)
    if found.verdict == "faster":
        return f"{mine} is {found.ratio:.2f} times as fast as {theirs} {interval}{setting}"
    if found.verdict == "slower":
        return f"{mine} is slower than {theirs}: {found.ratio:.2f} times as fast {interval}{setting}"
    # An interval from one load leaves out what differs between loads.
    near = is_near(found.low, found.high) and row.latency is not None and row.latency.loads > 1
    verb = "is" if near else "may be"
    return f"{mine} {verb} as fast as {theirs}: {no_difference(near)}, {found.ratio:.2f} times {interval}{setting}"


def error(found: Error | None) -> str:
    """The relative error, and the agreement of the largest elements where it is not complete."""
    if found is None:
        return "-"
    if found.relative is None:
        return found.text or "-"
    if found.relative == 0:
        return "equal"
    top = f", top-1 {100 * found.top1:.1f} %" if found.top1 is not None and found.top1 < 1 else ""
    return f"{found.relative:.1e}{top}"


def hidden(rows: Sequence[Row]) -> str:
    """Why percentiles are not shown: p90 needs 23,886 runs, there are 250. Empty where all are."""
    timed = [row.latency for row in rows if row.latency is not None]
    needed = {}
    for name, of in (("p90", _p90), ("p99", _p99)):
        short = [each.needed.get(name, 0) for each in timed if of(each) is None]
        if short:
            needed[name] = max(short)
    if not needed:
        return ""
    first, *others = needed.items()
    more = "".join(f", {name} {count:,}" for name, count in others)
    return f"{first[0]} needs {first[1]:,} runs{more}; there are {_span(each.runs for each in timed)}"


def _p90(timed: Latency) -> float | None:
    return timed.p90_ms


def _p99(timed: Latency) -> float | None:
    return timed.p99_ms


def how(result: BenchResult) -> str:
    """How the figures were measured, in one sentence; empty where nothing was timed."""
    timed = [row.latency for row in result.rows if row.latency is not None]
    if not timed:
        return ""
    rounds, loads, runs = (_span(getattr(each, name) for each in timed) for name in ("rounds", "loads", "runs"))
    again = "1 load" if loads == "1" else f"{loads} loads"
    what = f"{runs} runs in {rounds} interleaved rounds"
    if any(row.load is not None for row in result.rows):
        what = f"{runs} queries in {rounds} interleaved windows"
    return f"medians of {what} over {again}; in brackets 95 % intervals"


def _span(numbers: Any) -> str:
    found = list(numbers)
    low, high = min(found), max(found)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def truth(placed: Placed) -> list[str]:
    """Which provider runs how many nodes, what was copied, and each node that fell back."""
    counts = ", ".join(f"{short(name)} {count:,}" for name, count in placed.nodes.items()) or "not known"
    chosen, copies = placed.by_choice, placed.copies
    more = [
        *([f"{chosen:,} of shape arithmetic stay{'s' * (chosen == 1)} on the processor by choice"] if chosen else []),
        *([f"{copies_of(placed)} between devices in each run"] if copies else []),
        *([f"CUDA graph {placed.graph}"] if placed.graph else []),
    ]
    lines = ["; ".join([f"nodes: {counts}", *more])]
    lines += [f"{each.node} ({each.operator}) runs on {short(each.provider)}: {each.reason}" for each in placed.fallen]
    return lines


def copies_of(placed: Placed) -> str:
    """Their number in words."""
    return "1 copy" if placed.copies == 1 else f"{placed.copies:,} copies"


def is_plain(placed: Placed) -> bool:
    """Everything where it was asked for, so that a word is enough."""
    return len(placed.nodes) == 1 and not (placed.fallen or placed.copies != 0 or placed.graph or placed.by_choice)


def short(provider: str) -> str:
    """CPU for CPUExecutionProvider."""
    return provider.removesuffix(_PROVIDER) or provider


def machine(environment: Mapping[str, Any]) -> str:
    """The environment in one line."""
    forms = {
        "processor": "{}",
        "cores": "{} cores",
        "system": "{}",
        "onnxruntime": "onnxruntime {}",
        "accelc": "accelc {}",
    }
    return ", ".join(form.format(environment[name]) for name, form in forms.items() if environment.get(name))


def failures(result: BenchResult) -> list[tuple[str, str]]:
    """(row, one line why) for each failure; that of several rows stands once."""
    return _once([(row, row.failure) for row in result.failures])


def profile_failures(result: BenchResult) -> list[tuple[str, str]]:
    """The same where only the profile is missing."""
    return _once([(row, row.profile_failure) for row in result.rows if row.profile_failure])


def notes(result: BenchResult) -> list[tuple[str, str]]:
    """(row, note) for each note; that of several rows stands once."""
    return _once([(row, note) for row in result.rows for note in row.notes])


def _once(said: Sequence[tuple[Row, str]]) -> list[tuple[str, str]]:
    """What is said of several rows with the first of them: (base on cpu and 2 more, text)."""
    rows: dict[str, list[str]] = {}
    for row, text in said:
        rows.setdefault(text, []).append(f"{row.label} on {row.setting}")
    return [(first + (f" and {len(others)} more" if others else ""), text) for text, (first, *others) in rows.items()]


def under_load(row: Row) -> list[str]:
    """What a row did under load, and whether the harness is fine enough to tell."""
    if row.load is None:
        return []
    added, timed = row.load.resolution_ms, row.latency
    if timed is None or added <= _COARSE * timed.p50_ms.value:
        return [row.load.sentence]
    coarse = f"times below {milliseconds(added)} mean nothing here: the harness adds as much to a query"
    return [row.load.sentence, coarse]


def condition(found: Condition) -> str:
    """p50>+5% for base on cpu: no, p50 is 2.010 ms, ..."""
    return f"{found.text}{f' for {found.row}' if found.row else ''}: {found.holds}, {found.detail}"
