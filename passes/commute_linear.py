"""Linear maps in a row merged into one, made convolutions where the data lies like an image, and moved below means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accelc import estimate, ir
from accelc.guards import dtype_in
from accelc.passes.commute_resize import pointwise_conv
from accelc.passes.forms import dims_of, list_of, normal_axes, sure_dims
from accelc.pattern import Const, Maybe, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

from ._folding import Array, float64, optional, require_no_growth, require_own, rounded

_FLOAT = {ir.DataType.FLOAT}
_TOKENS = [0, 2, 1]
"""The permutation between images with flat pixels [batch, channels, pixels] and tokens [batch, pixels, channels]."""


# --- products in a row -----------------------------------------------------------------------------------------------


@rule(exact=False)
def matmul_of_matmul(op: Ops, x: Var, v: Const, b: Const, w: Const) -> Law:
    """(x v + b) w == x (v w) + b w     where v w takes fewer operations than v and w"""

    def after(m: Match) -> Any:
        first, second = m.const("v"), m.const("w")
        m.require(first.ndim == second.ndim == 2, "the weights are no matrices")
        (rows, inner), columns = first.shape, second.shape[1]
        m.require(rows * columns < inner * (rows + columns), "the product of the weights is the larger one")
        require_own(m, "v")
        require_own(m, "w")
        made = rounded(m, float64(first) @ float64(second), first)
        require_no_growth(m, made, "v", "w")
        result = m.op.MatMul(m.x, m.op.weight(made, str(m.w.name)))
        if not m.has("shift"):
            return result
        bias = m.const("b")
        m.require(bias.shape in ((inner,), (1,), ()), "b is not one value per column")
        moved = np.broadcast_to(float64(bias), (inner,)) @ float64(second)
        return m.op.Add(result, rounded(m, moved, second))

    plain = op.MatMul(x, v, _as="first")
    shifted = op.Add(op.MatMul(x, v, _as="first"), b, _as="shift")
    return [op.MatMul(plain, w), op.MatMul(shifted, w)], after, dtype_in("w", _FLOAT)


@rule(exact=False)
def conv_of_conv(op: Ops, x: Var, v: Const, a: Maybe, w: Const, b: Maybe) -> Law:
    """Conv(Conv(x, v, a), w, b) == Conv(x, w v, w a + b)     w of kernel 1, where w v takes fewer operations"""

    def after(m: Match) -> Any:
        first, second = m.const("v"), m.const("w")
        m.require(m.attr("group", 1) == 1 and m.attr("group", 1, node="first") == 1, "convolves in groups")
        outputs, inner = second.shape[:2]
        window = int(np.prod(first.shape[1:]))
        m.require(outputs * window < inner * (window + outputs), "the product of the weights is the larger one")
        require_own(m, "v")
        require_own(m, "w")
        matrix = float64(second).reshape(outputs, inner)
        made = rounded(m, (matrix @ float64(first).reshape(inner, -1)).reshape(outputs, *first.shape[1:]), first)
        require_no_growth(m, made, "v", "w")
        inner_bias, outer_bias = optional(m, "a"), optional(m, "b")
        bias: Array | None = None
        if inner_bias is not None:
            base = np.zeros(outputs) if outer_bias is None else float64(outer_bias)
            bias = rounded(m, matrix @ float64(inner_bias) + base, second)
        given: Any = m["b"] if bias is None else m.op.weight(bias, f"{m.w.name}_bias")
        return estimate.take_over(m.op.copy(m.node("first"), [m.x, m.op.weight(made, str(m.w.name)), given]), m.out)

    inner = op.Conv(x, v, a, _as="first", _any=True)
    return op.Conv(inner, w, b, _as="conv", _any=True), after, pointwise_conv(), dtype_in("w", _FLOAT)


# --- images as tokens ------------------------------------------------------------------------------------------------


def _same(a: ir.Value, b: ir.Value, axes: Sequence[int]) -> bool:
    """Whether two values surely have the same dimensions on some axes."""
    left, right = estimate.shape(a) or sure_dims(a), estimate.shape(b) or sure_dims(b)
    if left is None or right is None or min(len(left), len(right)) <= max(axes):
        return False
    return all(left[axis] is not None and left[axis] == right[axis] for axis in axes)


@rule(exact=False)
def linear_of_pixels(op: Ops, x: Var, w: Const, b: Const, s: Const, t: Const) -> Law:
    """Linear map of the pixels of an image, seen as tokens and back == Conv(x, w, b) with a kernel of 1"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        dims, made, flat = dims_of(m, m.x), dims_of(m, m.out), dims_of(m, m.node("flat").outputs[0])
        m.require((len(dims), len(made), len(flat)) == (4, 4, 3), "no image of height and width")
        m.require(weight.ndim == 2 and dims[1:2] == flat[1:2] == weight.shape[:1], "the channels are split")
        m.require(made[1:2] == weight.shape[1:], "the channels are split")
        same = _same(m.x, m.out, (0, 2, 3)) and _same(m.x, m.node("flat").outputs[0], (0,))
        m.require(same, "the pixels are arranged in another way")
        bias = m.const("b") if m.has("shift") else None
        m.require(bias is None or bias.shape == (weight.shape[1],), "b is not one value per channel")
        kernel = np.ascontiguousarray(weight.T)[:, :, None, None]
        require_own(m, "w")
        made = m.op.Conv(m.x, m.op.weight(kernel, str(m.w.name)), m.b if bias is not None else None)
        return estimate.take_over(made, m.out)

    tokens = op.Transpose(op.Reshape(x, s, allowzero=..., _as="flat"), perm=_TOKENS)
    forms = (op.MatMul(tokens, w), op.Add(op.MatMul(tokens, w), b, _as="shift"))
    return (
        [op.Reshape(op.Transpose(form, perm=_TOKENS), t, allowzero=...) for form in forms],
        after,
        dtype_in("w", _FLOAT),
    )


