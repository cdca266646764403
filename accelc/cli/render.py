"""The report on a terminal: calm tables in 80 columns, the same text without colours in a pipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from accelc import words
from accelc.cli.common import printable
from accelc.units import milliseconds, seconds
from accelc.units import size as size
from accelc.words import Said
from accelc.words import block_count as block_count

if TYPE_CHECKING:
    from accelc.decision_store import Decision
    from accelc.report import Report
    from accelc.verdict import Verdict

_PLAIN_HEAD = box.Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_GOOD, _BAD, _CAUTION, QUIET = "green", "red", "yellow", "dim"
_STYLES = {"good": _GOOD, "bad": _BAD, "caution": _CAUTION, "quiet": QUIET, "": ""}


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


def narrow(console: Console, *columns: str, numbers: Iterable[int] = (), folded: Iterable[int] = (0,)) -> Table:
    """A table with smaller gaps. folded: columns whose cells may take several lines."""
    made = table(console, *columns, numbers=numbers)
    made.padding = (0, 1, 0, 0)
    for index, column in enumerate(made.columns):
        column.no_wrap = index not in folded
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


def said(what: Said) -> Text:
    """A sentence in the colour that its tone has."""
    return text(what.text, _STYLES[what.tone])


def change(before: float, after: float) -> Text:
    """The relative change; less is good."""
    return said(words.change(before, after))


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


def _passes(console: Console, found: Report, verbose: bool) -> Table:
    made = table(console, "pass", "changes", "nodes", "time", "by rule", numbers=(1, 2, 3))
    for name, share in words.by_pass(found).items():
        if share.changes or verbose:
            nodes = Text(f"{share.nodes:+d}" if share.nodes else "-", style=_GOOD if share.nodes < 0 else QUIET)
            rules = [f"{rule} {fired}" for rule, fired in share.rules.most_common()]
            made.add_row(
                text(name),
                str(share.changes or "-"),
                nodes,
                seconds(share.seconds),
                text(words.listed(rules, 3), QUIET),
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
    names = words.listed([f"{rule} {count}" for rule, count in places.most_common()], 4)
    return [("decisions", f"by shipped defaults: {names}")]


def _blocks(found: Report) -> list[tuple[str, str | Text]]:
    """One line for the blocks that were found; below -O2 nothing fuses them."""
    if not found.blocks or found.level in (0, 1):
        return []
    unfused = [kind for kind, have in found.blocks.items() if have.unfused]
    line = ", ".join(block_count(kind, have) for kind, have in found.blocks.items())
    hint = f"; see --why {unfused[0]}" if unfused else ""
    return [("fused", Text(line + hint, style="" if unfused else _GOOD))]


def _every_pass(console: Console, found: Report) -> Table:
    made = table(console, "pass", "changes", "time", numbers=(1, 2))
    for name, share in words.by_pass(found).items():
        made.add_row(text(name), "-", seconds(share.seconds))
    return made


def _checks(found: Report) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = []
    if not found.patches:
        rows.append(("result", words.nothing_done(found)))
    if found.verdict is not None:
        rows.extend(("numbers", line) for line in numbers(found.verdict))
        rows.extend((name, said(line)) for name, line in words.judged(found.verdict))
    if found.unrun:
        rows.append(("numbers", said(words.unrun(found))))
    if found.placement is not None:
        rows += [("placement", said(line)) for line in words.placement(found.placement, _STRAYS_SHOWN)]
    if found.latency is not None:
        rows += [("latency", said(line)) for line in words.latency(found.latency)]
    if found.latency_note and (found.patches or found.latency is not None):
        rows.append(("latency", found.latency_note.removeprefix("latency was ")))
    return rows


_STRAYS_SHOWN = 8


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


def numbers(verdict: Verdict, *, of: str = "the original") -> list[Text]:
    """What the comparison of numbers found, one line each. of: whose numbers are the reference."""
    return [said(line) for line in words.numbers(verdict, of=of)]


def _remarks(found: Report) -> list[tuple[str, str | Text]]:
    rows: list[tuple[str, str | Text]] = [("repaired", each) for each in found.repairs]
    for refusal in found.refused:
        rows.append(("refused", text(f"{refusal.kind} {refusal.name} ({refusal.gate}): {refusal.reason}", _CAUTION)))
    rows += [("skipped", line) for line in words.skipped(found)]
    return rows + [("note", each) for each in found.notes]


def _time(found: Report) -> str:
    phases = sorted(found.seconds.items(), key=lambda each: -each[1])[:4]
    return f"{seconds(sum(found.seconds.values()))} ({', '.join(f'{name} {seconds(spent)}' for name, spent in phases)})"
