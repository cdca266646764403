"""Biases, activations, transposes and scales inside the kernels that have room for them.

On the processor the runtime does most of this by itself while loading, so there it only makes the file smaller; it must
come after what looks for plain products: attention, merging, quantization.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.guards import dtype_in, kernel, known_equal, opset_at_least
from accelc.pass_base import RulePass
from accelc.pattern import MICROSOFT, Const, Maybe, Ops, Scalar, Term, Var
from accelc.rules import Law, Match, rule, rules_of

_FLOAT = frozenset({ir.DataType.FLOAT})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_CUDA = "CUDAExecutionProvider"


# --- activations with a bias -----------------------------------------------------------------------------------------


def _is_row(m: Match) -> bool | str:
    """b is one value for each element of x's last dimension, in the same type."""
    width = m.dims("x")[-1:]
    fits = isinstance(next(iter(width), None), int) and m.dims("b") == width and m.dtype("b") == m.dtype("x")
    return fits or f"b {list(m.dims('b'))} is not one row of x {list(m.dims('x'))}"


@rule(exact=False)
def bias_gelu(op: Ops, x: Var, b: Const) -> Law:
    """Gelu(x + b) == BiasGelu(x, b)     b is one row; com.microsoft"""
    total = op.Add(x, b)
    before = [op.Gelu(total), op.Gelu(total, approximate="none"), op.ms.Gelu(total)]
    return before, op.ms.BiasGelu(x, b), dtype_in("x", _FLOATS), _is_row, kernel("BiasGelu", T="x")


@rule(exact=False)
def bias_fast_gelu(op: Ops, x: Var, b: Const) -> Law:
    """Gelu(x + b, approximate=tanh) == FastGelu(x, b)     b is one row; com.microsoft"""
    total = op.Add(x, b)
    before = [op.Gelu(total, approximate="tanh"), op.ms.FastGelu(total)]
    return before, op.ms.FastGelu(x, b), dtype_in("x", _FLOATS), _is_row, kernel("FastGelu", T="x")


@rule(exact=False)
def silu(op: Ops, x: Var) -> Law:
    """x * sigmoid(x) == QuickGelu(x, alpha=1)     Elfwing et al. 2017; com.microsoft"""
    return op.Mul(x, op.Sigmoid(x)), op.ms.QuickGelu(x, alpha=1.0), dtype_in("x", _FLOATS), kernel("QuickGelu", T="x")


# --- matrix products -------------------------------------------------------------------------------------------------


def _products(op: Ops, a: Term, b: Term) -> list[Any]:
    return [op.MatMul(a, b, _as="product"), op.ms.FusedMatMul(a, b, _as="product", _any=True)]


def _swaps_last(m: Match) -> None:
    """The Transpose exchanges the last two dimensions and nothing else."""
    perm = ir.attribute(m.node("transpose"), "perm")
    rank = len(m.dims("x"))
    order = list(reversed(range(rank))) if perm is None else list(perm)
    m.require(rank >= 2, "x is a vector")
    m.require(order == [*range(rank - 2), rank - 1, rank - 2], f"the Transpose is {order}")
    m.require(len(m.dims("y")) >= 2, "y is a vector")


def _with(m: Match, inputs: list[ir.Value], **changed: Any) -> Any:
    """The product on other inputs, with some of its attributes changed."""
    old = ir.attributes(m.node("product"))
    for name in ("transBatchA", "transBatchB"):
        m.require(not old.get(name), "moves the batch already")
    return m.op.ms.FusedMatMul(*inputs, **{**old, **changed}, _like=m.out)


def _flipped(m: Match, name: str) -> dict[str, int]:
    return {name: 1 - int(ir.attribute(m.node("product"), name, 0))}


@rule(exact=False)
def matmul_transpose_left(op: Ops, x: Var, y: Var) -> Law:
    """transpose(x) y == FusedMatMul(x, y, transA=1)     the last two dimensions; com.microsoft"""

    def after(m: Match) -> Any:
        _swaps_last(m)
        return _with(m, [m.x, m.y], **_flipped(m, "transA"))

    turned = op.Transpose(x, perm=..., _as="transpose")
    return _products(op, turned, y), after, dtype_in("x", _FLOATS), kernel("FusedMatMul", T="x")


