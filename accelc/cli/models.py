"""`accelc diff` and `accelc reproduce`: commands about a model and what became of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from accelc.cli.common import SOURCE, Share, console, debug_option, emit_json, json_option, model_path, progress
from accelc.plain import plain

if TYPE_CHECKING:
    from rich.console import Console

    from accelc.diff import Difference

REPRODUCE_SCHEMA = "accelc.reproduce/1"


@click.command(
    short_help="Compare two models: structure, contract, numbers.",
    epilog="""\b
Examples:
  accelc diff model.onnx model.O2.cpu.onnx
  accelc diff model.onnx model.O3.cpu.onnx --max-drop 1% --inputs samples.npz

\b
Exit codes: 0 the same, 1 different or not shown to be the same, 2 and more as for every command.
The same means: inputs, outputs and metadata agree, and both compute the same numbers.
What is inside may differ; it is listed.
""",
)
@click.argument("a")
@click.argument("b")
@click.option(
    "--inputs",
    metavar=SOURCE,
    help="Data to compare on instead of generated inputs; takes what accelc optimize --eval takes.",
)
@click.option("--preprocess", metavar="TEXT|FILE", help="How images become inputs.")
@click.option("--exact", is_flag=True, help="Ask for the same bits, not for equality up to rounding.")
@click.option("--max-drop", type=Share(), metavar="SHARE", help="Quality that B may have lost, as 1%.")
@click.option("--seed", type=int, default=0, show_default=True, help="For generated inputs.")
@json_option
@debug_option
@click.pass_context
def diff(
    ctx: click.Context,
    a: str,
    b: str,
    inputs: str | None,
    preprocess: str | None,
    exact: bool,
    max_drop: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compare two models: structure, contract, and numbers."""
    from accelc.data import check_preprocess
    from accelc.diff import SCHEMA, diff_models
    from accelc.errors import UsageError

    if exact and max_drop is not None:
        raise UsageError("--exact and --max-drop exclude each other")
    check_preprocess(preprocess, [inputs])
    with progress() as tell:
        tell("comparing")
        found = diff_models(
            model_path(a),
            model_path(b),
            inputs=Path(inputs) if inputs else None,
            preprocess=preprocess,
            exact=exact,
            max_drop=max_drop,
            seed=seed,
        )
    if as_json:
        emit_json(SCHEMA, {"same": found.same, **plain(found)})
    else:
        _print(console(), found)
    ctx.exit(0 if found.same else 1)


def _print(out: Console, found: Difference) -> None:
    from accelc.cli import render

    out.print()
    out.print(render.facts([("A", found.a), ("B", found.b)]))
    out.print()
    made = render.table(out, "", "A", "B", "change", numbers=(1, 2, 3))
    for name, old, new in (
        ("nodes", found.before.nodes, found.after.nodes),
        ("parameters", found.before.parameters, found.after.parameters),
    ):
        made.add_row(name, f"{old:,}", f"{new:,}", render.change(old, new))
    old, new = found.before.bytes, found.after.bytes
    made.add_row("file size", render.size(old), render.size(new), render.change(old, new))
    out.print(made)
    out.print()
    if found.operators:
        made = render.table(out, "operator", "A", "B", "change", numbers=(1, 2, 3))
        for name, (old, new) in sorted(found.operators.items(), key=lambda each: each[1][1] - each[1][0]):
            made.add_row(render.text(name), str(old or "-"), str(new or "-"), render.text(f"{new - old:+d}"))
        out.print(made)
        out.print()
    rows = [("contract", render.text(each, "red")) for each in found.contract]
    rows = rows or [("contract", render.text("inputs, outputs and metadata agree", "green"))]
    rows += [("opset", render.text(f"{name}: {old} in A, {new} in B")) for name, (old, new) in found.opsets.items()]
    only = f"{len(found.weights_removed):,} only in A, {len(found.weights_added):,} only in B"
    rows.append(("weights", render.text(f"{found.weights_shared:,} shared, {only}")))
    if found.numbers is None:
        rows.append(("numbers", render.text("not compared: the inputs or outputs differ", "yellow")))
    else:
        rows += [("numbers", line) for line in render.numbers(found.numbers, of="A")]
    verdict = render.text("same", "bold green") if found.same else render.text("different", "bold red")
    if not found.same and not found.contract and (found.numbers is None or found.numbers.status == "skipped"):
        verdict = render.text("not shown to be the same", "bold yellow")
    out.print(render.facts([*rows, ("verdict", verdict)]))
    out.print()


@click.command(
    short_help="Run a recorded failure again.",
    epilog="""\b
Examples:
  accelc optimize model.onnx -O3 --reproducer failure
  accelc reproduce failure

\b
Exit codes: 0 the failure no longer occurs, 1 it occurs again, 2 and more as for every command.
""",
)
@click.argument("folder")
@json_option
@debug_option
@click.pass_context
def reproduce(ctx: click.Context, folder: str, as_json: bool) -> None:
    """Run the failure in FOLDER again, which `accelc optimize --reproducer` wrote."""
    from accelc import reproducer

    with progress() as tell:
        found = reproducer.reproduce(Path(folder), tell)
    if as_json:
        emit_json(REPRODUCE_SCHEMA, found)
    else:
        from accelc.cli import render

        verdict = "the same failure occurs" if found.same else "it no longer occurs"
        rows = [("recorded", render.text(found.before)), ("now", render.text(found.now))]
        console().print(render.facts([*rows, ("verdict", render.text(verdict, "bold"))]))
    ctx.exit(1 if found.same else 0)
