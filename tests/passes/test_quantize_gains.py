"""Convolutions are timed alone, with the shapes that they have in the model."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantized_graphs import Samples, normal

from accelc import ir
from accelc.backends.cpu import CpuBackend
from accelc.calibration import Calibration, Method
from accelc.context import Context, Settings
from accelc.data import Feed, Sample
from accelc.infer import infer_model
from accelc.passes.quantization.gains import Gains, Shape
from accelc.passes.quantization.gains_conv import ConvCase
from accelc.passes.quantization.plan import Form
from accelc.passes.quantization.prepare import Wishes, prepare
from accelc.passes.quantization.trial import Trial
from accelc.runner import Runner
from accelc.testing import run

Array = np.ndarray[Any, Any]
GRAPH = """(float[n,8,h,16] x) => (float[n,20] y) {
    a = Conv<pads: ints = [1,1,1,1]>(x, w)  b = Relu(a)
    c = Conv<pads: ints = [1,1,1,1], strides: ints = [2,2]>(b, v)
    d = Conv<group: int = 16, pads: ints = [1,1,1,1], dilations: ints = [1,1]>(c, u)
    e = GlobalAveragePool(d)  f = Flatten(e)  y = MatMul(f, m)
}"""


def network() -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> main {GRAPH}')
    weights = {"w": normal(16, 8, 3, 3), "v": normal(16, 16, 3, 3), "u": normal(16, 1, 3, 3), "m": normal(16, 20)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{index}"
    model = ir.from_proto(proto)
    infer_model(model)
    return model


@pytest.fixture
def gains(runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gains:
    monkeypatch.setenv("ACCELC_CACHE", str(tmp_path))
    model, feed = network(), {"x": normal(2, 8, 12, 16)}
    samples = [Sample(Feed(feed, "test"), {"y": run(ir.to_proto(model).SerializeToString(), feed)[0]})]
    ctx = Context(
        CpuBackend().target(),
        Settings(measure=True),
        backend=CpuBackend(),
        runner=runner,
        samples=lambda: samples,
        calibration=Calibration(Samples([feed]), lambda: runner),
    )
    wishes = Wishes(("static",), None, None, True, True, "u8", [Method("minmax")], embeddings=False)
    return Gains(Trial(model, ctx), prepare(model, ctx, wishes).parts)


def test_cases_have_the_shapes_of_the_model(gains: Gains) -> None:
    gains.find_rows()
    cases = [case for unit in gains.parts.units for case in gains.cases(unit, "static")]
    assert cases == [
        ConvCase((2, 8, 12, 16), (16, 8, 3, 3), (("pads", (1, 1, 1, 1)),), relu=True),
        ConvCase((2, 16, 12, 16), (16, 16, 3, 3), (("pads", (1, 1, 1, 1)), ("strides", (2, 2)))),
        ConvCase((2, 16, 6, 8), (16, 1, 3, 3), (("group", 16), ("pads", (1, 1, 1, 1)))),
    ]
    assert str(cases[0]) == "Conv [2, 8, 12, 16] * [16, 8, 3, 3], pads (1, 1, 1, 1), Relu"


@pytest.mark.parametrize(
    "case",
    [
        ConvCase((2, 8, 12, 16), (16, 8, 3, 3), (("pads", (1, 1, 1, 1)),), relu=True),
        ConvCase((1, 16, 6, 8), (16, 1, 3, 3), (("group", 16), ("strides", (2, 2)))),
        ConvCase((1, 8, 9), (8, 8, 3), (("auto_pad", "SAME_UPPER"),)),
        ConvCase((1, 4, 1, 1), (8, 4, 1, 1)),
    ],
    ids=str,
)
def test_both_forms_of_a_case_agree_and_run(case: ConvCase, gains: Gains) -> None:
    floats, integers = case.model(), case.model()
    gains.change(integers, "static", case.k)
    assert [node.op_type for node in ir.walk(integers)].count("QuantizeLinear") > 1
    x = {"x": normal(*case.x)}
    wanted, got = (run(ir.to_proto(each).SerializeToString(), x) for each in (floats, integers))
    for one, other in zip(wanted, got, strict=True):
        assert np.abs(one - other).max() < 0.1 * np.abs(one).max()


def test_convolutions_are_timed_and_weigh(gains: Gains, monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(self: Gains, form: Form, case: Shape | ConvCase, seconds: float = 0.0, layers: int = 1) -> float | None:
        if not isinstance(case, ConvCase):
            return None
        return {8: 3.0, 16: 0.9, 1: 0.5}[case.w[1]]

    monkeypatch.setattr(Gains, "time_alone", alone)
    gains.find_rows()
    gains.time_shapes(["static"], 1.0)
    first, near, slow, product = gains.parts.units
    assert [gains.ratio(unit, "static") for unit in (first, near, slow, product)] == [3.0, 0.9, 0.5, None]
    assert gains.gain(first, "static") == pytest.approx(gains.seconds(first) * 2 / 3)
    assert 0 < gains.gain(near, "static") < 0.001 * gains.seconds(near)
    assert gains.gain(slow, "static") < 0
    assert {case for _, case, _ in gains.asked if isinstance(case, ConvCase)} == {
        case for unit in (first, near, slow) for case in gains.cases(unit, "static")
    }
    rows = dict(gains.rows)
    gains.find_rows()
    assert gains.rows == rows


def test_other_nodes_are_no_case(gains: Gains) -> None:
    product = next(node for node in gains.parts.static.nodes if node.node.op_type == "MatMul")
    conv = next(node for node in gains.parts.static.nodes if node.node.op_type == "Conv")
    assert ConvCase.of(product, (2, 16)) is None
    assert ConvCase.of(conv, (2, 16)) is None