# --- means -----------------------------------------------------------------------------------------------------------


@rule(exact=False)
def mean_of_linear(op: Ops, x: Var, w: Const, b: Const) -> Law:
    """ReduceMean(x w + b) == ReduceMean(x) w + b     over axes before the last"""

    def after(m: Match) -> Any:
        weight, dims = m.const("w"), dims_of(m, m.x)
        m.require(weight.ndim == 2, "w is no matrix")
        axes = _mean_axes(m, len(dims))
        m.require(max(axes) < len(dims) - 1, "takes the mean over the last axis")
        reduced = m.op.copy(m.root, [m.x, *m.root.inputs[1:]])
        made = m.op.MatMul(reduced, m.w)
        if not m.has("shift"):
            return made
        m.require(m.const("b").ndim <= 1, "b varies along what the mean is taken over")
        m.require(all(_is_filled(dims[axis]) for axis in axes), "the mean of nothing is 0, without b")
        return m.op.Add(made, m.b)

    linear = op.MatMul(x, w, _as="linear")
    inputs = (linear, op.Add(op.MatMul(x, w, _as="linear"), b, _as="shift"))
    return [op.ReduceMean(each, ..., axes=..., keepdims=...) for each in inputs], after, dtype_in("w", _FLOAT)


def _is_filled(dim: ir.Dim) -> bool:
    return isinstance(dim, int) and dim > 0


def _mean_axes(m: Match, rank: int) -> list[int]:
    m.require(not m.attr("noop_with_empty_axes", 0), "may reduce nothing")
    given = list_of(m, m.root, "axes", 1)
    if not given:
        m.fail("reduces everything")
    m.require(rank - len(given) >= 2 or m.attr("keepdims"), "leaves a vector")
    return normal_axes(m, given, rank)


@rule(exact=False)
def mean_of_conv(op: Ops, x: Var, w: Const, b: Maybe) -> Law:
    """GlobalAveragePool(Conv(x, w, b)) == Conv(GlobalAveragePool(x), w, b)     for kernels of 1, w not widening much"""

    def after(m: Match) -> Any:
        outputs, inputs = m.const("w").shape[:2]
        inputs *= int(m.attr("group", 1, node="conv"))
        m.require(outputs * _PLACES >= inputs, "leaves hardly any channels")
        filled = m["b"] is None or all(_is_filled(dim) for dim in dims_of(m, m.x)[2:])
        m.require(filled, "the mean of nothing is 0, without b")
        if m.root.op_type == "GlobalAveragePool":
            pooled = m.op.GlobalAveragePool(m.x)
        else:
            rank = len(dims_of(m, m.x))
            m.require(m.attr("keepdims"), "drops axes")
            m.require(sorted(_mean_axes(m, rank)) == list(range(2, rank)), "takes no mean over all pixels")
            pooled = m.op.copy(m.root, [m.x, *m.root.inputs[1:]])
        return m.op.copy(m.node("conv"), [pooled, m.w, m["b"]])

    conv = op.Conv(x, w, b, _as="conv", _any=True)
    forms = [op.GlobalAveragePool(conv), op.ReduceMean(conv, ..., axes=..., keepdims=...)]
    return forms, after, pointwise_conv(), dtype_in("x", _FLOAT)


_PLACES = 64
"""How many times more channels may be averaged so that a convolution runs on one pixel only."""

RULES = rules_of(globals())
