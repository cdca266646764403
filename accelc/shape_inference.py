"""onnx's shape inference of a whole model, made safe to call.

onnx ends the process where a Slice with constant bounds (since version 10) cuts an axis of negative length.
Inference itself makes such lengths: a window without padding over a smaller input has one, and a model may declare
one. So a Slice whose data may be like that gets bounds that inference cannot read, and its result no shape but a rank.
So does one whose bounds the runtime reads otherwise than onnx.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, MutableSequence, Sequence
from typing import Any

import onnx

OPEN_ENDS = frozenset({2**31 - 1, 2**63 - 1})
"""Ends of a Slice that mean "all that is left" to the runtime, also where the step is negative; to onnx they mean so
only where it is positive.
"""
_MORE_ROUNDS = 4
"""What one round of inference finds out lets the next one read more bounds."""
_HIDDEN = "accelc_hidden_bounds_"
_SMALL = 64
_SMALL_WEIGHT = 1024
"""Elements that a weight may have and still be read: it may hold a shape or axes."""
_INTEGERS = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)

_KEEPS = frozenset(
    """Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitShift BitwiseAnd
    BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape Cos
    Cosh CumSum DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater
    GreaterOrEqual GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization
    IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LRN MatMul MatMulInteger
    Max Mean Min Mish Mod Mul Neg NonZero Not Or PRelu Pow QuantizeLinear RMSNormalization Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round ScatterElements ScatterND Selu Shape
    Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign Sqrt Squeeze Sub Sum Swish Tan
    Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Where Xor""".split()
)
"""Operators whose results have no negative length where their inputs have none."""
_WINDOWS = frozenset("Conv ConvInteger QLinearConv MaxPool AveragePool LpPool".split())
_COUNTED = {"Split": 1, "Expand": 1, "Pad": 1, "TopK": 1}
"""Operators that keep lengths from being negative where the numbers given by this input, or attribute, are not."""
_COUNTED_BY = ("split", "pads", "k")


def infer_shapes(proto: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """`onnx.shape_inference.infer_shapes` that does not end the process. The proto is copied only if it has to be.

    Raises: what onnx raises.
    """
    risks = _Risks(proto)
    done = _infer(proto, risks.slices, options)
    for _ in range(_MORE_ROUNDS):
        if not risks.slices:
            break
        closer = _Risks(proto, sure=_known(done) - risks.unsure)
        if closer.slices == risks.slices:
            break
        risks, done = closer, _infer(proto, closer.slices, options)
    return done


def without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its larger weights as inputs, for shape inference: small ones may hold shapes and axes."""
    light = onnx.ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    light.graph.name = proto.graph.name
    light.graph.node.extend(proto.graph.node)
    light.graph.output.extend(proto.graph.output)
    light.graph.value_info.extend(proto.graph.value_info)
    large = {tensor.name for tensor in proto.graph.initializer if math.prod(tensor.dims) > _SMALL_WEIGHT}
    light.graph.input.extend(info for info in proto.graph.input if info.name not in large)
    for tensor in proto.graph.initializer:
        if tensor.name in large:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        else:
            light.graph.initializer.append(tensor)
    return light


def _infer(proto: onnx.ModelProto, hidden: set[str], options: Mapping[str, Any]) -> onnx.ModelProto:
    """hidden: results of the Slice nodes whose bounds are not to be read."""
    if not hidden:
        return onnx.shape_inference.infer_shapes(proto, **options)
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for nodes in _node_lists(copy):
        found = [place for place, node in enumerate(nodes) if _is_stepped(node) and node.output[0] in hidden]
        for place in reversed(found):
            bounds, name = nodes[place].input[1], _HIDDEN + nodes[place].output[0]
            nodes[place].input[1] = name
            nodes.insert(place, onnx.helper.make_node("Neg", [bounds], [name], name=name))
    result = onnx.shape_inference.infer_shapes(copy, **options)
    for nodes in _node_lists(result):
        bounds_of = {node.name: node.input[0] for node in nodes if node.name.startswith(_HIDDEN)}
        for place in reversed(range(len(nodes))):
            node = nodes[place]
            if node.name in bounds_of:
                del nodes[place]
            elif node.op_type == "Slice" and len(node.input) > 1 and node.input[1] in bounds_of:
                node.input[1] = bounds_of[node.input[1]]
    for graph in _graphs(result.graph):
        for place in reversed(range(len(graph.value_info))):
            if graph.value_info[place].name.startswith(_HIDDEN):
                del graph.value_info[place]
    return result


