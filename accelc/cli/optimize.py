"""`accelc optimize`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelc.cli.common import (
    InputShape,
    Share,
    console,
    debug_option,
    model_path,
    plugin_option,
    printable,
    progress,
)
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.cli.why import Subject
    from accelc.instrument import Instrument, Timer
    from accelc.targets import Failure, Result

EPILOG = """\b
Examples:
  accelc optimize model.onnx                      rounding-level fusion, verified
  accelc optimize model.onnx --measure            measure alternatives and the result; nothing slower
  accelc optimize model.onnx -O1 --portable       bit-equal, ai.onnx operators only
  accelc optimize model.onnx -O3 --max-drop 0.5%  lower precision inside a quality budget
  accelc optimize model.onnx --inputs samples.npz judge on your data (and labels)
  accelc optimize model.onnx --shape ids=1x128    fix an input's dimensions
  accelc optimize model.onnx --passes "O2, prune{sparsity=0.5}"
  accelc optimize model.onnx --ep cpu --ep cuda   a file for each: model.O2.cpu.onnx, model.O2.cuda.onnx
  accelc optimize model.onnx --why attention      each block that stays in parts, and what stopped it
  accelc optimize model.onnx --why gelu_erf       the nearest thing to a match of a rule

\b
Levels:
  -O0  read, repair, check, write
  -O1  exact: folding, common subexpressions, dead code, shape chains; bit-equal outputs
  -O2  and fusion for the target: equal up to rounding
  -O3  and lower precision inside --max-drop, where it is measured faster

