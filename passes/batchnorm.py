"""Batch normalization folded into the linear operator before or after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelc.guards import opset_at_least
from accelc.pass_base import RulePass
from accelc.pattern import AnyOf, Const, Maybe, Op, Ops, Term, Var
from accelc.rules import Law, Match, rule, rules_of

from ._folding import Array, float64, optional, require_no_growth, require_own, rounded


def _norm(op: Ops, x: Term, scale: Const, shift: Const, mean: Const, var: Const) -> Op:
    return op.BatchNormalization(x, scale, shift, mean, var, epsilon=..., momentum=..., _as="norm")


def _inference(m: Match) -> bool | str:
    further = m.node("norm").outputs[1:]
    if any(value.uses() or value.is_graph_output() for value in further):
        return "its statistics are used"
    if m.opset < 14 and any(value.name for value in further):
        return "further outputs mean training mode before opset 14"
    return True


def _affine(m: Match, channels: int) -> tuple[Array, Array]:
    """BatchNormalization(x) == factor * x + offset per channel: (factor [c], offset [c])."""
    scale, shift, mean, var = (float64(m.const(name)) for name in ("scale", "shift", "mean", "var"))
    shapes = {each.shape for each in (scale, shift, mean, var)}
    m.require(shapes == {(channels,)}, f"the statistics are {shapes}, not one of each for {channels} channels")
    spread = var + float(m.attr("epsilon", node="norm"))
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


# --- before it -------------------------------------------------------------------------------------------------------


def _along_rows(m: Match, axis: int, count: int) -> tuple[Array, Array]:
    """factor and offset for each of `count` rows of a weight; a Flatten between repeats them for every place."""
    channels = m.dims("x")[1:2]
    m.require(len(channels) == 1 and isinstance(channels[0], int), "the number of channels is not known")
    factor, offset = _affine(m, int(channels[0]))  # type: ignore[arg-type]
    if m.has("flat"):
        m.require(m.attr("axis", 1, node="flat") == 1, "flattens the batch as well")
        m.require(count % factor.size == 0, "the weight does not fit")
        return factor.repeat(count // factor.size), offset.repeat(count // factor.size)
    m.require(len(m.dims("x")) == 2 and factor.size == count, "the channel is the row only of matrices")
    return factor, offset


def _flat_or_not(op: Ops, normed: Op) -> AnyOf:
    return op.any_of(normed, op.Flatten(normed, axis=..., _as="flat"))


@rule(exact=False)
def conv_batchnorm(op: Ops, x: Var, w: Const, b: Maybe, scale: Const, shift: Const, mean: Const, var: Const) -> Law:
    """Conv(BatchNormalization(x), w, b) == Conv(x, factor * w, b + sum(offset * w))     no padding, or no offset"""

    def after(m: Match) -> Any:
        weight, shape = m.const("w"), m.dims("x")
        require_own(m, "w")
        m.require(len(shape) == weight.ndim, "the ranks differ")
        group = int(m.attr("group", 1))
        factor, offset = _affine(m, weight.shape[1] * group)
        if offset.any():
            m.require(m.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "pads with zeros, which are not shifted")
            m.require(not any(m.attr("pads") or ()), "pads with zeros, which are not shifted")
        split = float64(weight).reshape(group, -1, *weight.shape[1:])
        across = (group, 1, -1, *[1] * (weight.ndim - 2))
        shifted = (split * offset.reshape(across)).reshape(weight.shape[0], -1).sum(1)
        bias = optional(m, "b")
        new = None if bias is None and not offset.any() else rounded(m, shifted, weight)
        if bias is not None:
            new = rounded(m, shifted + float64(bias), weight)
        if new is not None:
            require_no_growth(m, new, "b", "scale", "shift", "mean", "var")
        folded = rounded(m, (split * factor.reshape(across)).reshape(weight.shape), weight)
        return m.op.copy(m.root, [m.x, folded, new])

    return op.Conv(_norm(op, x, scale, shift, mean, var), w, b, _any=True), after, opset_at_least(7), _inference


@rule(exact=False)
def gemm_batchnorm(op: Ops, x: Var, w: Const, b: Maybe, scale: Const, shift: Const, mean: Const, var: Const) -> Law:
    """alpha BatchNormalization(x) w + beta b == alpha x (factor * w) + (beta b + alpha offset w)     Flatten between"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        axis = 1 if m.attr("transB", 0) else 0
        factor, offset = _along_rows(m, axis, weight.shape[axis])
        column = (None, slice(None)) if axis else (slice(None), None)
        extra = float(m.attr("alpha", 1.0)) * (float64(weight) * offset[column]).sum(axis)
        bias = optional(m, "b")
        if bias is not None:
            m.require(bias.size in (1, extra.size) and bias.shape[-1:] == (bias.size,) * bool(bias.ndim), "bias shape")
            extra = extra + float(m.attr("beta", 1.0)) * float64(bias).reshape(-1)
        new = rounded(m, extra, weight)
        require_no_growth(m, new, "b", "scale", "shift", "mean", "var")
        folded = rounded(m, float64(weight) * factor[column], weight)
        x = m.op.copy(m.node("flat"), [m.x]) if m.has("flat") else m.x
        return m.op.copy(m.root, [x, folded, new], beta=None)

    normed = _flat_or_not(op, _norm(op, x, scale, shift, mean, var))
    before = op.Gemm(normed, w, b, alpha=..., beta=..., transB=...)
    return before, after, opset_at_least(7), _inference


@rule(exact=False)
def matmul_batchnorm(op: Ops, x: Var, w: Const, scale: Const, shift: Const, mean: Const, var: Const) -> Law:
    """BatchNormalization(x) w == x (factor * w) + offset w     for matrices, Flatten between"""

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        m.require(weight.ndim == 2, "the weight is no matrix")
        factor, offset = _along_rows(m, 0, weight.shape[0])
        new = rounded(m, (float64(weight) * offset[:, None]).sum(0), weight)
        require_no_growth(m, new, "scale", "shift", "mean", "var")
        x = m.op.copy(m.node("flat"), [m.x]) if m.has("flat") else m.x
        return m.op.Add(m.op.MatMul(x, rounded(m, float64(weight) * factor[:, None], weight)), new)

    normed = _flat_or_not(op, _norm(op, x, scale, shift, mean, var))
    return op.MatMul(normed, w), after, opset_at_least(7), _inference


RULES = rules_of(globals())


@dataclass(frozen=True)
class BatchNorm(RulePass):
    """Fold BatchNormalization into the Conv, ConvTranspose, Gemm or MatMul beside it."""

    name = "batchnorm"
    exact = False
    rules = RULES
