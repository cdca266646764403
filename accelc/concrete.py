"""Shapes of every value once the inputs have sizes: node by node, with shape arithmetic carried out.

The model given is used up: what is computed replaces what computed it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.infer import infer_node, is_disputed, type_proto


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SMALL = 256
"""Elements up to which a constant result is carried out: enough for shapes, axes and split sizes."""

_GROWING = _names("ConstantOfShape Range Expand Tile Pad OneHot EyeLike Resize Upsample")
_RANDOM = _names("RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial Bernoulli Dropout")
_LIKE_FIRST_INPUT = _names(
    "LayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization SimplifiedLayerNormalization "
    "BiasGelu FastGelu QuickGelu Gelu BiasAdd QuantizeLinear DequantizeLinear GroupNorm SkipGroupNorm "
    "QLinearSigmoid QLinearLeakyRelu QLinearSoftmax RotaryEmbedding MultiHeadAttention GroupQueryAttention"
)
_STANDARD_FORM = {
    "FusedConv": ("Conv", 2),
    "FusedGemm": ("Gemm", 3),
    "MatMulIntegerToFloat": ("MatMul", 2),
    "DynamicQuantizeMatMul": ("MatMul", 2),
}
_SAME_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "transA", "transB")


class Shapes:
    """Completes the shapes of nodes in order. names: of the model, for the constants that are put in."""

    def __init__(self, model: ir.Model) -> None:
        self.names = ir.names(model)
        self._runs: dict[Any, Any] = {}

    def complete(self, node: ir.Node, scope: ir.Scope) -> None:
        """Fill in the shapes of a node's outputs as far as its inputs decide them; replace it where it is constant."""
        if node.op_type == "Shape" and not node.domain:
            self._fold_shape(node, scope)
            return
        self._infer(node, scope.opset)
        if not node.domain and len(node.outputs) == 1 and node.op_type not in _RANDOM | {"Constant"}:
            self._carry_out(node, scope)

    @staticmethod
    def _infer(node: ir.Node, opset: int) -> None:
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _STANDARD_FORM and node.domain and first is not None:
            op_type, inputs = _STANDARD_FORM[node.op_type]
            attrs = {key: attr for key, attr in node.attributes.items() if key in _SAME_ATTRIBUTES}
            plain = ir.new_node(op_type, node.inputs[:inputs], attrs)
            infer_node(plain, opset or 13)
            node.outputs[0].type = node.outputs[0].type or first.type
            node.outputs[0].shape = plain.outputs[0].shape
            for index in range(len(plain.inputs)):
                plain.replace_input_with(index, None)
        elif node.op_type == "MatMulNBits" and first is not None and first.shape is not None:
            node.outputs[0].type = first.type
            node.outputs[0].shape = ir.Shape([*ir.shape_dims(first.shape)[:-1], int(ir.attribute(node, "N", 0))])
        elif node.op_type in ("Attention", "QAttention", "EmbedLayerNormalization") and node.domain:
            _wide(node)
        elif opset:
            infer_node(node, opset)
        if node.outputs[0].shape is None and node.op_type in _LIKE_FIRST_INPUT and first is not None:
            node.outputs[0].type, node.outputs[0].shape = first.type, first.shape

    def _fold_shape(self, node: ir.Node, scope: ir.Scope) -> None:
        dims = ir.dims(node.inputs[0])
        if dims is None or not all(isinstance(dim, int) for dim in dims):
            infer_node(node, scope.opset)
            return
        start, end = ir.attribute(node, "start", 0), ir.attribute(node, "end", len(dims))
        self._replace(node, np.array(dims, np.int64)[start:end], scope)

    def _carry_out(self, node: ir.Node, scope: ir.Scope) -> None:
        """Evaluate a small node with constant inputs, as shape arithmetic is."""
        arrays = [None if value is None else self._small(value) for value in node.inputs]
        if not arrays or any(array is None for array, value in zip(arrays, node.inputs, strict=True) if value):
            return
        if is_disputed(node):
            return
        shape = ir.dims(node.outputs[0])
        known = shape is not None and all(isinstance(dim, int) for dim in shape)
        if (not known and node.op_type in _GROWING) or any(True for _ in ir.subgraphs(node)):
            return
        if known and math.prod(dim for dim in shape or () if isinstance(dim, int)) > _SMALL:
            return
        result = _evaluate(node, arrays, scope.opset)
        if result is not None and result.size <= _SMALL:
            self._replace(node, result, scope)

    @staticmethod
    def _small(value: ir.Value) -> np.ndarray[Any, Any] | None:
        tensor = ir.const_tensor(value)
        if tensor is None or tensor.size > _SMALL or tensor.dtype == ir.DataType.STRING:
            return None
        return tensor.numpy()

    def _replace(self, node: ir.Node, array: np.ndarray[Any, Any], scope: ir.Scope) -> None:
        old = node.outputs[0]
        new = ir.new_constant(scope, self.names, f"{old.name}_value", ir.array_tensor(array), node)
        old.type, old.shape = new.type, new.shape
        for use in old.uses():
            use.node.replace_input_with(use.idx, new)


def _wide(node: ir.Node) -> None:
    """Output [batch, sequence, hidden]; the weight is a table [rows, hidden], or [in, 3 hidden] of an attention."""
    table = node.op_type == "EmbedLayerNormalization"
    first, weight = node.inputs[0], node.inputs[2 if table else 1]
    outer, width = ir.dims(first), ir.dims(weight)
    if outer is None or width is None or len(outer) < 2 or len(width) != 2 or not isinstance(width[1], int):
        return
    node.outputs[0].shape = ir.Shape([*outer[:2], width[1] if table else width[1] // 3])
    source = weight if table else first
    node.outputs[0].type = source.type if source is not None else None


def _evaluate(node: ir.Node, arrays: list[Any], opset: int) -> np.ndarray[Any, Any] | None:
    """The result of one standard operator by onnx's reference implementation; None where that has none."""
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto(op_type=node.op_type)
    infos, feeds = [], {}
    for index, (value, array) in enumerate(zip(node.inputs, arrays, strict=True)):
        proto.input.append("" if value is None else f"i{index}")
        if value is not None:
            infos.append(onnx.ValueInfoProto(name=f"i{index}", type=type_proto(value)))
            feeds[f"i{index}"] = array
    proto.output.append("o")
    for attr in node.attributes.values():
        if attr.is_ref():
            return None
        proto.attribute.append(ir.attr_proto(attr))
    graph = onnx.helper.make_graph([proto], "one", infos, [onnx.ValueInfoProto(name="o")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # the reference raises whatever its Python code meets; the value then stays unknown
        return None
    return result if isinstance(result, np.ndarray) else None