class _Risks:
    """One walk over a model: where a length may be negative.

    slices: results of the Slice nodes that may cut such an axis. unsure: names of values whose types hang on one of
    these. sure: values known to have no negative length, besides those that the walk finds.
    """

    def __init__(self, proto: onnx.ModelProto, sure: Collection[str] = ()) -> None:
        self.slices: set[str] = set()
        self.unsure: set[str] = set()
        self._sure = set(sure)
        self._open: set[str] = set()  # values that may have a negative length
        self._constants: dict[str, onnx.TensorProto] = {}
        self._vague_functions = True
        self._functions = {(function.domain, function.name) for function in proto.functions}
        if not any(_is_stepped(node) for nodes in _node_lists(proto) for node in nodes):
            return
        for function in proto.functions:
            self._mark(function.input, True, True)
            for node in function.node:
                self._node(node)
            self._open.clear()
            self._constants.clear()
        self._vague_functions = bool(self.slices)
        self._graph(proto.graph, False, False)

    def _mark(self, names: Iterable[str], is_open: bool, unsure: bool) -> None:
        if is_open:
            self._open.update(names)
        else:
            self._open.difference_update(names)
        if unsure:
            self.unsure.update(names)

    def _graph(self, graph: onnx.GraphProto, is_open: bool, unsure: bool) -> None:
        """is_open, unsure: what the graph's inputs are."""
        for tensor in graph.initializer:
            self._constants[tensor.name] = tensor
            self._mark([tensor.name], any(dim < 0 for dim in tensor.dims), False)
        declared = {info.name for info in (*graph.input, *graph.value_info, *graph.output) if _has_negative(info)}
        for info in graph.input:
            if info.name not in self._constants:
                self._mark([info.name], is_open, unsure)
        self._open |= declared
        for node in graph.node:
            self._node(node)
            self._open |= declared.intersection(node.output)

    def _node(self, node: onnx.NodeProto) -> None:
        unsure = not self.unsure.isdisjoint(node.input)
        is_open = not self._open.isdisjoint(node.input)
        for body in _bodies(node):
            self._graph(body, is_open, unsure)
            results = {info.name for info in body.output}
            unsure |= not self.unsure.isdisjoint(results)
            is_open |= not self._open.isdisjoint(results)
        if node.op_type == "Constant" and not node.domain:
            for attr in node.attribute:
                if attr.HasField("t"):
                    self._constants[node.output[0]] = attr.t
        else:
            for name in node.output:
                self._constants.pop(name, None)
        if _is_stepped(node) and (node.input[0] in self._open or self._is_disputed(node)):
            self.slices.add(node.output[0])
            unsure = True
        is_function = (node.domain, node.op_type) in self._functions
        is_open = is_open or is_function or (node.domain in ("", "ai.onnx") and not self._keeps(node))
        names = [name for name in node.output if name]
        self._mark(names, is_open, unsure or (is_function and self._vague_functions))
        self._open.difference_update(self._sure.intersection(names))

    def _is_disputed(self, node: onnx.NodeProto) -> bool:
        if len(node.input) < 5:
            return False
        return disputed(self._integers(node.input[2]), self._integers(node.input[4]))

    def _keeps(self, node: onnx.NodeProto) -> bool:
        """Whether an operator of onnx makes no negative length of others."""
        if node.op_type in _KEEPS or any(True for _ in _bodies(node)):
            return True
        if node.op_type in _WINDOWS:
            return self._window_fits(node)
        if node.op_type not in _COUNTED:
            return False
        given = [list(attr.ints) or [attr.i] for attr in node.attribute if attr.name in _COUNTED_BY]
        at = _COUNTED[node.op_type]
        if len(node.input) > at and node.input[at]:
            given.append(self._integers(node.input[at]))
        return bool(given) and all(counts and min(counts) >= 0 for counts in given)

    def _integers(self, name: str) -> list[int]:
        """The numbers of a small constant; none where they are not known."""
        tensor = self._constants.get(name)
        if tensor is None or tensor.data_type not in _INTEGERS or math.prod(tensor.dims) > _SMALL:
            return []
        return [int(each) for each in onnx.numpy_helper.to_array(tensor).reshape(-1)]

    def _window_fits(self, node: onnx.NodeProto) -> bool:
        """Whether windows fit into an axis of any length, or stop less than a stride short of it."""
        attrs = {attr.name: attr for attr in node.attribute}
        if "auto_pad" in attrs and attrs["auto_pad"].s in (b"SAME_UPPER", b"SAME_LOWER"):
            return True
        if "kernel_shape" in attrs:
            kernel = list(attrs["kernel_shape"].ints)
        else:
            at = 3 if node.op_type == "QLinearConv" else 1
            weight = self._constants.get(node.input[at]) if len(node.input) > at else None
            kernel = list(weight.dims[2:]) if weight is not None else []
        rank = len(kernel)

        def each(name: str, default: int, count: int) -> list[int]:
            given = list(attrs[name].ints) if name in attrs else []
            return given or [default] * count

        strides, dilations, pads = each("strides", 1, rank), each("dilations", 1, rank), each("pads", 0, 2 * rank)
        if not rank or not len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
            return False
        return all(
            (size - 1) * dilation + 1 - begin - end <= stride
            for size, dilation, stride, begin, end in zip(
                kernel, dilations, strides, pads[:rank], pads[rank:], strict=True
            )
        )


