"""Batch normalization folded into the linear operator before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelc.guards import opset_at_least
from accelc.pass_base import RulePass
from accelc.pattern import Const, Maybe, Op, Ops, Term, Var
from accelc.rules import Law, Match, rule, rules_of

from ._folding import Array, float64, optional, require_no_growth, require_own, rounded


def _norm(op: Ops, x: Term, scale: Const, shift: Const, mean: Const, var: Const) -> Op:
    return op.BatchNormalization(x, scale, shift, mean, var, epsilon=..., momentum=...)


def _inference(m: Match) -> bool | str:
    if any(value.uses() or value.is_graph_output() for value in m.root.outputs[1:]):
        return "its statistics are used"
    if m.opset < 14 and any(value.name for value in m.root.outputs[1:]):
        return "further outputs mean training mode before opset 14"
    return True


def _affine(m: Match, channels: int) -> tuple[Array, Array]:
    """BatchNormalization(x) == factor * x + offset per channel: (factor [c], offset [c])."""
    scale, shift, mean, var = (float64(m.const(name)) for name in ("scale", "shift", "mean", "var"))
    shapes = {each.shape for each in (scale, shift, mean, var)}
    m.require(shapes == {(channels,)}, f"the statistics are {shapes}, not one of each for {channels} channels")
    spread = var + float(m.attr("epsilon"))
    m.require((spread > 0).all(), "a variance is negative")
    factor = scale / spread**0.5
    return factor, shift - mean * factor


def _bias(m: Match, factor: Array, offset: Array, like: Array, bias: Array | None) -> Array:
    if bias is not None:
        m.require(bias.shape == factor.shape, "the bias is not one value per channel")
        offset = offset + float64(bias) * factor
    made = rounded(m, offset, like)
    require_no_growth(m, made, "b", "scale", "shift", "mean", "var")
    return made


@rule(exact=False)
def batchnorm_conv(op: Ops, x: Var, w: Const, b: Maybe, scale: Const, shift: Const, mean: Const, var: Const) -> Law:
    """BatchNormalization(Conv(x, w, b)) == Conv(x, factor * w, factor * b + offset)     per output channel"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        factor, offset = _affine(m, weight.shape[0])
        folded = float64(weight) * factor.reshape(-1, *[1] * (weight.ndim - 1))
        bias = _bias(m, factor, offset, weight, optional(m, "b"))
        return m.op.copy(m.node("conv"), [m.x, rounded(m, folded, weight), bias])

    conv = op.Conv(x, w, b, _as="conv", _any=True)
    return _norm(op, conv, scale, shift, mean, var), after, opset_at_least(7), _inference


@rule(exact=False)
def batchnorm_conv_transpose(
    op: Ops, x: Var, w: Const, b: Maybe, scale: Const, shift: Const, mean: Const, var: Const
) -> Law:
    """BatchNormalization(ConvTranspose(x, w, b)) == ConvTranspose(x, factor * w, factor * b + offset)     per output"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        group = int(m.attr("group", 1, node="conv"))
        factor, offset = _affine(m, weight.shape[1] * group)
        split = float64(weight).reshape(group, -1, *weight.shape[1:])
        folded = split * factor.reshape(group, 1, -1, *[1] * (weight.ndim - 2))
        bias = _bias(m, factor, offset, weight, optional(m, "b"))
        return m.op.copy(m.node("conv"), [m.x, rounded(m, folded.reshape(weight.shape), weight), bias])

    conv = op.ConvTranspose(x, w, b, _as="conv", _any=True)
    return _norm(op, conv, scale, shift, mean, var), after, opset_at_least(7), _inference


@rule(exact=False)
def batchnorm_gemm(op: Ops, x: Var, w: Const, b: Maybe, scale: Const, shift: Const, mean: Const, var: Const) -> Law:
    """BatchNormalization(alpha x w + beta b) == alpha x (factor * w) + (beta factor * b + offset)     per column"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        axis = 0 if m.attr("transB", 0, node="gemm") else 1
        factor, offset = _affine(m, weight.shape[axis])
        bias = optional(m, "b")
        if bias is not None:
            m.require(bias.size in (1, factor.size) and bias.shape[-1:] == (bias.size,) * bool(bias.ndim), "bias shape")
            beta = float(m.attr("beta", 1.0, node="gemm"))
            offset = offset + beta * float64(bias).reshape(-1) * factor
        folded = float64(weight) * (factor[:, None] if axis == 0 else factor[None, :])
        new = rounded(m, offset, weight)
        require_no_growth(m, new, "b", "scale", "shift", "mean", "var")
        return m.op.copy(m.node("gemm"), [m.x, rounded(m, folded, weight), new], beta=None)

    gemm = op.Gemm(x, w, b, _as="gemm", _any=True)
    return _norm(op, gemm, scale, shift, mean, var), after, opset_at_least(7), _inference


@rule(exact=False)
def batchnorm_matmul(op: Ops, x: Var, w: Const, scale: Const, shift: Const, mean: Const, var: Const) -> Law:
    """BatchNormalization(x w) == x (factor * w) + offset     for matrices"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        m.require(weight.ndim == 2 and len(m.dims("x")) == 2, "the channel is the column only of matrices")
        factor, offset = _affine(m, weight.shape[1])
        new = rounded(m, offset, weight)
        require_no_growth(m, new, "scale", "shift", "mean", "var")
        return m.op.Add(m.op.MatMul(m.x, rounded(m, float64(weight) * factor, weight)), new)

    return _norm(op, op.MatMul(x, w), scale, shift, mean, var), after, opset_at_least(7), _inference


RULES = rules_of(globals())


@dataclass(frozen=True)
class BatchNorm(RulePass):
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul before it."""

    name = "batchnorm"
    exact = False
    rules = RULES
