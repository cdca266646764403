"""`accelc decisions`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from accelc.cli.common import console, debug_option, emit_json, json_option
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.decision_store import Decision, Listed

T = TypeVar("T")


@click.group(
    invoke_without_command=True,
    short_help="Show or forget what was measured on this machine.",
    epilog="""\b
Examples:
  accelc decisions list            what was measured, and with what result
  accelc decisions list --json     the same for scripts
  accelc decisions clear winograd  forget what one rule measured
  accelc decisions clear           forget everything
  accelc decisions where           the folder where decisions are kept
""",
)
@debug_option
@click.pass_context
def decisions(ctx: click.Context) -> None:
    """Show or forget the decisions between equal graphs that were measured on this machine. Alone it lists them."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@decisions.command(
    "list",
    short_help="List the decisions that are kept.",
    epilog="""\b
Examples:
  accelc decisions list
  accelc decisions list --json
""",
)
@json_option
@debug_option
def show(as_json: bool = False) -> None:
    """List the decisions that are kept: rule, case, choice, speed with its 95 % interval, and when it was measured."""
    from accelc.decision_store import SCHEMA, listing

    folder = _folder()
    found = _tried(folder, lambda: listing(folder))
    if as_json:
        environments = [
            {
                "file": each.path,
                "environment": each.environment,
                "problem": each.problem,
                "decisions": [_facts(one) for one in each.decisions],
            }
            for each in found
        ]
        emit_json(SCHEMA, {"folder": folder, "environments": environments})
        return
    _print(folder, found)


@decisions.command(
    short_help="Forget all decisions, or those of a rule.",
    epilog="""\b
Examples:
  accelc decisions clear
  accelc decisions clear winograd
""",
)
@click.argument("rule", required=False)
@debug_option
def clear(rule: str | None) -> None:
    """Forget all decisions, or those of RULE; they are measured again when they are needed."""
    from accelc import decision_store

    folder = _folder()
    if rule is not None:
        found = _tried(folder, lambda: decision_store.listing(folder))
        rule = _known(rule, {one.rule for each in found for one in each.decisions})
    count = _tried(folder, lambda: decision_store.clear(folder, rule))
    of = f" of {rule}" if rule is not None else ""
    click.echo(f"{count} decision{'' if count == 1 else 's'}{of} forgotten")


@decisions.command(
    short_help="Print the folder where decisions are kept.",
    epilog="""\b
Examples:
  accelc decisions where
  ACCELC_CACHE=/tmp/cache accelc decisions where
""",
)
@debug_option
def where() -> None:
    """Print the folder where decisions are kept; the environment variable ACCELC_CACHE names another one."""
    click.echo(str(_folder()))


def _folder() -> Path:
    from accelc.decision_store import folder

    found = folder()
    if found is None:
        raise UsageError("decisions are not kept: this user has no home folder", hint="set ACCELC_CACHE to a folder")
    return found


def _tried(folder: Path, work: Callable[[], T]) -> T:
    try:
        return work()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError("the decisions cannot be used", where=str(folder), why=why) from error


def _known(rule: str, rules: set[str]) -> str:
    """The name of a rule as it is written. Raises UsageError where it has no decision."""
    from accelc.context import fold

    for each in rules:
        if fold(each) == fold(rule):
            return each
    close = difflib.get_close_matches(rule, sorted(rules), 1)
    hint = f"did you mean {close[0]}?" if close else "see accelc decisions list"
    raise UsageError(f"no decision of a rule {rule!r} is kept", hint=hint)


def _facts(decision: Decision) -> dict[str, Any]:
    return {name: getattr(decision, name) for name in ("rule", "case", *_COLUMNS)}


_COLUMNS = ("choice", "alternative", "ratio", "low", "high", "rounds", "date", "names", "out")


def _print(folder: Path, found: list[Listed]) -> None:
    from accelc.cli import render

    out = console()
    count = sum(len(each.decisions) for each in found)
    for each in found:
        if each.problem:
            out.print(render.text(f"{each.path}: {each.problem}; accelc decisions clear removes it", "yellow"))
            out.print()
        elif each.decisions:
            facts = each.environment
            head = ", ".join(f"{facts.get(name)}" for name in ("backend", "processor", "runtime"))
            head += f", threads {facts.get('threads')}"
            out.print(render.text(head, "bold"), soft_wrap=True)
            made = render.table(out, "rule", "case", "choice", "speed", "when")
            for one in each.decisions:
                day = render.text(one.date.partition("T")[0], "dim")
                made.add_row(render.text(one.rule), render.text(one.case), render.text(one.choice), _speed(one), day)
            out.print(made)
            out.print()
    out.print(render.text(f"{count or 'no'} decision{'' if count == 1 else 's'} in {folder}", "dim"), soft_wrap=True)


def _speed(decision: Decision) -> Any:
    """The ratio with its interval, and whose it is where that is not what was chosen."""
    from accelc.cli import render

    if decision.ratio is None:
        return render.text("no alternative can be used", "dim")
    known = decision.low is not None and decision.high is not None
    shown = f"{decision.ratio:.2f}" + (f" [{decision.low:.2f}, {decision.high:.2f}]" if known else "")
    if decision.choice == decision.alternative:
        return render.text(shown, "green")
    return render.text(f"{decision.alternative} {shown}", "dim")
