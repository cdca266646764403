"""What int8 can win, said before any work starts."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from accelc import ir
from accelc.infer import infer_model
from accelc.passes.quantization.preflight import preflight
from accelc.target import Target, isa_of

MODELS = Path(__file__).parents[2] / "models"


def model_of(text: str) -> ir.Model:
    model = ir.parse(text)
    infer_model(model)
    return model


PRODUCT = """<ir_version: 8, opset_import: ["": 17]> main (float[8,8] x) => (float[8,8] y)
  { a = MatMul(x, w)  y = MatMul(a, a) }"""


def product() -> ir.Model:
    proto = onnx.parser.parse_model(PRODUCT)
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [8, 8], [0.5] * 64)
    proto.graph.initializer.append(weight)
    model = ir.from_proto(proto)
    infer_model(model)
    return model


@pytest.mark.parametrize(("isa", "bound"), [("avx2", 1.31), ("vnni", 1.55), ("amx", 1.74)])
def test_bound_by_what_can_be_served(isa: str, bound: float) -> None:
    found = preflight(product(), Target.cpu(isa=isa_of(isa)))
    assert found.share == pytest.approx(0.5)
    assert found.bound == pytest.approx(bound, abs=0.01)
    assert f"at most {found.bound:.2f} times as fast" in str(found)
    assert any("50% of the arithmetic" in line for line in found.lines())


def test_processors_without_figures_promise_nothing() -> None:
    found = preflight(product(), Target.cpu(isa=isa_of("neon_dot")))
    assert found.bound is None
    assert any("not measured" in line for line in found.lines())
    assert any("compiled for another processor" in line for line in found.lines())


def test_a_model_without_products() -> None:
    found = preflight(model_of("(float[4] x) => (float[4] y) { y = Relu(x) }"), Target.cpu(isa=isa_of("avx2")))
    assert found.share == 0
    assert found.lines()[-1] == "so int8 cannot make the model noticeably faster"


def test_shipped_models() -> None:
    for name, least in (("digits_cnn", 0.95), ("text_encoder", 0.7)):
        model = ir.from_proto(onnx.load(MODELS / f"{name}.onnx"), MODELS)
        infer_model(model)
        found = preflight(model, Target.cpu(isa=isa_of("avx2")))
        assert found.share is not None
        assert least < found.share <= 1
        assert not found.quantized
