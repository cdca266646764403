"""Which form each unit takes: the choice by numbers, the options, the curve, and what is kept between runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from quantized_graphs import Array, Samples, model_of, normal, outputs

from accelc import ir
from accelc.backends.cpu import CpuBackend
from accelc.budget import Judgement
from accelc.calibration import Calibration
from accelc.context import Context, Fuel, Settings
from accelc.data import Feed, Sample
from accelc.errors import PassError
from accelc.measure import Comparison, Verdict
from accelc.pass_base import PassRecord, PassResult, make_pass, run_pass
from accelc.passes.quantization.choices import Choice, fastest, frontier, steps
from accelc.passes.quantization.curve import Curve, Point
from accelc.passes.quantization.sensitivity import Sensitivity
from accelc.passes.quantization.trial import Trial
from accelc.passes.quantize import METADATA, Quantize
from accelc.quality import measure_quality
from accelc.runner import Runner

pytestmark = pytest.mark.usefixtures("own_cache")

Ratios = Mapping[str, float]


def quantized(
    model: ir.Model,
    runner: Runner,
    feed: Mapping[str, Array],
    *,
    calibrate: bool = False,
    max_drop: float = 0.01,
    fuel: Fuel | None = None,
    records: Sequence[PassRecord] = (),
    **options: Any,
) -> PassResult:
    samples = [Sample(Feed(feed, "test"), outputs(model, feed))]
    ctx = Context(
        CpuBackend().target(),
        Settings(measure=True, max_drop=max_drop),
        backend=CpuBackend(),
        runner=runner,
        samples=lambda: samples,
        calibration=Calibration(Samples([feed]), lambda: runner) if calibrate else None,
        fuel=fuel,
    )
    ctx.records.extend(records)
    return run_pass(make_pass(Quantize, options), model, ctx)


def comparison(ratio: float, verdict: Verdict = "faster") -> Comparison:
    return Comparison(ratio, ratio * 0.98, ratio * 1.02, verdict, 1.0, 1 / ratio, 1.0, 1 / ratio, 20, 0.01)


def speeds(monkeypatch: pytest.MonkeyPatch, alone: Ratios, whole: Callable[[ir.Model], float] | float) -> list[int]:
    """Let shapes alone and whole candidates be so much faster, and convolutions twice unless alone names their form.

    How many candidates each comparison had.
    """
    asked: list[int] = []

    def compare(self: Trial, candidates: Sequence[ir.Model], seconds: float) -> list[Comparison]:
        asked.append(len(candidates))
        ratios = [whole if isinstance(whole, float) else whole(each) for each in candidates]
        return [comparison(ratio, "faster" if ratio > 1 else "slower") for ratio in ratios]

    def time_alone(self: Any, form: str, case: Any, *_: Any) -> float:
        return alone.get(form, 0.5 if isinstance(case, tuple) else 2.0)

    monkeypatch.setattr("accelc.passes.quantization.gains.Gains.time_alone", time_alone)
    monkeypatch.setattr(Trial, "compare", compare)
    return asked


def more_with_dynamic(candidate: ir.Model) -> float:
    return 1.5 if any(node.op_type == "DynamicQuantizeMatMul" for node in ir.walk(candidate)) else 1.2


def forms(result: PassResult) -> list[str]:
    return [each["form"] for each in result.details["layers"]]


# --- the knapsack


def test_dominated_choices_are_left_out() -> None:
    slow, exact = Choice(0, "dynamic", 1.0, 0.02), Choice(0, "weight8", 2.0, 0.01)
    fast, faster = Choice(0, "static", 2.1, 0.5), Choice(0, "weight4", 3.0, 0.51)
    found = frontier([faster, slow, fast, exact], 0)
    assert [each.form for each in found] == [None, "weight8", "weight4"]


def test_what_is_slower_than_float_is_no_choice() -> None:
    assert [each.form for each in frontier([Choice(0, "dynamic", -1.0, 0.0)], 0)] == [None]


def test_the_cheapest_error_is_given_up_first() -> None:
    frontiers = {
        0: frontier([Choice(0, "dynamic", 10.0, 0.1)], 0),
        1: frontier([Choice(1, "dynamic", 1.0, 0.1)], 1),
        2: frontier([Choice(2, "weight8", 2.0, 0.01), Choice(2, "weight4", 3.0, 0.2)], 2),
    }
    assert fastest(frontiers) == {0: "dynamic", 1: "dynamic", 2: "weight4"}
    assert [(step.unit, step.form) for step in steps(frontiers)] == [(2, "weight8"), (1, None), (0, None), (2, None)]


def test_the_front_of_the_curve() -> None:
    curve = Curve()
    for key, (ratio, drop) in enumerate([(1.0, 0.0), (2.0, 0.01), (1.5, 0.02), (3.0, 0.05)]):
        curve.put(key, Point("p", {"float": 1}, ratio=ratio, drop=drop))
    points = curve.details(1)
    assert [each["front"] for each in points] == [True, True, False, True]
    assert [each["chosen"] for each in points] == [False, True, False, False]
    assert len({each["label"] for each in points}) == 4


# --- forms

TWO = "(float[3,64] x) => (float[3,48] y) { s = MatMul(x, v)  t = Relu(s)  y = MatMul(t, w) }"


def two() -> tuple[ir.Model, dict[str, Array]]:
    return model_of(TWO, {"v": normal(64, 64), "w": normal(64, 48, seed=1)}), {"x": normal(3, 64, seed=2)}


@pytest.mark.parametrize(
    ("options", "form", "operator"),
    [
        ({"scheme": "dynamic"}, "dynamic", "DynamicQuantizeMatMul"),
        ({"scheme": "weights"}, "weight4", "MatMulNBits"),
        ({"scheme": "weights", "bits": 8}, "weight8", "MatMulNBits"),
        ({"scheme": "weights", "bits": 4, "block_size": 16, "symmetric": False}, "weight4", "MatMulNBits"),
    ],
)
def test_schemes_that_are_asked_for(runner: Runner, options: dict[str, Any], form: str, operator: str) -> None:
    model, feed = two()
    wanted = outputs(model, feed)["y"]
    result = quantized(model, runner, feed, islands=False, max_drop=0.1, **options)
    assert forms(result) == [form, form]
    assert [node.op_type for node in ir.walk(model)].count(operator) == 2
    error = np.linalg.norm(outputs(model, feed)["y"] - wanted) / np.linalg.norm(wanted)
    assert error < 0.25
    entry = json.loads(model.metadata_props[METADATA])
    assert entry["forms"] == {form: ["MatMul0", "MatMul2"]}


def test_forms_are_mixed_by_what_each_gains(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = two()

    def alone(self: Any, form: str, shape: tuple[int, int, int], *_: Any) -> float:
        return {"dynamic": 2.0, "weight8": 3.0 if shape[2] == 48 else 0.5}.get(form, 0.5)

    speeds(monkeypatch, {}, lambda each: 2.0 if "MatMulNBits" in {node.op_type for node in ir.walk(each)} else 1.5)
    monkeypatch.setattr("accelc.passes.quantization.gains.Gains.time_alone", alone)
    result = quantized(model, runner, feed)
    assert forms(result) == ["dynamic", "weight8"]
    assert "1 dynamic" in result.notes[0]
    assert "2.00 (1.96 to 2.04) times as fast" in result.notes[0]


def test_static_needs_data(runner: Runner) -> None:
    model, feed = two()
    with pytest.raises(PassError, match="--calibration"):
        quantized(model, runner, feed, scheme="static")


def test_without_data_auto_says_what_it_left_out(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dynamic": 2.0}, 1.5)
    model, feed = two()
    result = quantized(model, runner, feed)
    assert result.changes == 2
    assert any("static int8 was not considered (give --calibration)" in note for note in result.notes)


CONVOLUTIONS = (
    "(float[2,8,9,9] x) => (float[2,48] y) { s = Conv <pads = [1,1,1,1]> (x, c)  t = Relu(s)  "
    "m = GlobalAveragePool(t)  f = Flatten(m)  y = MatMul(f, w) }"
)


def convolutions() -> tuple[ir.Model, dict[str, Array]]:
    weights = {"c": normal(64, 8, 3, 3), "w": normal(64, 48, seed=1)}
    return model_of(CONVOLUTIONS, weights), {"x": normal(2, 8, 9, 9, seed=2)}


def test_static_and_dynamic_parts_in_one_model(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(candidate: ir.Model) -> float:
        names = {node.op_type for node in ir.walk(candidate)}
        return 2.0 if names >= {"QuantizeLinear", "DynamicQuantizeMatMul"} else 1.5

    asked = speeds(monkeypatch, {"dynamic": 2.0}, whole)
    monkeypatch.setattr("accelc.passes.quantization.search._PAYS", 1.0)
    model, feed = convolutions()
    wanted = outputs(model, feed)["y"]
    result = quantized(model, runner, feed, calibrate=True)
    assert {each["node"]: each["form"] for each in result.details["layers"]} == {
        "node Conv0 (Conv)": "static",
        "node MatMul4 (MatMul)": "dynamic",
    }
    assert max(asked) > 1
    assert any("integer kernels" in note for note in result.notes)
    error = np.linalg.norm(outputs(model, feed)["y"] - wanted) / np.linalg.norm(wanted)
    assert error < 0.05
    chosen = next(each for each in result.details["curve"] if each["chosen"])
    assert chosen["units"] == {"dynamic": 1, "static": 1}
    assert "ranges by" in chosen["label"]


def test_fixed_ranges_are_no_remedy(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the dynamic form is too much, units go to safer forms, never to static ones."""
    speeds(monkeypatch, {"dynamic": 3.0, "static": 2.0, "weight8": 1.5}, 1.5)
    errors = {"dynamic": 0.5, "static": 0.1}

    def measured(_trial: Any, parts: Any, chosen: Sequence[Any], _ranges: str) -> Sensitivity:
        return Sensitivity({(unit.index, form): errors.get(form, 0.01) for unit in parts.units for form in chosen})

    def quality(_self: Trial, candidate: ir.Model) -> Judgement:
        good = "MatMulNBits" in {node.op_type for node in ir.walk(candidate)}
        quality = measure_quality([{"y": np.ones(2)}], [{"y": np.ones(2)}])
        return Judgement("" if good else "too much", quality, lost=0.0 if good else 1.0)

    monkeypatch.setattr("accelc.passes.quantization.search.measure_errors", measured)
    monkeypatch.setattr(Trial, "quality", quality)
    model, feed = two()
    result = quantized(model, runner, feed, calibrate=True)
    assert sorted(forms(result)) == ["dynamic", "weight8"]


