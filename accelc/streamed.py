"""Run a model in bounded memory: one segment of its main graph at a time, with that segment's weights only.

The graph is cut into consecutive runs of nodes whose weights stay under a budget. Each becomes a small model of its own
that the runtime loads, runs once and frees; only values that cross a boundary are kept, and only until their last use.
External weights are never read here: a segment refers to them by file and offset, and the runtime maps them.

The input types of a segment are those of the values just computed. Only values that carry no type of their own (an
empty sequence or optional, a map) need the model's declarations or its shape inference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx

from accelc.data.specs import Value
from accelc.errors import ModelError, UsageError
from accelc.shape_inference import infer_shapes, without_weights

WEIGHT_BUDGET = 256 << 20
STREAMING_THRESHOLD = 1 << 30
"""Models with more bytes of weights than this are worth streaming."""

_CONFIG = {"session.disable_prepacking": "1"}  # packed copies of the weights would double a segment's memory


class SegmentRunner(Protocol):
    """What is needed of accelc.runner.Runner."""

    def load(
        self, model: bytes, *, optimize: bool, threads: int | None, config: Mapping[str, str], folder: Path | None
    ) -> Any:
        """Load a model whose external data lies in `folder`."""

    def run(
        self, session: Any, feeds: Mapping[str, Value], outputs: Sequence[str] | None, timeout: float
    ) -> dict[str, Value]:
        """Run once; the outputs by name."""

    def close(self, session: Any) -> None:
        """Free the model."""


@dataclass
class Segment:
    """Consecutive nodes, the weights they use, and the values that enter and leave. weight_bytes: of this segment."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weight_bytes: int = 0


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """The bytes of a tensor's values, whether they lie in the model or in another file."""
    size = math.prod(max(0, dim) for dim in tensor.dims)
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    try:
        bits = int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8
    except KeyError:
        return int(tensor.ByteSize())
    bits = _PACKED_BITS.get(tensor.data_type, bits)
    return int(size * bits + 7) // 8


_PACKED_BITS: Mapping[int, int] = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4, onnx.TensorProto.FLOAT4E2M1: 4}


def weight_bytes(proto: onnx.ModelProto) -> int:
    """The bytes of all weights of the main graph: initializers and tensors inside nodes."""
    total = sum(tensor_bytes(tensor) for tensor in proto.graph.initializer)
    return total + sum(_attribute_bytes(node) for node in proto.graph.node)


def run_streamed(
    runner: SegmentRunner,
    model: Path | onnx.ModelProto,
    base_dir: Path,
    feeds: Mapping[str, Value],
    *,
    weight_budget: int = WEIGHT_BUDGET,
    threads: int | None = 1,
    timeout: float = 600.0,
) -> dict[str, Value]:
    """The outputs of a model by name, computed segment by segment with the runtime's optimizations off.

    model: a file, or a proto whose external data is not loaded. base_dir: the folder that holds the external data.
    weight_budget: bytes of weights that one segment may have; a single node may exceed it. timeout: seconds for each
    segment. Raises: UsageError for a missing feed; ModelError when the graph has a cycle, a value without a producer,
    or a value that crosses a boundary and whose type cannot be known; the runner's errors.
    """
    proto = onnx.load(str(model), load_external_data=False) if isinstance(model, Path) else model
    stream = _Stream(proto, feeds)
    segments = split(proto, weight_budget, given=frozenset(feeds))
    last_use = {name: place for place, segment in enumerate(segments) for name in segment.inputs}
    wanted = {info.name for info in proto.graph.output}
    for place, segment in enumerate(segments):
        session = runner.load(
            stream.model_of(segment), optimize=False, threads=threads, config=_CONFIG, folder=base_dir
        )
        try:
            entering = {name: stream.values[name] for name in segment.inputs}
            computed = runner.run(session, entering, list(segment.outputs), timeout)
        finally:
            runner.close(session)
        stream.values.update(computed)
        for name in segment.inputs:
            if last_use[name] == place and name not in wanted:
                del stream.values[name]
    return {info.name: stream.values[info.name] for info in proto.graph.output}


