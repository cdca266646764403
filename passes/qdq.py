"""Signed activations of quantized models as unsigned ones, where the processor multiplies u8 by s8."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.pattern import MICROSOFT
from accelc.rewrite import drop_initializer, remove_dead

_ACTIVATION, _CONSTANT = "unsigned_activation", "unsigned_constant"
_SHIFT = 128
_SEVEN_BITS = 64
"""Two products of u8 with a weight of at most this size add up to less than 2^15."""
_MOVERS = frozenset(
    "Concat Expand Flatten Gather GatherElements GatherND Identity MaxPool Reshape Slice Split Squeeze Tile Transpose "
    "Unsqueeze".split()
)
"""Operators that hand integers on, in their order, and that have kernels for u8 wherever they have them for s8."""
_OVERFLOW = "beside u8, weights of more than 7 bits overflow on this processor"
_ALIKE = frozenset({"Add", "Concat", "Gather", "Mul", "Where"})
"""Operators with integer kernels that want all their integers of one type, and that sum no products."""
_ELEMENTWISE = frozenset({"Div", "Max", "Min", "Pow", "Sub"})
"""Operators without an integer kernel that may read the same constants."""
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Qdq(Pass):
    """Store s8 activations of quantized models as u8 with a zero point that is 128 higher, on x86.

    Every number stays what it is. There the runtime has fast kernels only for u8 by s8, and by itself turns to u8 just
    the tensors that one DequantizeLinear reads; an operator between the two kinds then falls back to float. Constants
    that are added to them, or multiply them one by one, go along; weights of products stay s8. Without exact sums of
    u8 by s8 products (AVX2 alone), a model changes only if its weights have 7 bits.
    """

    name = "qdq"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return (_ACTIVATION, _CONSTANT)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        target = ctx.target
        if target.provider != "CPUExecutionProvider" or "sse4_1" not in target.isa:
            return PassResult()
        names, kept, changes = ir.names(model), Counter[str](), 0
        for scope in list(ir.scopes(model)):
            tensors = [_Tensor(scope, node) for node in scope.graph if _rounds_activation(node)]
            reasons = {tensor.source: tensor.obstacle() for tensor in tensors}
            movable = [tensor for tensor in tensors if not reasons[tensor.source]]
            if movable and not target.int8_dot_exact and _overflows(scope.graph, movable):
                return PassResult(changes, skipped=_OVERFLOW, details={"kept": {_OVERFLOW: len(tensors)}})
            kept.update(filter(None, reasons.values()))
            zeros = _Zeros(scope, names)
            for tensor in movable:
                if tensor.is_signed() and ctx.spend(_ACTIVATION, ir.node_path(tensor.source)):
                    tensor.make_unsigned(zeros)
                    changes += 1
            for weight in list(scope.graph.initializers.values()):
                if _may_follow(weight, scope) and ctx.spend(_CONSTANT, f"weight {weight.name}"):
                    _make_unsigned(weight, zeros)
                    changes += 1
        return PassResult(changes, details={"kept": dict(kept.most_common())} if kept else {})


def _rounds_activation(node: ir.Node) -> bool:
    """Whether a node rounds to s8, on one scale, what is computed, or a constant that no product reads."""
    if not _is(node, _QUANTIZE) or node.outputs[0].dtype != ir.DataType.INT8 or not _is_single(node):
        return False
    ends = [use.node for use in node.outputs[0].uses()]
    return not ir.is_constant(node.inputs[0]) or all(_is(end, _DEQUANTIZE) and _is_no_factor(end) for end in ends)


def _is(node: ir.Node, kind: str) -> bool:
    return node.op_type == kind and node.domain in ("", MICROSOFT)


def _is_single(node: ir.Node) -> bool:
    scale = ir.dims(node.inputs[1])
    return scale is not None and all(dim == 1 for dim in scale)


def _overflows(graph: ir.Graph, tensors: list[_Tensor]) -> bool:
    """Whether something stays s8 in a graph, of more than 7 bits, that may be multiplied by what becomes u8."""
    become = {end for tensor in tensors for end in tensor.ends}
    for node in graph:
        if not _is(node, _DEQUANTIZE) or node in become or _is_no_factor(node):
            continue
        value = node.inputs[0]
        if value is not None and value.dtype == ir.DataType.INT8:
            weight = ir.const(value)
            if weight is None or np.any(np.abs(weight.astype(np.int16)) > _SEVEN_BITS):
                return True
    return False


@dataclass
class _Tensor:
    """What a QuantizeLinear makes, with all that hands it on.

    values: the integers, in every order and shape that they take. sources: the QuantizeLinear nodes that they come
    from, several where a Concat joins them. ends: the DequantizeLinear nodes.
    """

    scope: ir.Scope
    source: ir.Node
    values: dict[ir.Value, None] = field(default_factory=dict)
    sources: dict[ir.Node, None] = field(default_factory=dict)
    ends: dict[ir.Node, None] = field(default_factory=dict)

    def is_signed(self) -> bool:
        """Whether it is s8 still; another tensor that a Concat joins it with may have taken it along."""
        return self.source.outputs[0].dtype == ir.DataType.INT8

    def obstacle(self) -> str:
        """Why the tensor must stay s8; empty where it need not. Fills the fields."""
        open_values = [self.source.outputs[0]]
        while open_values:
            value = open_values.pop()
            if value in self.values:
                continue
            self.values[value] = None
            if value.is_graph_output():
                return "it is an output"
            for node in [value.producer(), *(use.node for use in value.uses())]:
                if node is None or node.graph is not self.scope.graph:
                    return "it comes from outside or is read in a subgraph"
                if reason := self._take(node, value, open_values):
                    return reason
        return ""

    def _take(self, node: ir.Node, value: ir.Value, open_values: list[ir.Value]) -> str:
        """Take in a node that makes or reads a value."""
        if node.op_type in _MOVERS and not node.domain:
            data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            made = node.outputs if node.op_type == "Split" else node.outputs[:1]
            open_values.extend(each for each in (*data, *made) if each is not None)
            return "" if value in (*data, *made) else f"{node.op_type} reads it for something else"
        makes = value.producer() is node
        if not _is(node, _QUANTIZE if makes else _DEQUANTIZE):
            return f"{node.op_type} {'makes' if makes else 'reads'} it"
        if not _has_one_zero(node):
            return f"the zero point of {node.op_type} is not one constant"
        (self.sources if makes else self.ends)[node] = None
        return ""

    def make_unsigned(self, zeros: _Zeros) -> None:
        for node in (*self.sources, *self.ends):
            zeros.shift(node, _ACTIVATION)
            if "output_dtype" in node.attributes and node in self.sources:
                node.attributes["output_dtype"] = ir.make_attr("output_dtype", int(ir.DataType.UINT8))
        for value in self.values:
            value.type = ir.TensorType(ir.DataType.UINT8)


def _may_follow(weight: ir.Value, scope: ir.Scope) -> bool:
    """Whether a constant is s8, and operators that make u8 want it to be of their type; no product may read it."""
    if weight.dtype != ir.DataType.INT8 or weight.is_graph_input() or weight.is_graph_output():
        return False
    ends = [use.node for use in weight.uses()]
    if any(not _is(end, _DEQUANTIZE) or end.graph is not scope.graph or end.inputs[0] is not weight for end in ends):
        return False
    if not all(_is_no_factor(end) and _has_one_zero(end) for end in ends):
        return False
    return any(_is_rounded(use.node) for end in ends for use in end.outputs[0].uses() if use.node.op_type in _ALIKE)


def _is_no_factor(end: ir.Node) -> bool:
    """Whether no product can read the result of a DequantizeLinear."""
    (value,) = end.outputs
    return not value.is_graph_output() and all(
        use.node.op_type in _ALIKE | _ELEMENTWISE and not use.node.domain for use in value.uses()
    )


def _is_rounded(node: ir.Node) -> bool:
    """Whether what a node makes is rounded to u8."""
    readers = [use.node for use in node.outputs[0].uses()]
    return any(_is(each, _QUANTIZE) and each.outputs[0].dtype == ir.DataType.UINT8 for each in readers)


def _make_unsigned(weight: ir.Value, zeros: _Zeros) -> None:
    old = ir.const(weight)
    assert old is not None
    for use in list(weight.uses()):
        zeros.shift(use.node, _CONSTANT)
    weight.const_value = ir.array_tensor((old.view(np.uint8) ^ np.uint8(_SHIFT)).astype(np.uint8))
    weight.type = ir.TensorType(ir.DataType.UINT8)


class _Zeros:
    """The zero points of what became unsigned, one for each number and shape in a graph."""

    def __init__(self, scope: ir.Scope, names: ir.Names) -> None:
        self._scope, self._names = scope, names
        self._made: dict[tuple[int, tuple[int, ...]], ir.Value] = {}

    def shift(self, node: ir.Node, rule: str) -> None:
        """Give a QuantizeLinear or DequantizeLinear of s8 the zero point that u8 needs."""
        zero, scale = _zero(node), ir.dims(node.inputs[1])
        old = ir.const(zero)
        assert scale is not None
        number = _SHIFT + (int(old.reshape(-1)[0]) if old is not None else 0)
        shape = old.shape if old is not None else (1,) * len(scale)
        if (number, shape) not in self._made:
            tensor = ir.array_tensor(np.full(shape, number, np.uint8))
            self._made[number, shape] = ir.new_constant(self._scope, self._names, f"zero_point_{number}", tensor)
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, self._made[number, shape])
        node.meta["accelc.rule"] = rule
        if zero is not None:
            _drop(zero)


def _zero(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _has_one_zero(node: ir.Node) -> bool:
    """Whether a node has one scale and one zero point, a constant."""
    return _is_single(node) and (_zero(node) is None or ir.const(_zero(node)) is not None)


def _drop(constant: ir.Value) -> None:
    """Remove a constant that nothing reads any more."""
    producer = constant.producer()
    if producer is not None:
        remove_dead([producer])
    else:
        drop_initializer(constant)
