"""What `optimize` and `quantize` share: the options of a compile, running it, and showing what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelc.cli.common import F, InputShape, console, debug_option, plugin_option, printable, progress
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.cli.why import Subject
    from accelc.instrument import Instrument, Timer
    from accelc.options import Options
    from accelc.targets import Failure, Result

_OPTIONS = (
    click.option(
        "--ep",
        "targets",
        multiple=True,
        metavar="NAME",
        help="Execution provider to optimize for, as cpu or cpu:threads=1; again for more targets.",
    ),
    click.option(
        "-o",
        "--output",
        metavar="FILE|DIR",
        help="Where to write the result; {ep} in a name stands for the target. The model itself may be named.",
    ),
    click.option(
        "--verify",
        type=click.Choice(["final", "each", "off"]),
        default="final",
        show_default=True,
        help="When to compare numbers with the original's: at the end, after each pass, never.",
    ),
    click.option(
        "--measure/--no-measure",
        default=None,
        help="Measure alternatives on the target, choose the faster, and undo what is slower; else shipped defaults "
        "decide.  [default: at -O3 and by quantize, up to 20,000 nodes and 1 GiB of weights]",
    ),
    click.option("--portable", is_flag=True, help="Use operators of ai.onnx only."),
    click.option(
        "--shape",
        "shapes",
        type=InputShape(),
        multiple=True,
        metavar="NAME=1x128",
        help="Fix the dimensions of an input, or of a symbol as batch=1; ? leaves one open.",
    ),
    click.option(
        "--report",
        metavar="FILE",
        help="Write the report: a page for a name in .html, else JSON; - prints JSON instead of the tables.",
    ),
    plugin_option,
    click.option("--disable", multiple=True, metavar="RULE|PASS", help="Leave out passes or rules."),
    click.option("--seed", type=int, default=0, show_default=True, help="For everything random."),
    click.option("--print-after", metavar="PASS|all|change", help="Print the graph after passes, on stderr."),
    click.option(
        "--dump-dir", metavar="DIR", help="Write a numbered ONNX file after each pass that changes something."
    ),
    click.option("--time-passes", is_flag=True, help="Show where the time went, as a tree."),
    click.option("--rule-stats", is_flag=True, help="Show how often each rule was tried and fired."),
    click.option(
        "--why",
        metavar="KIND|PASS|RULE",
        help="Show why blocks (attention, norm, activation) stay in parts, why layers stay in float (quantize), or "
        "where rules stop.",
    ),
    click.option("--bisect-limit", type=click.IntRange(min=0), metavar="N", help="Stop after N changes."),
    click.option("--reproducer", metavar="DIR", help="If something fails, write a folder that runs it again."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
    click.option("-v", "--verbose", is_flag=True, help="Show every pass that ran."),
    debug_option,
)


def job_options(command: F) -> F:
    """The options of every command that compiles."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def check(options: dict[str, Any]) -> None:
    """Raise UsageError for options that exclude each other and for files that cannot be written, before any work."""
    if options["quiet"] and options["verbose"]:
        raise UsageError("-q and -v exclude each other")
    from accelc.textfile import check_writable

    if options["report"] and options["report"] != "-":
        check_writable(Path(options["report"]), "the report")
    dump = options["dump_dir"]
    if dump and Path(dump).exists() and not Path(dump).is_dir():
        raise UsageError("is not a folder", where=dump, hint="name a folder with --dump-dir")


def shared(options: dict[str, Any]) -> dict[str, Any]:
    """Fields of accelc.options.Options from the options of `job_options`. Loads plugins first: they bring names.

    Raises UsageError and PluginError.
    """
    from accelc.plugins import load_plugin

    for plugin in options["plugins"]:
        load_plugin(plugin)
    return {
        "output": as_path(options["output"]),
        "verify": options["verify"],
        "measure": options["measure"],
        "portable": options["portable"],
        "shapes": shapes_of(options["shapes"]),
        "disable": frozenset(_known(options["disable"])),
        "bisect_limit": options["bisect_limit"],
        "plugins": options["plugins"],
        "seed": options["seed"],
        "reproducer": as_path(options["reproducer"]),
    }


def execute(model: Path, wanted: Options, options: dict[str, Any]) -> None:
    """Compile for every target, and print and write what was asked for. Raises what compile_each raises."""
    from accelc.instrument import Timer
    from accelc.targets import Failure, TargetsError, compile_each, labels

    about = _subject(options["why"])
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
        for found in compile_each(model, wanted, list(names), instruments.__getitem__, tell):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                results.append(found)
    _save_report(options["report"], results, failures if len(names) > 1 else None)
    reproducers = _failures(options["reproducer"]) - known
    for result in results:
        _show(result, options, timers[result.target], reproducers)
        if about is not None:
            _explain(about, result, options, wanted.disable)
    if len(names) > 1 and not options["quiet"] and options["report"] != "-":
        _summarize(results)
    if failures:
        raise TargetsError(failures, results)


def as_path(text: str | None) -> Path | None:
    """A path that may be left out."""
    return None if text is None else Path(text)


def shapes_of(pairs: Sequence[tuple[str, tuple[int | str, ...]]]) -> dict[str, tuple[int | str, ...]]:
    """--shape by input or symbol. Raises UsageError for one that is given twice."""
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
    from accelc.cli import render, timing

    out = console()
    if not options["quiet"] and options["report"] != "-":
        render.report(out, result.report, verbose=options["verbose"], reproducers=sorted(map(str, failures)))
    if options["time_passes"]:
        timing.times(out, timer.root, result.report.seconds)
    if options["rule_stats"]:
        timing.rule_stats(out, result.report)


def _summarize(results: Sequence[Result]) -> None:
    from accelc.cli import render

    render.summary(console(), [result.report for result in results])


def _save_report(where: str | None, results: Sequence[Result], failures: Sequence[Failure] | None) -> None:
    """--report. failures: None where only one target was asked for, whose report then stands by itself."""
    from accelc.report import several_to_html, several_to_json
    from accelc.textfile import write_text

    if not where:
        return
    page = Path(where).suffix.lower() == ".html"
    if failures is None:
        report = results[0].report
        text = report.to_html() if page else report.to_json()
    else:
        several = several_to_html if page else several_to_json
        text = several([result.report for result in results], {each.target: str(each.error) for each in failures})
    if where == "-":
        click.echo(text, nl=False)
    else:
        write_text(Path(where), text, "the report")


def _explain(about: Subject, result: Result, options: dict[str, Any], disable: frozenset[str]) -> None:
    """--why: what stops a rule, the rules of a pass, or each block of a kind that stays in parts."""
    from accelc.cli.why import context, lines

    out = console()
    for line in lines(about, result, context(result, options), disable):
        out.print(printable(line), soft_wrap=True)
