"""`accelc calibrate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from accelc.cli import job
from accelc.cli.common import (
    InputShape,
    TextType,
    calibration_options,
    console,
    debug_option,
    emit_json,
    json_option,
    model_path,
    plugin_option,
    printable,
)
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.calibration.job import Watcher
    from accelc.calibration.ranges import Method
    from accelc.calibration.state import State

EPILOG = """\b
Examples:
  accelc calibrate model.onnx --calibration train.npz -o model.cal
  accelc optimize model.onnx -O3 --ranges model.cal
  accelc calibrate model.onnx --calibration train.npz --shard 2/4 -o part2.cal
  accelc calibrate --merge part1.cal part2.cal part3.cal part4.cal -o model.cal
  accelc calibrate --show model.cal --method percentile=99.99

The graph is prepared as accelc optimize -O3 does it before it lowers precision; give both commands the same options.
The file is written every few seconds. When it is there and not complete, the command goes on where it stopped.
Memory does not grow with the number of samples; how much is needed is said beforehand.
"""


class ShardOf(TextType):
    """One of several parts of the data, as 2/4."""

    name = "shard"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """(index from 1, of)"""
        if isinstance(value, tuple):
            return value
        index, slash, of = str(value).partition("/")
        if not (slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
            self.fail(f"{value!r} is no shard; write 2/4 for the second of four", param, ctx)
        return int(index), int(of)


@click.command(epilog=EPILOG, short_help="Find the ranges of a model's tensors on data, and keep them in a file.")
@click.argument("names", metavar="MODEL | FILE...", nargs=-1, required=True)
@calibration_options
@click.option("-o", "--output", metavar="FILE", help="Where the ranges go.")
@click.option(
    "--shard", type=ShardOf(), default="1/1", metavar="2/4", help="Look at every 4th sample, from the 2nd on."
)
@click.option("--tensors", multiple=True, metavar="GLOB", help="Only tensors of these names; again for more.")
@click.option("--method", default="minmax", show_default=True, metavar="NAME", help="Of the ranges shown.")
@click.option("--merge", is_flag=True, help="Add up FILEs that were made of different samples.")
@click.option("--show", is_flag=True, help="Show what is in a FILE.")
@click.option("--passes", metavar="TEXT", help='Passes instead of -O3, as "O2, quantize".')
@click.option("--measure/--no-measure", default=None, help="As for accelc optimize.")
@click.option("--portable", is_flag=True, help="Use operators of ai.onnx only.")
@click.option("--shape", "shapes", type=InputShape(), multiple=True, metavar="NAME=1x128", help="Fix dimensions.")
@click.option("--isa", metavar="NAMES", help="Compile for other instruction sets than this processor's.")
@click.option("--disable", multiple=True, metavar="RULE|PASS", help="Leave out passes or rules.")
@click.option("--seed", type=int, default=0, show_default=True, help="For everything random.")
@plugin_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@json_option
@debug_option
def calibrate(**options: Any) -> None:
    """Find the ranges of MODEL's tensors on data, add up FILEs of ranges, or show one."""
    from accelc.calibration.ranges import Method
    from accelc.calibration.state import State

    method = Method.parse(options["method"])
    names = options["names"]
    if options["merge"] and options["show"]:
        raise UsageError("--merge and --show exclude each other")
    if (options["merge"] or options["show"]) and options["calibration"]:
        raise UsageError("--calibration goes with a model", hint="leave it out, or --merge and --show")
    if options["merge"]:
        from accelc.calibration.job import merged

        state = merged([State.load(Path(name)) for name in names])
        state.label = str(_output(options))
        state.save(_output(options))
    elif len(names) > 1:
        raise UsageError(f"{len(names)} files are given", hint="give one model, or --merge with files of ranges")
    elif options["show"]:
        state = State.load(Path(names[0]))
    else:
        state = _collect(model_path(names[0]), options)
    if options["as_json"]:
        emit_json("accelc.calibration/1", _facts(state, method))
    elif options["show"]:
        _table(state, method)
    elif not options["quiet"]:
        _summary(state)


def _output(options: dict[str, Any]) -> Path:
    if not options["output"]:
        raise UsageError("there is nowhere to put the ranges", hint="name a file with -o")
    return Path(options["output"])


