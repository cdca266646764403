"""New tensors, attributes, nodes and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as _ir
from onnx_ir import Attr, DataType, Node, Shape, TensorProtocol, TensorType, Value

from accelc.ir.graphs import Names, Scope
from accelc.ir.values import tensor_shape


def array_tensor(array: np.ndarray[Any, Any], dtype: DataType | None = None, name: str | None = None) -> TensorProtocol:
    """An immutable tensor around an array; dtype where numpy's own does not say (int4, float8 in a byte array)."""
    if array.dtype.kind in "OU":
        strings = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1)]
        return _ir.StringTensor(strings, shape=Shape(array.shape), name=name)
    # the general constructor checks protocols, which takes 0.1 ms
    return _ir.Tensor(array, name=name) if dtype is None else _ir.tensor(array, dtype=dtype, name=name)


def new_constant(scope: Scope, names: Names, hint: str, tensor: TensorProtocol, before: Node | None = None) -> Value:
    """A constant in a graph: an initializer, or a Constant node (placed before `before`) in a function's body."""
    kind, shape, weight = TensorType(tensor.dtype), tensor_shape(tensor), None if scope.in_function else tensor
    value = Value(type=kind, shape=shape, name=names.fresh(hint), const_value=weight)
    if scope.in_function:
        node = new_node("Constant", [], {"value": tensor}, outputs=[value], name=names.fresh(hint))
        scope.graph.insert_before(before if before is not None else scope.graph[0], node)
    else:
        scope.graph.register_initializer(value)
    return value


def make_attr(name: str, value: Any) -> Attr:
    """An attribute from a Python value; an Attr passes through under the new name."""
    if isinstance(value, Attr):
        return Attr(name, value.type, value.value)
    attr: Attr = _ir.convenience.convert_attribute(name, value)
    return attr


def new_node(
    op_type: str,
    inputs: Iterable[Value | None],
    attrs: Mapping[str, Any] | None = None,
    *,
    domain: str = "",
    outputs: int | Sequence[Value] = 1,
    name: str | None = None,
) -> Node:
    """A node that belongs to no graph yet; attributes whose value is None are left out."""
    made = [make_attr(key, value) for key, value in (attrs or {}).items() if value is not None]
    if isinstance(outputs, int):
        return Node(domain, op_type, list(inputs), made, num_outputs=outputs, name=name)
    return Node(domain, op_type, list(inputs), made, outputs=outputs, name=name)
