"""How the search stays inside the budget: sensitivity by effect, remedies, few tries, and a limit in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from test_quantize_search import (
    Array,
    forms,
    model_of,
    more_with_dynamic,
    normal,
    outlying_row,
    outputs,
    quantized,
    speeds,
    two,
)

from accelc import ir
from accelc.budget import Judgement
from accelc.pass_base import PassRecord
from accelc.passes.quantization.fewest import fewest
from accelc.passes.quantization.impact import impacts
from accelc.passes.quantization.trial import Trial
from accelc.quality import measure_quality
from accelc.runner import Runner

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_guilty_unit_is_found_by_groups() -> None:
    """Unit 11 alone harms the outputs, though its own error is no larger than the others'."""
    asked: list[tuple[int, ...]] = []

    def damage(group: tuple[int, ...]) -> float:
        asked.append(group)
        return 1.0 if 11 in group else 0.001

    found = impacts(range(32), lambda _: 0.01, damage, lambda: True, groups=8)
    assert max(found, key=lambda unit: found[unit]) == 11
    assert sorted(found, key=lambda unit: -found[unit])[1] != 11
    assert found[11] > 100 * found[10]
    assert len(asked) == 8 + 2 * 2


def test_units_that_were_not_tried_get_the_mean_impact() -> None:
    left = iter([True, True])
    found = impacts(range(4), lambda _: 0.5, lambda group: 2.0 * len(group), lambda: next(left, False), groups=4)
    assert found == {0: 4.0, 1: 4.0, 2: 4.0, 3: 4.0}


def test_few_tries_find_how_many_changes_are_enough() -> None:
    left = [1.0 - count / 100 for count in range(101)]
    asked: list[int] = []

    def attempt(changes: int) -> tuple[float, bool]:
        asked.append(changes)
        return 0.03 * left[changes] ** 1.3, 0.03 * left[changes] ** 1.3 <= 0.01

    found = fewest(100, attempt, left, 0.01, lambda: True, tries=10)
    assert found is not None
    assert 0.0085 <= attempt(found)[0] <= 0.01
    assert len(asked) <= 6


def test_without_time_one_careful_try_is_made() -> None:
    asked: list[int] = []

    def attempt(changes: int) -> tuple[float, bool]:
        asked.append(changes)
        return 0.1 - 0.01 * changes, changes >= 5

    assert fewest(10, attempt, [1 - 0.1 * count for count in range(11)], 0.05, lambda: False, tries=10) == 8
    assert asked == [0, 8]


def outlying_columns() -> tuple[ir.Model, dict[str, Array]]:
    """Both products have one column of their input that is a hundred times the others."""
    graph = (
        "(float[9,64] x) => (float[9,64] y, float[9,64] z) { a = Mul(x, s)  y = MatMul(a, w)  b = Mul(x, t)"
        "  c = Tanh(x)  d = Mul(c, t)  z = MatMul(d, v) }"
    )
    wide, other = np.ones(64, np.float32), np.ones(64, np.float32)
    wide[3], other[7] = 100.0, 100.0
    w, v = normal(64, 64), normal(64, 64, seed=1)
    w[3], v[7] = w[3] / 100, v[7] / 100
    return model_of(graph, {"w": w, "v": v, "s": wide, "t": other}), {"x": normal(9, 64, seed=3)}


def test_divisors_go_into_constants_or_a_mul(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dynamic": 3.0}, 1.5)
    model, feed = outlying_columns()
    wanted, muls = outputs(model, feed), sum(node.op_type == "Mul" for node in ir.walk(model))
    result = quantized(model, runner, feed, calibrate=True, max_drop=1e-4)
    assert forms(result) == ["dynamic", "dynamic"]
    assert [each["smoothed"] for each in result.details["layers"]] == [True, True]
    assert sum(node.op_type == "Mul" for node in ir.walk(model)) <= muls
    for name, value in outputs(model, feed).items():
        assert np.linalg.norm(value - wanted[name]) < 0.02 * np.linalg.norm(wanted[name])


def test_a_remedy_that_does_harm_is_taken_back(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dynamic": 3.0}, 1.5)
    model, feed = outlying_columns()
    quality = Trial.quality
    harmful = make_harmful(model)

    def judged(self: Trial, candidate: ir.Model, most: int | None = None) -> Judgement:
        found = quality(self, candidate, most)
        if not harmful(candidate):
            return found
        return replace(found, reason="too much", quality=measure_quality([{"y": np.ones(2)}], [{"y": -np.ones(2)}]))

    monkeypatch.setattr(Trial, "quality", judged)
    result = quantized(model, runner, feed, calibrate=True, max_drop=1e-4)
    layers = {each["node"]: (each["form"], each["smoothed"]) for each in result.details["layers"]}
    assert layers["node MatMul1 (MatMul)"] == ("dynamic", True)
    assert layers["node MatMul5 (MatMul)"] in {("float", False), ("weight8", False)}


def make_harmful(model: ir.Model) -> Callable[[ir.Model], bool]:
    """Whether the second product of a candidate is smoothed: the constant before it is another one."""
    before = ir.const(model.graph.initializers["t"]).copy()  # type: ignore[union-attr]

    def harmful(candidate: ir.Model) -> bool:
        (source,) = (node for node in ir.walk(candidate) if node.name == "Mul4")
        constant = next(array for value in source.inputs if (array := ir.const(value)) is not None)
        return not np.array_equal(constant, before)

    return harmful


def test_the_time_box_ends_with_a_valid_plan(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes long, so hardly anything may be tried."""
    speeds(monkeypatch, {"dynamic": 3.0, "weight8": 1.5}, more_with_dynamic)
    ticks = count(step=10.0)
    monkeypatch.setattr("accelc.passes.quantization.search.monotonic", lambda: next(ticks))
    model, feed = outlying_row()
    wanted = outputs(model, feed)
    result = quantized(model, runner, feed)
    assert result.changes
    assert any("time for the search ran out" in note for note in result.notes)
    for name, value in outputs(model, feed).items():
        cosine = float((value * wanted[name]).sum() / np.linalg.norm(value) / np.linalg.norm(wanted[name]))
        assert cosine >= 0.99


def test_what_other_passes_rounded_is_told_when_float_wins(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dynamic": 2.0}, 0.7)
    model, feed = two()
    record = PassRecord("adaround", "adaround", 2, 0.0, 3, 0)
    result = quantized(model, runner, feed, records=[record])
    assert result.skipped.startswith("nothing beats float")
    assert "what adaround changed stays, as it was asked for" in result.notes
