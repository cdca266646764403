"""The report on a terminal: calm tables in 80 columns, the same text without colours in a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accelc.cli.common import printable
from accelc.measure import TOLERANCE

if TYPE_CHECKING:
    from accelc.blocks import BlockCount
    from accelc.decision_store import Decision
    from accelc.metrics import Score
    from accelc.placement import Placement
    from accelc.report import Report
    from accelc.verdict import Verdict

_PLAIN_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_GOOD, _BAD, _CAUTION, QUIET = "green", "red", "yellow", "dim"


def is_unicode(console: Console) -> bool:
    """Whether lines and other signs beyond ASCII can be written."""
    return console.encoding.lower().startswith("utf")


def table(console: Console, *columns: str, numbers: Iterable[int] = ()) -> Table:
    """An empty table with a line under its head. numbers: columns that stand at the right."""
    made = Table(
        box=box.SIMPLE_HEAD if is_unicode(console) else _PLAIN_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        border_style=QUIET,
        safe_box=False,
    )
    for index, name in enumerate(columns):
        right = index in set(numbers)
        made.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    return made


def facts(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Labels with what there is to say about them; a repeated label is printed once."""
    made = Table.grid(padding=(0, 2), pad_edge=False)
    made.add_column(style=QUIET, no_wrap=True)
    made.add_column(overflow="fold")
    last = ""
    for label, value in rows:
        made.add_row(
            "" if label == last else label,
            value if isinstance(value, Text) else Text(printable(value), overflow="fold"),
        )
        last = label
    return made


def text(value: object, style: str = "") -> Text:
    """A cell; nothing in it is taken for markup."""
    return Text(printable(str(value)), style=style, overflow="fold")


