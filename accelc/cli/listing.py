"""`accelc passes` and `accelc rules`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from accelc.cli.common import console, debug_option, emit_json, json_option, plugin_option

if TYPE_CHECKING:
    from accelc.catalog import PassInfo
    from accelc.rules import Rule

PASSES_SCHEMA = "accelc.passes/1"
RULES_SCHEMA = "accelc.rules/1"


@click.command(
    short_help="List the passes, or describe one.",
    epilog="""\b
Examples:
  accelc passes
  accelc passes prune
  accelc optimize model.onnx --passes "O2, prune{sparsity=0.5}"
""",
)
@click.argument("name", required=False)
@plugin_option
@json_option
@debug_option
def passes(name: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List the passes, or describe the pass NAME with its options and rules."""
    from accelc.catalog import all_passes, one_pass

    _load(plugins)
    if name is not None:
        found = one_pass(name)
        if as_json:
            emit_json(PASSES_SCHEMA, {"passes": [_pass_facts(found)]})
        else:
            _describe(found)
        return
    every = all_passes()
    if as_json:
        emit_json(PASSES_SCHEMA, {"passes": [_pass_facts(each) for each in every]})
        return
    from accelc.cli import render

    out = console()
    made = render.table(out, "pass", "levels", "may change", "rules", "what it does", numbers=(3,))
    own = {each.origin for each in every if each.levels}
    for each in every:
        summary = each.error or each.summary
        more = "" if each.origin in own else f" ({each.origin})"
        made.add_row(
            render.text(each.name, "bold"),
            _levels(each),
            each.changes or "-",
            str(len(each.rules) or "-"),
            render.text(summary + more, "red" if each.error else ""),
        )
    out.print(made)
    out.print()
    out.print(render.text("levels: the -O levels that run it; - means only by name, with --passes", "dim"))
    out.print(
        render.text(
            "may change: bits nothing, rounding the last digits, quality inside --max-drop, function all", "dim"
        )
    )


@click.command(
    short_help="List the rules, of all passes or of one.",
    epilog="""\b
Examples:
  accelc rules
  accelc rules gelu
  accelc optimize model.onnx --why gelu_erf
""",
)
@click.argument("name", metavar="[PASS]", required=False)
@plugin_option
@json_option
@debug_option
def rules(name: str | None, plugins: tuple[str, ...], as_json: bool) -> None:
    """List the rules of all passes or of PASS: the law, whether it is exact, the opset it needs, where it stands."""
    from accelc.catalog import all_passes, one_pass

    _load(plugins)
    owners = [one_pass(name)] if name is not None else all_passes()
    if as_json:
        emit_json(RULES_SCHEMA, {"rules": [_rule_facts(each, owner) for owner in owners for each in owner.rules]})
        return
    from accelc.cli import render

    out = console()
    shown = 0
    for owner in owners:
        if not owner.rules:
            continue
        shown += len(owner.rules)
        out.print(render.text(f"{owner.name}: {owner.summary}", "bold"))
        for each in owner.rules:
            notes = [] if each.exact else ["rounding"]
            notes += [f"opset {each.opset}"] if each.opset else []
            out.print(render.text(f"  {each.name}"), render.text(f"  {each.source}  {', '.join(notes)}", "dim"), sep="")
            out.print(render.text(f"      {each.law}"), soft_wrap=True)
        out.print()
    out.print(render.text(f"{shown} rules" if shown else "no rules: this pass is not made of them", "dim"))


def _load(plugins: tuple[str, ...]) -> None:
    if plugins:
        from accelc.plugins import load_plugin

        for each in plugins:
            load_plugin(each)


def _levels(found: PassInfo) -> str:
    """O1-O3, O3, or - for a pass that runs only by name."""
    if not found.levels:
        return "-"
    first, last = min(found.levels), max(found.levels)
    return f"O{first}" if first == last else f"O{first}-O{last}"


def _describe(found: PassInfo) -> None:
    from accelc.cli import render

    out = console()
    out.print(render.text(found.name, "bold"))
    for paragraph in found.doc.split("\n\n"):
        out.print(render.text(" ".join(paragraph.split())))
        out.print()
    names = [] if found.rules or not found.rule_names else [("reports as", ", ".join(found.rule_names))]
    out.print(
        render.facts(
            [
                ("levels", _levels(found) if found.levels else "only by name, with --passes"),
                ("may change", found.changes),
                ("brought by", found.origin),
                ("rules", f"{len(found.rules)}, listed by accelc rules {found.name}" if found.rules else "none"),
                *names,
            ]
        )
    )
    if found.options:
        out.print()
        made = render.table(out, "option", "type", "default")
        for option in found.options:
            made.add_row(render.text(option.name), render.text(option.type), render.text(option.default or "required"))
        out.print(made)
        example = found.options[0]
        out.print()
        out.print(
            render.text(
                f'accelc optimize MODEL --passes "{found.name}{{{example.name}={example.default or "..."}}}"', "dim"
            )
        )


def _pass_facts(found: PassInfo) -> dict[str, Any]:
    from accelc.plain import plain

    facts: dict[str, Any] = plain(found)
    return facts | {"rules": [each.name for each in found.rules]}


def _rule_facts(rule: Rule, owner: PassInfo) -> dict[str, Any]:
    return {
        "name": rule.name,
        "pass": owner.name,
        "law": rule.law,
        "doc": rule.doc,
        "exact": rule.exact,
        "opset": rule.opset,
        "source": rule.source,
        "origin": owner.origin,
    }