def test_convolutions_without_data_say_what_they_need(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {}, 1.5)
    model, feed = convolutions()
    before = ir.to_proto(model).SerializeToString()
    result = quantized(model, runner, feed)
    assert result.skipped == "nothing beats float: every layer is faster in float"
    assert any("give --calibration" in note for note in result.notes)
    reasons = {each["node"]: each["reason"] for each in result.details["layers"]}
    assert reasons == {
        "node MatMul4 (MatMul)": "float is faster alone: 0.50",
        "node Conv0 (Conv)": "no calibration data",
    }
    assert ir.to_proto(model).SerializeToString() == before


def test_what_is_quantized_already_is_left_alone(runner: Runner) -> None:
    model, feed = two()
    quantized(model, runner, feed, scheme="dynamic", keep="MatMul2")
    result = quantized(model, runner, feed, scheme="dynamic")
    assert any(note.startswith("already quantized by accelc") for note in result.notes)
    assert forms(result) == ["dynamic"]
    assert {f"{METADATA}.2", METADATA} <= model.metadata_props.keys()


# --- islands


def outlying_row() -> tuple[ir.Model, dict[str, Array]]:
    """One row of the second product's input is a thousand times the others, and is made smaller afterwards."""
    graph = (
        "(float[9,64] x) => (float[9,64] y, float[9,64] z) "
        "{ y = MatMul(x, w)  t = Mul(x, s)  u = MatMul(t, v)  z = Div(u, s) }"
    )
    scales = np.ones((9, 1), np.float32)
    scales[4] = 1000.0
    return model_of(graph, {"w": normal(64, 64), "v": normal(64, 64, seed=1), "s": scales}), {"x": normal(9, 64)}


