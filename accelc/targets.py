"""One model for several targets: imported once, run once as it is, compiled for each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelc import ir
from accelc.backend_base import BackendSpec
from accelc.errors import AccelcError, UsageError
from accelc.instrument import Instrument
from accelc.options import Options
from accelc.plugins import load_plugin
from accelc.report import Report
from accelc.source import ModelLike

PLACEHOLDER = "{ep}"
"""Stands for the target in the name of an output."""
CALIBRATION_SETS = 32
"""Without data to verify on, so many samples of the calibration data serve."""
_UNFIT = re.compile(r"[^\w.]+")


@dataclass(frozen=True)
class Result:
    """What `optimize` returns. path: the file written; None for a model handed over in memory without `output`."""

    model: ir.Model = field(repr=False)
    report: Report = field(repr=False)
    path: Path | None
    target: str = "cpu"


@dataclass(frozen=True)
class Failure:
    """A target that nothing was made for, and why."""

    target: str
    error: AccelcError


class TargetsError(AccelcError):
    """Some of several targets failed. The results for the others are there, and their files are written.

    failures: one for each failed target. results: those of the others.
    """

    def __init__(self, failures: Sequence[Failure], results: Sequence[Result] = ()) -> None:
        super().__init__("; ".join(f"{each.target}: {each.error}" for each in failures))
        self.failures, self.results = tuple(failures), tuple(results)
        self.exit_code = failures[0].error.exit_code


def compile_each(
    model: ModelLike,
    options: Options,
    targets: Sequence[str],
    instruments: Callable[[str], Sequence[Instrument]],
    progress: Callable[[str], None],
) -> Iterator[Result | Failure]:
    """Compile for one target after the other, and hand out each result when it is there.

    options.output: a file; a folder; or a name with {ep}. instruments: those of a target.
    Raises UsageError and PluginError before any work, ModelError for a model that cannot be read, and for a single
    target whatever goes wrong.
    """
    from accelc.compilation import Compilation
    from accelc.original import Original

    for plugin in options.plugins:
        load_plugin(plugin)
    names = labels(targets)
    with ExitStack() as stack:
        runs = options.verify != "off"
        original = Original(
            model,
            data=options.inputs or options.calibration,
            most=None if options.inputs is not None else CALIBRATION_SETS,
            preprocessing=options.preprocessing,
            budget=options.budget,
            seed=options.seed,
            shapes=options.shapes,
            runs=runs,
        )
        stack.enter_context(original)
        work: dict[str, Compilation] = {}
        for target, label in names.items():
            output = named(options, model, label, len(names) > 1)
            own = replace(options, target=target, output=output)
            compilation = Compilation(original, own, tuple(instruments(target)), progress)
            work[target] = stack.enter_context(compilation)
        progress("reading")
        _ = original.source
        reports: list[Report] = []
        for target, compilation in work.items():
            try:
                attempt, report = compilation.run()
            except AccelcError as error:
                if len(work) == 1:
                    raise
                yield Failure(target, error)
            else:
                reports.append(report)
                yield Result(attempt.model, report, compilation.output, target)
        if options.pareto is not None and reports:
            from accelc.pareto import write_pareto

            write_pareto(options.pareto, reports, options.budget.drop)


def labels(targets: Sequence[str]) -> dict[str, str]:
    """Targets with their part of file names: the backend, and its options where several targets share that.

    Raises UsageError when there is none, or one twice.
    """
    specs = [BackendSpec.parse(each) for each in targets]
    if not specs:
        raise UsageError("there is no target", hint="name one, such as cpu")
    twice = next((spec for spec in specs if specs.count(spec) > 1), None)
    if twice is not None:
        raise UsageError(f"target {twice} is given twice")
    names = [spec.name for spec in specs]
    return {
        str(spec): spec.name if names.count(spec.name) == 1 else _UNFIT.sub("-", str(spec)).strip("-") for spec in specs
    }


def named(options: Options, model: ModelLike, label: str, several: bool) -> Path | None:
    """The file to write for a target; None for a model in memory without an output. Raises UsageError."""
    given = options.output
    if given is not None and PLACEHOLDER in given.name:
        return given.with_name(given.name.replace(PLACEHOLDER, label))
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    default = f"{path.stem if path is not None else 'model'}.{options.label}.{label}.onnx"
    if given is None:
        return None if path is None else path.with_name(default)
    if given.is_dir():
        return given / default
    if several:
        hint = f"name a folder, or a file as {given.stem}.{PLACEHOLDER}{given.suffix or '.onnx'}"
        raise UsageError("one file cannot hold the results for several targets", where=str(given), hint=hint)
    return given