def _collect(model: Path, options: dict[str, Any]) -> State:
    from accelc.calibration.job import Job
    from accelc.data import check_preprocess, open_dataset, signature, specialized
    from accelc.options import Options
    from accelc.plugins import load_plugin
    from accelc.source import Source

    output = _output(options)
    if not options["calibration"]:
        raise UsageError("there is no data", hint="give it with --calibration")
    for plugin in options["plugins"]:
        load_plugin(plugin)
    shapes = job.shapes_of(options["shapes"])
    wanted = Options(
        level=3,
        passes=options["passes"],
        verify="off",
        measure=options["measure"],
        portable=options["portable"],
        shapes=shapes,
        isa=options["isa"],
        disable=frozenset(part.strip() for text in options["disable"] for part in text.split(",")),
        plugins=options["plugins"],
        seed=options["seed"],
    )
    specs = specialized(signature(Source.of(model).imported.proto), shapes)
    index, of = options["shard"]
    check_preprocess(options["preprocess"], [options["calibration"]])
    data = open_dataset(options["calibration"], specs, preprocessing=options["preprocess"], finite=True)
    data.check()
    with _watching(options["quiet"]) as watcher:
        work = Job(
            data.shard(index - 1, of),
            output,
            f"{model.name} for {wanted.passes or 'O3'}",
            watcher,
            (index, of),
            options["tensors"],
            options["seed"],
        )
        state = work.run(model, wanted)
    if not options["quiet"]:
        for note in [*data.notes, *work.notes]:
            click.echo(printable(note), err=True)
    return state


@contextmanager
def _watching(quiet: bool) -> Iterator[Watcher]:
    """The plan on stderr, and on a terminal a bar: samples done, their rate, and the time that is left."""
    from accelc.calibration.job import Watcher

    class Plain(Watcher):
        def started(self, plan: str, done: int, total: int | None) -> None:
            click.echo(printable(plan), err=True)

    out = console(err=True)
    if quiet or not sys.stderr.isatty() or not out.is_terminal:
        yield Watcher() if quiet else Plain()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Any) -> Text:
            return Text(f"{task.speed:.1f}/s" if task.speed else "")

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), Rate())
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        class Bar(Watcher):
            def doing(self, text: str) -> None:
                bar.update(task, description=printable(text))

            def started(self, plan: str, done: int, total: int | None) -> None:
                bar.console.print(printable(plan), soft_wrap=True)
                bar.update(task, description="calibrating", completed=done, total=total)

            def sampled(self) -> None:
                bar.advance(task)

        yield Bar()


def _facts(state: State, method: Method) -> dict[str, Any]:
    from accelc.calibration.collect import statistics_of

    tensors = []
    for name, seen in state.seen.items():
        known = statistics_of(seen)
        found: dict[str, Any] = {"name": name, "range": None, "elements": seen.count, "samples": seen.feeds}
        if known is not None:
            found |= {"range": known.range(method), "extremes": (known.low, known.high)}
            found |= {"average": (known.average_low, known.average_high)}
        if seen.broken is not None:
            found["broken"] = f"{seen.broken[1]} in sample {seen.broken[0]}"
        tensors.append(found)
    return {
        "model": state.model,
        "fingerprint": state.fingerprint,
        "method": str(method),
        "shards": [vars(each) for each in state.shards],
        "tensors": tensors,
    }


def _summary(state: State) -> None:
    samples = sum(shard.done for shard in state.shards)
    click.echo(printable(f"{len(state.seen)} tensors of {state.model} over {samples} samples"))
    for shard in state.shards:
        click.echo(printable(f"  {shard}"))
    click.echo(printable(f"written to {state.label}"))


def _table(state: State, method: Method) -> None:
    from rich.table import Table

    out = console()
    out.print(printable(f"{state.model}, {method}"), soft_wrap=True)
    for shard in state.shards:
        out.print(printable(f"  {shard}"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    for name in ("low", "high", "lowest", "highest", "elements"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in _facts(state, method)["tensors"]:
        if each["range"] is None:
            table.add_row(printable(each["name"]), each.get("broken", "empty"), "", "", "", f"{each['elements']:,}")
            continue
        numbers = [f"{number:.5g}" for number in (*each["range"], *each["extremes"])]
        table.add_row(printable(each["name"]), *numbers, f"{each['elements']:,}")
    out.print(table)
