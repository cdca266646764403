import numpy as np
import onnx
import pytest
from onnx import helper

from accelc import ir
from accelc.pass_base import run_pass
from accelc.passes.constants import Constants
from accelc.testing import check, context, unchanged


def test_constant_becomes_initializer():
    model = check(
        Constants(),
        "(float[2] x) => (float[2] y) { c = Constant<value = float[2] {1.0, -0.0}>()  y = Add(x, c) }",
        "(float[2] x) => (float[2] y) <float[2] c = {1.0, -0.0}> { y = Add(x, c) }",
    )
    assert list(model.graph.initializers) == ["c"]
    assert len(list(model.graph)) == 1


@pytest.mark.parametrize(
    ("attribute", "dtype", "shape"),
    [
        ({"value_int": 3}, ir.DataType.INT64, ()),
        ({"value_ints": [3, 4]}, ir.DataType.INT64, (2,)),
        ({"value_float": 0.5}, ir.DataType.FLOAT, ()),
        ({"value_floats": [0.5, 1.5]}, ir.DataType.FLOAT, (2,)),
        ({"value_string": "a"}, ir.DataType.STRING, ()),
        ({"value_strings": ["a", "b"]}, ir.DataType.STRING, (2,)),
    ],
)
def test_every_form(attribute, dtype, shape):
    nodes = [helper.make_node("Constant", [], ["c"], **attribute), helper.make_node("Identity", ["c"], ["y"])]
    output = helper.make_tensor_value_info("y", dtype.value, shape)
    model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", [], [output]), ir_version=10))
    assert run_pass(Constants(), model, context()).changes == 1
    tensor = model.graph.initializers["c"].const_value
    assert (tensor.dtype, tuple(tensor.shape.numpy())) == (dtype, shape)
    (value,) = attribute.values()
    assert tensor.numpy().astype(str).tolist() == np.array(value, dtype.numpy()).astype(str).tolist()
    onnx.checker.check_model(ir.to_proto(model))


def test_output_stays():
    unchanged(Constants(), "(float[2] x) => (float[2] y) { y = Constant<value = float[2] {1.0, 2.0}>() }")


def test_inside_a_branch():
    model = ir.parse(
        """(bool c, float[2] x) => (float[2] y) {
        y = If(c) <then_branch = a () => (float[2] t) { k = Constant<value = float[2] {1.0, 2.0}>()  t = Add(x, k) },
                   else_branch = b () => (float[2] e) { e = Neg(x) }> }"""
    )
    assert run_pass(Constants(), model, context()).changes == 1
    branch = next(ir.subgraphs(next(iter(model.graph))))
    assert list(branch.initializers) == ["k"]


def test_function_body_keeps_its_nodes():
    model = ir.parse(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] x) => (float[2] y) { y = f.one(x) }
        <domain: "f", opset_import: ["": 20]> one (a) => (b) { k = Constant<value_float = 1.0>()  b = Add(a, k) }"""
    )
    assert run_pass(Constants(), model, context()).changes == 0


def test_fuel_limits_the_changes():
    from accelc.context import Context, Fuel
    from accelc.target import Target

    model = ir.parse(
        "(float[2] x) => (float[2] y) { a = Constant<value_float = 1.0>()  b = Constant<value_float = 2.0>() "
        "s = Add(x, a)  y = Mul(s, b) }"
    )
    assert run_pass(Constants(), model, Context(Target.cpu(), fuel=Fuel(1))).changes == 1
    assert list(model.graph.initializers) == ["a"]
