"""`accelc bench`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelc.cli.common import (
    SOURCE,
    InputShape,
    TextType,
    console,
    debug_option,
    emit_json,
    json_option,
    model_path,
    plugin_option,
    printable,
    progress,
)
from accelc.cli.job import as_path
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.benchmark.options import BenchOptions
    from accelc.benchmark.results import BenchResult

EPILOG = """\b
Examples:
  accelc bench model.onnx                              latency, load time, memory
  accelc bench model.onnx model.O2.cpu.onnx            is the second faster, and does it compute the same
  accelc bench model.onnx --ep cpu --ep cuda           providers; figures of the one asked for, or an error
  accelc bench model.onnx --threads 1,2,4 --batch 1,8  each with each
  accelc bench model.onnx --shape ids=1x32 --shape ids=1x128
  accelc bench a.onnx b.onnx --duration 20s --report bench.html --report bench.csv
  accelc bench a.onnx b.onnx --profile                 where the time goes, and what made the difference
  accelc bench model.onnx --scenario server --concurrency 2 --qps 50 --bound 40ms
  accelc bench model.onnx --dry-run --ep cuda          where the nodes will run; nothing is timed
  accelc bench new.onnx --baseline base.json --fail-if "p50>+5%" --fail-if "memory>300MB"

\b
Conditions of --fail-if: FIGURE>VALUE or FIGURE<VALUE, repeatable
  figures  p50 p90 p99 mean throughput qps load first-run memory size error ratio
  values   +5% or -5% of the baseline's figure; or 20ms, 300MB, 100/s, 0.01
  ratio is against the first model of this run, as ratio<0.95

\b
Exit codes:
    0  measured; no condition holds
    2  wrong usage, provider not usable, out of memory; a condition could not be checked
    3  a model is refused or does not run
    7  a condition of --fail-if holds, and the 95 % interval supports it
When a row or its profile fails, the others are measured and shown, and the code is that of the first that failed.

docs/bench.md is the guide.
"""


class Numbers(TextType):
    """Whole numbers as 1,2,8."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers, in the order given."""
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(part.isdecimal() and int(part) for part in parts):
            self.fail(f"{value!r} is no list of numbers; write 1,2,8", param, ctx)
        return tuple(int(part) for part in parts)


@click.command(epilog=EPILOG, short_help="Compare the latency of models across providers, shapes and threads.")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
@click.option(
    "--ep",
    "providers",
    multiple=True,
    metavar="NAME",
    help="Execution provider, as cpu, cuda or cuda:enable_cuda_graph=1; again for more.  [default: cpu]",
)
@click.option("--threads", type=Numbers(), metavar="1,2", help="Threads for one operator.  [default: the runtime's]")
@click.option("--batch", type=Numbers(), metavar="1,8", help="Sizes of the first dimension of the inputs.")
@click.option(
    "--shape",
    "shapes",
    type=InputShape(),
    multiple=True,
    metavar="NAME=1x128",
    help="Fix the dimensions of an input, or of a symbol as seq=128; the same name again for a sweep.",
)
@click.option("--inputs", metavar=SOURCE, help="Data to run on; takes what --eval of accelc optimize takes.")
@click.option("--preprocess", metavar="TEXT|FILE", help='How images become inputs, as "resize=256,crop=224".')
@click.option("--duration", default="5s", show_default=True, metavar="TIME", help="Timed seconds for each row.")
@click.option(
    "--scenario",
    default="single-stream",
    show_default=True,
    metavar="NAME",
    help="single-stream: one run after the other; offline: all at once; server: queries arrive at random.",
)
@click.option("--concurrency", type=int, default=1, show_default=True, metavar="N", help="Threads that ask the model.")
@click.option("--qps", type=float, metavar="N", help="Server: queries per second.  [default: the most within --bound]")
@click.option("--bound", metavar="TIME", help="Server: the latency that 99 % of the queries must keep, as 50ms.")
@click.option("--profile", is_flag=True, help="Show where the time goes, in separate runs.")
@click.option("--trace", metavar="FOLDER", help="Keep what --profile ran in a folder, a Chrome trace for each row.")
@click.option("--dry-run", is_flag=True, help="Show where the nodes will run and what is copied; time nothing.")
@click.option(
    "--fallback", is_flag=True, help="Measure also when nodes run on another provider than the one asked for."
)
@click.option("--memory-limit", metavar="SIZE", help="Memory that a process may take, as 4GiB.")
@click.option("--baseline", metavar="FILE.json", help="An earlier report, for --fail-if.")
@click.option(
    "--fail-if", multiple=True, metavar="CONDITION", help='Exit with 7 when it surely holds, as "p50>+5%"; repeatable.'
)
@click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FILE",
    help="Write the result as .json, .csv, .md or .html; repeatable.",
)
@plugin_option
@click.option("--seed", type=int, default=0, show_default=True, help="For inputs and the order of rounds.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show more figures, and where every row ran.")
@json_option
@debug_option
@click.pass_context
def bench(ctx: click.Context, /, models: tuple[str, ...], **options: Any) -> None:
    """Compare the latency of MODELs across providers, shapes and threads."""
    if options["quiet"] and options["verbose"]:
        raise UsageError("-q and -v exclude each other")
    from accelc.benchmark.tables import check_report, write

    reports = [Path(each) for each in options["reports"]]
    for path in reports:
        check_report(path)
    wanted = _wanted(models, options)
    from accelc.benchmark.baseline import exit_code
    from accelc.benchmark.run import bench as run

    with progress(options["quiet"]) as tell:
        found = run(wanted, tell)
    try:
        for path in reports:
            write(found, path)
    finally:
        _show(found, options)
    failed = next((row.exit_code for row in found.rows if row.exit_code), 0)
    ctx.exit(failed or exit_code(found.conditions))


def _wanted(models: Sequence[str], options: dict[str, Any]) -> BenchOptions:
    """The options, checked. Raises UsageError."""
    from accelc.benchmark.options import BenchOptions, shape_sets
    from accelc.units import bytes_of

    limit = options["memory_limit"]
    names = ("preprocess", "duration", "scenario", "concurrency", "qps", "bound", "profile", "dry_run", "fallback")
    fields: dict[str, Any] = {name: options[name] for name in (*names, "fail_if", "plugins", "seed")}
    return BenchOptions(
        models=tuple(model_path(each) for each in models),
        providers=options["providers"] or ("cpu",),
        threads=options["threads"] or (None,),
        batches=options["batch"] or (None,),
        shapes=shape_sets(options["shapes"]),
        inputs=as_path(options["inputs"]),
        trace=as_path(options["trace"]),
        baseline=as_path(options["baseline"]),
        memory_limit=None if limit is None else bytes_of(limit),
        **fields,
    )


def _show(found: BenchResult, options: dict[str, Any]) -> None:
    if options["as_json"]:
        from accelc.benchmark.results import SCHEMA

        emit_json(SCHEMA, found)
    elif options["quiet"] or len(found.failures) == len(found.rows):
        _complain(found)
    else:
        from accelc.cli import render_bench

        render_bench.result(console(), found, verbose=options["verbose"])


def _complain(found: BenchResult) -> None:
    """What went wrong on stderr, a line each; what is alike once."""
    from accelc.benchmark.words import condition

    told = [each for each in found.conditions if each.holds in ("yes", "not compared")] if not found.failures else []
    wrong = [each for row in found.rows for each in (row.failure, row.profile_failure) if each]
    lines = [*(f"error: {each}" for each in wrong), *(f"--fail-if {condition(each)}" for each in told)]
    for line in dict.fromkeys(lines):
        click.echo(printable(f"accelc: {line}"), err=True)