def split(proto: onnx.ModelProto, weight_budget: int, *, given: frozenset[str] = frozenset()) -> list[Segment]:
    """Consecutive segments of the main graph in topological order, each with at most `weight_budget` bytes of weights.

    given: names of fed values; an initializer that is fed is no weight. Weights used in two segments count in both.
    """
    weights = {tensor.name: tensor_bytes(tensor) for tensor in proto.graph.initializer if tensor.name not in given}
    sparse = proto.graph.sparse_initializer
    weights |= {item.values.name: tensor_bytes(item.values) + tensor_bytes(item.indices) for item in sparse}
    segments: list[Segment] = []
    for node in _ordered(proto, set(weights) | set(given)):
        used = [name for name in _uses(node) if name in weights]
        inside = _attribute_bytes(node)
        current = segments[-1] if segments else None
        if current is None or current.weight_bytes + _new_bytes(current, used, weights) + inside > weight_budget:
            current = Segment()
            segments.append(current)
        current.weight_bytes += _new_bytes(current, used, weights) + inside
        current.weights.update((name, weights[name]) for name in used)
        current.nodes.append(node)
    _copy_direct_outputs(proto, weights, segments)
    _connect(segments, [info.name for info in proto.graph.output])
    return segments


def _new_bytes(segment: Segment, used: Iterable[str], weights: Mapping[str, int]) -> int:
    return sum(weights[name] for name in set(used) if name not in segment.weights)


def _copy_direct_outputs(proto: onnx.ModelProto, weights: Mapping[str, int], segments: list[Segment]) -> None:
    """A weight that is an output of the model leaves through the first segment; graphs without nodes get a segment."""
    for info in proto.graph.output:
        if info.name in weights:
            if not segments:
                segments.append(Segment())
            if info.name not in segments[0].weights:
                segments[0].weights[info.name] = weights[info.name]
                segments[0].weight_bytes += weights[info.name]


def _connect(segments: list[Segment], wanted: Sequence[str]) -> None:
    """Find what enters and leaves each segment, going backwards with the names that later segments need."""
    needed = set(wanted)
    for segment in reversed(segments):
        made = dict.fromkeys(name for node in segment.nodes for name in node.output if name)
        used = dict.fromkeys(name for node in segment.nodes for name in _uses(node))
        held = made.keys() | segment.weights.keys()
        segment.outputs = tuple(name for name in [*made, *segment.weights] if name in needed)
        segment.inputs = tuple(name for name in used if name not in held)
        needed = (needed - held) | (set(segment.inputs) if segment.outputs else set())
    segments[:] = [segment for segment in segments if segment.outputs]


def _ordered(proto: onnx.ModelProto, known: set[str]) -> Iterator[onnx.NodeProto]:
    """The nodes of the main graph so that producers come first; a sorted graph keeps its order."""
    nodes = list(proto.graph.node)
    producer = {name: place for place, node in enumerate(nodes) for name in node.output if name}
    known = known | {info.name for info in proto.graph.input}
    needs: dict[int, set[int]] = {}
    in_order = True
    for place, node in enumerate(nodes):
        uses = _uses(node)
        missing = next((name for name in uses if name not in producer and name not in known), None)
        if missing is not None:
            raise ModelError(f"value {missing} is used and nothing produces it", where=_where(node))
        needs[place] = {producer[name] for name in uses if name in producer}
        in_order = in_order and all(other < place for other in needs[place])
    if in_order:
        yield from nodes
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        raise ModelError("the graph has a cycle", where=_where(nodes[error.args[1][0]])) from None
    yield from (nodes[place] for place in order)


def _where(node: onnx.NodeProto) -> str:
    return f"node {node.name or node.output[0] if node.output else node.name} ({node.op_type})"


