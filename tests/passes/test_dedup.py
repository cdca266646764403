import numpy as np
import onnx
import pytest
from onnx import external_data_helper, helper, numpy_helper

from accelc import ir
from accelc.pass_base import run_pass
from accelc.passes.dedup import Dedup
from accelc.testing import check, context, unchanged


def test_equal_weights_are_merged():
    check(
        Dedup(),
        "(float[2] x) => (float[2] y) <float[2] v = {1, 2}, float[2] w = {1, 2}> { a = Add(x, v)  y = Mul(a, w) }",
        "(float[2] x) => (float[2] y) <float[2] v = {1, 2}> { a = Add(x, v)  y = Mul(a, v) }",
    )


@pytest.mark.parametrize(
    "weights",
    [
        "float[1] v = {0.0}, float[1] w = {-0.0}",
        "float[1] v = {0}, int32[1] i = {0}, float[1] w = {1}",
        "float[1] v = {1}, float w = {1}",
    ],
    ids=["sign of zero", "value", "shape"],
)
def test_different_weights_stay(weights):
    use = "b = Cast<to = 1>(i)  c = Add(x, b)" if " i " in weights else "c = Neg(x)"
    unchanged(Dedup(), f"(float[1] x) => (float[1] y) <{weights}> {{ {use}  a = Add(c, v)  y = Div(a, w) }}")


def test_overridable_initializer_stays():
    model = ir.parse(
        "(float[2] x, float[2] v) => (float[2] y) "
        "<float[2] v = {1, 2}, float[2] w = {1, 2}> { a = Add(x, v)  y = Mul(a, w) }"
    )
    assert run_pass(Dedup(), model, context()).changes == 0


def _model(arrays, outputs=()):
    names = [f"w{i}" for i in range(len(arrays))]
    nodes = [helper.make_node("Identity", [name], [f"y{name}"]) for name in names]
    infos = [
        helper.make_tensor_value_info(f"y{n}", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in zip(names, arrays, strict=True)
    ]
    weights = [numpy_helper.from_array(array, name) for name, array in zip(names, arrays, strict=True)]
    graph = helper.make_graph(nodes, "g", [], infos, weights)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


def test_large_weights_that_begin_and_end_alike():
    base = np.zeros(5000, np.float32)
    other = base.copy()
    other[1234] = 1
    model = ir.from_proto(_model([base, other, base.copy()]))
    assert run_pass(Dedup(), model, context()).changes == 1
    assert list(model.graph.initializers) == ["w0", "w1"]


def test_strings():
    model = ir.from_proto(
        _model([np.array(["ab", "c"], object), np.array(["a", "bc"], object), np.array(["ab", "c"], object)])
    )
    assert run_pass(Dedup(), model, context()).changes == 1


def test_external_data_is_read_in_pieces(tmp_path, monkeypatch):
    base = np.arange(700000, dtype=np.float32)
    other = base.copy()
    other[300000] = -1
    proto = _model([base, other, base])
    external_data_helper.convert_model_to_external_data(proto, location="w.bin", size_threshold=0)
    onnx.save(proto, tmp_path / "m.onnx")
    model = ir.from_proto(onnx.load(tmp_path / "m.onnx", load_external_data=False), tmp_path)

    def refuse(self):
        raise AssertionError("the whole tensor was mapped")

    monkeypatch.setattr(ir.ExternalTensor, "_load", refuse)
    assert run_pass(Dedup(), model, context()).changes == 1
    assert list(model.graph.initializers) == ["w0", "w1"]


def test_a_branch_uses_the_weight_around_it_but_not_its_sibling():
    model = ir.parse(
        """(bool c, float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
        z = Add(x, w)
        y = If(c) <then_branch = a () => (float[2] t) <float[2] v = {1, 2}, float[2] p = {3, 4}>
            { q = Add(x, v)  t = Mul(q, p) },
                   else_branch = b () => (float[2] e) <float[2] r = {3, 4}> { e = Mul(x, r) }> }"""
    )
    assert run_pass(Dedup(), model, context()).changes == 1
    assert [list(graph.initializers) for graph in ir.all_graphs(model)] == [["w"], ["p"], ["r"]]
