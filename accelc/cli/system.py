"""`accelc doctor`."""

from __future__ import annotations

import click

from accelc.cli.common import console, debug_option, emit_json, json_option, plugin_option, progress


@click.command(
    short_help="Show what this machine can run, and why not.",
    epilog="""\b
Examples:
  accelc doctor
  accelc doctor --json

\b
Exit codes: 0 at least one provider works, 2 none does.
""",
)
@plugin_option
@json_option
@debug_option
@click.pass_context
def doctor(ctx: click.Context, plugins: tuple[str, ...], as_json: bool) -> None:
    """Show versions, the processor, and which execution providers work here, or why not."""
    from accelc.doctor import SCHEMA, diagnose
    from accelc.plugins import load_plugin

    for each in plugins:
        load_plugin(each)
    with progress() as tell:
        tell("trying the execution providers")
        found = diagnose()
    if as_json:
        emit_json(SCHEMA, found)
        ctx.exit(0 if found.usable else 2)
    from accelc.cli import render

    out = console()
    made = render.table(out, "what", "state", "more")
    for name, version in found.versions.items():
        made.add_row(render.text(name), render.text(version or "missing", "" if version else "red"), "")
    made.add_section()
    for name, value in found.machine.items():
        made.add_row(render.text(name), "", render.text(value))
    int8 = ("exact", "green") if found.int8_exact else ("7 bits", "yellow")
    made.add_row("int8", render.text(*int8), render.text(found.int8))
    for sentence in found.int8_speed:
        made.add_row("", "", render.text(sentence))
    made.add_section()
    for provider in sorted(found.providers, key=lambda each: not each.available):
        state = render.text("works", "green") if provider.available else render.text("not usable", "yellow")
        details = provider.details or {}
        gpus = [value for key, value in details.items() if "GPU" in key]
        more = provider.reason or "; ".join([*gpus, f"what it runs: {details.get('kernels', provider.capabilities)}"])
        made.add_row(render.text(f"provider {provider.name}"), state, render.text(more))
    for kind, name, origin in found.plugins:
        made.add_row(render.text(f"{kind} {name}"), "plugin", render.text(origin))
    for problem in found.problems:
        made.add_row("problem", render.text("attention", "red"), render.text(problem))
    out.print(made)
    ctx.exit(0 if found.usable else 2)
