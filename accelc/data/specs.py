"""What a model takes and gives: the signature, and what can be learned from the graph about its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import onnx

Dim = int | str | None
"""A fixed size, the name of a symbolic dimension, or None for a dimension without a name."""

Value = Any
"""A numpy array, a list (sequence), a dict (map), or None (empty optional)."""

Kind = Literal["tensor", "sparse", "sequence", "optional", "map", "unknown"]


@dataclass(frozen=True)
class InputSpec:
    """One input or output of a model.

    elem_type: the onnx.TensorProto type of the tensor, of a sequence's or optional's innermost tensor, or of a map's
    values. shape: None when the rank is unknown. item: what a sequence or optional holds, or a map's values.
    key_type: the type of a map's keys.
    """

    name: str
    kind: Kind
    elem_type: int
    shape: tuple[Dim, ...] | None
    item: InputSpec | None = None
    key_type: int = 0

    @property
    def rank(self) -> int | None:
        """The number of dimensions, None when unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """True when every dimension is fixed."""
        if self.kind == "tensor":
            return self.shape is not None and all(isinstance(dim, int) for dim in self.shape)
        return self.item is not None and self.item.is_static


@dataclass(frozen=True)
class Hints:
    """What is known about inputs beyond their types.

    symbols: size of a symbolic dimension by name. axes: size of one axis, by (input name, axis). bounds: the exclusive
    upper bound of an index input, by input name.
    """

    symbols: Mapping[str, int] = field(default_factory=dict)
    axes: Mapping[tuple[str, int], int] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)


def signature(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """The inputs that a caller must feed: the graph's inputs without those that an initializer gives a value."""
    given = {tensor.name for tensor in proto.graph.initializer}
    given |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return tuple(_spec(info.name, info.type) for info in proto.graph.input if info.name not in given)


def output_signature(proto: onnx.ModelProto) -> tuple[InputSpec, ...]:
    """The graph's outputs as they are declared."""
    return tuple(_spec(info.name, info.type) for info in proto.graph.output)


def _spec(name: str, type_proto: onnx.TypeProto) -> InputSpec:
    match type_proto.WhichOneof("value"):
        case "tensor_type":
            return InputSpec(name, "tensor", type_proto.tensor_type.elem_type, _shape(type_proto.tensor_type))
        case "sparse_tensor_type":
            tensor = type_proto.sparse_tensor_type
            return InputSpec(name, "sparse", tensor.elem_type, _shape(tensor))
        case "sequence_type":
            return _container(name, "sequence", type_proto.sequence_type.elem_type)
        case "optional_type":
            return _container(name, "optional", type_proto.optional_type.elem_type)
        case "map_type":
            held = type_proto.map_type
            return _container(name, "map", held.value_type, held.key_type)
        case _:
            return InputSpec(name, "unknown", 0, None)


def _container(name: str, kind: Kind, held: onnx.TypeProto, key_type: int = 0) -> InputSpec:
    item = _spec(name, held)
    return InputSpec(name, kind, item.elem_type, item.shape, item, key_type)


def _shape(tensor: onnx.TypeProto.Tensor | onnx.TypeProto.SparseTensor) -> tuple[Dim, ...] | None:
    return tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def specialized(specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int | str]]) -> tuple[InputSpec, ...]:
    """Inputs with the dimensions that a user fixes: shapes by input name, or the size of a symbol as (size,)."""
    sizes = {name: int(dims[0]) for name, dims in shapes.items() if len(dims) == 1 and str(dims[0]).isdecimal()}

    def dim(have: Dim, wanted: int | str) -> Dim:
        if isinstance(have, str) and have in sizes:
            return sizes[have]
        return int(wanted) if not isinstance(have, int) and str(wanted).isdecimal() else have

    def one(spec: InputSpec) -> InputSpec:
        if spec.kind != "tensor" or spec.shape is None:
            return spec
        wanted = shapes.get(spec.name, ())
        wanted = wanted if len(wanted) == len(spec.shape) else ("?",) * len(spec.shape)
        return replace(spec, shape=tuple(map(dim, spec.shape, wanted)))

    return tuple(map(one, specs))


_SAME_VALUES = {"Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten"}
_SAME_SHAPE = {"Identity", "Cast"}


def infer_hints(proto: onnx.ModelProto, symbols: Mapping[str, int] | None = None) -> Hints:
    """Read from the graph how large an index may be (rows of the table it picks from) and how long an axis must be.

    An axis is known where an input meets a weight directly: the channels of a Conv, the inner axis of a MatMul or Gemm.
    """
    sizes = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    specs = {spec.name: spec for spec in signature(proto) if spec.kind == "tensor"}
    values_of = {name: name for name in specs}
    shape_of = dict(values_of)
    known = dict(symbols or {})
    axes: dict[tuple[str, int], int] = {}
    bounds: dict[str, int] = {}
    for node in proto.graph.node:
        if node.op_type in _SAME_VALUES and node.input and node.input[0] in values_of:
            values_of[node.output[0]] = values_of[node.input[0]]
        if node.op_type in _SAME_SHAPE and node.input and node.input[0] in shape_of:
            shape_of[node.output[0]] = shape_of[node.input[0]]
        for name, bound in _index_bounds(node, sizes):
            if name in values_of:
                bounds[values_of[name]] = min(bound, bounds.get(values_of[name], bound))
        for name, axis, size in _axis_sizes(node, sizes):
            spec = specs.get(shape_of.get(name, ""))
            if spec is None or spec.shape is None:
                continue
            axis = axis % len(spec.shape) if spec.shape else 0
            if axis < len(spec.shape):
                dim = spec.shape[axis]
                if isinstance(dim, str):
                    known.setdefault(dim, size)
                elif dim is None:
                    axes[spec.name, axis] = size
    return Hints(known, axes, bounds)


def _index_bounds(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, int]]:
    """(index value, exclusive upper bound) pairs of one node."""
    if node.op_type == "Gather" and len(node.input) == 2:
        shape = sizes.get(node.input[0], ())
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if -len(shape) <= axis < len(shape):
            yield node.input[1], shape[axis]
    elif node.op_type == "EmbedLayerNormalization" and len(node.input) >= 5:
        for index, table in ((node.input[0], node.input[2]), (node.input[1], node.input[4])):
            if index and sizes.get(table):
                yield index, sizes[table][0]


def _axis_sizes(node: onnx.NodeProto, sizes: Mapping[str, tuple[int, ...]]) -> Iterable[tuple[str, int, int]]:
    """(value, axis, size) triples that one node fixes."""
    if len(node.input) < 2:
        return
    weight = sizes.get(node.input[1], ())
    attributes = {attribute.name: attribute.i for attribute in node.attribute if attribute.HasField("i")}
    if node.op_type == "Conv" and len(weight) >= 3:
        yield node.input[0], 1, weight[1] * attributes.get("group", 1)
    elif node.op_type == "ConvTranspose" and len(weight) >= 3:
        yield node.input[0], 1, weight[0]
    elif node.op_type == "MatMul" and len(weight) >= 2:
        yield node.input[0], -1, weight[-2]
    elif node.op_type == "Gemm" and len(weight) == 2:
        yield node.input[0], 0 if attributes.get("transA") else 1, weight[1 if attributes.get("transB") else 0]
    elif node.op_type in ("LSTM", "GRU", "RNN") and len(weight) == 3:
        yield node.input[0], 2, weight[2]
