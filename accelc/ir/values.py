"""What a value or node is: shapes, constants, attributes, types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as _ir
from onnx_ir import Attr, Model, Node, Shape, TensorProtocol, Value

from accelc.ir.graphs import all_graphs

Dim = int | str | None
"""One dimension: a known size, a symbol, or unknown."""

_ARRAY = "accelc.array"
_HELD_BYTES = 256  # constants up to this size are asked for again and again while rules match


def dims(value: Value | None) -> tuple[Dim, ...] | None:
    """The shape of a tensor as ints, symbols and None; None where even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple([dim if isinstance(dim, int) else dim.value for dim in value.shape.dims])


def shape_dims(shape: Shape) -> list[Dim]:
    """A shape as ints, symbols and None."""
    return [dim if isinstance(dim, int) else dim.value for dim in shape.dims]


def tensor_shape(tensor: TensorProtocol) -> Shape:
    """The shape of a tensor as the shape of a value."""
    return Shape([int(dim) for dim in tensor.shape.numpy()])


def use_count(value: Value) -> int:
    """How many inputs of nodes a value is. (`uses` copies them all, which adds up where thousands share a value.)"""
    return len(value._uses)


def only_user(value: Value) -> Node | None:
    """The node that uses a value, once or more, when no other does. It costs little however many there are."""
    found: Node | None = None
    for use in value._uses:
        if found is not None and use.node is not found:
            return None
        found = use.node
    return found


def is_overridable(value: Value) -> bool:
    """Whether a caller may replace this initializer when running the model: it is an input with a default."""
    return value.is_graph_input() and value.is_initializer()


def const_tensor(value: Value | None) -> TensorProtocol | None:
    """The tensor a value always holds: a fixed initializer or the output of Constant; None for anything else."""
    if value is None:
        return None
    if value.is_initializer():
        return None if value.is_graph_input() else value.const_value
    node = value.producer()
    if node is None and value.graph is None:
        return value.const_value  # a weight of a replacement that is not in the graph yet
    if node is not None and node.op_type == "Constant" and node.domain == "":
        return _constant_attribute(node)
    return None


def _constant_attribute(node: Node) -> TensorProtocol | None:
    (attr,) = node.attributes.values() if len(node.attributes) == 1 else (None,)
    if attr is None or attr.is_ref():
        return None
    if attr.name == "value":
        tensor: TensorProtocol = attr.value  # as_tensor() checks a protocol, which takes 0.1 ms
        return tensor
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if attr.name in kinds:
        return _ir.tensor(np.array(attr.value, kinds[attr.name]))
    if attr.name in ("value_string", "value_strings"):
        strings = np.array(attr.value, object)
        return _ir.StringTensor([text.encode() for text in strings.reshape(-1)], shape=Shape(strings.shape))
    return None


def is_constant(value: Value | None) -> bool:
    """Whether `const` would return an array."""
    return const_tensor(value) is not None


def const(value: Value | None) -> np.ndarray[Any, Any] | None:
    """The array a value always holds, or None. Reading an external tensor maps its file."""
    tensor = const_tensor(value)
    if tensor is None or value is None:
        return None
    held = value.meta.get(_ARRAY)
    if held is not None and held[0] is tensor:
        array: np.ndarray[Any, Any] = held[1]
        return array
    array = tensor.numpy()
    if array.nbytes <= _HELD_BYTES:
        value.meta[_ARRAY] = (tensor, array)
    return array


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The Python value of an attribute, or default where it is absent or refers to a function's attribute."""
    attr = node.attributes.get(name)
    if attr is None or attr.is_ref():
        return default
    return tuple(attr.value) if isinstance(attr.value, list) else attr.value


def attributes(node: Node) -> dict[str, Any]:
    """All attributes of a node as Python values (tensors and graphs as they are)."""
    return {name: attr.value for name, attr in node.attributes.items()}


def node_path(node: Node) -> str:
    """How messages name a node."""
    domain = f"{node.domain}." if node.domain else ""
    return f"node {node.name or '(unnamed)'} ({domain}{node.op_type})"


def attr_proto(attr: Attr) -> onnx.AttributeProto:
    """An attribute as its proto."""
    return _ir.serde.serialize_attribute(attr)


def value_info(value: Value) -> onnx.ValueInfoProto:
    """Name, type and shape of a value as a proto."""
    return _ir.serde.serialize_value(value, name=value.name or "unnamed")


def type_of_proto(proto: onnx.TypeProto) -> tuple[Any, Shape | None]:
    """The type and shape in a TypeProto; (None, None) for maps."""
    if has_map(proto):
        return None, None
    return _ir.serde.deserialize_type_proto_for_type(proto), _ir.serde.deserialize_type_proto_for_shape(proto)


def has_map(type_: onnx.TypeProto) -> bool:
    """Whether a type is or holds a map, which onnx_ir does not model."""
    kind = type_.WhichOneof("value")
    if kind == "map_type":
        return True
    if kind in ("sequence_type", "optional_type"):
        return has_map(getattr(type_, kind).elem_type)
    return False


def initializer_bytes(model: Model) -> int:
    """Bytes of all weights, Constant nodes included."""
    total = 0
    for graph in all_graphs(model):
        total += sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
        for node in graph:
            if node.op_type == "Constant" and node.domain == "" and (t := _constant_attribute(node)) is not None:
                total += t.nbytes
    return total