@rule(exact=False)
def matmul_transpose_right(op: Ops, x: Var, y: Var) -> Law:
    """y transpose(x) == FusedMatMul(y, x, transB=1)     the last two dimensions; com.microsoft"""

    def after(m: Match) -> Any:
        _swaps_last(m)
        return _with(m, [m.y, m.x], **_flipped(m, "transB"))

    turned = op.Transpose(x, perm=..., _as="transpose")
    return _products(op, y, turned), after, dtype_in("x", _FLOATS), kernel("FusedMatMul", T="x")


def _scaled(m: Match, node: str) -> float:
    """alpha of the product times (or divided by) the scalar c."""
    factor = m.scalar("c")
    divides = m.node(node).op_type == "Div"
    m.require(math.isfinite(factor) and (factor or not divides), "the scale is not finite")
    alpha = float(ir.attribute(m.node("product"), "alpha", 1.0)) * (1 / factor if divides else factor)
    # The kernel takes alpha in float32; at 0 it would not read its inputs, so NaN would be lost.
    m.require(2.0**-100 < abs(alpha) < 2.0**100, f"the scale is {alpha}")
    return alpha


@rule(exact=False)
def matmul_scale(op: Ops, x: Var, y: Var, c: Scalar) -> Law:
    """(x y) * c == FusedMatMul(x, y, alpha=c)     Div likewise; com.microsoft"""

    def after(m: Match) -> Any:
        return _with(m, [m.x, m.y], alpha=_scaled(m, "scale"))

    before = [
        form for each in _products(op, x, y) for form in (op.Mul(each, c, _as="scale"), op.Div(each, c, _as="scale"))
    ]
    return before, after, dtype_in("x", _FLOATS), kernel("FusedMatMul", T="x")


@rule(exact=False)
def matmul_scale_inside(op: Ops, x: Var, y: Var, c: Scalar) -> Law:
    """(x * c) y == x (y * c) == FusedMatMul(x, y, alpha=c)     Div likewise; com.microsoft"""

    def after(m: Match) -> Any:
        left = m.node("product").inputs[0]
        inputs = [m.x, m.y] if left is m.node("scale").outputs[0] else [m.y, m.x]
        return _with(m, inputs, alpha=_scaled(m, "scale"))

    scaled = op.any_of(op.Mul(x, c, _as="scale"), op.Div(x, c, _as="scale"))
    before = [*_products(op, scaled, y), *_products(op, y, scaled)]
    return before, after, dtype_in("x", _FLOATS), kernel("FusedMatMul", T="x")


_AFTER_GEMM = {"Relu": (), "Sigmoid": (), "Tanh": (), "LeakyRelu": ("alpha",)}


@rule(exact=False)
def gemm_activation(op: Ops, x: Var, w: Var, b: Maybe) -> Law:
    """Relu(Gemm(x, w, b)) == FusedGemm(x, w, b, activation=Relu)     Sigmoid, Tanh, LeakyRelu; com.microsoft"""

    def after(m: Match) -> Any:
        parameters = {f"activation_{name}": m.attr(name) for name in _AFTER_GEMM[m.root.op_type]}
        attributes = ir.attributes(m.node("gemm"))
        return m.op.ms.FusedGemm(m.x, m.w, m["b"], **attributes, activation=m.root.op_type, **parameters, _like=m.out)

    gemm = op.Gemm(x, w, b, _as="gemm", _any=True)
    before = [getattr(op, name)(gemm, **dict.fromkeys(more, ...)) for name, more in _AFTER_GEMM.items()]
    return before, after, opset_at_least(7), dtype_in("x", _FLOAT), kernel("FusedGemm", T="x")


# --- convolutions ----------------------------------------------------------------------------------------------------


def _on_cuda(m: Match) -> bool | str:
    """The processor's own layout needs plain convolutions."""
    return m.ctx.target.provider == _CUDA or f"{m.ctx.target.name} fuses convolutions while loading"


def _is_image(m: Match) -> bool | str:
    return len(m.dims("x")) == 4 or "is not a convolution over two dimensions"


