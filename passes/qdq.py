"""Signed activations of quantized models as unsigned ones, where the processor multiplies u8 by s8."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.pattern import MICROSOFT

_RULE = "unsigned_activation"
_SHIFT = 128
_SEVEN_BITS = 64
"""Two products of u8 with a weight of at most this size add up to less than 2^15."""
_MOVERS = frozenset(
    "Concat Expand Flatten Gather GatherElements GatherND Identity MaxPool Reshape Slice Split Squeeze Tile Transpose "
    "Unsqueeze".split()
)
"""Operators that hand integers on, in their order, and that have kernels for u8 wherever they have them for s8."""
_OVERFLOW = "beside u8, weights of more than 7 bits overflow on this processor"
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class Qdq(Pass):
    """Store s8 activations of quantized models as u8 with a zero point that is 128 higher, on x86.

    Every number stays what it is. There the runtime has fast kernels only for u8 by s8, and by itself turns to u8 just
    the tensors that one DequantizeLinear reads; an operator between the two kinds then falls back to float. Weights
    stay s8. Without exact sums of u8 by s8 products (AVX2 alone), a model changes only if its weights have 7 bits.
    """

    name = "qdq"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return (_RULE,)

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
            zeros: dict[tuple[int, tuple[int, ...]], ir.Value] = {}
            for tensor in movable:
                if tensor.is_signed() and ctx.spend(_RULE, ir.node_path(tensor.source)):
                    tensor.make_unsigned(names, zeros)
                    changes += 1
        return PassResult(changes, details={"kept": dict(kept.most_common())} if kept else {})


def _rounds_activation(node: ir.Node) -> bool:
    """Whether a node rounds what is computed, on one scale, to s8."""
    return (
        _is(node, _QUANTIZE)
        and node.outputs[0].dtype == ir.DataType.INT8
        and not ir.is_constant(node.inputs[0])
        and _is_single(node)
    )


def _is(node: ir.Node, kind: str) -> bool:
    return node.op_type == kind and node.domain in ("", MICROSOFT)


def _is_single(node: ir.Node) -> bool:
    scale = ir.dims(node.inputs[1])
    return scale is not None and all(dim == 1 for dim in scale)


def _overflows(graph: ir.Graph, tensors: list[_Tensor]) -> bool:
    """Whether something stays s8 in a graph, of more than 7 bits, that may be multiplied by what becomes u8."""
    become = {end for tensor in tensors for end in tensor.ends}
    for node in graph:
        if not _is(node, _DEQUANTIZE) or node in become:
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
        if not _is_single(node) or (_zero(node) is not None and ir.const(_zero(node)) is None):
            return f"the zero point of {node.op_type} is not one constant"
        (self.sources if makes else self.ends)[node] = None
        return ""

    def make_unsigned(self, names: ir.Names, zeros: dict[tuple[int, tuple[int, ...]], ir.Value]) -> None:
        """zeros: the new zero points of the graph so far, by number and shape."""
        for node in (*self.sources, *self.ends):
            old, scale = ir.const(_zero(node)), ir.dims(node.inputs[1])
            assert scale is not None
            number = _SHIFT + (int(old.reshape(-1)[0]) if old is not None else 0)
            shape = old.shape if old is not None else (1,) * len(scale)
            if (number, shape) not in zeros:
                tensor = ir.array_tensor(np.full(shape, number, np.uint8))
                zeros[number, shape] = ir.new_constant(self.scope, names, f"zero_point_{number}", tensor)
            if len(node.inputs) < 3:
                node.resize_inputs(3)
            node.replace_input_with(2, zeros[number, shape])
            if "output_dtype" in node.attributes and node in self.sources:
                node.attributes["output_dtype"] = ir.make_attr("output_dtype", int(ir.DataType.UINT8))
            node.meta["accelc.rule"] = _RULE
        for value in self.values:
            value.type = ir.TensorType(ir.DataType.UINT8)


def _zero(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None
