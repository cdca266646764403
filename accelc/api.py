"""`accelc.optimize`: the Python API behind the command of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelc.budget import DEFAULT_DROP
from accelc.data.dataset import KINDS
from accelc.errors import UsageError
from accelc.instrument import Instrument
from accelc.options import Options
from accelc.pipeline import Pipeline
from accelc.source import ModelLike
from accelc.targets import Failure, Result, TargetsError, compile_each


def optimize(
    model: ModelLike,
    *,
    level: int = 2,
    target: str = "cpu",
    passes: str | None = None,
    pipeline: Pipeline | None = None,
    output: str | Path | None = None,
    inputs: str | Path | None = None,
    calibration: str | Path | None = None,
    preprocess: str | None = None,
    verify: str = "final",
    measure: bool | None = None,
    portable: bool = False,
    max_drop: float | str = DEFAULT_DROP,
    metric: str | None = None,
    metric_output: str | None = None,
    calibration_method: str = "minmax",
    ranges: str | Path | None = None,
    search_time: float | str | None = None,
    pareto: str | Path | None = None,
    isa: str | None = None,
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
    "cpu:threads=1"; one that does not work here is compiled for all the same, and the report says what could not be
    checked. passes: pipeline text instead of the level's ("O2, prune{sparsity=0.5}"); pipeline: the same as an
    object. output: the file to write, {ep} in its name standing for the target, or a folder; by default
    MODEL.O2.cpu.onnx beside a file, and nothing for a model in memory.
    inputs: data with inputs (and labels) to verify and measure on: a .npz file or a folder of them, a folder of .npy
    files, .pb test data or images, a .parquet file, or "module:function" yielding feed sets. calibration: the same, to
    find the ranges of static int8 on. preprocess: how images become inputs, as "resize=256,crop=224,scale=1/255", or a
    .json or .toml file of it. verify: "final", "each" or "off". measure: whether alternatives and the result are
    measured on the target, and what is slower undone; None is yes at level 3 and for passes that trade quality for
    speed, models of over 20,000 nodes or 1 GiB of weights left out. portable: only ai.onnx operators. max_drop: the
    quality that -O3 may cost: "0.5%" is relative, 0.005 a share, or in the unit of a metric. metric: by what quality is
    judged: top1, topk=5, cosine, mse, psnr, f1 or "module:function"; None is closeness of all outputs, and top-1
    accuracy where the data has labels. metric_output: the output that is scored, None for the first of floats.
    calibration_method: how ranges follow from data: minmax, average, percentile=99.99, entropy or mse. ranges: a file
    by accelc calibrate, instead of data. search_time: how long the search of -O3 may take, in seconds or as "60s".
    pareto: a .html or .json file for the trade-off that it found. isa: instruction sets to compile for instead of this
    processor's. shapes: input dimensions to fix, by input name. disable: passes and rules to leave out. bisect_limit:
    stop after that many changes. plugins: modules or files with more passes and backends. seed: for everything random.
    reproducer: a folder to fill when something fails. instruments: watch passes and patches. progress: called with a
    few words whenever something else is being done.

    Raises UsageError, ModelError, BackendError or PluginError for what cannot start, PassError for a pass that was
    asked for by name and fails, VerifyError when no correct result can be made.
    """
    (result,) = optimize_each(
        model,
        [target],
        level=level,
        passes=passes,
        pipeline=pipeline,
        output=output,
        inputs=inputs,
        calibration=calibration,
        preprocess=preprocess,
        verify=verify,
        measure=measure,
        portable=portable,
        max_drop=max_drop,
        metric=metric,
        metric_output=metric_output,
        calibration_method=calibration_method,
        ranges=ranges,
        search_time=search_time,
        pareto=pareto,
        isa=isa,
        shapes=shapes,
        disable=disable,
        bisect_limit=bisect_limit,
        plugins=plugins,
        seed=seed,
        reproducer=reproducer,
        instruments=instruments,
        progress=progress,
    )
    return result


def optimize_each(
    model: ModelLike,
    targets: Sequence[str],
    *,
    output: str | Path | None = None,
    inputs: str | Path | None = None,
    calibration: str | Path | None = None,
    ranges: str | Path | None = None,
    pareto: str | Path | None = None,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    disable: Sequence[str] = (),
    plugins: Sequence[str] = (),
    reproducer: str | Path | None = None,
    instruments: Sequence[Instrument] = (),
    progress: Callable[[str], None] | None = None,
    **more: Any,
) -> list[Result]:
    """Optimize a model for several targets: it is read once, and what it computes is found out once.

    targets and the results are in the same order. output: a folder, or a file with {ep} in its name; the default is a
    file for each target beside the model. more: as for optimize.

    Raises what optimize raises where the request or the model is wrong; TargetsError when some targets fail, after the
    others are done, with their results.
    """
    options = Options(
        output=_path(output, "output"),
        inputs=_path(inputs, "inputs"),
        calibration=_path(calibration, "calibration"),
        ranges=_path(ranges, "ranges"),
        pareto=_path(pareto, "pareto"),
        shapes=dict(shapes or {}),
        disable=frozenset(name.strip() for name in ([disable] if isinstance(disable, str) else disable)),
        plugins=tuple(plugins),
        reproducer=_path(reproducer, "reproducer"),
        **more,
    )
    tell = progress or (lambda text: None)
    found = list(compile_each(model, options, targets, lambda target: instruments, tell))
    results = [each for each in found if isinstance(each, Result)]
    failures = [each for each in found if isinstance(each, Failure)]
    if failures:
        raise TargetsError(failures, results)
    return results


def _path(given: object, name: str) -> Path | None:
    if given is None or isinstance(given, Path):
        return given
    if isinstance(given, str):
        return Path(given)
    hint = f"give {KINDS}" if name in ("inputs", "calibration") else "give a path"
    raise UsageError(f"{name} cannot be a {type(given).__name__}", hint=hint)
