"""Tiny models for benchmarks, from ONNX text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from accelc.benchmark.options import BenchOptions
from accelc.benchmark.plan import Case
from accelc.benchmark.results import Setting
from accelc.plugins import find_backend
from accelc.source import Source

HEAD = '<ir_version: 9, opset_import: ["" : 20]>'
SCALE = "tiny (float[batch, 4] x) => (float[batch, 4] y) { y = Mul(x, x) }"


def write(path: Path, text: str = SCALE) -> Path:
    """Save a model of one graph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(onnx.parser.parse_model(f"{HEAD}\n{text}"), path)
    return path


def case(path: Path, *, batch: int | None = None, shapes: Any = None, threads: int | None = None) -> Case:
    """A case on the processor."""
    backend = find_backend("cpu")(())
    return Case(path.stem, path, Source.of(path), backend, Setting("cpu", threads), "", shapes or {}, batch)


def options(*models: Path, **more: Any) -> BenchOptions:
    """Options for some models."""
    return BenchOptions(models=models or (Path("a.onnx"),), **more)
