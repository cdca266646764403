"""What a tensor's elements can be, as far as a type or the operators before it tell."""

from __future__ import annotations

from typing import Any

import numpy as np

from accelc import ir

Array = np.ndarray[Any, Any]

DEEPEST = 64
"""Operators in a row that are looked at."""
_UNSIGNED_RESULT = frozenset(
    "Abs Exp HardSigmoid ReduceL1 ReduceL2 ReduceSumSquare Relu Sigmoid Softmax Softplus Sqrt".split()
)
_KEEPS_SIGN = frozenset(
    "AveragePool DepthToSpace Dropout Expand Flatten Gather GlobalAveragePool GlobalMaxPool Identity MaxPool Pad "
    "ReduceMax ReduceMean ReduceMin ReduceSum Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze".split()
)
_KEEPS_COMMON_SIGN = frozenset(("Add", "Concat", "Div", "Max", "Min", "Mul", "Pow", "Sum", "Where"))


def integer_range(dtype: ir.DataType | None) -> tuple[float, float] | None:
    """The lowest and highest value of a type that floats are rounded to."""
    return None if dtype is None else (float(dtype.min), float(dtype.max))


def never_negative(value: ir.Value, depth: int = 0) -> bool:
    """Whether no element can be below zero, as far as the operators before it tell."""
    array = ir.const(value)
    if array is not None:
        return bool((array >= 0).all())
    node = value.producer()
    if node is None or node.domain or depth > DEEPEST:
        return False
    kind, inputs = node.op_type, [each for each in dict.fromkeys(node.inputs) if each is not None]
    if kind in _UNSIGNED_RESULT:
        return True
    if kind == "Clip":
        low = ir.const(node.inputs[1]) if len(node.inputs) > 1 else None
        least = float(low.reshape(())) if low is not None else ir.attribute(node, "min")
        return least is not None and least >= 0
    if (kind == "Pow" and _is_even(ir.const(node.inputs[1]))) or (kind == "Mul" and len(inputs) == 1):
        return True
    if kind == "Add" and any(map(_at_least_minus_one, inputs)) and any(map(_at_least_one, inputs)):
        return True
    if kind == "Pad" and ir.attribute(node, "mode", "constant") == "constant" and not _pads_upwards(node):
        return False
    if kind == "Where":
        inputs = inputs[1:]
    if kind in _KEEPS_COMMON_SIGN:
        return all(never_negative(each, depth + 1) for each in inputs)
    return kind in _KEEPS_SIGN and bool(inputs) and never_negative(inputs[0], depth + 1)


def _is_even(exponent: Array | None) -> bool:
    return exponent is not None and bool((exponent % 2 == 0).all())


def _at_least_minus_one(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and not node.domain and node.op_type in ("Erf", "Tanh", "Sin", "Cos", "Softsign")


def _at_least_one(value: ir.Value) -> bool:
    array = ir.const(value)
    return array is not None and bool((array >= 1).all())


def _pads_upwards(node: ir.Node) -> bool:
    """Whether a Pad fills with nothing negative."""
    given = node.inputs[2] if len(node.inputs) > 2 else None
    array = ir.const(given)
    if array is not None:
        return bool((array >= 0).all())
    return given is None and ir.attribute(node, "value", 0.0) >= 0
