"""Operators that compute on integers, and the float operators that they stand for.

Each entry builds floats before its node. What it returns stands for the node's first outputs: a float for a float, and
a `Rounded` float for an integer output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT

from .strip import Grid, Restorer, dequantized


@dataclass(frozen=True, eq=False)
class Rounded:
    """A float, and how the operator rounds it."""

    value: ir.Value
    grid: Grid


Result = Rounded | ir.Value
Build = Callable[[Restorer, ir.Node], Sequence[Result]]


@dataclass(frozen=True)
class Form:
    """build: makes the floats. refusal: why a node is left alone, or an empty text."""

    build: Build
    refusal: Callable[[ir.Node], str] = lambda node: ""


def given(node: ir.Node, index: int) -> ir.Value | None:
    """An input, None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def needed(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator must have."""
    value = given(node, index)
    assert value is not None
    return value


def read(restorer: Restorer, node: ir.Node, index: int, *, axis: int = 1) -> ir.Value:
    """The float of an input that is followed by its scale and zero point."""
    grid = Grid(needed(node, index + 1), given(node, index + 2), axis)
    return restorer.float_of(needed(node, index), grid, node)


def others(node: ir.Node, *left_out: str) -> dict[str, Any]:
    """The attributes of a node without some."""
    return {name: attr for name, attr in node.attributes.items() if name not in left_out}


def arrays(*values: ir.Value | None) -> list[np.ndarray[Any, Any]] | None:
    """The arrays of constants, absent ones left out; None where one is not constant."""
    found = [ir.const(value) for value in values if value is not None]
    return [array for array in found if array is not None] if all(array is not None for array in found) else None


# --- static: QLinear... ----------------------------------------------------------------------------------------------


def _conv(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """x, its scale and zero point; the same of the weight and the result; bias."""
    x, weight = read(r, node, 0), read(r, node, 3, axis=0)
    inputs = [x, weight, _bias(r, node, 8, (1, 4))]
    out = r.node(node, "Conv", inputs, others(node, "channels_last"), like=node.outputs[0])
    return [Rounded(out, Grid(needed(node, 6), given(node, 7)))]


def _matmul(r: Restorer, node: ir.Node) -> Sequence[Result]:
    right = _last_axis(needed(node, 3))
    inputs = [read(r, node, 0), read(r, node, 3, axis=right)]
    return [Rounded(r.node(node, "MatMul", inputs, like=node.outputs[0]), Grid(needed(node, 6), given(node, 7)))]


def _gemm(r: Restorer, node: ir.Node) -> Sequence[Result]:
    columns = 0 if ir.attribute(node, "transB", 0) else 1
    alpha = float(ir.attribute(node, "alpha", 1.0))
    inputs = [read(r, node, 0), read(r, node, 3, axis=columns), _bias(r, node, 6, (1, 4), alpha)]
    out = r.node(node, "Gemm", inputs, others(node), like=node.outputs[0])
    scale = given(node, 7)
    return [out if scale is None else Rounded(out, Grid(scale, given(node, 8)))]


def _bias(r: Restorer, node: ir.Node, index: int, scales: tuple[int, int], alpha: float = 1.0) -> ir.Value | None:
    """The bias, whose scale is the product of two others; `_bias_is_known` holds."""
    value = given(node, index)
    found = arrays(value, *(given(node, scale) for scale in scales))
    if value is None or found is None:
        return None
    integers, one, two = found
    scale = (one.astype(np.float64) * two.astype(np.float64) * alpha).reshape(-1)
    return r.constant(value, f"{value.name}_float", (integers * scale).astype(np.float32))


def _bias_is_known(*places: int) -> Callable[[ir.Node], str]:
    def refusal(node: ir.Node) -> str:
        absent = given(node, places[0]) is None
        known = absent or arrays(*(given(node, place) for place in places)) is not None
        return "" if known else "its bias or the scale of its bias is not constant"

    return refusal


def _channels_first(node: ir.Node) -> str:
    return "its channels are last" if ir.attribute(node, "channels_last", 0) else ""


def _conv_refusal(node: ir.Node) -> str:
    return _channels_first(node) or _bias_is_known(8, 1, 4)(node)


def _unary(op_type: str, *left_out: str) -> Build:
    """x with its scale and zero point, then those of the result."""

    def build(r: Restorer, node: ir.Node) -> Sequence[Result]:
        out = r.node(node, op_type, [read(r, node, 0)], others(node, *left_out), like=node.outputs[0])
        return [Rounded(out, Grid(needed(node, 3), given(node, 4)))]

    return build


def _binary(op_type: str) -> Build:
    def build(r: Restorer, node: ir.Node) -> Sequence[Result]:
        out = r.node(node, op_type, [read(r, node, 0), read(r, node, 3)], like=node.outputs[0])
        return [Rounded(out, Grid(needed(node, 6), given(node, 7)))]

    return build


def _concat(r: Restorer, node: ir.Node) -> Sequence[Result]:
    inputs = [read(r, node, index) for index in range(2, len(node.inputs), 3)]
    out = r.node(node, "Concat", inputs, others(node), like=node.outputs[0])
    return [Rounded(out, Grid(needed(node, 0), given(node, 1)))]


def _where(r: Restorer, node: ir.Node) -> Sequence[Result]:
    inputs = [needed(node, 0), read(r, node, 1), read(r, node, 4)]
    out = r.node(node, "Where", inputs, like=node.outputs[0])
    out.type = inputs[1].type
    return [Rounded(out, Grid(needed(node, 7), given(node, 8)))]


def _softmax_refusal(node: ir.Node) -> str:
    rank = len(ir.dims(needed(node, 0)) or ())
    if ir.attribute(node, "axis", -1) in (-1, rank - 1):
        return ""
    return "its Softmax is not over the last axis"


# --- dynamic, with scales inside -------------------------------------------------------------------------------------


def _to_float(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """a, b, their scales, their zero points, bias."""
    b = needed(node, 1)
    left = Grid(needed(node, 2), given(node, 4))
    right = Grid(needed(node, 3), given(node, 5), _last_axis(b))
    factors = [r.float_of(needed(node, 0), left, node), r.float_of(b, right, node)]
    return [_plus(r, node, r.node(node, "MatMul", factors, like=node.outputs[0]), given(node, 6))]


def _dynamic(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """a in float, b, its scale, its zero point, bias."""
    b = needed(node, 1)
    weight = r.float_of(b, Grid(needed(node, 2), given(node, 3), _last_axis(b)), node)
    return [_plus(r, node, r.node(node, "MatMul", [needed(node, 0), weight], like=node.outputs[0]), given(node, 4))]


def _plus(r: Restorer, node: ir.Node, value: ir.Value, bias: ir.Value | None) -> ir.Value:
    return value if bias is None else r.node(node, "Add", [value, bias], like=node.outputs[0])


def _last_axis(value: ir.Value) -> int:
    return max(len(ir.dims(value) or ()) - 1, 0)


def _attention(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """x, weight, bias, scale of x, scale of the weight, mask, zero points of both, past."""
    x = r.float_of(needed(node, 0), Grid(needed(node, 3), given(node, 6)), node)
    weight = r.float_of(needed(node, 1), Grid(needed(node, 4), given(node, 7), 1), node)
    inputs = [x, weight, given(node, 2), given(node, 5), given(node, 8)]
    return r.nodes(node, "Attention", inputs, others(node), domain=MICROSOFT, likes=list(node.outputs))


def _lstm(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """The weights [directions, in, 4 * hidden] lie transposed; scale and zero point of each at the end."""
    weights = []
    for index, scale in ((1, 8), (2, 10)):
        value = needed(node, index)
        integers, steps, *zero = arrays(value, given(node, scale), given(node, scale + 1)) or []
        last = (integers.shape[0], 1, -1)
        points = zero[0].astype(np.float32).reshape(last) if zero else np.float32(0)
        floats = (integers.astype(np.float32) - points) * steps.reshape(last)
        weights.append(r.constant(value, f"{value.name}_float", np.ascontiguousarray(floats.transpose(0, 2, 1))))
    inputs = [needed(node, 0), *weights, *(given(node, index) for index in range(3, 8))]
    return r.nodes(node, "LSTM", inputs, others(node), likes=list(node.outputs))


def _lstm_refusal(node: ir.Node) -> str:
    known = all(arrays(given(node, i), given(node, s), given(node, s + 1)) is not None for i, s in ((1, 8), (2, 10)))
    return "" if known else "its weights are not constant"


# --- weights in blocks -----------------------------------------------------------------------------------------------


def _blocks(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """MatMulNBits: a, weight [N, blocks, bytes], scales [N * blocks], zero points, (groups), bias."""
    weight = needed(node, 1)
    floats = unpacked_weight(node)
    value = r.constant(weight, f"{weight.name}_float", np.ascontiguousarray(floats.T))
    return [_plus(r, node, r.node(node, "MatMul", [needed(node, 0), value], like=node.outputs[0]), given(node, 5))]


def unpacked_weight(node: ir.Node) -> np.ndarray[Any, Any]:
    """The weight [N, K] of a MatMulNBits in float."""
    k, n, block, bits = (int(ir.attribute(node, name, 4)) for name in ("K", "N", "block_size", "bits"))
    packed, scales, *zero = arrays(*(given(node, index) for index in (1, 2, 3))) or []
    blocks = -(-k // block)
    values = unpack(packed.reshape(n, blocks, -1), bits)[..., :block].astype(np.float32)
    points: Any = float(1 << (bits - 1))
    if zero:
        points = zero[0].reshape(n, -1)
        points = points if points.dtype.kind == "f" else unpack(points.view(np.uint8), bits)
        points = points[:, :blocks].astype(np.float32)[..., None]
    floats = (values - points) * scales.reshape(n, blocks, 1).astype(np.float32)
    return np.asarray(floats.reshape(n, -1)[:, :k].astype(scales.dtype))


def _blocks_refusal(node: ir.Node) -> str:
    if given(node, 4) is not None:
        return "its columns are in groups of their own order"
    if ir.attribute(node, "bits", 4) not in (2, 4, 8):
        return f"its weights have {ir.attribute(node, 'bits', 4)} bits"
    return "" if arrays(*(given(node, index) for index in (1, 2, 3))) is not None else "its weight is not constant"


def _gathered_blocks(r: Restorer, node: ir.Node) -> Sequence[Result]:
    """GatherBlockQuantized: table, indices, scales, zero points."""
    table = needed(node, 0)
    value = r.constant(table, f"{table.name}_float", unpacked_table(node))
    inputs = [value, needed(node, 1)]
    return [r.node(node, "Gather", inputs, {"axis": ir.attribute(node, "gather_axis", 0)}, like=node.outputs[0])]


def unpacked_table(node: ir.Node) -> np.ndarray[Any, Any]:
    """The table of a GatherBlockQuantized in float."""
    values, scales, *zero = _table_parts(node) or []
    bits, block = int(ir.attribute(node, "bits", 4)), int(ir.attribute(node, "block_size", 128))
    axis = int(ir.attribute(node, "quantize_axis", 1)) % values.ndim
    point = np.zeros((), np.float32)
    points = zero[0] if zero else None
    if values.dtype == np.uint8:
        point = np.asarray(1 << (bits - 1), np.float32)
        values = unpack(values, bits)
        points = unpack(points, bits) if points is not None else None
    if points is not None:
        points = points[tuple(map(slice, scales.shape))]
    return dequantized(values, scales, points if points is not None else point, axis=axis, block=block)


def _table_parts(node: ir.Node) -> list[np.ndarray[Any, Any]] | None:
    """Integers, scales and zero points; scales may be those of a product in another shape. None where not constant."""
    scales = needed(node, 2)
    turned = scales.producer()
    if turned is None or turned.op_type != "Reshape" or turned.domain:
        return arrays(*(given(node, index) for index in (0, 2, 3)))
    found = arrays(needed(node, 0), needed(turned, 0), needed(turned, 1), given(node, 3))
    if found is None or (found[2] <= 0).any():
        return None
    values, flat, shape, *zero = found
    return [values, flat.reshape(tuple(shape)), *zero]


def _table_refusal(node: ir.Node) -> str:
    return "" if _table_parts(node) is not None else "its table is not constant"


def unpack(packed: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Bytes as the small integers in them, the lowest bits first, along the last axis."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return parts.reshape(*packed.shape[:-1], -1)


FORMS: Mapping[tuple[str, str], Form] = {
    ("", "QLinearConv"): Form(_conv, _conv_refusal),
    (MICROSOFT, "QLinearConv"): Form(_conv, _conv_refusal),
    ("", "QLinearMatMul"): Form(_matmul),
    (MICROSOFT, "QGemm"): Form(_gemm, _bias_is_known(6, 1, 4)),
    (MICROSOFT, "QLinearAdd"): Form(_binary("Add")),
    (MICROSOFT, "QLinearMul"): Form(_binary("Mul")),
    (MICROSOFT, "QLinearSigmoid"): Form(_unary("Sigmoid")),
    (MICROSOFT, "QLinearLeakyRelu"): Form(_unary("LeakyRelu")),
    (MICROSOFT, "QLinearSoftmax"): Form(_unary("Softmax", "opset"), _softmax_refusal),
    (MICROSOFT, "QLinearAveragePool"): Form(_unary("AveragePool", "channels_last"), _channels_first),
    (MICROSOFT, "QLinearGlobalAveragePool"): Form(_unary("GlobalAveragePool", "channels_last"), _channels_first),
    (MICROSOFT, "QLinearConcat"): Form(_concat),
    (MICROSOFT, "QLinearWhere"): Form(_where),
    (MICROSOFT, "MatMulIntegerToFloat"): Form(_to_float),
    (MICROSOFT, "DynamicQuantizeMatMul"): Form(_dynamic),
    (MICROSOFT, "DynamicQuantizeLSTM"): Form(_lstm, _lstm_refusal),
    (MICROSOFT, "QAttention"): Form(_attention),
    (MICROSOFT, "MatMulNBits"): Form(_blocks, _blocks_refusal),
    (MICROSOFT, "GatherBlockQuantized"): Form(_gathered_blocks, _table_refusal),
}
