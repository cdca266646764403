"""One model through every optimizer, and what came out measured side by side."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelc
from benchmarks import optimizers
from benchmarks.models import ROOT, Model
from benchmarks.optimizers import Made


@dataclass(frozen=True)
class Variant:
    """A result. ratio: how many times as fast as the original, with its 95 % interval. relative: max|a-b| / max|a| over
    the outputs; top1: the share of samples whose largest output is the same; None where that says nothing. seconds,
    peak_bytes: of making it. failure: one line, where there is no result or it does not run.
    """

    optimizer: str
    seconds: float
    peak_bytes: int | None
    failure: str = ""
    nodes: int = 0
    bytes: int = 0
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""
    relative: float | None = None
    top1: float | None = None


@dataclass(frozen=True)
class Study:
    """A model and its variants. p50_ms: of the original. inputs: what it was measured on, in words."""

    model: str
    nodes: int
    bytes: int
    p50_ms: float
    inputs: str
    variants: tuple[Variant, ...]
    noise: tuple[str, ...] = ()


def study(
    model: Model,
    names: list[str],
    work: Path,
    *,
    duration: float,
    threads: int | None,
    limit: float,
    python: str,
    tell: Callable[[str], None],
) -> tuple[Study, dict[str, Any]]:
    """Make and measure every variant; also the environment in which that was done.

    limit: seconds for one optimizer. python: the interpreter that has the peers. Raises AccelcError.
    """
    folder = work / "results"
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Made] = {}
    files: dict[str, Path] = {}
    for name in names:
        tell(f"{model.name}: {name}")
        target = folder / f"{model.name}.{name.replace(' ', '')}.onnx"
        target.unlink(missing_ok=True)
        made[name] = optimizers.run(name, model, target, limit, python)
        if not made[name].failure:
            files[name] = target
    tell(f"{model.name}: measuring {len(files) + 1} models")
    found = accelc.bench([model.path, *files.values()], inputs=model.data, duration=duration, threads=threads)
    first, *rest = found.rows
    if first.latency is None:
        raise accelc.AccelcError(first.failure or "the original was not measured", where=str(model.path))
    rows = dict(zip(files, rest, strict=True))
    variants = tuple(_variant(name, made[name], rows.get(name)) for name in names)
    words = next((note for note in found.notes if note.startswith("inputs")), "").replace(f"{ROOT}{os.sep}", "")
    figures = Study(model.name, first.nodes, first.bytes, first.latency.p50_ms.value, words, variants, found.noise)
    return figures, dict(found.environment)


def _variant(name: str, made: Made, row: Any) -> Variant:
    if row is None or row.failure:
        return Variant(name, made.seconds, made.peak_bytes, made.failure or row.failure)
    versus = next((each for each in row.versus if each.kind == "model"), None)
    return Variant(
        name,
        made.seconds,
        made.peak_bytes,
        nodes=row.nodes,
        bytes=row.bytes,
        ratio=versus and versus.ratio,
        low=versus and versus.low,
        high=versus and versus.high,
        verdict=versus.verdict if versus else "",
        relative=row.error and row.error.relative,
        top1=row.error and row.error.top1,
    )
