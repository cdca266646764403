"""The graph: onnx_ir behind one door, plus the few questions every pass asks of it.

This is the only module that imports onnx_ir. What onnx_ir does not model (map types, sparse initializers, training
information) is set aside on the way in and put back, untouched, on the way out.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as _ir
from onnx_ir import (
    Attr,
    AttributeType,
    DataType,
    ExternalTensor,
    Function,
    Graph,
    Model,
    Node,
    OptionalType,
    SequenceType,
    Shape,
    SparseTensorType,
    SymbolicDim,
    Tensor,
    TensorProtocol,
    TensorType,
    Value,
)

from accelc.errors import ModelError
from accelc.shape_inference import infer_shapes

__all__ = [
    "Attr",
    "AttributeType",
    "DataType",
    "Dim",
    "ExternalTensor",
    "Function",
    "Graph",
    "Model",
    "Names",
    "Node",
    "OptionalType",
    "Scope",
    "SequenceType",
    "Shape",
    "SparseTensorType",
    "SymbolicDim",
    "Tensor",
    "TensorProtocol",
    "TensorType",
    "Value",
    "all_graphs",
    "array_tensor",
    "attr_proto",
    "attribute",
    "attributes",
    "captured",
    "const",
    "const_tensor",
    "detach",
    "dims",
    "from_proto",
    "held_inputs",
    "initializer_bytes",
    "is_constant",
    "is_overridable",
    "make_attr",
    "names",
    "nested",
    "new_constant",
    "new_node",
    "node_path",
    "opset",
    "parse",
    "paused_gc",
    "scopes",
    "shape_dims",
    "subgraphs",
    "tensor_shape",
    "text",
    "to_proto",
    "type_of_proto",
    "use_count",
    "value_info",
    "walk",
]

Dim = int | str | None
"""One dimension: a known size, a symbol, or unknown."""

_HELD = "accelc.held"
_NAMES = "accelc.names"
_GENERATED = "accelc.generated_names"
_ANNOTATED = "accelc.annotated"
_ARRAY = "accelc.array"
_HELD_BYTES = 256  # constants up to this size are asked for again and again while rules match


@contextmanager
def paused_gc() -> Iterator[None]:
    """Collect no cycles inside: building a large graph creates only objects that stay."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# --- in and out ------------------------------------------------------------------------------------------------------


def from_proto(
    proto: onnx.ModelProto, base_dir: str | Path = "", generated_names: frozenset[str] = frozenset()
) -> Model:
    """The graph of a clean ModelProto; external tensors stay on disk and are read when asked for.

    proto: as the importer returns it; it is taken over and may be changed. base_dir: the folder of external data.
    generated_names: of nodes that had none; they are not written out again.
    """
    held = _set_aside(proto)
    annotated = any(graph.quantization_annotation for graph in proto_graphs(proto.graph))
    try:
        with paused_gc():
            model: Model = _ir.from_proto(proto)
    except (_ir.serde.SerdeError, NotImplementedError) as error:
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise ModelError("holds something that cannot be rewritten", why=str(reason)) from error
    for value in (value for graph in all_graphs(model) for value in graph.initializers.values()):
        if isinstance(value.const_value, ExternalTensor):
            value.const_value.base_dir = str(base_dir)
    for node in walk(model):
        for attr in node.attributes.values():
            if attr.type == AttributeType.TENSOR and not attr.is_ref() and isinstance(attr.value, ExternalTensor):
                attr.value.base_dir = str(base_dir)
    model.meta[_HELD], model.meta[_ANNOTATED] = held, annotated
    model.meta[_GENERATED] = generated_names
    return model


def to_proto(model: Model, *, value_info: bool = True) -> onnx.ModelProto:
    """The ModelProto of a graph. value_info: whether the types and shapes of inner values are written too."""
    with paused_gc():
        proto = _ir.to_proto(model) if value_info or model.meta.get(_ANNOTATED, True) else _plain_proto(model)
    for graph in proto_graphs(proto.graph):
        constants = {tensor.name for tensor in graph.initializer}
        kept = [info for info in graph.value_info if info.name not in constants] if value_info else []
        if len(kept) != len(graph.value_info):
            kept = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in kept]
            del graph.value_info[:]
            graph.value_info.extend(kept)
    _put_back(proto, model.meta.get(_HELD, {}))
    generated = model.meta.get(_GENERATED)
    if generated:
        for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
            _forget_names(nodes, generated)
    return proto


def _forget_names(nodes: Iterable[onnx.NodeProto], generated: frozenset[str]) -> None:
    for node in nodes:
        if node.name in generated:
            node.ClearField("name")
        for attr in node.attribute:
            for inner in (attr.g, *attr.graphs) if attr.HasField("g") else attr.graphs:
                _forget_names(inner.node, generated)