def test_without_islands_everything_is_quantized_and_the_quality_is_told(runner: Runner) -> None:
    model, feed = outlying_row()
    result = quantized(model, runner, feed, scheme="dynamic", islands=False)
    assert forms(result) == ["dynamic", "dynamic"]
    assert any("outside the quality budget" in note for note in result.notes)


def test_a_sensitive_layer_takes_a_safer_form(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights alone round no activation, so the row of outliers does no harm."""
    speeds(monkeypatch, {"dynamic": 3.0, "weight8": 1.5}, more_with_dynamic)
    model, feed = outlying_row()
    result = quantized(model, runner, feed)
    assert forms(result) == ["dynamic", "weight8"]
    assert "weight8 instead of dynamic: too sensitive" in result.details["layers"][1]["reason"]


def test_named_nodes_are_kept_in_float(runner: Runner) -> None:
    model, feed = two()
    result = quantized(model, runner, feed, scheme="dynamic", keep="nothing|*Mul2")
    assert {each["node"]: each["form"] for each in result.details["layers"]} == {
        "node MatMul0 (MatMul)": "dynamic",
        "node MatMul2 (MatMul)": "float",
    }
    assert result.details["layers"][1]["reason"] == "kept by keep=*Mul2"
    model, feed = two()
    assert quantized(model, runner, feed, keep="*").skipped == "keep leaves everything in float"


# --- what is told and kept


def test_the_curve_of_a_search(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dynamic": 3.0, "weight8": 1.5}, more_with_dynamic)
    model, feed = outlying_row()
    points = quantized(model, runner, feed).details["curve"]
    assert points[0]["label"] == "float"
    assert points[0]["units"] == {"float": 2}
    (chosen,) = (each for each in points if each["chosen"])
    assert chosen["units"] == {"dynamic": 1, "weight8": 1}
    assert (chosen["ratio"], chosen["low"], chosen["estimated"]) == (1.5, 1.5 * 0.98, False)
    over = [each for each in points if not each["inside"]]
    assert over
    assert all(each["reason"] and each["estimated"] for each in over)
    assert chosen["bytes"] < points[0]["bytes"] / 2
    json.dumps(points)


def test_speeds_of_whole_models_are_kept(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = speeds(monkeypatch, {"dynamic": 2.0}, 1.5)
    results = []
    for _ in range(2):
        model, feed = two()
        results.append(quantized(model, runner, feed))
    assert asked == [1]
    assert results[0].notes == results[1].notes
    assert results[0].details == results[1].details


def test_what_loses_is_told(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds(monkeypatch, {"dynamic": 2.0}, 0.7)
    model, feed = two()
    before = ir.to_proto(model).SerializeToString()
    result = quantized(model, runner, feed)
    assert result.skipped.startswith("nothing beats float: ratio 0.70")
    assert ir.to_proto(model).SerializeToString() == before
    (chosen,) = (each for each in result.details["curve"] if each["chosen"])
    assert chosen["label"] == "float"


def test_where_all_do_not_pay_the_clear_ones_may(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(candidate: ir.Model) -> float:
        return 1.2 if "MatMul" in {node.op_type for node in ir.walk(candidate)} else 0.9

    def alone(self: Any, form: str, shape: tuple[int, int, int], *_: Any) -> float:
        return 0.5 if form != "dynamic" else 2.0 if shape[2] == 48 else 1.1

    asked = speeds(monkeypatch, {}, whole)
    monkeypatch.setattr("accelc.passes.quantization.gains.Gains.time_alone", alone)
    model, feed = two()
    result = quantized(model, runner, feed)
    assert forms(result) == ["float", "dynamic"]
    assert result.details["layers"][0]["reason"] == "float is faster alone, or nearly: 1.10"
    assert asked == [1, 1]


def test_fuel_limits_a_mixed_plan(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(self: Any, form: str, shape: tuple[int, int, int], *_: Any) -> float:
        return {"dynamic": 2.0, "weight8": 3.0 if shape[2] == 48 else 0.5}.get(form, 0.5)

    speeds(monkeypatch, {}, lambda each: 2.0 if "MatMulNBits" in {node.op_type for node in ir.walk(each)} else 1.5)
    monkeypatch.setattr("accelc.passes.quantization.gains.Gains.time_alone", alone)
    for limit in (1, 2):
        model, feed = two()
        fuel = Fuel(limit=limit)
        assert quantized(model, runner, feed, fuel=fuel).changes == limit
        assert [record.rule for record in fuel.records] == ["quantize"] * limit
