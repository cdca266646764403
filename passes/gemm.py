"""Matrix products: bias and scales folded into Gemm and MatMul, transposes and reshapes taken over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import FLOATS, dtype_in, known_equal, opset_at_least
from accelc.pass_base import RulePass
from accelc.pattern import Const, Maybe, Ops, Var
from accelc.rules import Guard, Law, Match, rule, rules_of

from ._folding import Array, float64, optional, require_no_growth, require_own, rounded


def _matrix(name: str) -> Guard:
    """A variable is a matrix."""

    def guard(m: Match) -> bool | str:
        return len(m.dims(name)) == 2 or f"{name} is not a matrix"

    return guard


def _columns(m: Match) -> int:
    """How many columns the constant weight of a Gemm gives its result."""
    return int(m.const("w").shape[0 if m.attr("transB", 0, node="gemm") else 1])


def _row(m: Match, name: str, columns: int, rank: int = 2) -> Array:
    """A constant as float64 [columns] or [1] that is combined with a result of this rank and many columns."""
    array = m.const(name)
    m.require(array.ndim <= rank and array.size in (1, columns), f"{name} {list(array.shape)} is not one row")
    m.require(array.size == 1 or array.shape[-1] == columns, f"{name} {list(array.shape)} is not one row")
    return float64(array).reshape(-1)


@rule(exact=False)
def matmul_add(op: Ops, x: Var, w: Var, b: Var) -> Law:
    """x w + b == Gemm(x, w, b)     for matrices and one row b; the runtime itself does so while loading"""

    def fits(m: Match) -> bool | str:
        columns, row = m.dims("w")[-1:], m.dims("b")
        if not isinstance(columns[0], int) or row not in (columns, (1, *columns)):
            return f"b {row} is not one row of {columns[0]}"
        return True

    before = op.Add(op.MatMul(x, w), b)
    return before, op.Gemm(x, w, b), opset_at_least(7), dtype_in("x", FLOATS), _matrix("x"), _matrix("w"), fits


@rule(exact=False)
def gemm_add(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """(alpha x w + beta b) + c == alpha x w + (beta b + c)     constant rows b and c"""

    def after(m: Match) -> Any:
        columns, bias = _columns(m), optional(m, "b")
        total = _row(m, "c", columns)
        if bias is not None:
            total = total + float(m.attr("beta", 1.0, node="gemm")) * _row(m, "b", columns)
        new = rounded(m, total, m.const("c"))
        require_no_growth(m, new, "b", "c")
        return m.op.copy(m.node("gemm"), [m.x, m.w, new], beta=None)

    return op.Add(op.Gemm(x, w, b, _as="gemm", _any=True), c), after, opset_at_least(7), dtype_in("x", FLOATS)


@rule(exact=False)
def gemm_mul(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """(alpha x w + beta b) * c == alpha x (w * c) + beta (b * c)     constant row c; Div likewise"""

    def after(m: Match) -> Any:
        columns, weight, bias = _columns(m), m.const("w"), optional(m, "b")
        require_own(m, "w")
        factor = _reciprocal(m, _row(m, "c", columns), m.root)
        by_column = factor[:, None] if m.attr("transB", 0, node="gemm") else factor[None, :]
        new = None
        if bias is not None:
            new = rounded(m, _row(m, "b", columns) * factor, weight)
            require_no_growth(m, new, "b", "c")
        return m.op.copy(m.node("gemm"), [m.x, rounded(m, float64(weight) * by_column, weight), new])

    gemm = op.Gemm(x, w, b, _as="gemm", _any=True)
    return [op.Mul(gemm, c), op.Div(gemm, c)], after, opset_at_least(7), dtype_in("x", FLOATS)


def _reciprocal(m: Match, factor: Array, node: ir.Node) -> Array:
    if node.op_type != "Div":
        return factor
    m.require((factor != 0).all(), "divides by zero")
    return 1 / factor


def _wide(m: Match) -> Array:
    weight = m.const("w")
    m.require(weight.ndim >= 2, "w is a vector")
    require_own(m, "w")
    return weight


@rule(exact=False)
def matmul_mul(op: Ops, x: Var, w: Const, c: Const) -> Law:
    """(x w) * c == x (w * c)     constant scalar or row c; Div likewise"""

    def after(m: Match) -> Any:
        weight = _wide(m)
        rank = len(ir.dims(m.root.inputs[0] if m.root.inputs[1] is m.c else m.root.inputs[1]) or ())
        factor = _reciprocal(m, _row(m, "c", weight.shape[-1], rank), m.root)
        return m.op.MatMul(m.x, rounded(m, float64(weight) * factor, weight))

    product = op.MatMul(x, w)
    return [op.Mul(product, c), op.Div(product, c)], after, dtype_in("x", FLOATS)


@rule(exact=False)
def matmul_bias_mul(op: Ops, x: Var, w: Const, b: Const, c: Const) -> Law:
    """(x w + b) * c == x (w * c) + b * c     constant scalar c, as queries are scaled; Div likewise"""

    def after(m: Match) -> Any:
        weight, bias = _wide(m), m.const("b")
        require_own(m, "b")
        m.require(m.const("c").size == 1 and m.const("c").ndim <= max(bias.ndim, 1), "c is not a scalar")
        factor = _reciprocal(m, float64(m.const("c")).reshape(-1), m.root)
        product = m.op.MatMul(m.x, rounded(m, float64(weight) * factor, weight))
        return m.op.Add(product, rounded(m, float64(bias) * factor, bias))

    affine = op.Add(op.MatMul(x, w), b)
    return [op.Mul(affine, c), op.Div(affine, c)], after, dtype_in("x", FLOATS)


@rule(exact=False)
def mul_matmul(op: Ops, x: Var, w: Const, c: Const) -> Law:
    """(x * c) w == x (w * c)     constant scalar c, or one factor per row of w; Div likewise"""

    def after(m: Match) -> Any:
        weight, shape, node = _wide(m), m.dims("x"), m.node("scale")
        m.require(shape and len(shape) >= m.const("c").ndim, "c widens x")
        m.require(shape[-1] == weight.shape[-2], "c may widen x")
        factor = _reciprocal(m, _row(m, "c", weight.shape[-2], len(shape)), node)
        return m.op.MatMul(m.x, rounded(m, float64(weight) * factor[:, None], weight))

    scaled = op.any_of(op.Mul(x, c, _as="scale"), op.Div(x, c, _as="scale"))
    return op.MatMul(scaled, w), after, dtype_in("x", FLOATS)


@rule(exact=False)
def mul_gemm(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """alpha (x * c) w + beta b == alpha x (w * c) + beta b     constant scalar c; Div likewise"""

    def after(m: Match) -> Any:
        weight = _wide(m)
        m.require(m.const("c").size == 1 and m.const("c").ndim <= 2, "c is not a scalar")
        m.require(len(m.dims("x")) == 2, "c widens x")
        factor = _reciprocal(m, float64(m.const("c")).reshape(-1), m.node("scale"))
        return m.op.copy(m.root, [m.x, rounded(m, float64(weight) * factor, weight), m["b"]])

    scaled = op.any_of(op.Mul(x, c, _as="scale"), op.Div(x, c, _as="scale"))
    return op.Gemm(scaled, w, b, _any=True), after, dtype_in("x", FLOATS)


# --- transposes ------------------------------------------------------------------------------------------------------


def _turned(op: Ops, x: Var) -> Any:
    return op.any_of(op.Transpose(x, perm=[1, 0]), op.Transpose(x))


def _flip(m: Match, name: str) -> int:
    return 0 if m.attr(name) else 1


@rule(exact=False)
def gemm_transpose_a(op: Ops, x: Var, w: Var, b: Maybe) -> Law:
    """Gemm(Transpose(x), w, b) == Gemm(x, w, b, transA=1 - transA)"""

    def after(m: Match) -> Any:
        return m.op.copy(m.root, [m.x, m.w, m["b"]], transA=_flip(m, "transA"))

    return op.Gemm(_turned(op, x), w, b, _any=True), after


@rule(exact=False)
def gemm_transpose_b(op: Ops, x: Var, w: Var, b: Maybe) -> Law:
    """Gemm(x, Transpose(w), b) == Gemm(x, w, b, transB=1 - transB)"""

    def after(m: Match) -> Any:
        return m.op.copy(m.root, [m.x, m.w, m["b"]], transB=_flip(m, "transB"))

    return op.Gemm(x, _turned(op, w), b, _any=True), after


# --- reshapes ---------------------------------------------------------------------------------------------------------


@rule(exact=False)
def reshape_gemm_reshape(op: Ops, x: Var, w: Const, b: Const, first: Var, second: Var) -> Law:
    """Reshape(Gemm(Reshape(x, [-1, k]), w, b), [..., n]) == x w + b     the runtime multiplies either alike"""

    def after(m: Match) -> Any:
        weight, bias = m.const("w"), m.const("b")
        before, after_ = m.dims("x"), ir.dims(m.out)
        m.require(len(before) > 2 and after_ is not None, "the shapes are not known")
        assert after_ is not None
        transposed = m.attr("transB", 0, node="gemm")
        inner, outer = weight.shape[::-1] if transposed else weight.shape
        m.require(before[-1] == inner and after_[-1] == outer, "the rows are cut differently")
        m.require(_same_rows(before[:-1], after_[:-1]), f"the rows {before[:-1]} become {after_[:-1]}")
        m.require(bias.shape == (outer,), "b is not one row")
        if transposed:
            require_own(m, "w")
            weight = np.ascontiguousarray(weight.T)
        return m.op.Add(m.op.MatMul(m.x, weight if transposed else m.w), m.b)

    gemm = op.Gemm(op.Reshape(x, first), w, b, transB=..., _as="gemm")
    return op.Reshape(gemm, second), after, opset_at_least(7), dtype_in("x", FLOATS)


def _same_rows(before: tuple[ir.Dim, ...], after: tuple[ir.Dim, ...]) -> bool:
    """Whether dimensions surely agree; with the number of elements given, one unknown pair agrees by itself."""
    if len(before) != len(after):
        return False
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if not known_equal((a,), (b,))]
    rest = [a for a, b in zip(before, after, strict=True) if known_equal((a,), (b,))]
    return not pairs or (len(pairs) == 1 and 0 not in rest and all(isinstance(each, int) for each in rest))


RULES = rules_of(globals())


@dataclass(frozen=True)
class Gemm(RulePass):
    """Fold bias, scales, transposes and reshapes into matrix products."""

    name = "gemm"
    exact = False
    rules = RULES
