"""A copy of the model without its weights: small enough to be inferred, checked and repaired on trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError

from accelc.errors import ModelError
from accelc.importer.external import FileRange, read_range
from accelc.importer.scopes import SMALL, NodeView, Scan
from accelc.importer.tensors import elements, stored_bytes

_T = onnx.TensorProto


@dataclass(frozen=True)
class Skeleton:
    """A copy of a model without large weights. hollow: the tensors that lost their data."""

    proto: onnx.ModelProto
    hollow: list[onnx.TensorProto]


def skeleton(scan: Scan, ranges: Mapping[int, FileRange]) -> Skeleton:
    """A copy of a model where tensors above `SMALL` bytes keep their type and shape only. No tensor is external.

    Sparse initializers become dense ones: for the values that use them, types and shapes are the same.

    Raises: ModelError when messages are nested deeper than protobuf can write.
    """
    outside = {id(scan.tensors[index].proto): item for index, item in ranges.items()}
    try:
        copier = _Copier(outside)
        return Skeleton(copier.model(scan), copier.hollow)
    except (DecodeError, EncodeError, RecursionError):
        raise ModelError(
            "the model is nested too deep", why="protobuf readers stop at 100 levels of messages", hint="flatten it"
        ) from None


class _Copier:
    def __init__(self, outside: dict[int, FileRange]) -> None:
        self.outside = outside
        self.hollow: list[onnx.TensorProto] = []

    def model(self, scan: Scan) -> onnx.ModelProto:
        source, copy = scan.proto, onnx.ModelProto()
        if source.HasField("ir_version"):
            copy.ir_version = source.ir_version
        copy.opset_import.extend(source.opset_import)
        self.graph(source.graph, copy.graph, scan.main.nodes)
        for function, (_, scope) in zip(source.functions, scan.functions, strict=True):
            twin = copy.functions.add()
            twin.name, twin.domain, twin.overload = function.name, function.domain, function.overload
            twin.input.extend(function.input)
            twin.output.extend(function.output)
            twin.attribute.extend(function.attribute)
            twin.attribute_proto.extend(function.attribute_proto)
            twin.opset_import.extend(function.opset_import)
            twin.value_info.extend(function.value_info)
            self.nodes(function.node, twin.node, scope.nodes)
        return copy

    def graph(self, source: onnx.GraphProto, copy: onnx.GraphProto, nodes: list[NodeView]) -> None:
        copy.name = source.name
        copy.input.extend(source.input)
        copy.output.extend(source.output)
        copy.value_info.extend(source.value_info)
        copy.quantization_annotation.extend(source.quantization_annotation)
        for tensor in source.initializer:
            self.tensor(tensor, copy.initializer.add())
        for sparse in source.sparse_initializer:
            dense = copy.initializer.add()
            dense.name, dense.data_type = sparse.values.name, sparse.values.data_type
            dense.dims.extend(sparse.dims)
            self.hollow.append(dense)
        self.nodes(source.node, copy.node, nodes)

    def nodes(self, source: Any, copy: Any, views: list[NodeView]) -> None:
        light: list[onnx.NodeProto] = []
        for view in views:
            if not view.attributes or not any(self.heavy(attribute) for attribute in view.attributes):
                light.append(view.proto)
                continue
            copy.extend(light)
            light = []
            twin = copy.add()
            twin.op_type, twin.domain, twin.name, twin.overload = view.op, view.proto.domain, view.name, view.overload
            twin.input.extend(view.inputs)
            twin.output.extend(view.outputs)
            inner = iter(view.subgraphs)
            for attribute in view.attributes:
                self.attribute(attribute, twin.attribute.add(), inner)
        copy.extend(light)

    @staticmethod
    def heavy(attribute: onnx.AttributeProto) -> bool:
        kind = attribute.type
        return kind in _TENSOR_LIKE or (kind == 0 and (attribute.HasField("g") or attribute.HasField("t")))

    def attribute(self, source: onnx.AttributeProto, copy: onnx.AttributeProto, inner: Any) -> None:
        if not self.heavy(source):
            copy.CopyFrom(source)
            return
        copy.name, copy.type = source.name, source.type
        if source.HasField("ref_attr_name"):
            copy.ref_attr_name = source.ref_attr_name
        if source.HasField("t"):
            self.tensor(source.t, copy.t)
        for tensor in source.tensors:
            self.tensor(tensor, copy.tensors.add())
        if source.HasField("sparse_tensor"):
            self.sparse(source.sparse_tensor, copy.sparse_tensor)
        for sparse in source.sparse_tensors:
            self.sparse(sparse, copy.sparse_tensors.add())
        if source.HasField("g"):
            self.graph(source.g, copy.g, next(inner).nodes)
        for graph in source.graphs:
            self.graph(graph, copy.graphs.add(), next(inner).nodes)

    def tensor(self, source: onnx.TensorProto, copy: onnx.TensorProto) -> None:
        count = elements(tuple(source.dims), f"tensor '{source.name}'")
        small = count <= SMALL and (stored_bytes(source.data_type, count) <= SMALL)
        external = source.data_location == _T.EXTERNAL
        if small and not external:
            copy.CopyFrom(source)
            return
        copy.name, copy.data_type = source.name, source.data_type
        copy.dims.extend(source.dims)
        if small:
            copy.raw_data = read_range(self.outside[id(source)], f"tensor '{source.name}'")
        else:
            self.hollow.append(copy)

    def sparse(self, source: onnx.SparseTensorProto, copy: onnx.SparseTensorProto) -> None:
        self.tensor(source.values, copy.values)
        self.tensor(source.indices, copy.indices)
        copy.dims.extend(source.dims)


_TENSOR_LIKE = frozenset(
    getattr(onnx.AttributeProto, name)
    for name in ("TENSOR", "TENSORS", "SPARSE_TENSOR", "SPARSE_TENSORS", "GRAPH", "GRAPHS")
)