def _convolved(m: Match, *more: Any) -> Any:
    attributes = ir.attributes(m.node("conv"))
    m.require(attributes.get("auto_pad", "NOTSET") == "NOTSET", "pads by itself")
    m.require(_pays(m, attributes, bool(more)), "the parts are not known to be slower")
    return m.op.ms.FusedConv(m.x, m.w, m["b"], *more, **attributes, activation="Relu", _like=m.out)


def _pays(m: Match, attributes: Mapping[str, Any], adds: bool) -> bool:
    """Whether the fused kernel is the faster one. It may rule out algorithms, so without a measurement it is not."""
    found = m.dims("x")[1:], m.dims("w"), (ir.dims(m.out) or ())[1:]
    shape, weight, out = ([size for size in dims if isinstance(size, int)] for dims in found)
    if [len(shape), len(weight), len(out)] != [len(dims) for dims in found] or not out:
        return False
    case = f"x {shape} w {weight} {sorted(attributes.items())} bias {m['b'] is not None} sum {adds}"
    build = partial(_conv_models, [1, *shape], weight, [1, *out], attributes, m["b"] is not None, adds)
    return m.ctx.decide(m.rule.name, case, "parts", build) == "fused"


def _conv_models(
    shape: list[int], weight: list[int], out: list[int], attributes: Mapping[str, Any], bias: bool, adds: bool
) -> dict[str, onnx.ModelProto]:
    """The parts and the fused operator on one image, for `Context.decide`."""
    make, kind = onnx.helper, onnx.TensorProto.FLOAT
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal(weight), "b": rng.standard_normal(weight[0])}
    tensors = [onnx.numpy_helper.from_array(arrays[name].astype(np.float32), name) for name in ("w", "b")[: 1 + bias]]
    inputs = [make.make_tensor_value_info("x", kind, shape)]
    inputs += [make.make_tensor_value_info("z", kind, out)] if adds else []
    given = ["x", "w", "b" if bias else ""]
    parts = [make.make_node("Conv", given, ["c"], **attributes)]
    parts += [make.make_node("Add", ["c", "z"], ["s"])] if adds else []
    parts.append(make.make_node("Relu", ["s" if adds else "c"], ["y"]))
    more = {"domain": MICROSOFT, "activation": "Relu", **attributes}
    fused = [make.make_node("FusedConv", given + ["z"] * adds, ["y"], **more)]
    opsets = [make.make_opsetid("", 17), make.make_opsetid(MICROSOFT, 1)]
    result = [make.make_tensor_value_info("y", kind, out)]
    return {
        name: make.make_model(make.make_graph(nodes, name, inputs, result, tensors), opset_imports=opsets, ir_version=8)
        for name, nodes in (("parts", parts), ("fused", fused))
    }


@rule(exact=False)
def conv_relu(op: Ops, x: Var, w: Var, b: Maybe) -> Law:
    """Relu(Conv(x, w, b)) == FusedConv(x, w, b, activation=Relu)     float32 on CUDA; com.microsoft"""
    before = op.Relu(op.Conv(x, w, b, _as="conv", _any=True))
    return before, _convolved, _on_cuda, dtype_in("x", _FLOAT), _is_image, kernel("FusedConv", T="x")


@rule(exact=False)
def conv_add_relu(op: Ops, x: Var, w: Var, b: Maybe, z: Var) -> Law:
    """Relu(Conv(x, w, b) + z) == FusedConv(x, w, b, z, activation=Relu)     float32 on CUDA; com.microsoft"""

    def after(m: Match) -> Any:
        conv = m.node("conv").outputs[0]
        m.require(known_equal(ir.dims(conv) or (), m.dims("z")), "z has not surely the shape of the convolution")
        m.require(m["b"] is not None, "the convolution has no bias")
        return _convolved(m, m.z)

    before = op.Relu(op.Add(op.Conv(x, w, b, _as="conv", _any=True), z))
    return before, after, _on_cuda, dtype_in("x", _FLOAT), _is_image, kernel("FusedConv", T="x")


RULES = rules_of(globals())


@dataclass(frozen=True)
class Epilogue(RulePass):
    """Fuse biases, activations, transposes and scales into the kernels of the target."""

    name = "epilogue"
    exact = False
    rules = RULES
