"""What the passes did, on the page of `accelc optimize`: their effect, their order and their time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from accelc import words
from accelc.pages.charts import Span, Stack, stacks, timeline
from accelc.pages.document import Child, figure, table
from accelc.pass_base import PassRecord
from accelc.report import Report
from accelc.units import seconds, size

_MOST_SPANS = 36
_BRIEF = 0.02
"""Of the time: runs of passes that changed nothing are put together, and left out where they took less."""


def parts(found: Report, level: int) -> Iterator[Child]:
    """The effect of each pass, the runs in order, and the time of the whole job. level: of the headings."""
    work = {name: each for name, each in words.by_pass(found).items() if each.changes}
    if work:
        yield table(
            "Passes that changed something, in the order of their first runs.",
            ["pass", "changes", "nodes", "weights", "time", "by rule"],
            [
                [
                    name,
                    f"{each.changes:,}",
                    f"{each.nodes:+,}" if each.nodes else "-",
                    f"{'-' if each.bytes < 0 else '+'}{size(abs(each.bytes))}" if each.bytes else "-",
                    seconds(each.seconds),
                    ", ".join(f"{rule} {fired}" for rule, fired in each.rules.most_common()),
                ]
                for name, each in work.items()
            ],
            numbers=(1, 2, 3, 4),
        )
    if found.passes:
        yield _timeline(found, level)
    if found.seconds:
        yield _phases(found, level)


def _timeline(found: Report, level: int) -> Element:
    total = sum(record.seconds for record in found.passes) or 1.0
    spans: list[Span] = []
    start, quiet, quiet_seconds, nodes = 0.0, 0, 0.0, found.before.nodes

    def close() -> None:
        nonlocal quiet, quiet_seconds
        if quiet_seconds > _BRIEF * total:
            name = f"{quiet} run{'s' if quiet > 1 else ''} without a change"
            spans.append(Span(name, start - quiet_seconds, quiet_seconds, seconds(quiet_seconds)))
        quiet, quiet_seconds = 0, 0.0

    drawn = _first(found.passes, total)
    for record in drawn:
        if record.changes or record.seconds > _BRIEF * total:
            close()
            spans.append(Span(record.text, start, record.seconds, seconds(record.seconds), _done(record, nodes)))
            nodes = record.nodes if record.changes else nodes
        else:
            quiet, quiet_seconds = quiet + 1, quiet_seconds + record.seconds
        start += record.seconds
    close()
    same = table(
        "Every run of a pass, in order.",
        ["pass", "changes", "nodes after it", "time"],
        [
            [
                record.text,
                f"{record.changes:,}" if record.changes else record.skipped or "-",
                f"{record.nodes:,}" if record.changes else "",
                f"{1000 * record.seconds:,.1f} ms",
            ]
            for record in found.passes
        ],
        numbers=(2, 3),
    )
    more = f" The first {len(drawn)} of {len(found.passes)} are drawn." if len(drawn) < len(found.passes) else ""
    caption = f"The runs of the passes one after the other, {seconds(total)} in all.{more}"
    return figure("Timeline", caption, timeline(spans, seconds), same, level=level)


def _first(records: Sequence[PassRecord], total: float) -> Sequence[PassRecord]:
    """The records up to the last that there is room for."""
    rows = 0
    for index, record in enumerate(records):
        rows += bool(record.changes or record.seconds > _BRIEF * total)
        if rows > _MOST_SPANS:
            return records[:index]
    return records


def _done(record: PassRecord, nodes: int) -> str:
    if not record.changes:
        return record.skipped
    difference = f", {record.nodes - nodes:+,} nodes" if record.nodes != nodes else ""
    return f"{record.changes:,} change{'s' if record.changes > 1 else ''}{difference}"


def _phases(found: Report, level: int) -> Element:
    spent = {name: value for name, value in found.seconds.items() if value > 0}
    total = sum(spent.values())
    same = table(
        "Wall time by phase.",
        ["phase", "time", "share"],
        [[name, seconds(value), f"{100 * value / total:.1f} %"] for name, value in spent.items()],
        numbers=(1, 2),
    )
    drawing = stacks([Stack("wall time", spent, seconds(total))], seconds)
    return figure("Where the time of the compiler went", None, drawing, same, level=level)
