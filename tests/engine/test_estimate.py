"""What a piece of a graph is estimated to cost."""

from __future__ import annotations

import numpy as np
import pytest

from accelc import estimate, ir
from accelc.context import Context
from accelc.dimexpr import symbol
from accelc.infer import infer_model
from accelc.target import Target
from accelc.testing import run


def annotated(source: str) -> ir.Model:
    model = ir.parse(source)
    infer_model(model)
    estimate.annotate(model, Context(Target.cpu()))
    return model


def value(model: ir.Model, name: str) -> ir.Value:
    return next(each for node in model.graph for each in node.outputs if each.name == name)


def test_sizes_that_are_not_numbers_are_the_usual_ones() -> None:
    model = annotated("(float[batch,seq,8] x) => (float[batch,seq,8] y) { a = Neg(x) y = Neg(a) }")
    assert estimate.sizes(model.graph.inputs[0]) == (1, 128, 8)
    assert estimate.sizes(value(model, "a")) == (1, 128, 8)


def test_sizes_are_computed_along_shape_arithmetic() -> None:
    model = annotated(
        "(float[N,3,height,width] x) => (float[a,b,c,d] y) <float[4] s = {1, 1, 2, 2}> "
        '{ n = Shape(x) u = Resize<mode = "nearest">(x,, s) p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(x) '
        'y = Resize<mode = "nearest">(p,,, n) }'
    )
    assert estimate.sizes(value(model, "u")) == (1, 3, 448, 448)
    assert estimate.sizes(value(model, "p")) == (1, 3, 112, 112)
    assert estimate.numbers(value(model, "n")) == (symbol("N"), 3, symbol("height"), symbol("width"))
    shape = estimate.shape(value(model, "u"))
    assert shape is not None
    assert shape[:2] == (symbol("N"), 3)


def test_an_unknown_size_is_unknown() -> None:
    model = annotated("(float[2,3] x) => (int64[a,b] y) { y = NonZero(x) }")
    assert estimate.sizes(model.graph.outputs[0]) is None
    assert estimate.sizes(None) is None
    assert estimate.node_work(model.graph[0]) is None


def test_names_that_look_like_sums_of_unknown_symbols_are_unknown() -> None:
    source = "(float[N,seq] x) => (float[a,b] y) { a = Neg(x) y = Neg(a) }"
    for name, size in (("Squeeze-output_dim_0", None), ("seq + 2", (1, 130)), ("2*seq", (1, 256))):
        model = ir.parse(source)
        infer_model(model)
        value(model, "a").shape = ir.Shape(["N", name])
        estimate.annotate(model, Context(Target.cpu()))
        assert estimate.sizes(value(model, "a")) == size


def test_an_unknown_batch_is_one() -> None:
    model = ir.parse("(float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    assert estimate.sizes(model.graph.inputs[0]) == (1, 3)


def test_notes_are_taken_over_with_other_channels() -> None:
    model = annotated("(float[N,3,height,5] x) => (float[N,3,height,5] y) { a = Neg(x) y = Neg(a) }")
    new = ir.Value(name="new")
    assert estimate.take_over(new, value(model, "a"), {1: 7}) is new
    assert estimate.sizes(new) == (1, 7, 224, 5)


@pytest.mark.parametrize(
    ("body", "shape", "flops"),
    [
        ("y = MatMul(x, w)", "2,4,5", 2 * 2 * 4 * 8 * 5),
        ("f = Reshape(x, s) y = Gemm(f, w)", "8,5", 2 * 8 * 8 * 5),
        ("y = Conv(x, k)", "2,6,8", 2 * 2 * 6 * 8 * 4 * 1),
        ("y = Add(x, x)", "2,4,8", 2 * 4 * 8),
        ("y = Reshape(x, s)", "8,8", 0),
    ],
)
def test_operations_of_a_node(body: str, shape: str, flops: int) -> None:
    model = annotated(
        f"(float[2,4,8] x) => (float[{shape}] y) <float[8,5] w = {{{', '.join(['1'] * 40)}}}, "
        f"float[6,4,1] k = {{{', '.join(['1'] * 24)}}}, int64[2] s = {{8, 8}}> {{ {body} }}"
    ).graph
    work = estimate.node_work(model[-1])
    assert work is not None
    assert work.flops == flops


def test_more_work_takes_longer() -> None:
    small, large = estimate.product(100, 64, 64), estimate.product(1000, 64, 64)
    assert 0 < small.seconds < large.seconds
    assert estimate.seconds([small, small]) == pytest.approx(2 * small.seconds)
    assert estimate.elementwise((1000, 1000), kind="Gelu").flops > estimate.elementwise((1000, 1000)).flops
    assert estimate.Work(0, 0, 0).seconds == 0


def test_a_small_model_computes_what_the_nodes_compute() -> None:
    model = annotated(
        "(float[N,4] x, float[N,4] z) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> "
        "{ a = Mul(x, w) b = Add(a, z) y = Exp(b) }"
    )
    nodes = list(model.graph)[:2]
    assert estimate.can_be_small_model(nodes)
    small = estimate.small_model(nodes, nodes[1].outputs[0], model.graph)
    shapes = {each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in small.graph.input}
    assert shapes == {"from_x": [1, 4], "from_z": [1, 4]}
    feeds = {name: np.full((1, 4), 2, np.float32) for name in shapes}
    np.testing.assert_array_equal(run(small.SerializeToString(), feeds)[0], [[4, 6, 8, 10]])


def test_nodes_on_integers_of_unknown_meaning_are_no_small_model() -> None:
    model = annotated("(float[2,4] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }")
    assert not estimate.can_be_small_model(list(model.graph))