def _plain_proto(model: Model) -> onnx.ModelProto:
    """The proto without the types of the main graph's inner values, which are most of the work of writing one."""
    graph, serde = model.graph, _ir.serde
    shell = Graph(
        [], [], nodes=[], opset_imports=dict(graph.opset_imports), name=graph.name, doc_string=graph.doc_string
    )
    shell.metadata_props.update(graph.metadata_props)
    outer = Model(
        shell,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=list(model.functions.values()),
        metadata_props=dict(model.metadata_props),
        device_configurations=model.device_configurations,
    )
    proto: onnx.ModelProto = serde.serialize_model(outer)
    for value in graph.inputs:
        serde.serialize_value_into(proto.graph.input.add(), value)
    for value in graph.initializers.values():
        if value.const_value is not None:
            value.const_value.name = value.name
            serde.serialize_tensor_into(proto.graph.initializer.add(), value.const_value)
    for node in graph:
        serde.serialize_node_into(proto.graph.node.add(), node, model_ir_version=model.ir_version)
    for value in graph.outputs:
        serde.serialize_value_into(proto.graph.output.add(), value)
    return proto


def parse(source: str) -> Model:
    """A graph from the ONNX text format (the whole model, or a graph alone at opset 20)."""
    source = source.strip()
    if not source.startswith("<"):
        name = "main " if source.startswith("(") else ""
        source = f'<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> {name}{source}'
    proto = onnx.parser.parse_model(source)
    return from_proto(infer_shapes(proto, data_prop=True))


def text(model: Model) -> str:
    """The ONNX text of a graph; weights of more than a few elements are not printed."""
    proto = _ir.to_proto(model)
    for graph in proto_graphs(proto.graph):
        del graph.value_info[:]
        for tensor in graph.initializer:
            if int(np.prod(tensor.dims)) > 16:
                _strip_data(tensor)
    return onnx.printer.to_text(proto)


def _strip_data(tensor: onnx.TensorProto) -> None:
    header = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    tensor.CopyFrom(header)


def proto_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph's proto and every one nested in its nodes."""
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.HasField("g"):
                yield from proto_graphs(attr.g)
            for inner in attr.graphs:
                yield from proto_graphs(inner)


def _set_aside(proto: onnx.ModelProto) -> dict[str, Any]:
    """Take out of proto what onnx_ir cannot hold and return it by name."""
    types: dict[str, bytes] = {}
    for graph in proto_graphs(proto.graph):
        for info in [*graph.input, *graph.output]:
            if _has_map(info.type):
                types[info.name] = info.type.SerializeToString()
                info.ClearField("type")
        if any(_has_map(info.type) for info in graph.value_info):
            kept = [info for info in graph.value_info if not _has_map(info.type)]
            del graph.value_info[:]
            graph.value_info.extend(kept)
    for graph in list(proto_graphs(proto.graph)):
        _lift_sparse_constants(graph, proto.graph)
    sparse = {tensor.values.name: tensor.SerializeToString() for tensor in proto.graph.sparse_initializer}
    for tensor in proto.graph.sparse_initializer:
        info = onnx.helper.make_tensor_value_info(tensor.values.name, tensor.values.data_type, list(tensor.dims))
        proto.graph.input.append(info)
    del proto.graph.sparse_initializer[:]
    training = [info.SerializeToString() for info in proto.training_info]
    del proto.training_info[:]
    return {"types": types, "sparse": sparse, "training": training}


def _lift_sparse_constants(graph: onnx.GraphProto, main: onnx.GraphProto) -> None:
    """Make sparse initializers of the main graph from Constant nodes with a sparse value."""
    found = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "sparse_value"]
    for node in found:
        tensor = main.sparse_initializer.add()
        tensor.CopyFrom(node.attribute[0].sparse_tensor)
        tensor.values.name = node.output[0]
        graph.node.remove(node)


def _put_back(proto: onnx.ModelProto, held: Mapping[str, Any]) -> None:
    types, sparse = held.get("types", {}), held.get("sparse", {})
    if types:
        for graph in proto_graphs(proto.graph):
            for info in [*graph.input, *graph.output]:
                if info.name in types:
                    info.type.ParseFromString(types[info.name])
    if sparse:
        kept = [info for info in proto.graph.input if info.name not in sparse]
        used = {name for graph in proto_graphs(proto.graph) for node in graph.node for name in node.input}
        used |= {info.name for info in proto.graph.output}
        del proto.graph.input[:]
        proto.graph.input.extend(kept)
        for name, data in sparse.items():
            if name in used:
                proto.graph.sparse_initializer.add().ParseFromString(data)
    for data in held.get("training", []):
        proto.training_info.add().ParseFromString(data)


def _has_map(type_: onnx.TypeProto) -> bool:
    kind = type_.WhichOneof("value")
    if kind == "map_type":
        return True
    if kind in ("sequence_type", "optional_type"):
        return _has_map(getattr(type_, kind).elem_type)
    return False


def held_inputs(model: Model) -> frozenset[str]:
    """Names of the sparse initializers: they stand among the graph's inputs while it is being rewritten."""
    return frozenset(model.meta.get(_HELD, {}).get("sparse", {}))


# --- questions -------------------------------------------------------------------------------------------------------


