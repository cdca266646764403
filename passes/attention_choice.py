"""Which kernel runs an attention block fastest on the target: by length, mask and provider, or by measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.rules import Match

from ._folding import Array
from .attention_block import Block

_LONG, _MANY = 192, 30_000
"""From about this many rows and scores on, the blockwise kernel of MultiHeadAttention is the faster one on CPUs (1.03
to 1.7 over plain operators): it shares rows between threads, Attention only heads. It takes no mask."""
_TYPICAL = 128
"""The length to measure on where the model leaves it open."""


def choose(m: Match, block: Block) -> str:
    """Attention, MultiHeadAttention or plain (as it is)."""
    shape, keys = ir.dims(block.q) or (), (ir.dims(block.kt) or ())[-1]
    if len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        return _default(m, block)
    heads, size = shape[1], shape[3]
    rows, columns = (each if isinstance(each, int) else _TYPICAL for each in (shape[2], keys))
    masked = "masked" if block.masked else "unmasked"
    guarded = " guarded" if block.guarded else ""
    case = f"H={heads} D={size} S={rows} T={columns} {masked}{guarded} {m.dtype('v').name.lower()}"

    def build() -> Mapping[str, onnx.ModelProto]:
        return trials(heads, size, rows, columns, masked=block.masked, guarded=block.guarded)

    if m.dtype("v") != ir.DataType.FLOAT:
        return _default(m, block)
    return m.ctx.decide("attention", case, _default(m, block), build)


def _default(m: Match, block: Block) -> str:
    if m.ctx.target.provider != "CPUExecutionProvider":
        return "MultiHeadAttention"
    queries, keys = (ir.dims(block.q) or ())[-2], (ir.dims(block.kt) or ())[-1]
    long = isinstance(queries, int) and isinstance(keys, int) and queries >= _LONG and queries * keys >= _MANY
    allowed = m.ctx.allows("com.microsoft", "MultiHeadAttention", m.opset, {"T": m.dtype("v")})
    return "MultiHeadAttention" if long and not block.masked and allowed is True else "Attention"


def trials(
    heads: int, size: int, rows: int, columns: int, *, masked: bool, guarded: bool
) -> dict[str, onnx.ModelProto]:
    """The block alone in each form, on q [1, S, H * D], k and v [1, T, H * D] and a bias [1, 1, S, T]."""
    width = heads * size
    shapes = {"q": [1, rows, width], "k": [1, columns, width], "v": [1, columns, width]}
    if masked:
        shapes["bias"] = [1, 1, rows, columns]
    bias, scale = ("bias",) if masked else (), size**-0.5
    fused = _node("Attention", ["q", "k", "v", *bias], q_num_heads=heads, kv_num_heads=heads, scale=scale)
    vendor = ["q", "k", "v", *(("", "", "bias") if masked else ())]
    blockwise = _node("MultiHeadAttention", vendor, "com.microsoft", num_heads=heads, scale=scale)
    return {
        "plain": _model(_plain(masked=masked, guarded=guarded), shapes, _constants(heads, size, guarded=guarded)),
        "Attention": _model([fused], shapes, {}),
        "MultiHeadAttention": _model([blockwise], shapes, {}),
    }


def _node(op_type: str, inputs: list[str], domain: str = "", **attrs: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(op_type, inputs, ["y"], domain=domain, **attrs)


def _constants(heads: int, size: int, *, guarded: bool) -> dict[str, Array]:
    numbers = {
        "split": np.array([0, 0, heads, size]),
        "flat": np.array([0, 0, heads * size]),
        "scale": np.array(size**-0.5, np.float32),
    }
    return {**numbers, "zero": np.array(0, np.float32)} if guarded else numbers


def _plain(*, masked: bool, guarded: bool) -> list[onnx.NodeProto]:
    make, nodes = onnx.helper.make_node, []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(make("Reshape", [name, "split"], [f"{name}4"]))
        nodes.append(make("Transpose", [f"{name}4"], [f"{name}t"], perm=perm))
    nodes += [make("MatMul", ["qt", "kt"], ["s0"]), make("Mul", ["s0", "scale"], ["s1"])]
    if masked:
        nodes.append(make("Add", ["s1", "bias"], ["s2"]))
    nodes.append(make("Softmax", ["s2" if masked else "s1"], ["p"], axis=-1))
    if guarded:
        nodes += [make("IsNaN", ["p"], ["nan"]), make("Where", ["nan", "zero", "p"], ["p1"])]
    nodes += [
        make("MatMul", ["p1" if guarded else "p", "vt"], ["o4"]),
        make("Transpose", ["o4"], ["o"], perm=[0, 2, 1, 3]),
        make("Reshape", ["o", "flat"], ["y"]),
    ]
    return nodes


def _model(
    nodes: list[onnx.NodeProto],
    shapes: Mapping[str, list[int]],
    constants: Mapping[str, Array],
) -> onnx.ModelProto:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
