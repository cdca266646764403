"""A model in numbers: nodes, parameters, bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from accelc import ir
from accelc.streamed import tensor_bytes


@dataclass(frozen=True)
class Size:
    """nodes: in all graphs, functions included. parameters: elements of all weights. bytes: of the files."""

    nodes: int
    parameters: int
    weight_bytes: int
    bytes: int
    operators: Mapping[str, int]
    opset: int


def size_of(model: ir.Model, file_bytes: int) -> Size:
    """Count a graph."""
    operators = Counter(_operator(node.domain, node.op_type) for node in ir.walk(model))
    tensors = [value.const_value for graph in ir.all_graphs(model) for value in graph.initializers.values()]
    tensors += [ir.const_tensor(node.outputs[0]) for node in ir.walk(model) if node.op_type == "Constant"]
    known = [tensor for tensor in tensors if tensor is not None]
    return Size(
        sum(operators.values()),
        sum(tensor.size for tensor in known),
        sum(tensor.nbytes for tensor in known),
        file_bytes,
        dict(operators.most_common()),
        model.opset_imports.get("", 0),
    )


def size_of_proto(proto: onnx.ModelProto, file_bytes: int) -> Size:
    """Count a model before it becomes a graph."""
    operators: Counter[str] = Counter()
    tensors: list[onnx.TensorProto] = []
    for nodes, initializers in _bodies(proto):
        tensors.extend(initializers)
        for node in nodes:
            operators[_operator(node.domain, node.op_type)] += 1
            tensors.extend(attr.t for attr in node.attribute if node.op_type == "Constant" and attr.HasField("t"))
    return Size(
        sum(operators.values()),
        sum(math.prod(tensor.dims) for tensor in tensors),
        sum(tensor_bytes(tensor) for tensor in tensors),
        file_bytes,
        dict(operators.most_common()),
        next((each.version for each in proto.opset_import if each.domain in ("", "ai.onnx")), 0),
    )


def _operator(domain: str, op_type: str) -> str:
    return f"{domain}.{op_type}" if domain not in ("", "ai.onnx") else op_type


def _bodies(proto: onnx.ModelProto) -> Iterator[tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]:
    for graph in ir.proto_graphs(proto.graph):
        yield list(graph.node), list(graph.initializer)
    for function in proto.functions:
        yield list(function.node), []
