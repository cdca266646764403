"""`accelc.quantize`: optimize with the quantizing passes chosen by the user."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelc.api import optimize
from accelc.context import fold
from accelc.errors import UsageError
from accelc.pass_base import Pass, make_pass
from accelc.pipeline import Pipeline
from accelc.plugins import pass_finder
from accelc.source import ModelLike
from accelc.targets import PLACEHOLDER, Result

METHODS = ("equalize", "smooth", "clip", "adaround", "gptq", "bias-correct")
"""Passes that raise the quality of what `quantize` makes, in the order in which they run before it."""
_SURROUNDING = (0, 1, 2)
_TIDY = "dedup, dce"


def quantize(
    model: ModelLike,
    *,
    level: int = 2,
    scheme: str = "auto",
    bits: int | None = None,
    block_size: int | None = None,
    per_channel: bool | None = None,
    symmetric: bool | None = None,
    methods: Sequence[str] = (),
    keep: Sequence[str] = (),
    embeddings: bool | None = None,
    islands: bool | None = None,
    requantize: bool = False,
    output: str | Path | None = None,
    **more: Any,
) -> Result:
    """Quantize a model: the pipeline of a level with `quantize` and what belongs to it, by explicit options.

    level: 0 to 2, what runs around it. scheme: auto searches among all forms and leaves in float what does not pay;
    dynamic, static and weights are made as asked for, and the report says so where the result is slower than the
    original or outside the budget. methods: some of METHODS, each with options as in pipelines ("smooth{alpha=0.6}").
    keep: patterns of names of nodes to leave in float. requantize: take the quantization that the model has out first.
    output: by default MODEL.quantized.cpu.onnx beside a file. bits, block_size, per_channel, symmetric, embeddings,
    islands: see `accelc passes quantize`. more: as for accelc.optimize, such as calibration, inputs, metric, max_drop,
    search_time and pareto.

    Raises what accelc.optimize raises.
    """
    if scheme == "static" and not more.get("calibration") and not more.get("ranges"):
        raise UsageError("static int8 needs calibration data", hint="give calibration, or choose scheme dynamic")
    pipeline = quantize_pipeline(
        level=level,
        scheme=scheme,
        bits=bits,
        block_size=block_size,
        per_channel=per_channel,
        symmetric=symmetric,
        methods=methods,
        keep=keep,
        embeddings=embeddings,
        islands=islands,
        requantize=requantize,
    )
    return optimize(model, pipeline=pipeline, output=named(model, output), **more)


def named(model: ModelLike, output: str | Path | None) -> Path | None:
    """Where the result goes, with a placeholder for the target; None for a model in memory without an output."""
    path = Path(model) if isinstance(model, str | os.PathLike) else None
    default = f"{path.stem if path is not None else 'model'}.quantized.{PLACEHOLDER}.onnx"
    if output is None:
        return None if path is None else path.with_name(default)
    return Path(output) / default if Path(output).is_dir() else Path(output)


def quantize_pipeline(
    *, level: int = 2, methods: Sequence[str] = (), keep: Sequence[str] = (), requantize: bool = False, **wanted: Any
) -> Pipeline:
    """The pipeline of `quantize`. wanted: options of the pass quantize; None stands for its default.

    Methods that round weights get the bits, blocks and per_channel that are wanted, unless their text says otherwise.
    Raises UsageError.
    """
    if level not in _SURROUNDING:
        hint = "levels around quantization are " + ", ".join(f"-O{each}" for each in _SURROUNDING)
        raise UsageError(f"there is no level {level} to quantize at", hint=hint)
    find = pass_finder()
    options = {name: value for name, value in wanted.items() if value is not None}
    if keep:
        options["keep"] = _patterns(keep)
    own = make_pass(find("quantize"), options)
    steps = (*_methods(methods, options), own)
    if requantize:
        steps = (*Pipeline.parse("strip-qdq", find).steps, *steps)
    return Pipeline(_around(level, find, steps))


def _around(level: int, find: Any, steps: tuple[Pass, ...]) -> tuple[Pass, ...]:
    """The passes of a level with these where -O3 has `quantize`; strip-qdq comes first of all."""
    first = tuple(each for each in steps if each.name == "strip-qdq")
    rest = tuple(each for each in steps if each.name != "strip-qdq")
    if level < 2:
        after = Pipeline.parse(_TIDY, find).steps if level else ()
        return (*first, *Pipeline.level(level, find).steps, *rest, *after)
    whole = Pipeline.level(3, find).steps
    at = next(index for index, each in enumerate(whole) if each.name == "quantize")
    return (*first, *whole[:at], *rest, *whole[at + 1 :])


def _patterns(keep: Sequence[str]) -> str:
    given = [keep] if isinstance(keep, str) else list(keep)
    wrong = next((each for each in given if "|" in each or not each.strip()), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} is no pattern of node names", hint="write it like encoder/layer_0/*")
    return "|".join(given)


def _methods(texts: Sequence[str], wanted: dict[str, Any]) -> list[Pass]:
    """The passes of texts such as smooth{alpha=0.6}, in the order of METHODS."""
    found: dict[str, Pass] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        name = fold(text.partition("{")[0])
        if name not in METHODS:
            raise UsageError(f"there is no method {name!r}", hint=f"methods are {', '.join(METHODS)}")
        steps = Pipeline.parse(text).steps
        if len(steps) != 1:
            raise UsageError(f"{text!r} is more than one method", hint="give --method once for each")
        if name in found:
            raise UsageError(f"method {name} is given twice")
        found[name] = _on_the_grid(steps[0], text, wanted)
    return [found[name] for name in METHODS if name in found]


def _on_the_grid(method: Pass, text: str, wanted: dict[str, Any]) -> Pass:
    """A method that rounds as `quantize` is going to. text: as the user wrote it; what it says stays."""
    alone = wanted.get("scheme") == "weights" or wanted.get("bits") == 4
    grid: dict[str, Any] = {name: wanted[name] for name in ("bits", "per_channel") if name in wanted}
    if alone:
        bits = wanted.get("bits", 4)
        grid = {"bits": bits, "block": wanted.get("block_size", 128 if bits == 8 else 32)}
        grid["block_size"] = grid["block"]
        grid["symmetric"] = wanted.get("symmetric", True)
    elif method.name == "gptq" and wanted.get("scheme", "auto") != "auto":
        raise UsageError("gptq rounds weights that are stored alone", hint="choose --scheme weights, or adaround")
    if "keep" in wanted:
        grid["keep"] = wanted["keep"]
    known = {each.name for each in dataclasses.fields(method)}
    said = set(re.findall(r"(\w+)\s*=", text))
    if said & {"block", "block_size"}:
        grid = {name: value for name, value in grid.items() if name not in ("block", "block_size")}
    new = {name: value for name, value in grid.items() if name in known - said}
    try:
        return dataclasses.replace(method, **new)
    except ValueError as error:
        raise UsageError(str(error), where=f"method {method.name}") from error
