"""Results in words: what tables on a terminal, in Markdown and on pages say alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelc.benchmark.results import BenchResult, Error, Figure, Latency, Placed, Row, Versus

if TYPE_CHECKING:
    from accelc.benchmark.baseline import Condition

_PROVIDER = "ExecutionProvider"


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


def interval(figure: Figure) -> str:
    """[1.990, 2.010]"""
    return f"[{number(figure.low, figure.value)}, {number(figure.high, figure.value)}]"


def rate(value: float) -> str:
    """Items per second, with three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def versus(row: Row, kind: str = "model") -> Versus | None:
    """The comparison of one kind, if there is one."""
    return next((each for each in row.versus if each.kind == kind), None)


def ratio(found: Versus) -> str:
    """1.60 x [1.58, 1.62]; near 1 and below with a digit more."""
    decimals = 3 if found.ratio < 1.1 else 2
    low, value, high = (f"{each:.{decimals}f}" for each in (found.low, found.ratio, found.high))
    return f"{value} x [{low}, {high}]"


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
        *([f"{copies:,} cop{'ies' if copies > 1 else 'y'} between devices in each run"] if copies else []),
        *([f"CUDA graph {placed.graph}"] if placed.graph else []),
    ]
    lines = ["; ".join([f"nodes: {counts}", *more])]
    lines += [f"{each.node} ({each.operator}) runs on {short(each.provider)}: {each.reason}" for each in placed.fallen]
    return lines


def short(provider: str) -> str:
    """CPU for CPUExecutionProvider."""
    return provider.removesuffix(_PROVIDER) or provider


def machine(environment: Mapping[str, Any]) -> str:
    """The environment in one line."""
    parts = []
    for name in ("processor", "cores", "system", "onnxruntime", "accelc"):
        if environment.get(name):
            value = environment[name]
            parts.append(f"{value} cores" if name == "cores" else f"{name} {value}" if name[-1] in "ec" else str(value))
    return ", ".join(parts)


def condition(found: Condition) -> str:
    """p50>+5% for base on cpu: no, p50 is 2.010 ms, ..."""
    return f"{found.text}{f' for {found.row}' if found.row else ''}: {found.holds}, {found.detail}"
