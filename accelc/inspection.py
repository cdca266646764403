"""What a model file holds, without running it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx

from accelc import blocks, ir, stamps
from accelc.blocks import BlockCount
from accelc.cost import Cost, estimate
from accelc.data.specs import Dim, InputSpec, output_signature, signature
from accelc.importer import Imported, read_model
from accelc.size import Size, size_of_proto
from accelc.streamed import tensor_bytes

SCHEMA = "accelc.inspect/1"
_LARGEST = 10
_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


@dataclass(frozen=True)
class PortInfo:
    """An input or output. dims: None when the rank is unknown. optional: an input with a default."""

    name: str
    type: str
    dims: tuple[Dim, ...] | None
    optional: bool = False


@dataclass(frozen=True)
class TypeShare:
    """The weights of one type."""

    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class WeightInfo:
    """One weight. file: of its external data, else empty."""

    name: str
    type: str
    dims: tuple[int, ...]
    bytes: int
    file: str = ""


@dataclass(frozen=True)
class Inspection:
    """A model in facts.

    bytes: of the file and its external data. external: bytes referred to, by file. largest: the largest weights.
    functions: nodes by function. blocks: of attention, normalization and activation, fused or in parts. subgraphs: how
    many graphs each operator holds; depth: how deep they nest. repairs: what the importer had to put right. made: nodes
    that accelc made, by pass and rule.
    """

    path: str
    bytes: int
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    metadata: Mapping[str, str]
    doc: str
    inputs: tuple[PortInfo, ...]
    outputs: tuple[PortInfo, ...]
    size: Size
    weights: int
    types: Mapping[str, TypeShare]
    largest: tuple[WeightInfo, ...]
    external: Mapping[str, int]
    functions: Mapping[str, int]
    blocks: Mapping[str, BlockCount]
    subgraphs: Mapping[str, int]
    depth: int
    cost: Cost
    repairs: tuple[str, ...]
    made: Mapping[str, int]


def inspect_model(path: str | os.PathLike[str], sizes: Mapping[str, int] | None = None) -> Inspection:
    """Read a model and say what is in it. sizes: of symbolic dimensions, for counting operations.

    Raises: UsageError when there is no such file; ModelError when the model is broken.
    """
    imported = read_model(path)
    proto = imported.proto
    weights = [_weight(tensor) for tensor in _tensors(proto)]
    largest = sorted(weights, key=lambda each: -each.bytes)[:_LARGEST]
    external: Counter[str] = Counter()
    for weight in weights:
        if weight.file:
            external[weight.file] += weight.bytes
    facts = Inspection(
        path=str(path),
        bytes=imported.bytes,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        ir_version=proto.ir_version,
        opsets={each.domain or "ai.onnx": each.version for each in proto.opset_import},
        metadata={each.key: each.value for each in proto.metadata_props},
        doc=proto.doc_string,
        inputs=_inputs(proto),
        outputs=tuple(port_info(spec) for spec in output_signature(proto)),
        size=size_of_proto(proto, imported.bytes),
        weights=len(weights),
        types=_types(weights),
        largest=tuple(largest),
        external=dict(external.most_common()),
        functions={f"{each.domain}.{each.name}".lstrip("."): len(each.node) for each in proto.functions},
        blocks=_blocks(imported),
        subgraphs=dict(_subgraphs(proto)),
        depth=max(_depth(proto.graph.node), *(_depth(each.node) for each in proto.functions), 0),
        cost=Cost(0, {}, {}, {}),
        repairs=imported.repairs,
        made=stamps.tally(proto),
    )
    return _with_cost(facts, imported, sizes)


def _blocks(imported: Imported) -> dict[str, BlockCount]:
    found = blocks.tally(blocks.find_blocks(ir.from_proto(imported.inferred)))
    return blocks.count(found, found)


def _with_cost(facts: Inspection, imported: Imported, sizes: Mapping[str, int] | None) -> Inspection:
    """Counting changes the proto, so it comes last."""
    return replace(facts, cost=estimate(imported.proto, imported.base_dir, sizes))


def type_name(elem_type: int) -> str:
    """float32 for FLOAT, int64 for INT64."""
    name = onnx.TensorProto.DataType.Name(elem_type) if elem_type in onnx.TensorProto.DataType.values() else "UNDEFINED"
    return _NAMES.get(name, name.lower())


def port_info(spec: InputSpec, *, optional: bool = False) -> PortInfo:
    """An input or output in words."""
    return PortInfo(spec.name, _type(spec), spec.shape, optional)


def _type(spec: InputSpec) -> str:
    if spec.kind == "tensor":
        return type_name(spec.elem_type)
    if spec.kind == "map":
        return f"map({type_name(spec.key_type)}, {_type(spec.item) if spec.item else '?'})"
    return f"{spec.kind}({_type(spec.item) if spec.item else type_name(spec.elem_type)})"


def _inputs(proto: onnx.ModelProto) -> tuple[PortInfo, ...]:
    needed = {spec.name: spec for spec in signature(proto)}
    bare = onnx.ModelProto(graph=onnx.GraphProto(input=proto.graph.input))
    return tuple(port_info(spec, optional=spec.name not in needed) for spec in signature(bare))


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every weight: initializers, and the tensors of Constant nodes."""
    for graph in ir.proto_graphs(proto.graph):
        yield from graph.initializer
        yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in ir.proto_nodes(proto):
        if node.op_type == "Constant":
            for attr in node.attribute:
                if attr.HasField("t"):
                    tensor = onnx.TensorProto()
                    tensor.CopyFrom(attr.t)
                    tensor.name = tensor.name or (node.output[0] if node.output else node.name)
                    yield tensor


def _weight(tensor: onnx.TensorProto) -> WeightInfo:
    is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
    file = next((each.value for each in tensor.external_data if each.key == "location"), "") if is_external else ""
    return WeightInfo(tensor.name, type_name(tensor.data_type), tuple(tensor.dims), tensor_bytes(tensor), file)


def _types(weights: list[WeightInfo]) -> dict[str, TypeShare]:
    found: dict[str, TypeShare] = {}
    for weight in sorted(weights, key=lambda each: each.type):
        have = found.get(weight.type, TypeShare(0, 0, 0))
        elements = 1
        for dim in weight.dims:
            elements *= dim
        found[weight.type] = TypeShare(have.tensors + 1, have.elements + elements, have.bytes + weight.bytes)
    return dict(sorted(found.items(), key=lambda each: -each[1].bytes))


def _subgraphs(proto: onnx.ModelProto) -> Counter[str]:
    held: Counter[str] = Counter()
    for node in ir.proto_nodes(proto):
        count = sum(attr.HasField("g") + len(attr.graphs) for attr in node.attribute)
        if count:
            held[node.op_type] += count
    return held


def _depth(nodes: Iterable[onnx.NodeProto]) -> int:
    """How many graphs deep the nodes nest; 0 without subgraphs."""
    deepest = 0
    stack = [(node, 1) for node in nodes]
    while stack:
        node, level = stack.pop()
        for attr in node.attribute:
            for graph in [*([attr.g] if attr.HasField("g") else []), *attr.graphs]:
                deepest = max(deepest, level)
                stack.extend((inner, level + 1) for inner in graph.node)
    return deepest
