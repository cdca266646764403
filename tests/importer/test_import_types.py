"""Declared types and shapes against what the operators compute."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from import_helpers import add, branch, clean, loads, model_of, parse, refused, relu, repaired, value, weight
from onnx import TensorProto, helper


def _chain(middle: onnx.ValueInfoProto) -> onnx.ModelProto:
    model = parse("g (float[2,4] x) => (float[2,4] y) { q = Relu(x) y = Abs(q) }")
    model.graph.value_info.append(middle)
    return model


@pytest.mark.parametrize(
    "model",
    [
        parse("g (float[2,4] x, int64[4,2] w) => (float[2,2] y) { y = MatMul(x, w) }"),
        parse("g (float[2,4] x, float[3,5] w) => (float[N] y) { y = MatMul(x, w) }"),
        parse("g (float[2,4] x, float[3,5] w) => (float[2,4] y) { y = Add(x, w) }"),
        parse("g (float[2,4] x) => (float[2,4] y) { y = Not(x) }"),
        parse("g (float[2,4] x) => (float[2,4] y) { y = Transpose <perm = [0, 1, 2]> (x) }"),
        parse("g (float[2,4] x) => (float[2,4] y) { a, b = Split(x) y = Concat <axis = 5> (a, b) }"),
    ],
)
def test_operators_that_cannot_take_their_inputs(model: onnx.ModelProto) -> None:
    assert not loads(model)
    assert "node" in refused(model, "cannot take its inputs")


def test_a_type_error_in_a_subgraph() -> None:
    refused(branch("t = MatMul(c, x)", "t"), "If", "cannot take its inputs")


def test_a_type_error_between_large_weights_is_found_without_reading_them() -> None:
    model = parse("g (float[2,4] x) => (float[2,2000] y) { y = MatMul(x, w) }")
    model.graph.initializer.append(helper.make_tensor("w", TensorProto.INT64, [4, 2000], bytes(64000), raw=True))
    refused(model, "MatMul", "cannot take its inputs")


def test_a_missing_output_type_is_filled_in() -> None:
    model = relu()
    model.graph.output[0].ClearField("type")
    result = repaired(model, "filled in", "1 output(s)")
    assert result.proto.graph.output[0] == value("y")


def test_a_missing_output_shape_is_filled_in() -> None:
    model = parse("g (float[N,4] x) => (float[] y) { y = Relu(x) }")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    dims = repaired(model, "filled in").proto.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 4]


def test_a_missing_output_shape_that_nobody_knows_is_fine() -> None:
    model = model_of(
        [helper.make_node("Magic", ["x"], ["y"], domain="com.acme")],
        [value("x")],
        [value("y", shape=None)],
        opsets=(("", 17), ("com.acme", 1)),
    )
    clean(model)
    model.graph.output[0].ClearField("type")
    clean(model)


def test_a_wrong_output_shape_is_corrected() -> None:
    model = relu()
    model.graph.output[0].CopyFrom(value("y", shape=(7, 9)))
    result = repaired(model, "corrected the declared shape of 1 output(s)")
    assert result.proto.graph.output[0] == value("y")


def test_a_right_output_shape_is_kept_even_if_less_is_said() -> None:
    clean(parse("g (float[2,4] x) => (float[rows,cols] y) { y = Relu(x) }"))


def test_a_wrong_output_type() -> None:
    refused(parse("g (float[2,4] x) => (int64[2,4] y) { y = Relu(x) }"), "'y'", "declared INT64, computed FLOAT")


def test_an_output_of_another_kind() -> None:
    refused(parse("g (float[2,4] x) => (seq(float[2,4]) y) { y = Relu(x) }"), "declared sequence")


@pytest.mark.parametrize("middle", [value("q", shape=(3,)), value("q", shape=(2, 5)), value("q", TensorProto.INT64)])
def test_stale_inner_types_are_dropped(middle: onnx.ValueInfoProto) -> None:
    assert not repaired(_chain(middle), "dropped the stale type of 1").proto.graph.value_info


def test_types_of_values_that_do_not_exist_are_dropped() -> None:
    assert not repaired(_chain(value("gone")), "dropped the stale type of 1").proto.graph.value_info


@pytest.mark.parametrize("middle", [value("q"), value("q", shape=("N", 4)), value("q", shape=None)])
def test_right_inner_types_are_kept(middle: onnx.ValueInfoProto) -> None:
    clean(_chain(middle))


def test_inner_types_that_only_the_model_knows_are_kept() -> None:
    nodes = [helper.make_node("Magic", ["x"], ["q"], domain="com.acme"), helper.make_node("Relu", ["q"], ["y"])]
    model = model_of(nodes, [value("x")], [value("y", shape=(9,))], opsets=(("", 17), ("com.acme", 1)))
    model.graph.value_info.append(value("q", shape=(9,)))
    clean(model)


def test_stale_types_in_a_subgraph_are_dropped() -> None:
    model = branch("q = Relu(x) t = Abs(q)", "t")
    model.graph.node[1].attribute[0].g.value_info.append(value("q", shape=(9,)))
    result = repaired(model, "dropped the stale type of 1")
    assert not result.proto.graph.node[1].attribute[0].g.value_info


@pytest.mark.parametrize("size", [-1, -7])
def test_negative_dimensions_are_unknown_ones(size: int) -> None:
    model = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model.graph.input[0].CopyFrom(value("x", shape=(size, 4)))
    assert loads(model)
    dims = repaired(model, "1 dimension(s) unknown").proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.WhichOneof("value") for dim in dims] == [None, "dim_value"]


def test_a_question_mark_is_the_name_of_no_size() -> None:
    model = parse("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model.graph.input[0].CopyFrom(value("x", shape=("?", "?")))
    result = repaired(model, "2 dimension(s) unknown")
    assert not any(dim.dim_param for dim in result.proto.graph.input[0].type.tensor_type.shape.dim)


def test_an_input_without_a_type() -> None:
    model = relu()
    model.graph.input[0].ClearField("type")
    refused(model, "'x' has no type")


@pytest.mark.parametrize("kind", [0, 99])
def test_an_input_of_an_unknown_element_type(kind: int) -> None:
    model = relu()
    model.graph.input[0].type.tensor_type.elem_type = kind
    refused(model, "'x'", "unknown element type")


def test_an_overridable_initializer_stays_one() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = Add(x, w) }")
    model.graph.initializer.append(weight())
    model.graph.input.append(value("w"))
    clean(model)


@pytest.mark.parametrize("wrong", [value("w", TensorProto.INT64), value("w", shape=(3,))])
def test_an_initializer_that_is_another_than_its_input(wrong: onnx.ValueInfoProto) -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = Add(x, w) }")
    model.graph.initializer.append(weight())
    model.graph.input.append(wrong)
    assert not loads(model)
    refused(model, "types")


@pytest.mark.parametrize(
    "text",
    [
        "g (seq(float[N]) s, int64 i) => (float[N] y) { y = SequenceAt(s, i) }",
        "g (float[2] x) => (seq(float[2]) s) { s = SequenceConstruct(x, x) }",
        "g (optional(float[2]) o) => (float[2] y) { y = OptionalGetElement(o) }",
        "g (optional(seq(float[2])) o) => (bool y) { y = OptionalHasElement(o) }",
        "g (string[N] s) => (string[N] t) { t = Identity(s) }",
    ],
)
def test_values_that_are_no_number_tensors(text: str) -> None:
    clean(parse('<ir_version: 8, opset_import: ["": 18]> ' + text))


def test_maps() -> None:
    node = helper.make_node("ZipMap", ["x"], ["m"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    outputs = [helper.make_value_info("m", kind)]
    clean(model_of([node], [value("x", shape=("N", 2))], outputs, opsets=(("", 17), ("ai.onnx.ml", 1))))


@pytest.mark.parametrize("found", [0, 1, 2, 3, 4])
def test_an_ir_version_too_old_for_the_opset(found: int) -> None:
    model = relu()
    model.ir_version = found
    assert repaired(model, f"raised the IR version from {found} to 8").proto.ir_version == 8


def test_an_ir_version_too_old_for_the_types() -> None:
    model = add(helper.make_tensor("w", TensorProto.INT4, [2], [1, 2]))
    model.opset_import[0].version = 21
    assert repaired(model, "raised the IR version from 8 to 10").proto.ir_version == 10


def test_an_ir_version_too_old_for_functions() -> None:
    text = '<ir_version: 7, opset_import: ["": 12, "own": 1]> g (float[2] x) => (float[2] y) { y = own.f(x) }'
    model = parse(text + '<domain: "own", opset_import: ["": 12]> f (a) => (b) { b = Relu(a) }')
    assert repaired(model, "raised the IR version from 7 to 8: functions need it").proto.ir_version == 8


@pytest.mark.parametrize("found", [15, 99, 2**40, -1])
def test_ir_versions_that_do_not_exist(found: int) -> None:
    model = relu()
    model.ir_version = found
    refused(model, "IR version")


def test_no_ir_version() -> None:
    model = relu()
    model.ClearField("ir_version")
    refused(model, "no IR version")


def _old(listed: bool) -> onnx.ModelProto:
    head = '<ir_version: 3, opset_import: ["": 8]> '
    model = parse(head + "g (float[2,4] x) => (float[2,4] y) { y = Add(x, w) }")
    model.graph.initializer.append(weight())
    if listed:
        model.graph.input.append(value("w"))
    return model


@pytest.mark.parametrize("listed", [True, False])
def test_constants_of_old_ir_versions(listed: bool) -> None:
    """Below IR version 4 an initializer cannot be overridden, listed among the inputs or not."""
    result = repaired(_old(listed), "raised the IR version from 3 to 4")
    assert result.proto.ir_version == 4
    assert [entry.name for entry in result.proto.graph.input] == ["x"]
    assert loads(result.proto)


def test_an_old_model_without_initializers_stays_old() -> None:
    model = parse('<ir_version: 3, opset_import: ["": 8]> g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }')
    clean(model)


def test_numbers_of_any_kind_are_data() -> None:
    data = np.array([[np.nan, np.inf, -np.inf, -0.0], [1e-45, -1e-45, 3e38, 0]], np.float32)
    tensor = weight()
    tensor.raw_data = data.tobytes()
    model = add(tensor)
    model.graph.output[0].CopyFrom(value("y"))
    assert clean(model).proto.graph.initializer[0].raw_data == data.tobytes()
