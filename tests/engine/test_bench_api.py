"""accelc.bench as callers see it: keywords, their defaults, and what every field means."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import accelc
from accelc import bench_api
from accelc.benchmark import results
from accelc.benchmark.options import BenchOptions

NAMES = {"models": "models", "eps": "providers", "batch": "batches"}
"""Keywords whose option has another name."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[BenchOptions]:
    """The options that accelc.bench makes of its arguments; nothing is measured."""
    import accelc.benchmark.run

    seen: list[BenchOptions] = []
    monkeypatch.setattr(accelc.benchmark.run, "bench", lambda options, progress: seen.append(options))
    return seen


def test_the_defaults_are_those_of_the_options(asked: list[BenchOptions]) -> None:
    accelc.bench("a.onnx")
    assert asked == [BenchOptions(models=(Path("a.onnx"),))]


def test_one_or_several_of_everything(asked: list[BenchOptions]) -> None:
    accelc.bench(Path("a.onnx"), eps="cpu:threads=1", batch=8, shapes={"x": (1, "?")}, fail_if="p50>5ms")
    accelc.bench(["a.onnx", "b.onnx"], eps=["cpu"], threads=[1, None], batch=[1, 8], shapes=[{"n": (1,)}, {"n": (2,)}])
    one, several = asked
    assert (one.models, one.providers, one.batches) == ((Path("a.onnx"),), ("cpu:threads=1",), (8,))
    assert (one.shapes, one.fail_if) == (({"x": (1, "?")},), ("p50>5ms",))
    assert (len(several.models), several.threads, several.batches) == (2, (1, None), (1, 8))
    assert [dict(each) for each in several.shapes] == [{"n": (1,)}, {"n": (2,)}]


def test_every_option_can_be_given() -> None:
    keywords = [name for name in inspect.signature(bench_api.bench).parameters if name != "progress"]
    fields = [each.name for each in dataclasses.fields(BenchOptions)]
    assert [NAMES.get(name, name) for name in keywords] == fields


def test_every_keyword_is_explained() -> None:
    text = bench_api.bench.__doc__ or ""
    for name in inspect.signature(bench_api.bench).parameters:
        assert re.search(rf"\b{name}: ", text), name


RESULTS = [
    each for _, each in inspect.getmembers(results, dataclasses.is_dataclass) if each.__module__ == results.__name__
]


@pytest.mark.parametrize("kind", RESULTS, ids=lambda each: str(each.__name__))
def test_every_field_of_a_result_is_explained_or_says_it_all(kind: Any) -> None:
    plain = {
        *(
            "setting",
            "value",
            "low",
            "high",
            "node",
            "operator",
            "provider",
            "reason",
            "kind",
            "verdict",
            "path",
            "mean_ms",
        ),
        *(
            "least_ms",
            "latency",
            "versus",
            "error",
            "load",
            "profile",
            "placed",
            "options",
            "notes",
            "seconds",
            "against",
        ),
    }
    text = inspect.getdoc(kind) or ""
    for each in dataclasses.fields(kind):
        assert each.name in plain or re.search(rf"\b{each.name}\b", text), each.name
