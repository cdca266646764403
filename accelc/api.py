"""`accelc.optimize`: the Python API behind the command of the same name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    "cpu:threads=1"; one that does not work here is compiled for all the same, and the report says what could not be
    checked. passes: pipeline text instead of the level's ("O2, prune{sparsity=0.5}"); pipeline: the same as an
    object. output: the file to write, {ep} in its name standing for the target, or a folder; by default
    MODEL.O2.cpu.onnx beside a file, and nothing for a model in memory.
    inputs: a .npz file or a folder of them with inputs (and labels) to verify and measure on. verify: "final", "each"
    or "off". measure: whether alternatives and the result are measured on the target, and what is slower undone;
    None is yes at level 3 and for passes that trade quality for speed, models of over 20,000 nodes or 1 GiB of weights
    left out. portable: only ai.onnx operators. max_drop: the quality
    that -O3 may cost, 0..1. shapes: input dimensions to fix, by input name. disable: passes and rules to leave out.
    bisect_limit: stop after that many changes. plugins: modules or files with more passes and backends. seed: for
    everything random. reproducer: a folder to fill when something fails. instruments: watch passes and patches.
    progress: called with a few words whenever something else is being done.

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
        verify=verify,
        measure=measure,
        portable=portable,
        max_drop=max_drop,
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
    hint = "give the path of a .npz file or a folder of them" if name == "inputs" else "give a path"
    raise UsageError(f"{name} cannot be a {type(given).__name__}", hint=hint)
