"""Profiles on a terminal: where the time goes, how far from the machine's limit, and what changed between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from accelc.benchmark import words
from accelc.benchmark.profile import Change, Peaks, Profile, Share
from accelc.benchmark.results import Row
from accelc.cli.render import QUIET, facts, narrow, text

_SHOWN = 8


def profile(console: Console, row: Row, found: Profile, *, verbose: bool = False) -> None:
    """Print where the time of one row goes: by operator, layer, and what made the nodes."""
    console.print(text(f"profile of {row.label} on {row.setting}", "bold"), soft_wrap=True)
    console.print()
    groups = [("operator", found.by_operator), ("layer", found.by_layer), ("made by", found.by_origin)]
    for name, shares in groups:
        if name == "operator" or len(shares) > 1 or verbose:
            _shares(console, name, shares, verbose)
    near = "" if found.total.of_limit is None else f", {_of_limit(found.total)} of the machine's limit"
    lines = [
        ("nodes", text(f"{words.number(found.nodes_ms)} ms in {len(found.nodes):,} nodes{near}")),
        _profiled(found),
        *([("peaks", text(_peaks(found.peaks), QUIET))] if found.peaks is not None else []),
        *([("trace", text(found.trace))] if found.trace else []),
        *(("note", text(each)) for each in found.notes),
    ]
    console.print(facts(lines))
    console.print()


def _profiled(found: Profile) -> tuple[str, Text]:
    """What times are of."""
    wall = words.number(found.wall_ms)
    if found.latency_ms is None:
        return "between", text(f"{words.number(found.overhead_ms)} ms of a run of {wall} ms, profiling included")
    return "profiled", text(f"runs of {wall} ms; times are corrected to add up to the latency without it", QUIET)


def _shares(console: Console, name: str, shares: Sequence[Share], verbose: bool) -> None:
    work = ["GFLOP", "MB"] if verbose else []
    made = narrow(console, name, "nodes", "ms", "share", *work, "of limit", numbers=range(1, 7))
    shown = shares if verbose else shares[:_SHOWN]
    most = max((each.ms for each in shares), default=0.0)
    for each in shown:
        counts = [_count(each.flops, 1e9), _count(each.bytes, 1e6)] if verbose else []
        part = f"{100 * each.share:.1f} %"
        made.add_row(
            text(each.key or "-"), f"{each.count:,}", words.number(each.ms, most), part, *counts, _of_limit(each)
        )
    if len(shares) > len(shown):
        rest = shares[len(shown) :]
        made.add_row(
            Text(f"{len(rest)} more", style=QUIET),
            f"{sum(each.count for each in rest):,}",
            words.number(sum(each.ms for each in rest), most),
            f"{100 * sum(each.share for each in rest):.1f} %",
        )
    console.print(made)
    console.print()


def changes(console: Console, found: Sequence[Change], *, verbose: bool = False) -> None:
    """Print two models side by side, a table for each pair and setting: the parts that gained or lost most first."""
    pairs: dict[tuple[str, str, str], list[Change]] = {}
    for each in found:
        pairs.setdefault((each.first, each.second, each.setting), []).append(each)
    for (first, second, setting), members in pairs.items():
        console.print(text(f"{first} and {second} side by side on {setting}", "bold"), soft_wrap=True)
        console.print()
        made = narrow(console, "part", "ms before", "after", "saved", numbers=(1, 2, 3))
        ordered = sorted(members, key=lambda each: -abs(each.gain_ms))
        most = max(max(each.before_ms, each.after_ms) for each in members)
        for each in ordered if verbose else ordered[:_SHOWN]:
            saved = Text(f"{each.gain_ms:+.3f}", style="green" if each.gain_ms > 0 else "red")
            times = [words.number(each.before_ms, most), words.number(each.after_ms, most)]
            made.add_row(text(each.region or "-"), *times, saved)
            made.add_row(text(_what(each), QUIET))
        console.print(made)
        console.print()
        rest = ordered[_SHOWN:]
        if rest and not verbose:
            saved_ms = sum(each.gain_ms for each in rest)
            console.print(text(f"{len(rest)} more parts save {saved_ms:+.3f} ms together; -v shows them", QUIET))
            console.print()


def _what(each: Change) -> str:
    """The operators, and what made those that are new."""
    by = f"; made by {', '.join(each.why)}" if each.why else ""
    return f"  {_operators(each)}{by}"


def _operators(each: Change) -> str:
    return _counts(each.before) if each.before == each.after else f"{_counts(each.before)} -> {_counts(each.after)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items()) or "nothing"


def _count(value: float, unit: float) -> str:
    return "-" if not value else f"{value / unit:,.3g}"


def _of_limit(each: Share) -> str:
    return "-" if each.of_limit is None else f"{100 * each.of_limit:.0f} %"


def _peaks(found: Peaks) -> str:
    """What the limits come from."""
    parts = [
        (found.float_flops, "GFLOP/s in float"),
        (found.int8_flops, "Gop/s in int8"),
        (found.bandwidth, "GB/s from memory"),
        (found.cache_bandwidth, "GB/s from the caches"),
    ]
    return ", ".join(f"{value / 1e9:,.4g} {name}" for value, name in parts if value is not None)
