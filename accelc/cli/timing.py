"""--time-passes and --rule-stats: where the time of a compile went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from accelc.cli import render
from accelc.cli.common import printable

if TYPE_CHECKING:
    from accelc.instrument import Span
    from accelc.report import Report


def times(console: Console, root: Span, phases: Mapping[str, float]) -> None:
    """--time-passes: the phases, and inside them the passes as the pipeline nests them."""
    tree = Tree(Text("time", style="bold"), guide_style=render.QUIET)
    for name, spent in phases.items():
        branch = tree.add(_timed(name, spent))
        if name == "passes":
            _add_spans(branch, root)
    console.print(tree)
    console.print()


def _timed(name: str, spent: float, runs: int = 1) -> Text:
    shown = Text.assemble(printable(name), "  ", (f"{1000 * spent:,.1f} ms", "bold"))
    return shown.append(f"  {runs} runs", style=render.QUIET) if runs > 1 else shown


def _add_spans(branch: Tree, span: Span) -> None:
    for child in sorted(span.children.values(), key=lambda each: -each.seconds):
        _add_spans(branch.add(_timed(child.name, child.seconds, child.runs)), child)


def rule_stats(console: Console, found: Report) -> None:
    """--rule-stats: every rule that was tried, those that fired first."""
    tried: Counter[tuple[str, str]] = Counter()
    fired: Counter[tuple[str, str]] = Counter()
    spent: Counter[tuple[str, str]] = Counter()
    for record in found.passes:
        for each in record.rules:
            key = (each.rule, each.source)
            tried[key] += each.tried
            fired[key] += each.fired
            spent[key] += int(each.seconds * 1e9)
    made = render.table(console, "rule", "fired", "tried", "ms", "where", numbers=(1, 2, 3))
    for key in sorted(tried, key=lambda each: (-fired[each], -tried[each], each)):
        if tried[key]:
            style = "" if fired[key] else render.QUIET
            made.add_row(
                render.text(key[0], style),
                f"{fired[key]:,}",
                f"{tried[key]:,}",
                f"{spent[key] / 1e6:.1f}",
                render.text(key[1], style),
            )
    console.print(made)
    idle = sum(1 for key in tried if not tried[key])
    tries, nodes = sum(tried.values()), max(found.before.nodes, 1)
    rate = f"{tries / nodes:.2f} tries and {sum(spent.values()) / 1e3 / nodes:.1f} µs for each of the {nodes:,} nodes"
    console.print(Text(f"{tries:,} tries, {sum(fired.values()):,} fired: {rate}", style=render.QUIET))
    console.print(Text(f"{idle} more rules can match nowhere and were never tried", style=render.QUIET) if idle else "")
