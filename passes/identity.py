"""Operators that return their input: whatever the values are, down to the sign of zeros and NaN."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.guards import FLOATS, INTEGERS, dtype_in
from accelc.pass_base import RulePass
from accelc.passes.forms import all_equal, dims_of, fits, input_of, int_list, list_of, rank_of
from accelc.pattern import Const, Maybe, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

_SAFE_COORDINATES = {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}


# --- by definition ---------------------------------------------------------------------------------------------------


@rule(shared=True)
def identity(op: Ops, x: Var) -> Law:
    """Identity(x) == x"""
    return op.Identity(x), x


@rule(shared=True)
def dropout_inference(op: Ops, x: Var, ratio: Maybe, training: Maybe) -> Law:
    """Dropout(x) == x outside training, or with ratio 0, where the mask is not used    Dropout-1 to 22"""

    def at_rest(m: Match) -> bool | str:
        if m.opset < 7:
            return bool(m.attr("is_test", 0)) or "runs in training mode"
        if m["training"] is None:
            return True
        flag, rate = ir.const(m["training"]), ir.const(m["ratio"])
        still = flag is not None and not flag.any()
        return still or (rate is not None and not rate.any()) or "may run in training mode"

    return op.Dropout(x, ratio, training, _any=True), x, at_rest


@rule(shared=True)
def variadic_of_one(op: Ops, x: Var) -> Law:
    """Sum(x) == Max(x) == Min(x) == Mean(x) == x"""
    return [op.Sum(x), op.Max(x), op.Min(x), op.Mean(x)], x


@rule(shared=True)
def tile_once(op: Ops, x: Var, repeats: Const) -> Law:
    """Tile(x, [1, ..., 1]) == x"""

    def new_form(m: Match) -> bool | str:
        return m.opset >= 6 or "Tile-1 has another form"

    return op.Tile(x, repeats), x, new_form, all_equal("repeats", 1)


def _same_size(m: Match) -> bool | str:
    node = m.root
    attr = ir.attribute(node, "scales")
    is_upsample = node.op_type == "Upsample"
    at = 1 if is_upsample or m.opset < 11 else 2
    scales = ir.const(input_of(node, at)) if attr is None else np.array(attr)
    if scales is not None and scales.size:
        return bool(np.all(scales == 1.0)) or "scales are not 1"
    sizes = None if is_upsample or m.opset < 11 else int_list(input_of(node, 3))
    if not sizes:
        return "neither constant scales nor sizes"
    dims = dims_of(m, m.x)
    axes = m.attr("axes") or range(len(dims))
    return all(dims[axis] == size for axis, size in zip(axes, sizes, strict=True)) or "sizes differ from the shape"


@rule(shared=True)
def resize_to_same_size(op: Ops, x: Var) -> Law:
    """Resize(x, scales 1) == Resize(x, sizes shape(x)) == Upsample(x, scales 1) == x in nearest mode"""

    def nearest(m: Match) -> bool | str:
        return m.attr("mode") == "nearest" or "interpolates"

    def same_grid(m: Match) -> bool | str:
        mode = m.attr("coordinate_transformation_mode", "asymmetric")
        return mode in _SAFE_COORDINATES or f"{mode} moves the grid"

    return [op.Resize(x, ..., _any=True), op.Upsample(x, ..., _any=True)], x, nearest, same_grid, _same_size


@rule(shared=True)
def reduce_nothing(op: Ops, x: Var) -> Law:
    """Reduce(x, no axes, noop_with_empty_axes=1) == x for Sum, Mean, Max, Min, Prod"""
    forms = [
        kind(x, ..., noop_with_empty_axes=1, keepdims=...)
        for kind in (op.ReduceSum, op.ReduceMean, op.ReduceMax, op.ReduceMin, op.ReduceProd)
    ]

    def no_axes(m: Match) -> bool | str:
        return not list_of(m, m.root, "axes", 1) or "reduces some axes"

    return forms, x, no_axes


@rule(shared=True)
def where_constant(op: Ops, x: Var, y: Var, c: Const) -> Law:
    """Where(false, x, y) == y, and Where(true, x, y) == x for all but floats (their -0.0 comes out as 0.0)"""

    def after(m: Match) -> ir.Value:
        chosen = m.const("c")
        m.require(m.dtype("x") not in FLOATS or not chosen.any(), "the kernel turns -0.0 of the first choice into 0.0")
        m.require(chosen.all() or not chosen.any(), "the condition is neither true nor false everywhere")
        kept, other = ("x", "y") if chosen.all() else ("y", "x")
        verdict = fits("c", other, into=kept)(m)
        m.require(verdict is True, str(verdict))
        return getattr(m, kept)  # type: ignore[no-any-return]

    return op.Where(c, x, y), after


@rule(shared=True)
def where_same(op: Ops, x: Var, c: Var) -> Law:
    """Where(c, x, x) == x, where c keeps the shape of x, for integers (of floats the kernel turns -0.0 into 0.0)"""
    return op.Where(c, x, x), x, dtype_in("x", INTEGERS), fits("c", into="x")


@rule(shared=True)
def both_same(op: Ops, x: Var) -> Law:
    """Max(x, x) == Min(x, x) == And(x, x) == Or(x, x) == BitwiseAnd(x, x) == BitwiseOr(x, x) == x"""
    return [op.Max(x, x), op.Min(x, x), op.And(x, x), op.Or(x, x), op.BitwiseAnd(x, x), op.BitwiseOr(x, x)], x


# --- neutral elements ------------------------------------------------------------------------------------------------


@rule(shared=True)
def times_one(op: Ops, x: Var, c: Const) -> Law:
    """x * 1 == x / 1 == x"""
    return [op.Mul(x, c), op.Div(x, c)], x, all_equal("c", 1), fits("c", into="x")


@rule(shared=True)
def plus_zero(op: Ops, x: Var, c: Const) -> Law:
    """x + 0 == x for integers; x + (-0.0) == x for floats (x + 0.0 turns -0.0 into 0.0)"""

    def neutral(m: Match) -> bool | str:
        return all_equal("c", -0.0 if m.dtype("x") in FLOATS else 0)(m)

    return op.Add(x, c), x, dtype_in("x", FLOATS | INTEGERS), neutral, fits("c", into="x")


@rule(shared=True)
def minus_zero(op: Ops, x: Var, c: Const) -> Law:
    """x - 0 == x; for floats that zero is +0.0"""
    return op.Sub(x, c), x, dtype_in("x", FLOATS | INTEGERS), all_equal("c", 0.0), fits("c", into="x")


@rule(shared=True)
def power_one(op: Ops, x: Var, c: Const) -> Law:
    """x ^ 1 == x for floats (kernels take integers through double, which holds 53 bits only)"""
    return op.Pow(x, c), x, dtype_in("x", FLOATS), all_equal("c", 1), fits("c", into="x")


@rule(shared=True)
def logic_neutral(op: Ops, x: Var, c: Const) -> Law:
    """x and true == x or false == x xor false == (x == true) == x"""
    forms = [op.And(x, c), op.Or(x, c), op.Xor(x, c), op.Equal(x, c)]

    def neutral(m: Match) -> bool | str:
        return all_equal("c", m.root.op_type in ("And", "Equal"))(m)

    return forms, x, dtype_in("x", {ir.DataType.BOOL}), neutral, fits("c", into="x")


@rule(shared=True)
def bitwise_neutral(op: Ops, x: Var, c: Const) -> Law:
    """x & ~0 == x | 0 == x ^ 0 == x"""
    forms = [op.BitwiseAnd(x, c), op.BitwiseOr(x, c), op.BitwiseXor(x, c), op.BitwiseXor(c, x)]

    def neutral(m: Match) -> bool | str:
        array = m.const("c")
        wanted = ~np.zeros((), array.dtype) if m.root.op_type == "BitwiseAnd" else np.zeros((), array.dtype)
        return bool((array == wanted).all()) or "c changes bits"

    return forms, x, dtype_in("x", INTEGERS), neutral, fits("c", into="x")


# --- twice is none, twice is once ------------------------------------------------------------------------------------


@rule(shared=True)
def involution(op: Ops, x: Var) -> Law:
    """Not(Not(x)) == Neg(Neg(x)) == BitwiseNot(BitwiseNot(x)) == x"""
    return [op.Not(op.Not(x)), op.Neg(op.Neg(x)), op.BitwiseNot(op.BitwiseNot(x))], x


@rule(shared=True)
def idempotent(op: Ops, x: Var) -> Law:
    """F(F(x)) == F(x) for Abs, Relu, Sign"""

    def inner(m: Match) -> ir.Value | None:
        return m.root.inputs[0]

    return [op.Abs(op.Abs(x)), op.Relu(op.Relu(x)), op.Sign(op.Sign(x))], inner


@rule(shared=True)
def round_twice(op: Ops, x: Var) -> Law:
    """F(G(x)) == G(x) for F and G among Ceil, Floor, Round"""
    roundings = (op.Ceil, op.Floor, op.Round)

    def inner(m: Match) -> ir.Value | None:
        return m.root.inputs[0]

    return [outer(op.any_of(*(each(x) for each in roundings))) for outer in roundings], inner


@rule(shared=True)
def abs_unsigned(op: Ops, x: Var) -> Law:
    """Abs(x) == x for unsigned integers"""
    unsigned = {each for each in INTEGERS if each.name.startswith("U")}
    return op.Abs(x), x, dtype_in("x", unsigned)


@rule(shared=True)
def clip_unbounded(op: Ops, x: Var) -> Law:
    """Clip(x) == x for integers (for floats it turns infinities into the largest number)"""

    def new_form(m: Match) -> bool | str:
        return m.opset >= 12 or "an old Clip takes floats only"

    return op.Clip(x), x, dtype_in("x", INTEGERS), new_form


@rule(shared=True)
def flatten_matrix(op: Ops, x: Var) -> Law:
    """Flatten(x) == x where x is a matrix and the cut lies between its two axes"""

    def matrix(m: Match) -> bool | str:
        return (rank_of(m.x) == 2 and int(m.attr("axis")) in (1, -1)) or "changes the shape"

    return op.Flatten(x, axis=...), x, matrix


RULES = rules_of(globals())


@dataclass(frozen=True)
class Identity(RulePass):
    """Remove operators that return their input unchanged."""

    name = "identity"
    rules = RULES
