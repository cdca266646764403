"""`accelc.optimize`: the Python API behind the command of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from accelc import ir
from accelc.errors import UsageError
from accelc.instrument import Instrument
from accelc.options import Options
from accelc.pipeline import Pipeline
from accelc.report import Report
from accelc.source import ModelLike


@dataclass(frozen=True)
class Result:
    """What `optimize` returns. path: the file written; None for a model handed over in memory without `output`."""

    model: ir.Model = field(repr=False)
    report: Report = field(repr=False)
    path: Path | None


def optimize(
    model: ModelLike,
    *,
    level: int = 2,
    target: str = "cpu",
    passes: str | None = None,
    pipeline: Pipeline | None = None,
    output: str | Path | None = None,
    inputs: str | Path | None = None,
    verify: str = "final",
    measure: bool | None = None,
    portable: bool = False,
    max_drop: float = 0.01,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    disable: Sequence[str] = (),
    bisect_limit: int | None = None,
    plugins: Sequence[str] = (),
    seed: int = 0,
    reproducer: str | Path | None = None,
    instruments: Sequence[Instrument] = (),
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Optimize a model for a target; the result computes the same, and is neither slower nor bigger.

    model: a path, a ModelProto or an accelc.ir.Model. level: 0 to 3. target: an execution provider such as "cpu" or
    "cpu:threads=1". passes: pipeline text instead of the level's ("O2, prune{sparsity=0.5}"); pipeline: the same as an
    object. output: the file to write; by default MODEL.O2.cpu.onnx beside a file, and nothing for a model in memory.
    inputs: a .npz file or a folder of them with inputs (and labels) to verify and measure on. verify: "final", "each"
    or "off". measure: whether latency is measured and gated; None leaves out only models of over 20,000
    nodes or 1 GiB of weights. portable: only ai.onnx operators. max_drop: the quality
    that -O3 may cost, 0..1. shapes: input dimensions to fix, by input name. disable: passes and rules to leave out.
    bisect_limit: stop after that many changes. plugins: modules or files with more passes and backends. seed: for
    everything random. reproducer: a folder to fill when something fails. instruments: watch passes and patches.
    progress: called with a few words whenever something else is being done.

    Raises UsageError, ModelError, BackendError or PluginError for what cannot start, PassError for a pass that was
    asked for by name and fails, VerifyError when no correct result can be made.
    """
    from accelc.compilation import Compilation

    options = Options(
        level=level,
        target=target,
        passes=passes,
        pipeline=pipeline,
        output=None if output is None else Path(output),
        inputs=_path(inputs, "inputs"),
        verify=verify,
        measure=measure,
        portable=portable,
        max_drop=max_drop,
        shapes=dict(shapes or {}),
        disable=frozenset(name.strip() for name in ([disable] if isinstance(disable, str) else disable)),
        bisect_limit=bisect_limit,
        plugins=tuple(plugins),
        seed=seed,
        reproducer=None if reproducer is None else Path(reproducer),
    )
    with Compilation(options, tuple(instruments), progress or (lambda text: None)) as compilation:
        attempt, report = compilation.run(model)
        return Result(attempt.model, report, compilation.output)


def _path(given: object, name: str) -> Path | None:
    if given is None or isinstance(given, Path):
        return given
    if isinstance(given, str):
        return Path(given)
    raise UsageError(
        f"{name} cannot be a {type(given).__name__}", hint="give the path of a .npz file or a folder of them"
    )