def disputed(ends: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether onnx and the runtime read the constant bounds of a Slice differently."""
    return any(end in OPEN_ENDS and step < 0 for end, step in zip(ends, steps, strict=False))


def _known(proto: onnx.ModelProto) -> set[str]:
    """Names of values without a negative length in an inferred model; a value without a shape is one of them."""
    found: set[str] = set()
    negative: set[str] = set()
    for graph in _graphs(proto.graph):
        for info in (*graph.input, *graph.value_info, *graph.output):
            if _has_negative(info):
                negative.add(info.name)
        found.update(name for node in graph.node for name in node.output)
    for function in proto.functions:
        found.difference_update(name for node in function.node for name in node.output)
    return found - negative


def _is_stepped(node: onnx.NodeProto) -> bool:
    """Whether this is a Slice with its bounds as inputs, as since version 10."""
    return node.op_type == "Slice" and len(node.input) >= 3 and node.domain in ("", "ai.onnx")


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _bodies(node):
            yield from _graphs(inner)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attr in node.attribute:
        if attr.HasField("g"):
            yield attr.g
        yield from attr.graphs


def _node_lists(proto: onnx.ModelProto) -> Iterator[MutableSequence[onnx.NodeProto]]:
    """The nodes of every graph and function."""
    for graph in _graphs(proto.graph):
        yield graph.node
    for function in proto.functions:
        yield function.node
        for node in function.node:
            for body in _bodies(node):
                for graph in _graphs(body):
                    yield graph.node


def _has_negative(info: onnx.ValueInfoProto) -> bool:
    kind = info.type
    return kind.HasField("tensor_type") and any(dim.dim_value < 0 for dim in kind.tensor_type.shape.dim)
