"""Profiles on the page of `accelc bench`: where the time goes, what got faster and why, how far from the limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from accelc.benchmark.profiled import Change, NodeTime, Peaks, Profile, Share
from accelc.benchmark.results import BenchResult, Row
from accelc.pages.charts import Pair, Stack, ms_tick, pairs, stacks
from accelc.pages.document import Child, figure, items, section, table, tag
from accelc.pages.plots import Axis, Line, Point, legend, plot
from accelc.pages.scales import decades
from accelc.units import milliseconds, size
from accelc.words import listed

Naming = Callable[[BenchResult, Row], str]
Profiled = tuple[str, Profile]

BETWEEN = "between the nodes"
_MOST_CHANGES = 14
_MOST_LAYERS = 40
_MOST_OPERATORS = 5
_SMALL = 0.005
"""Of the time of the slowest operator: below it an operator is only in the table."""
_KINDS = ("s1", "s2", "s3", "")
_LARGEST, _SMALLEST = 26.0, 8.0
_LARGE = 0.4
"""Of the time of the slowest operator: above it the name of an operator is always shown."""


def parts(result: BenchResult, name: Naming) -> Iterator[Child]:
    """Everything that profiles tell, a part for each setting where there are several."""
    groups: dict[str, list[Profiled]] = {}
    several = len({row.setting for row in result.rows if row.profile is not None}) > 1
    for row in result.rows:
        if row.profile is not None:
            groups.setdefault(str(row.setting), []).append((row.label, row.profile))
    for index, (setting, found) in enumerate(groups.items(), 1):
        changes = [each for each in result.changes if each.setting == setting]
        inner = list(_setting(found, changes, 4 if several else 3))
        if several:
            yield section(setting, *inner, id_=f"profile{index}", level=3)
        else:
            yield inner


def _setting(found: Sequence[Profiled], changes: Sequence[Change], level: int) -> Iterator[Child]:
    notes = [f"{label}: {note}" for label, profile in found for note in profile.notes]
    if notes:
        yield items(notes)
    shown = "The runtime's own profile, of runs apart from those that were timed."
    if any(profile.latency_ms is not None for _, profile in found):
        shown += " Times are corrected to add up to the latency without a profile."
    yield _stacked("By operator", shown, found, lambda profile: profile.by_operator, level)
    made = "Which pass or rule of accelc, or the runtime, made the nodes; the others are as in the original file."
    if any(len(profile.by_origin) > 1 for _, profile in found):
        yield _stacked("By what made the nodes", made, found, lambda profile: profile.by_origin, level)
    pairs_of = list(dict.fromkeys((each.first, each.second) for each in changes))
    for first, second in pairs_of:
        yield _changes([each for each in changes if (each.first, each.second) == (first, second)], level)
    yield from _rooflines(found, level)
    yield from (_layers(label, profile) for label, profile in found if profile.nodes)


# --- bars of parts ---------------------------------------------------------------------------------------------------


def _stacked(
    title: str, caption: str, found: Sequence[Profiled], of: Callable[[Profile], Sequence[Share]], level: int
) -> Element:
    rows = []
    for label, profile in found:
        shares = {each.key or "no name": each.ms for each in of(profile)}
        if profile.overhead_ms > 0:
            shares[BETWEEN] = profile.overhead_ms
        whole = profile.nodes_ms + profile.overhead_ms
        rows.append(Stack(label, shares, milliseconds(whole), more=f"{len(profile.nodes):,} nodes"))
    keys = list(dict.fromkeys(key for row in rows for key in row.parts))
    keys.sort(key=lambda key: -max(row.parts.get(key, 0.0) for row in rows))
    counts = [{each.key or "no name": each.count for each in of(profile)} for _, profile in found]
    same = table(
        f"{title}: milliseconds of one run, and how many nodes.",
        ["", *(label for label, _ in found)],
        [
            [key, *(_cell(row.parts.get(key), count.get(key)) for row, count in zip(rows, counts, strict=True))]
            for key in keys
        ],
        numbers=range(1, 1 + len(rows)),
    )
    return figure(title, caption, stacks(rows, milliseconds, ms_tick, BETWEEN), same, level=level)


def _cell(ms: float | None, count: int | None) -> Child:
    if ms is None:
        return "-"
    return [f"{ms:.3f}", tag("span", f"{count:,} nodes", class_="quiet") if count else None]


# --- two models side by side -----------------------------------------------------------------------------------------


def _changes(found: Sequence[Change], level: int) -> Element:
    order = sorted(found, key=lambda each: (-abs(each.gain_ms), each.region))
    first, second = order[0].first, order[0].second
    drawn = [
        Pair(
            each.region or "no name",
            each.before_ms,
            each.after_ms,
            [
                f"{each.before_ms:.3f} → {each.after_ms:.3f} ms",
                tag("span", ", ".join(each.why[:2]), class_="quiet") if each.why else None,
            ],
            _operators(each),
        )
        for each in order[:_MOST_CHANGES]
    ]
    same = table(
        f"Parts of {first} and of {second} in milliseconds of one run.",
        ["part", first, second, "saved", "operators", "why"],
        [
            [
                each.region or "no name",
                f"{each.before_ms:.3f}",
                f"{each.after_ms:.3f}",
                f"{each.gain_ms:+.3f}",
                _operators(each),
                ", ".join(each.why),
            ]
            for each in order
        ],
        numbers=(1, 2, 3),
    )
    more = f" The {_MOST_CHANGES} largest differences of {len(order)} are drawn." if len(order) > _MOST_CHANGES else ""
    caption = f"{first} and {second} side by side, with the passes and rules behind the difference.{more}"
    drawing = pairs(drawn, ms_tick, (first, second))
    return figure("What got faster and why", caption, drawing, same, level=level)


def _operators(each: Change) -> str:
    before, after = _counts(each.before), _counts(each.after)
    return before if before == after else f"{before} → {after}"


def _counts(operators: Mapping[str, int]) -> str:
    return listed([f"{count} {name}" for name, count in operators.items()], _MOST_OPERATORS) or "nothing"


# --- the roofline ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spot:
    """Nodes of one operator in one model: operations, bytes and milliseconds of one run."""

    label: str
    operator: str
    count: int
    flops: int
    bytes: int
    ms: float

    @property
    def intensity(self) -> float:
        return self.flops / self.bytes

    @property
    def speed(self) -> float:
        """Billions of operations per second."""
        return self.flops / self.ms / 1e6


def _spots(label: str, nodes: Sequence[NodeTime]) -> list[_Spot]:
    groups: dict[str, list[NodeTime]] = {}
    for node in nodes:
        if node.flops and node.bytes and node.ms > 0:
            groups.setdefault(node.operator, []).append(node)
    return [
        _Spot(
            label,
            operator,
            len(members),
            sum(each.flops or 0 for each in members),
            sum(each.bytes or 0 for each in members),
            sum(each.ms for each in members),
        )
        for operator, members in groups.items()
    ]


def _rooflines(found: Sequence[Profiled], level: int) -> Iterator[Element]:
    spots = [spot for label, profile in found for spot in _spots(label, profile.nodes)]
    peaks = next((profile.peaks for _, profile in found if profile.peaks is not None), None)
    if not spots:
        return
    spots.sort(key=lambda each: -each.ms)
    labels = [label for label, _ in found]
    kinds = {label: _KINDS[min(index, len(_KINDS) - 1)] for index, label in enumerate(labels)}
    ridges = _ridges(peaks)
    most = spots[0].ms
    drawn = [spot for spot in spots if spot.ms >= _SMALL * most]
    x = decades([*(spot.intensity for spot in drawn), *(4 * each for each in ridges), *(each / 4 for each in ridges)])
    tops = [] if peaks is None else [top / 1e9 for top in (peaks.float_flops, peaks.int8_flops) if top]
    y = decades([*(spot.speed for spot in drawn), *(1.5 * top for top in tops)])
    first = {spot.operator: spot for spot in reversed(drawn)}
    points = [
        Point(
            spot.intensity,
            spot.speed,
            spot.operator if first[spot.operator] is spot else "",
            f"{spot.operator} of {spot.label}: {milliseconds(spot.ms)}, {spot.speed:.3g} GFLOP/s",
            kinds[spot.label],
            size=max(_SMALLEST, _LARGEST * (spot.ms / most) ** 0.5),
            always=spot.ms >= _LARGE * most,
        )
        for spot in drawn
    ]
    roof = list(_roof(peaks, x.low, x.high, y.low))
    drawing = plot(
        Axis(x, "operations for each byte moved (FLOP/byte)", _power),
        Axis(y, "GFLOP/s", _power),
        points,
        [line for _, line in roof],
    )
    limits = {label: profile.total.of_limit for label, profile in found}
    said = [f"{label} reaches {100 * share:.0f} % of the roof" for label, share in limits.items() if share]
    same = table(
        "Operators with known operations and bytes.",
        ["operator", "model", "nodes", "time", "GFLOP/s", "FLOP/byte"],
        [
            [
                spot.operator,
                spot.label,
                f"{spot.count:,}",
                milliseconds(spot.ms),
                f"{spot.speed:.3g}",
                f"{spot.intensity:.3g}",
            ]
            for spot in spots
        ],
        numbers=(2, 3, 4, 5),
    )
    caption = (
        "Each mark is an operator, as large as its time. The roof is what the machine was measured to reach: left of "
        "its edge memory is the limit, right of it arithmetic. " + _absent(len(spots) - len(drawn)) + _ended(said)
    )
    keys = [(kinds[label], label) for label in labels]
    keys += [(f"line {line.kind}", text) for text, line in roof]
    yield figure("How far from the limit", caption, tag("div", legend(keys), drawing), same, level=level)


def _absent(count: int) -> str:
    return f"Only in the table, for they take next to no time: {count}. " if count else ""


def _ended(said: Sequence[str]) -> str:
    return f"{'; '.join(said)}." if said else ""


def _ridges(peaks: Peaks | None) -> list[float]:
    """Where memory stops being the limit, in operations per byte."""
    if peaks is None or not peaks.bandwidth:
        return []
    return [top / peaks.bandwidth for top in (peaks.float_flops,) if top]


def _roof(peaks: Peaks | None, left: float, right: float, bottom: float) -> Iterator[tuple[str, Line]]:
    """What limits speed, in words, with its line: GFLOP/s over operations per byte."""
    if peaks is None:
        return
    tops = [(peaks.float_flops, "memory", "float"), (peaks.int8_flops, "int8", "int8")]
    widths = [(peaks.bandwidth, "memory", "memory"), (peaks.cache_bandwidth, "cached", "caches")]
    top = (peaks.float_flops or peaks.int8_flops or 0.0) / 1e9
    edge = left
    for width, kind, name in widths:
        if width and top:
            start, ridge = max(left, bottom * 1e9 / width), min(top * 1e9 / width, right)
            edge = ridge if kind == "memory" else edge
            if start < ridge:
                ends = [(start, start * width / 1e9), (ridge, ridge * width / 1e9)]
                yield f"{name}: {size(width)} a second", Line(ends, kind)
    for flops, kind, name in tops:
        if flops:
            begin = edge if kind == "memory" else left
            yield f"{name}: {flops / 1e9:,.0f} GFLOP/s", Line([(begin, flops / 1e9), (right, flops / 1e9)], kind)


def _power(tick: float) -> str:
    return f"{tick:,.0f}" if 1 <= tick < 1e5 else f"{tick:g}"


# --- layers ----------------------------------------------------------------------------------------------------------


def _layers(label: str, profile: Profile) -> Element:
    shares = profile.by_layer[:_MOST_LAYERS]
    more = f" The slowest {_MOST_LAYERS} of {len(profile.by_layer)}." if len(profile.by_layer) > _MOST_LAYERS else ""
    rows = [[each.key or "no name", *_layer(each)] for each in [*shares, profile.total]]
    heads = ["layer", "time", "share", "nodes", "operations", "bytes", "of the limit"]
    made = table(f"Layers of {label}, the slowest first.{more}", heads, rows, numbers=range(1, 7), marked=[len(shares)])
    return tag("details", tag("summary", f"Layers of {label}"), made)


def _layer(each: Share) -> list[Child]:
    return [
        f"{each.ms:.3f} ms",
        f"{100 * each.share:.1f} %",
        f"{each.count:,}",
        f"{each.flops / 1e6:,.1f} M" if each.flops else "",
        size(each.bytes) if each.bytes else "",
        "" if each.of_limit is None else f"{100 * each.of_limit:.0f} %",
    ]