def _uses(node: onnx.NodeProto) -> list[str]:
    """Names of the enclosing graph that a node reads, those its subgraphs capture included."""
    names = dict.fromkeys(name for name in node.input if name)
    for graph in _subgraphs(node):
        names.update(dict.fromkeys(_captured(graph)))
    return list(names)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {item.values.name for item in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in _uses(node) if name not in own)
    yield from (info.name for info in graph.output if info.name not in own)


def _attribute_bytes(node: onnx.NodeProto) -> int:
    """Bytes of tensors inside a node: Constant values and the weights of its subgraphs."""
    total = sum(tensor_bytes(attribute.t) for attribute in node.attribute if attribute.HasField("t"))
    for graph in _subgraphs(node):
        total += sum(tensor_bytes(tensor) for tensor in graph.initializer)
        total += sum(_attribute_bytes(inner) for inner in graph.node)
    return total


class _Stream:
    """The values alive between segments, and the models of the segments."""

    def __init__(self, proto: onnx.ModelProto, feeds: Mapping[str, Value]) -> None:
        self.proto = proto
        self.initializers = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.sparse = {item.values.name: item for item in proto.graph.sparse_initializer}
        inputs = {info.name for info in proto.graph.input}
        for name in feeds:
            if name not in inputs:
                raise UsageError(f"{name} is not an input of the model")
        for info in proto.graph.input:
            if info.name not in feeds and info.name not in self.initializers and info.name not in self.sparse:
                raise UsageError(f"no value for input {info.name}")
        self.values: dict[str, Value] = dict(feeds)
        self.declared = {info.name: info for info in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]}
        self._inferred: dict[str, onnx.ValueInfoProto] | None = None

    def model_of(self, segment: Segment) -> bytes:
        """The model of one segment, serialized."""
        model = onnx.ModelProto(ir_version=max(self.proto.ir_version, 4), producer_name="accelc")
        model.opset_import.extend(self.proto.opset_import)
        model.functions.extend(self.proto.functions)
        graph = model.graph
        graph.name = "segment"
        graph.node.extend(segment.nodes)
        for name in segment.weights:
            if name in self.sparse:
                graph.sparse_initializer.append(self.sparse[name])
            else:
                graph.initializer.append(self.initializers[name])
        graph.input.extend(self._input_info(name) for name in segment.inputs)
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in segment.outputs)
        return bytes(model.SerializeToString())

    def _input_info(self, name: str) -> onnx.ValueInfoProto:
        if name not in self.values:
            raise ModelError(f"value {name} is used before it is computed")
        info = self.declared.get(name)
        found = _type_of(self.values[name])
        if found is not None and (info is None or info.type.WhichOneof("value") != "optional_type"):
            return onnx.ValueInfoProto(name=name, type=found)
        if info is None or not info.type.WhichOneof("value"):
            info = self._inference().get(name)
        if info is None or not info.type.WhichOneof("value"):
            why = "it is an empty sequence, an optional or a map, which neither the model nor shape inference types"
            raise ModelError(f"the type of value {name} cannot be known", why=why, hint="declare it in value_info")
        return onnx.ValueInfoProto(name=name, type=info.type)

    def _inference(self) -> Mapping[str, onnx.ValueInfoProto]:
        if self._inferred is None:
            try:
                inferred = infer_shapes(without_weights(self.proto))
            except onnx.shape_inference.InferenceError as error:
                raise ModelError("shape inference failed", why=str(error)) from error
            self._inferred = {info.name: info for info in inferred.graph.value_info}
        return self._inferred


def _type_of(value: Value) -> onnx.TypeProto | None:
    """The ONNX type of a tensor or of a sequence that holds something; None where the value does not tell."""
    if isinstance(value, np.ndarray | np.generic):
        strings = value.dtype.kind in "OUS"
        elem_type = onnx.TensorProto.STRING if strings else onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        return onnx.helper.make_tensor_type_proto(elem_type, value.shape)
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        item = _type_of(value[0].reshape(-1))
        assert item is not None
        item.tensor_type.ClearField("shape")
        return onnx.helper.make_sequence_type_proto(item)
    return None