def size(number: float) -> str:
    """Bytes as people read them: 1.23 MB."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000 or (unit == "MB" and number < 1e6):
            break
        number /= 1000
    else:
        unit = "MB"
    if unit == "MB" and number >= 1000:
        number, unit = number / 1000, "GB"
    return f"{int(number):,} bytes" if unit == "bytes" else f"{number:,.2f} {unit}"


def milliseconds(number: float) -> str:
    """Three digits that count."""
    return f"{number:.0f} ms" if number >= 100 else f"{number:.1f} ms" if number >= 10 else f"{number:.3f} ms"


def seconds(number: float) -> str:
    """Seconds, or milliseconds below one."""
    return f"{number:.1f} s" if number >= 1 else f"{1000 * number:.0f} ms"


def change(before: float, after: float) -> Text:
    """The relative change; less is good."""
    if before == after:
        return Text("-", style=QUIET)
    if not before:
        return Text(f"+{after:,}", style=_BAD)
    share = 100 * (after - before) / before
    shown = f"{share:+.1f} %" if abs(share) >= 0.05 else f"{share:+.2g} %"
    return Text(shown, style=_GOOD if share < 0 else _BAD)


# --- the report ------------------------------------------------------------------------------------------------------


def report(console: Console, found: Report, *, verbose: bool = False, reproducers: Sequence[str] = ()) -> None:
    """Print the report of `accelc optimize`. reproducers: folders that were written."""
    what = f"-O{found.level}" if found.level is not None else "chosen passes"
    target, _, features = found.target.partition(" (")
    console.print()
    console.print(text(found.source, "bold"), Text(f" {what} on {target}"), soft_wrap=True, sep="")
    if verbose and features:
        console.print(text(features.rstrip(")"), QUIET))
    console.print()
    console.print(_sizes(console, found))
    console.print()
    if found.patches:
        console.print(_passes(console, found, verbose))
        console.print()
    elif verbose and found.passes:
        console.print(_every_pass(console, found))
        console.print()
    if measured := [each for each in found.decisions if each.how != "default"]:
        console.print(_decisions(console, measured, verbose))
        console.print()
    rows: list[tuple[str, str | Text]] = [
        *([("passes", found.pipeline or "none")] if found.level is None else []),
        *([("target", text(f"{target} does not work here: {found.unusable}", _CAUTION))] if found.unusable else []),
        *_blocks(found),
        *_checks(found),
        *_shipped(found),
        *_remarks(found),
        *(("reproducer", f"{each}: accelc reproduce {each}") for each in reproducers),
    ]
    if found.output:
        rows.append(("written", text(found.output, "bold")))
    rows.append(("time", _time(found)))
    console.print(facts(rows))
    console.print()


def _sizes(console: Console, found: Report) -> Table:
    made = table(console, "", "before", "after", "change", numbers=(1, 2, 3))
    before, after = found.before, found.after
    for name, old, new in (("nodes", before.nodes, after.nodes), ("parameters", before.parameters, after.parameters)):
        made.add_row(name, f"{old:,}", f"{new:,}", change(old, new))
    made.add_row("file size", size(before.bytes), size(after.bytes), change(before.bytes, after.bytes))
    if before.opset != after.opset:
        made.add_row("opset", str(before.opset), str(after.opset), Text("-", style=QUIET))
    if found.latency is not None:
        timed = found.latency
        style = {"faster": _GOOD, "slower": _BAD}.get(timed.verdict, "")
        made.add_row(
            "latency",
            milliseconds(timed.original_ms),
            milliseconds(timed.variant_ms),
            Text(f"{timed.ratio:.2f} x faster" if timed.verdict == "faster" else timed.verdict, style=style),
        )
    return made


@dataclass
class _Share:
    """What one pass did over all its runs."""

    changes: int = 0
    seconds: float = 0.0
    nodes: int = 0
    rules: Counter[str] = field(default_factory=Counter)


def _by_pass(found: Report) -> dict[str, _Share]:
    shares: dict[str, _Share] = {}
    nodes = found.before.nodes
    for record in found.passes:
        share = shares.setdefault(record.text, _Share())
        share.seconds += record.seconds
        if record.changes:
            share.changes += record.changes
            share.nodes += record.nodes - nodes
            nodes = record.nodes
        share.rules.update({each.rule: each.fired for each in record.rules if each.fired})
    return shares


def _passes(console: Console, found: Report, verbose: bool) -> Table:
    made = table(console, "pass", "changes", "nodes", "time", "by rule", numbers=(1, 2, 3))
    for name, share in _by_pass(found).items():
        if share.changes or verbose:
            nodes = Text(f"{share.nodes:+d}" if share.nodes else "-", style=_GOOD if share.nodes < 0 else QUIET)
            rules = ", ".join(f"{rule} {fired}" for rule, fired in share.rules.most_common())
            made.add_row(
                text(name), str(share.changes or "-"), nodes, seconds(share.seconds), text(_listed(rules, 3), QUIET)
            )
    return made


_MOST_DECISIONS = 8


def _decisions(console: Console, measured: Sequence[Decision], verbose: bool) -> Table:
    """What was measured, now or earlier; shipped answers are one line of the remarks."""
    made = table(console, "decision", "case", "choice", "how", "places", numbers=(4,))
    shown = measured if verbose else measured[:_MOST_DECISIONS]
    for each in shown:
        made.add_row(
            text(each.rule),
            text(each.case, QUIET),
            text(each.choice),
            text(each.evidence, _GOOD if each.choice == each.alternative else QUIET),
            str(each.places),
        )
    if len(shown) < len(measured):
        made.add_row(text(f"{len(measured) - len(shown)} more", QUIET), "", "", text("-v shows all", QUIET), "")
    return made


def _shipped(found: Report) -> list[tuple[str, str | Text]]:
    """One line for the answers that were not measured."""
    places = Counter[str]()
    for each in found.decisions:
        if each.how == "default":
            places[each.rule] += each.places
    if not places:
        return []
    names = _listed(", ".join(f"{rule} {count}" for rule, count in places.most_common()), 4)
    return [("decisions", f"by shipped defaults: {names}")]


def _blocks(found: Report) -> list[tuple[str, str | Text]]:
    """One line for the blocks that were found; below -O2 nothing fuses them."""
    if not found.blocks or found.level in (0, 1):
        return []
    unfused = [kind for kind, have in found.blocks.items() if have.unfused]
    line = ", ".join(block_count(kind, have) for kind, have in found.blocks.items())
    hint = f"; see --why {unfused[0]}" if unfused else ""
    return [("fused", Text(line + hint, style="" if unfused else _GOOD))]


def block_count(kind: str, have: BlockCount) -> str:
    """attention 5 of 6, or with what is neither fused nor in parts: norm 5 of 6 (3 by the runtime, 1 gone)."""
    apart = [f"{have.runtime} by the runtime"] if have.runtime else []
    apart += [f"{have.gone} gone"] if have.gone else []
    return f"{kind} {have.fused + have.runtime} of {have.found}" + (f" ({', '.join(apart)})" if apart else "")


def _listed(names: str, most: int) -> str:
    """The first few of a list in words, and how many more."""
    parts = names.split(", ") if names else []
    return ", ".join(parts[:most]) + (f", {len(parts) - most} more" if len(parts) > most else "")


def _every_pass(console: Console, found: Report) -> Table:
    made = table(console, "pass", "changes", "time", numbers=(1, 2))
    for name, share in _by_pass(found).items():
        made.add_row(text(name), "-", seconds(share.seconds))
    return made


def _checks(found: Report) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = []
    if not found.patches:
        rows.append(("result", _nothing_done(found)))
    if found.verdict is not None:
        rows.extend(("numbers", line) for line in numbers(found.verdict))
        accuracy = found.verdict.accuracy
        if accuracy is not None:
            drop = accuracy.before - accuracy.after
            style = _GOOD if drop <= 0 else _CAUTION
            before, after = (f"{100 * share:.2f} %" for share in (accuracy.before, accuracy.after))
            shown = f"{before} before, {after} after, on {accuracy.count:,} labels"
            rows.append(("accuracy", Text(shown, style=style)))
        if found.verdict.score is not None:
            rows.append(("metric", metric(found.verdict.score, found.verdict.limit)))
    if found.unrun:
        shown = ", ".join(f"{name} {count}" for name, count in found.unrun.items())
        rows.append(
            ("numbers", Text(f"{sum(found.unrun.values())} operators could not be run here: {shown}", _CAUTION))
        )
    if found.placement is not None:
        rows += [("placement", line) for line in placement(found.placement)]
    if found.latency is not None:
        timed = found.latency
        near = timed.low >= 1 - TOLERANCE and timed.high <= 1 + TOLERANCE
        same = f"no difference beyond {100 * TOLERANCE:.0f} %" if near else "no difference that is certain"
        words = {"faster": "faster", "slower": "slower", "same": same}
        bounds = f", 95 % interval {timed.low:.3f} to {timed.high:.3f}" if isfinite(timed.high) else ""
        shown = f"{timed.ratio:.3f} times as fast{bounds}: "
        rows.append(("latency", Text(shown + words[timed.verdict], style=_GOOD if timed.verdict == "faster" else "")))
        rows.append(("latency", Text(f"medians of {timed.rounds} interleaved rounds", style=QUIET)))
    if found.latency_note and (found.patches or found.latency is not None):
        rows.append(("latency", found.latency_note.removeprefix("latency was ")))
    return rows


_STRAYS_SHOWN = 8


def placement(found: Placement) -> list[Text]:
    """Where the nodes will run, and each one that will not run on the target."""
    lines = [Text(str(found), style=_CAUTION if found.strays or found.copied else _GOOD)]
    for stray in found.strays[:_STRAYS_SHOWN]:
        lines.append(text(f"{stray.node} ({stray.operator}): {stray.reason}"))
    more = len(found.strays) - _STRAYS_SHOWN
    return [*lines, Text(f"and {more} more", style=QUIET)] if more > 0 else lines


def summary(console: Console, reports: Sequence[Report]) -> None:
    """The results for several targets side by side."""
    made = table(console, "target", "nodes", "file size", "numbers", "latency", "written", numbers=(1, 2))
    for found in reports:
        made.add_row(
            text(found.target.partition(" (")[0]),
            f"{found.after.nodes:,}",
            size(found.after.bytes),
            text(_numbers_in_short(found)),
            text(f"{found.latency.ratio:.2f} x" if found.latency is not None else "not measured"),
            text(found.output),
        )
    console.print(made)
    console.print()


def _numbers_in_short(found: Report) -> str:
    status = found.verdict.status if found.verdict is not None else "skipped"
    shown = "not compared" if status == "skipped" else status
    return f"{shown}, {sum(found.unrun.values())} operators not run" if found.unrun else shown


def _nothing_done(found: Report) -> str:
    if found.level == 0:
        return "-O0 only reads, repairs, checks and writes"
    if found.refused:
        return "everything that was found had to be undone; the original is kept"
    name = f"-O{found.level}" if found.level is not None else "this pipeline"
    return f"{name} finds nothing to change in this model"


def numbers(verdict: Verdict, *, of: str = "the original") -> list[Text]:
    """What the comparison of numbers found, one line each. of: whose numbers are the reference."""
    if verdict.status == "skipped":
        return [Text(f"not compared: {printable(verdict.reason)}", style=_CAUTION)]
    if verdict.status == "same" and not verdict.samples:
        return [Text("nothing changed, so there is nothing to compare", style=_GOOD)]
    on = f"on {verdict.samples} set{'s' if verdict.samples != 1 else ''} of inputs"
    quality = verdict.quality
    if verdict.status == "same":
        if quality is None or quality.relative_error == 0:
            return [Text(f"equal to those of {of} {on}", style=_GOOD)]
        return [Text(f"equal to those of {of} up to rounding ({quality.relative_error:.1e}) {on}", style=_GOOD)]
    if verdict.status == "reported":
        lines = [Text(f"changed on purpose, so only reported, {on}", style=_CAUTION)]
        return [*lines, Text(str(quality))] if quality is not None else lines
    if verdict.status == "within budget":
        lines = [Text(f"inside the quality budget {on}", style=_GOOD)]
        return [*lines, Text(str(quality))] if quality is not None else lines
    lines = [Text(f"{verdict.status}: {printable(verdict.reason)}", style=_BAD)]
    return [*lines, Text(str(quality))] if verdict.status == "over budget" and quality is not None else lines


def metric(score: Score, limit: str) -> Text:
    """What the chosen metric says of the result. limit: the drop that is allowed."""
    of = f" of {score.output}" if score.output else ""
    against = f"on {score.count:,} labels" if score.against == "labels" else "against the original's outputs"
    lost = f"{100 * score.drop:.3g} %" if score.relative else f"{score.drop:.3g}"
    shown = f"{score.metric}{of} {score.before:.5g} before, {score.after:.5g} after, {against}; lost {lost} of {limit}"
    return Text(printable(shown), style=_GOOD if score.drop <= 0 else _CAUTION)


def _remarks(found: Report) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = [("repaired", each) for each in found.repairs]
    for refusal in found.refused:
        rows.append(("refused", text(f"{refusal.kind} {refusal.name} ({refusal.gate}): {refusal.reason}", _CAUTION)))
    skipped = {record.name: record.skipped for record in found.passes if record.skipped}
    refused = {refusal.name for refusal in found.refused}
    grouped: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        if name not in refused:
            grouped.setdefault(reason, []).append(name)
    rows += [("skipped", f"{', '.join(names)}: {reason}") for reason, names in grouped.items()]
    return rows + [("note", each) for each in found.notes]


def _time(found: Report) -> str:
    phases = sorted(found.seconds.items(), key=lambda each: -each[1])[:4]
    return f"{seconds(sum(found.seconds.values()))} ({', '.join(f'{name} {seconds(spent)}' for name, spent in phases)})"