Without --passes the result is never larger and computes the same, and where latency is measured never slower; what
fails a check is undone and named in the report. The result goes to -o, by default MODEL.O2.cpu.onnx beside the model.
A target that does not work on this machine is compiled for all the same; the report says what could not be checked.
"""


@click.command(epilog=EPILOG, short_help="Make a model smaller and faster; it computes the same.")
@click.argument("model")
@click.option("-O", "--level", type=int, default=2, show_default=True, metavar="0..3", help="How much to do.")
@click.option(
    "--ep",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Execution provider to optimize for, as cpu or cpu:threads=1; again for more targets.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE|DIR",
    help="Where to write the result; {ep} in a name stands for the target. The model itself may be named.",
)
@click.option("--passes", metavar="TEXT", help='Passes to run instead of a level, as "O2, prune{sparsity=0.5}".')
@click.option("--pipeline", metavar="FILE.toml", help="The same, from a file.")
@click.option("--inputs", metavar="NPZ|DIR", help="Inputs (and labels) to verify and measure on, arrays by input name.")
@click.option(
    "--verify",
    type=click.Choice(["final", "each", "off"]),
    default="final",
    show_default=True,
    help="When to compare numbers with the original's: at the end, after each pass, never.",
)
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Measure alternatives on the target, choose the faster, and undo what is slower; else shipped defaults "
    "decide.  [default: at -O3, up to 20,000 nodes and 1 GiB of weights]",
)
@click.option("--portable", is_flag=True, help="Use operators of ai.onnx only.")
@click.option(
    "--max-drop", type=Share(), default=0.01, metavar="SHARE", help="Quality that -O3 may cost.  [default: 1%]"
)
@click.option(
    "--shape",
    "shapes",
    type=InputShape(),
    multiple=True,
    metavar="NAME=1x128",
    help="Fix the dimensions of an input, or of a symbol as batch=1; ? leaves one open.",
)
@click.option("--report", metavar="FILE", help="Write the report as JSON; - prints it instead of the tables.")
@plugin_option
@click.option("--disable", multiple=True, metavar="RULE|PASS", help="Leave out passes or rules.")
@click.option("--seed", type=int, default=0, show_default=True, help="For everything random.")
@click.option("--print-after", metavar="PASS|all|change", help="Print the graph after passes, on stderr.")
@click.option("--dump-dir", metavar="DIR", help="Write a numbered ONNX file after each pass that changes something.")
@click.option("--time-passes", is_flag=True, help="Show where the time went, as a tree.")
@click.option("--rule-stats", is_flag=True, help="Show how often each rule was tried and fired.")
@click.option(
    "--why",
    metavar="KIND|PASS|RULE",
    help="Show why blocks (attention, norm, activation) stay in parts, or where rules stop.",
)
@click.option("--bisect-limit", type=click.IntRange(min=0), metavar="N", help="Stop after N changes.")
@click.option("--reproducer", metavar="DIR", help="If something fails, write a folder that runs it again.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show every pass that ran.")
@debug_option
@click.pass_context
def optimize(ctx: click.Context, /, model: str, **options: Any) -> None:
    """Make MODEL smaller and faster; it computes the same."""
    _check(ctx, options)
    from accelc.instrument import Timer
    from accelc.options import Options
    from accelc.pipeline import Pipeline
    from accelc.plugins import load_plugin
    from accelc.targets import Failure, TargetsError, compile_each, labels

    path = model_path(model)
    for plugin in options["plugins"]:
        load_plugin(plugin)
    disable = _known(options["disable"])
    about = _subject(options["why"])
    wanted = Options(
        level=options["level"],
        passes=options["passes"],
        pipeline=Pipeline.load(Path(options["pipeline"])) if options["pipeline"] else None,
        output=_path(options["output"]),
        inputs=_path(options["inputs"]),
        verify=options["verify"],
        measure=options["measure"],
        portable=options["portable"],
        max_drop=options["max_drop"],
        shapes=_shapes(options["shapes"]),
        disable=frozenset(disable),
        bisect_limit=options["bisect_limit"],
        plugins=options["plugins"],
        seed=options["seed"],
        reproducer=_path(options["reproducer"]),
    )
    names = labels(options["targets"] or ["cpu"])
    timers = {target: Timer() for target in names}
    instruments = {
        target: _instruments(options, timers[target], label if len(names) > 1 else "")
        for target, label in names.items()
    }
    results: list[Result] = []
    failures: list[Failure] = []
    known = _failures(options["reproducer"])
    with progress(options["quiet"]) as tell:
        for found in compile_each(path, wanted, list(names), instruments.__getitem__, tell):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                results.append(found)
    _save_report(options["report"], results, failures if len(names) > 1 else None)
    reproducers = _failures(options["reproducer"]) - known
    for result in results:
        _show(result, options, timers[result.target], reproducers)
        if about is not None:
            _explain(about, result, options, disable)
    if len(names) > 1 and not options["quiet"] and options["report"] != "-":
        _summarize(results)
    if failures:
        raise TargetsError(failures, results)


def _check(ctx: click.Context, options: dict[str, Any]) -> None:
    """Raise UsageError for options that exclude each other and for files that cannot be written, before any work."""
    given = ctx.get_parameter_source("level") is click.core.ParameterSource.COMMANDLINE
    if given and (options["passes"] is not None or options["pipeline"]):
        raise UsageError("-O and --passes exclude each other", hint='name the level inside: --passes "O2, prune"')
    if options["quiet"] and options["verbose"]:
        raise UsageError("-q and -v exclude each other")
    report = options["report"]
    if report and report != "-":
        folder = Path(report).parent
        if Path(report).is_dir() or not os.access(folder, os.W_OK):
            raise UsageError("the report cannot be written", where=report, hint="name a file in a folder that exists")
    dump = options["dump_dir"]
    if dump and Path(dump).exists() and not Path(dump).is_dir():
        raise UsageError("is not a folder", where=dump, hint="name a folder with --dump-dir")


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _shapes(pairs: Sequence[tuple[str, tuple[int | str, ...]]]) -> dict[str, tuple[int | str, ...]]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise UsageError("--shape is given twice for one input")
    return dict(pairs)


def _known(names: Sequence[str]) -> list[str]:
    """Names of passes and rules as they are written, from what the user typed. Raises UsageError for an unknown one."""
    if not names:
        return []
    from accelc.catalog import all_passes, written

    passes = all_passes()
    return [written(part.strip(), passes) for text in names for part in text.split(",")]


def _subject(name: str | None) -> Subject | None:
    if name is None:
        return None
    from accelc.cli.why import subject

    return subject(name)


def _instruments(options: dict[str, Any], timer: Timer, folder: str) -> list[Instrument]:
    """What watches one target. folder: where its files go inside --dump-dir."""
    from accelc.instrument import Dump, PrintAfter

    found: list[Instrument] = []
    if options["time_passes"]:
        found.append(timer)
    if options["print_after"]:
        found.append(PrintAfter(_print_after(options["print_after"]), lambda text: click.echo(text, err=True)))
    if options["dump_dir"]:
        try:
            found.append(Dump(Path(options["dump_dir"]) / folder))
        except OSError as error:
            raise UsageError("cannot be made", where=options["dump_dir"], why=error.strerror or str(error)) from error
    return found


def _print_after(which: str) -> str:
    if which in ("all", "change"):
        return which
    from accelc.catalog import one_pass

    return one_pass(which).name


def _failures(folder: str | None) -> frozenset[Path]:
    """Reproducers that exist."""
    if folder is None:
        return frozenset()
    path = Path(folder)
    return frozenset(each.parent for each in path.parent.glob(f"{path.name}*/reproducer.json"))


def _show(result: Result, options: dict[str, Any], timer: Timer, failures: frozenset[Path]) -> None:
    from accelc.cli import render

    out = console()
    if not options["quiet"] and options["report"] != "-":
        render.report(out, result.report, verbose=options["verbose"], reproducers=sorted(map(str, failures)))
    if options["time_passes"]:
        render.times(out, timer.root, result.report.seconds)
    if options["rule_stats"]:
        render.rule_stats(out, result.report)


def _summarize(results: Sequence[Result]) -> None:
    from accelc.cli import render

    render.summary(console(), [result.report for result in results])


def _save_report(where: str | None, results: Sequence[Result], failures: Sequence[Failure] | None) -> None:
    """--report. failures: None where only one target was asked for, whose report then stands by itself."""
    from accelc.report import several_to_json

    if not where:
        return
    if failures is None:
        text = results[0].report.to_json()
    else:
        text = several_to_json(
            [result.report for result in results], {each.target: str(each.error) for each in failures}
        )
    if where == "-":
        click.echo(text, nl=False)
    else:
        _write(Path(where), text)


def _write(path: Path, text: str) -> None:
    """A temporary name first, so that a reader never sees half a report."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError("the report cannot be written", where=str(path), why=error.strerror or str(error)) from error


def _explain(about: Subject, result: Result, options: dict[str, Any], disable: Sequence[str]) -> None:
    """--why: what stops a rule, the rules of a pass, or each block of a kind that stays in parts."""
    from accelc.cli.why import context, lines

    out = console()
    for line in lines(about, result, context(result, options), frozenset(disable)):
        out.print(printable(line), soft_wrap=True)
