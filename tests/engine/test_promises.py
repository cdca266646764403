"""Ways in which a result could be wrong, slower, bigger or silent without an error, each found once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest

import accelc
from accelc import gates, ir
from accelc.context import Context
from accelc.measure import Comparison
from accelc.pass_base import Pass, PassResult
from accelc.pipeline import Fixpoint, execute
from accelc.runner import RuntimeFailure
from accelc.testing import context


def model(text: str, opset: int = 17) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> g {text}')


def test_the_callers_proto_is_left_alone() -> None:
    proto = model("(float[4] x) => (float[4] y) { i = Identity(x) y = Add(i, s) }")
    sparse = proto.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(onnx.numpy_helper.from_array(np.array([2.0], np.float32), "s"))
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(np.array([1], np.int64), "s_at"))
    before = proto.SerializeToString()
    accelc.optimize(proto, level=1, measure=False)
    assert proto.SerializeToString() == before


def test_a_model_the_runtime_refuses_is_refused_even_when_nothing_changes(tmp_path: Path) -> None:
    proto = model('(float[4] x, int64[2] p) => (float[N] y) { y = Pad<mode = "foo">(x, p) }')
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(accelc.AccelcError):
        accelc.optimize(tmp_path / "m.onnx", level=1, measure=False)
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_random_outputs_are_not_called_the_same() -> None:
    proto = model("(float[4] x) => (float[4] y) { r = RandomNormalLike(x) a = Identity(x) y = Mul(a, r) }")
    verdict = accelc.optimize(proto, level=1, measure=False).report.verdict
    assert verdict is not None
    assert (verdict.status, verdict.reason) == ("skipped", "every output is random")


def test_random_outputs_beside_others_are_named() -> None:
    proto = model(
        "(float[4] x) => (float[4] y, float[4] z) { r = RandomNormalLike(x) a = Identity(x) y = Mul(a, r) z = Abs(a) }"
    )
    verdict = accelc.optimize(proto, level=1, measure=False).report.verdict
    assert verdict is not None
    assert (verdict.status, verdict.reason) == ("same", "random, so not compared: y")


def failure() -> RuntimeFailure:
    return RuntimeFailure("load", "the runtime cannot load the model", why="no such kernel")


CHANGED = "(float[4] x) => (float[4] y) { a = Identity(x) b = Abs(a) y = Identity(b) }"


def test_a_result_that_does_not_run_on_the_target_is_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: gates.Timing, results: Sequence[Path], seconds: float) -> list[Comparison]:
        raise failure()

    monkeypatch.setattr(gates.Timing, "compare", refuse)
    report = accelc.optimize(model(CHANGED), level=1, measure=True).report
    assert report.after.nodes == 3
    assert any("does not run under the runtime's defaults" in str(each) for each in report.refused)


def test_a_slow_result_is_not_shipped_when_its_variants_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def slow_then_fail(self: gates.Timing, results: Sequence[Path], seconds: float) -> list[Comparison]:
        calls.append(len(results))
        if len(calls) > 1:
            raise failure()
        return [Comparison(0.5, 0.49, 0.51, "slower", 1.0, 2.0, 1.0, 2.0, 20, 0.01)]

    monkeypatch.setattr(gates.Timing, "compare", slow_then_fail)
    report = accelc.optimize(model(CHANGED), level=1, measure=True).report
    assert report.after.nodes == 3
    assert report.refused


def test_external_data_with_few_declared_types_does_not_grow(tmp_path: Path) -> None:
    nodes = "a0 = Add(x, w) " + " ".join(f"a{i + 1} = Abs(a{i})" for i in range(200)) + " i = Identity(a200) y = Neg(i)"
    proto = model(f"(float[N,512] x) => (float[N,512] y) {{ {nodes} }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(512, np.float32), "w"))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a0", 1, ["N", 512]))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    report = accelc.optimize(path, level=1, measure=False, output=tmp_path / "out.onnx").report
    written = sum(each.stat().st_size for each in tmp_path.glob("out.onnx*"))
    assert written == report.after.bytes <= report.before.bytes


def test_the_data_file_that_was_judged_is_the_one_that_is_published(tmp_path: Path) -> None:
    proto = model("(float[N,512] x) => (float[N,512] y) { a = Identity(x) y = Mul(a, w) }")
    weights = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    (tmp_path / "out").mkdir()
    accelc.optimize(tmp_path / "m.onnx", level=1, measure=False, output=tmp_path / "out" / "r.onnx")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["r.onnx", "r.onnx.data"]
    result = onnx.load(tmp_path / "out" / "r.onnx")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(result.graph.initializer[0]), weights)


class OneAtATime(Pass):
    """Counts down one change per run."""

    name = "one-at-a-time"
    left: ClassVar[list[int]] = []

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if not self.left or not ctx.spend("one", "nowhere"):
            return PassResult()
        self.left.pop()
        return PassResult(1)


def test_a_fixpoint_repeats_a_pass_that_still_changes_something() -> None:
    OneAtATime.left[:] = [1, 2, 3]
    graph: Any = ir.parse("(float[4] x) => (float[4] y) { y = Abs(x) }")
    assert execute(Fixpoint((OneAtATime(),)), graph, context()) == 3


def test_options_of_the_wrong_kind_are_refused_in_one_line(tmp_path: Path) -> None:
    proto = model(CHANGED)
    for wrong in ({"max_drop": "much"}, {"inputs": {"x": np.zeros(4, np.float32)}}, {"disable": "gelo"}):
        options: dict[str, Any] = wrong
        with pytest.raises(accelc.UsageError):
            accelc.optimize(proto, level=1, measure=False, **options)
    assert len(repr(accelc.optimize(proto, level=1, measure=False))) < 200


def test_data_without_samples_is_refused_and_nan_is_said(tmp_path: Path) -> None:
    proto = model("(float[N,4] x) => (float[N,4] y) { a = Identity(x) b = Abs(a) y = Identity(b) }")
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 4), np.float32))
    with pytest.raises(accelc.UsageError, match="holds no samples"):
        accelc.optimize(proto, level=1, measure=False, inputs=tmp_path / "none.npz")
    np.savez(tmp_path / "nan.npz", x=np.full((2, 4), np.nan, np.float32))
    with pytest.raises(accelc.UsageError, match="input x holds NaN or Inf: the original's output y is not finite"):
        accelc.optimize(proto, level=1, measure=False, inputs=tmp_path / "nan.npz")
    guarded = model(
        "(float[N,4] x) => (float[N,4] y) <float zero = {0}> { n = IsNaN(x) w = Where(n, zero, x) y = Identity(w) }"
    )
    report = accelc.optimize(guarded, level=1, measure=False, inputs=tmp_path / "nan.npz").report
    assert any("NaN or Inf" in note for note in report.notes)


def test_models_too_large_to_hold_twice_are_not_measured_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.compilation.STREAMING_THRESHOLD", -1)
    report = accelc.optimize(model(CHANGED), level=3).report
    assert report.latency is None
    assert "ask for it with --measure" in report.latency_note
    assert accelc.optimize(model(CHANGED), level=1, measure=True).report.latency is not None


def test_nan_in_random_outputs_is_no_difference() -> None:
    proto = model(
        "(float[64] x) => (float[64] y, float[64] z) "
        "{ r = RandomNormalLike(x) a = Identity(r) y = Log(a) b = Identity(x) z = Abs(b) }"
    )
    report = accelc.optimize(proto, level=1, measure=False).report
    assert report.verdict is not None
    assert (report.verdict.status, report.refused) == ("same", [])