def subgraphs(node: Node) -> Iterator[Graph]:
    """The graphs in a node's own attributes."""
    for attr in node.attributes.data.values():
        if attr.is_ref():
            continue
        if attr.type == AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == AttributeType.GRAPHS:
            yield from attr.as_graphs()


def nested(graph: Graph) -> Iterator[Graph]:
    """A graph and every graph inside it, outer before inner."""
    yield graph
    for node in graph:
        if node.attributes:
            for inner in subgraphs(node):
                yield from nested(inner)


def captured(graph: Graph) -> list[Value]:
    """The values of outer graphs that a subgraph, or one nested in it, uses."""
    order = list(nested(graph))
    inside = set(order)
    return [
        value
        for inner in order
        for value in [*(v for node in inner for v in node.inputs), *inner.outputs]
        if value is not None and value.graph is not None and value.graph not in inside
    ]


def detach(graph: Graph) -> None:
    """Let go of every value a removed subgraph uses, so that it no longer counts as a consumer."""
    for inner in list(nested(graph)):
        for node in inner:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)


def all_graphs(model: Model) -> Iterator[Graph]:
    """The main graph, the bodies of the model's functions, and every graph nested in them; outer before inner."""
    yield from nested(model.graph)
    for function in model.functions.values():
        yield from nested(function.graph)


@dataclass(frozen=True)
class Scope:
    """A graph and what holds in it. root: its main graph or function body. in_function: it is a function's own body,
    which can hold no initializers.
    """

    graph: Graph
    root: Graph
    main: Graph
    in_function: bool = False

    @property
    def opset(self) -> int:
        """The version of the default domain that holds here."""
        return self.root.opset_imports.get("", 0) or self.main.opset_imports.get("", 0)


def scopes(model: Model) -> Iterator[Scope]:
    """Every graph of the model with what holds in it; outer before inner. The graphs may be changed meanwhile."""
    for graph in list(nested(model.graph)):
        yield Scope(graph, model.graph, model.graph)
    for function in list(model.functions.values()):
        for graph in list(nested(function.graph)):
            yield Scope(graph, function.graph, model.graph, graph is function.graph)


class Names:
    """Every name of values and nodes in a model, so that new ones are unique across all scopes.

    They are gathered when the first fresh one is asked for: many changes need none.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._taken: set[str] | None = None
        self._count: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """`hint` itself when it is free, else with a number behind it. The name is taken from then on."""
        taken = self._gathered()
        name = hint or "value"
        while name in taken:
            count = self._count.get(hint, 0) + 1
            self._count[hint] = count
            name = f"{hint}_{count}"
        taken.add(name)
        return name

    def _gathered(self) -> set[str]:
        if self._taken is None:
            self._taken = set()
            for graph in all_graphs(self._model):
                self._taken.update(str(v.name) for v in graph.inputs)
                self._taken.update(graph.initializers)
                for node in graph:
                    self._taken.add(node.name or "")
                    self._taken.update(value.name or "" for value in node.outputs)
        return self._taken


def names(model: Model) -> Names:
    """The names of a model; gathered once, kept up by everyone who asks for fresh ones."""
    found = model.meta.get(_NAMES)
    if found is None:
        found = model.meta[_NAMES] = Names(model)
    assert isinstance(found, Names)
    return found


def walk(model: Model) -> Iterator[Node]:
    """Every node of the model, in topological order within each graph."""
    for graph in all_graphs(model):
        yield from graph


def opset(graph: Graph, model: Model, domain: str = "") -> int:
    """The version of a domain that holds in a graph (functions import their own), 0 where it is not imported."""
    return graph.opset_imports.get(domain) or model.opset_imports.get(domain, 0)


def dims(value: Value | None) -> tuple[Dim, ...] | None:
    """The shape of a tensor as ints, symbols and None; None where even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def shape_dims(shape: Shape) -> list[Dim]:
    """A shape as ints, symbols and None."""
    return [dim if isinstance(dim, int) else dim.value for dim in shape]


def tensor_shape(tensor: TensorProtocol) -> Shape:
    """The shape of a tensor as the shape of a value."""
    return Shape([int(dim) for dim in tensor.shape.numpy()])


def use_count(value: Value) -> int:
    """How many inputs of nodes a value is. (`uses` copies them all, which adds up where thousands share a value.)"""
    return len(value._uses)


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
    if _has_map(proto):
        return None, None
    return _ir.serde.deserialize_type_proto_for_type(proto), _ir.serde.deserialize_type_proto_for_shape(proto)


def initializer_bytes(model: Model) -> int:
    """Bytes of all weights, Constant nodes included."""
    total = 0
    for graph in all_graphs(model):
        total += sum(v.const_value.nbytes for v in graph.initializers.values() if v.const_value is not None)
        for node in graph:
            if node.op_type == "Constant" and node.domain == "" and (t := _constant_attribute(node)) is not None:
                total += t.nbytes
    return total


# --- building --------------------------------------------------------------------------------------------------------


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
