"""Stored tensors: type, dimensions and data must fit each other."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from import_helpers import add, clean, model_of, refused, relu, repaired, value, weight
from onnx import TensorProto, helper, numpy_helper

from accelc.importer.tensors import STORAGE, stored_bytes


def _typed(kind: int, count: int, dims: list[int] | None = None) -> onnx.TensorProto:
    if kind == TensorProto.STRING:
        return helper.make_tensor("w", kind, dims or [count], ["a"] * count)
    return helper.make_tensor("w", kind, dims or [count], [1] * count)


KINDS = [kind for kind in TensorProto.DataType.values() if kind != TensorProto.UNDEFINED]


def _ir_for(kind: int) -> int:
    return 14 if kind > TensorProto.BFLOAT16 else 8


def _holding(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """A model that only returns the tensor: any type will do."""
    opset = 25 if tensor.data_type > TensorProto.BFLOAT16 else 17
    return model_of([], [], [value("w", tensor.data_type, None)], (tensor,), _ir_for(tensor.data_type), (("", opset),))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_every_type_is_known_in_both_forms(kind: int, count: int) -> None:
    typed = _typed(kind, count)
    model = _holding(typed)
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = count
    clean(model)
    if kind != TensorProto.STRING:
        raw = TensorProto(name="w", data_type=kind, dims=[count], raw_data=bytes(stored_bytes(kind, count)))
        model.graph.initializer[0].CopyFrom(raw)
        clean(model)


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_with_data_of_the_wrong_length(kind: int) -> None:
    typed = _typed(kind, 9)
    getattr(typed, STORAGE[kind].field).append(b"a" if kind == TensorProto.STRING else 1)
    refused(_holding(typed), "'w'", "does not fit its shape")
    if kind != TensorProto.STRING:
        raw = TensorProto(name="w", data_type=kind, dims=[9], raw_data=bytes(stored_bytes(kind, 9) - 1))
        refused(_holding(raw), "'w'", "does not fit its shape")


def test_strings_are_never_raw() -> None:
    refused(_holding(TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], raw_data=b"a")), "string")


@pytest.mark.parametrize("kind", [777, 0, -1])
def test_unknown_types(kind: int) -> None:
    tensor = weight()
    tensor.data_type = kind
    refused(add(tensor), "'w'", "unknown element type")


@pytest.mark.parametrize("dims", [[-2, 4], [-2, -4], [0, -1]])
def test_negative_dimensions(dims: list[int]) -> None:
    tensor = weight()
    tensor.dims[:] = dims
    refused(add(tensor), "negative dimension")


@pytest.mark.parametrize("dims", [[2**62, 2**62], [2**32, 2**32], [0, 2**62, 2**62]])
def test_dimensions_that_overflow(dims: list[int]) -> None:
    tensor = weight()
    tensor.dims[:] = dims
    refused(add(tensor), "impossible dimensions")


def test_huge_dimensions_without_data_cost_nothing() -> None:
    tensor = weight()
    tensor.dims[:] = [2**31, 2**31]
    refused(add(tensor), "does not fit its shape")


def test_no_data() -> None:
    tensor = weight()
    tensor.ClearField("raw_data")
    refused(add(tensor), "does not fit its shape", "found 0")


def test_data_in_the_field_of_another_type() -> None:
    tensor = weight()
    tensor.ClearField("raw_data")
    tensor.int32_data.extend([1] * 8)
    refused(add(tensor), "float_data", "found 0")


def test_scalars_and_empty_tensors() -> None:
    for shape in ((), (0,), (3, 0)):
        model = add(weight(shape=shape))
        model.graph.output[0].CopyFrom(value("y", shape=shape))
        clean(model)


def test_the_same_data_twice_is_kept_once() -> None:
    tensor = weight()
    tensor.float_data.extend([1.0] * 8)
    result = repaired(add(tensor), "stored twice from 1 tensor(s)")
    kept = result.proto.graph.initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(kept), np.ones((2, 4), np.float32))
    assert not kept.float_data


def test_two_sets_of_data_that_differ() -> None:
    tensor = weight()
    tensor.float_data.extend([2.0] * 8)
    refused(add(tensor), "two different sets of data")


def test_data_nobody_reads_is_removed() -> None:
    tensor = weight()
    tensor.ClearField("raw_data")
    tensor.float_data.extend([1.0] * 8)
    tensor.int32_data.extend([7] * 3)
    assert not repaired(add(tensor), "stored twice").proto.graph.initializer[0].int32_data


def test_an_initializer_without_a_name_is_removed() -> None:
    model = relu()
    model.graph.initializer.append(weight(""))
    assert not repaired(model, "removed 1 initializer(s)").proto.graph.initializer


def test_a_constant_is_checked_too() -> None:
    tensor = weight()
    tensor.raw_data = b"short"
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    refused(model_of([node], [], [value("y")]), "attribute 'value'", "does not fit its shape")


def test_a_constant_in_a_subgraph_is_checked_too() -> None:
    tensor = weight("k")
    tensor.raw_data = b"short"
    body = helper.make_graph([helper.make_node("Identity", ["k"], ["t"])], "body", [], [value("t")], [tensor])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    refused(model_of([node], [value("c", TensorProto.BOOL, ())], [value("y")]), "'k'", "does not fit its shape")


def _sparse(values: list[float], indices: list[int], dims: list[int]) -> onnx.ModelProto:
    model = model_of([helper.make_node("MatMul", ["x", "s"], ["y"])], [value("x", shape=(2, 3))], [value("y")])
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(helper.make_tensor("s", TensorProto.FLOAT, [len(values)], values))
    sparse.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [len(indices)], indices))
    sparse.dims[:] = dims
    return model


def test_sparse_initializers() -> None:
    clean(_sparse([1.0, 2.0], [0, 5], [3, 4]))


@pytest.mark.parametrize(
    "model",
    [
        _sparse([1.0, 2.0], [0, 12], [3, 4]),
        _sparse([1.0, 2.0], [5, 0], [3, 4]),
        _sparse([1.0, 2.0], [5, 5], [3, 4]),
        _sparse([1.0, 2.0], [5], [3, 4]),
        _sparse([1.0, 2.0, 3.0], [0, 1, 2], [1, 2]),
    ],
)
def test_malformed_sparse_initializers(model: onnx.ModelProto) -> None:
    refused(model, "sparse tensor is malformed")


def test_a_sparse_initializer_with_impossible_dimensions() -> None:
    refused(_sparse([1.0], [0], [2**62, 2**62]), "impossible dimensions")


def test_sparse_indices_of_the_wrong_type() -> None:
    model = _sparse([1.0], [0], [3, 4])
    model.graph.sparse_initializer[0].indices.CopyFrom(helper.make_tensor("", TensorProto.INT32, [1], [0]))
    refused(model, "INT64 is needed")


def test_large_weights_are_not_copied_to_be_checked() -> None:
    """A clean model is returned as it is, whatever its size."""
    model = add(weight(shape=(512, 512)))
    model.graph.output[0].CopyFrom(value("y", shape=(512, 512)))
    clean(model)
