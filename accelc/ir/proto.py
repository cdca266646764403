"""In and out: from a ModelProto to a graph and back.

What onnx_ir does not model (map types, sparse initializers, training information) is set aside on the way in and put
back, untouched, on the way out.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as _ir
from onnx_ir import AttributeType, ExternalTensor, Graph, Model

from accelc.errors import ModelError
from accelc.ir.graphs import all_graphs, walk
from accelc.ir.values import has_map
from accelc.shape_inference import infer_shapes

_HELD = "accelc.held"
_GENERATED = "accelc.generated_names"
_ANNOTATED = "accelc.annotated"


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


def proto_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model's proto, those of subgraphs and of functions included."""
    todo: list[Iterable[onnx.NodeProto]] = [proto.graph.node, *(function.node for function in proto.functions)]
    while todo:
        for node in todo.pop():
            yield node
            for attr in node.attribute:
                if attr.HasField("g"):
                    todo.append(attr.g.node)
                todo.extend(graph.node for graph in attr.graphs)


def _set_aside(proto: onnx.ModelProto) -> dict[str, Any]:
    """Take out of proto what onnx_ir cannot hold and return it by name."""
    types: dict[str, bytes] = {}
    for graph in proto_graphs(proto.graph):
        for info in [*graph.input, *graph.output]:
            if has_map(info.type):
                types[info.name] = info.type.SerializeToString()
                info.ClearField("type")
        if any(has_map(info.type) for info in graph.value_info):
            kept = [info for info in graph.value_info if not has_map(info.type)]
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


def held_inputs(model: Model) -> frozenset[str]:
    """Names of the sparse initializers: they stand among the graph's inputs while it is being rewritten."""
    return frozenset(model.meta.get(_HELD, {}).get("sparse", {}))
