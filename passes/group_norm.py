"""Instance and group normalization, and normalization of the channels of an image, from their parts.

On the CPU the kernel of InstanceNormalization is the fastest way to normalize [n, groups, rest], and the kernel of
BatchNormalization the fastest way to scale and shift channels with one thread: it goes over the values once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.guards import dtype_in, opset_at_least
from accelc.pass_base import RulePass
from accelc.passes.forms import reshape_target, squeeze, sure_dims, unsqueeze
from accelc.pattern import Const, Ops, Scalar, Var
from accelc.rules import Law, Match, rule, rules_of

from . import _trial
from ._folding import NODE_BYTES, Array, float64, is_inner, per_channel, require_no_growth, rounded
from .norm import _axes, _centered, _epsilon

_FLOAT = {ir.DataType.FLOAT}
_FEW_CHANNELS = 32
"""Below, normalizing across channels is as fast as it is written."""
_ONE_THREAD = 1 << 16
"""Fewer elements are worked on by one thread, whatever the operator."""
_TYPICAL = 32
"""What stands for a size that is not known when alternatives are timed."""
_FEW_PLACES = 16
"""Scaling channels of fewer places costs nothing that would be worth the weights of BatchNormalization."""


def _on_cpu(m: Match) -> bool | str:
    return m.ctx.target.provider == "CPUExecutionProvider" or "was measured on the CPU only"


def _runs(op_type: str, least: int = 0) -> Any:
    def guard(m: Match) -> bool | str:
        return m.ctx.allows("", op_type, max(m.opset, least), {"T": m.dtype("x")})

    return guard


def _reduced(m: Match) -> frozenset[int]:
    """The axes over which both means are taken."""
    rank = len(m.dims("x"))
    chosen = {_axes(m, label, rank) for label in ("mean", "variance")}
    m.require(len(chosen) == 1, "the means are over different axes")
    return next(iter(chosen))


def _channels(m: Match, name: str = "x") -> int:
    shape = sure_dims(m[name])
    if shape is None or len(shape) < 2 or not isinstance(shape[1], int):
        m.fail("the number of channels is not known")
    return int(shape[1])


# --- InstanceNormalization -------------------------------------------------------------------------------------------


@rule(exact=False, shared=True)
def instance_norm(op: Ops, x: Var, eps: Scalar, a: Const, b: Const) -> Law:
    """(x - mean x) / sqrt(var x + eps) == InstanceNormalization(x, 1, 0)     means over the places of each channel"""

    def after(m: Match) -> Any:
        rank, channels = len(m.dims("x")), _channels(m)
        m.require(rank > 2 and _reduced(m) == set(range(2, rank)), "the means are not over the places of each channel")
        source = m.x.producer()
        grouped = source is not None and source.op_type == "Reshape"
        m.require(rank > 3 or grouped, "normalizes the last axis, as LayerNormalization does")
        one = np.ones(channels, m.dtype("x").numpy())
        scaled = any(use.node.op_type == "Mul" for use in m.out.uses())
        m.require(scaled or 2 * one.nbytes <= 8 * NODE_BYTES, "a scale of ones would make the file larger")
        return m.op.InstanceNormalization(m.x, one, np.zeros_like(one), epsilon=_epsilon(m))

    before = list(_centered(op, x, eps, a, b))
    return before, after, dtype_in("x", _FLOAT), opset_at_least(6), _runs("InstanceNormalization"), is_inner


def _per_channel(m: Match) -> Array:
    scale = m.const("s")
    rank = len(m.dims("x"))
    c = per_channel(m, "c", rank, 1)
    m.require(c.size in (1, scale.size), f"c has {c.size} values for {scale.size} channels")
    return c


@rule(exact=False)
def instance_norm_scale(op: Ops, x: Var, s: Const, b: Const, c: Const) -> Law:
    """InstanceNormalization(x, s, b) * c == InstanceNormalization(x, s * c, b * c)     c per channel"""

    def after(m: Match) -> Any:
        scale, bias, c_ = m.const("s"), m.const("b"), _per_channel(m)
        new, shift = rounded(m, float64(scale) * c_, scale), rounded(m, float64(bias) * c_, bias)
        return m.op.copy(m.node("norm"), [m.x, new, m.b if np.array_equal(shift, bias) else shift])

    return op.Mul(op.InstanceNormalization(x, s, b, _as="norm", _any=True), c), after, opset_at_least(6)


@rule(exact=False)
def instance_norm_shift(op: Ops, x: Var, s: Const, b: Const, c: Const) -> Law:
    """InstanceNormalization(x, s, b) ± c == InstanceNormalization(x, s, b ± c)     c per channel"""

    def after(m: Match) -> Any:
        bias, c_ = m.const("b"), _per_channel(m)
        sign = -1.0 if m.root.op_type == "Sub" else 1.0
        shift = rounded(m, float64(bias) + sign * c_, bias)
        require_no_growth(m, shift, "b", "c")
        return m.op.copy(m.node("norm"), [m.x, m.s, shift])

    normed = op.InstanceNormalization(x, s, b, _as="norm", _any=True)
    return [op.Add(normed, c), op.Sub(normed, c)], after, opset_at_least(6)


# --- scaling and shifting channels -----------------------------------------------------------------------------------


def _case(m: Match) -> tuple[int, int | None]:
    """(channels, places): the places of one sample of x, None where they are not known."""
    shape, channels = m.dims("x"), _channels(m)
    places = prod(size for size in shape[2:] if isinstance(size, int))
    return channels, places if all(isinstance(size, int) for size in shape[2:]) else None


def _as_batchnorm(m: Match) -> bool:
    """Whether the channels of x are better scaled and shifted by BatchNormalization than by Mul and Add.

    Its kernel goes over the values once, with one thread; Mul and Add go over them with all threads, twice.
    """
    channels, places = _case(m)
    batch = m.dims("x")[0]
    elements = None if places is None else channels * places * (batch if isinstance(batch, int) else 1)
    alone = m.ctx.target.threads <= 2 or (elements is not None and elements < _ONE_THREAD)

    def build() -> Mapping[str, onnx.ModelProto]:
        places = [each if isinstance(each, int) else _TYPICAL for each in m.dims("x")[2:]]
        shape: list[int | str] = ["n", channels, *places]
        tail = (channels, *[1] * (len(shape) - 2))
        one, zero = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        opset = max(m.opset, 9)
        return {
            "parts": _trial.model(
                [("Mul", ["x", "s"], ["p"], {}), ("Add", ["p", "b"], ["y"], {})],
                {"x": shape},
                {"s": one.reshape(tail), "b": zero.reshape(tail)},
                ["y"],
                opset,
            ),
            "batchnorm": _trial.model(
                [("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], {"epsilon": 0.0})],
                {"x": shape},
                {"s": one, "b": zero, "m": zero, "v": one},
                ["y"],
                opset,
            ),
        }

    case = f"float[{','.join(str(size) if isinstance(size, int) else '?' for size in m.dims('x'))}]"
    return m.ctx.decide("scale_shift", case, "batchnorm" if alone else "parts", build) == "batchnorm"


def _batchnorm(m: Match, x: ir.Value, scale: Any, shift: Any, channels: int) -> Any:
    one = np.ones(channels, m.dtype("x").numpy())
    return m.op.BatchNormalization(x, scale, shift, np.zeros_like(one), one, epsilon=0.0)


@rule(exact=False)
def scale_shift(op: Ops, x: Var, c: Const, d: Const) -> Law:
    """x * c ± d == BatchNormalization(x, c, ±d, mean 0, variance 1)     c and d per channel, on the CPU"""

    def after(m: Match) -> Any:
        rank, (channels, places) = len(m.dims("x")), _case(m)
        m.require(rank > 2 and channels > 1, "x has no channels")
        m.require(places is None or places >= _FEW_PLACES, "there are few places")
        factor, offset = per_channel(m, "c", rank, 1), per_channel(m, "d", rank, 1)
        m.require({factor.size, offset.size} <= {1, channels}, "c and d do not fit the channels")
        m.require(channels in (factor.size, offset.size), "c and d are single numbers")
        m.require(_as_batchnorm(m), "Mul and Add are faster here")
        sign = -1.0 if m.root.op_type == "Sub" else 1.0
        kind = m.dtype("x").numpy()
        scale = np.asarray(np.broadcast_to(factor, channels), kind)
        shift = np.asarray(np.broadcast_to(sign * offset, channels), kind)
        return _batchnorm(m, m.x, scale, shift, channels)

    product = op.Mul(x, c)
    before = [op.Add(product, d), op.Sub(product, d)]
    return before, after, dtype_in("x", _FLOAT), opset_at_least(7), _runs("BatchNormalization"), _on_cpu


# --- GroupNormalization ----------------------------------------------------------------------------------------------


@rule(exact=False)
def group_normalization(op: Ops, x: Var, s: Var, b: Var) -> Law:
    """GroupNormalization(x, s, b) == Reshape(InstanceNormalization(Reshape(x, [n, groups, rest]), 1, 0)) * s + b

    The runtime has no kernel for it on the CPU and takes its definition apart into ten operators.
    """

    def after(m: Match) -> Any:
        groups, shape, channels = int(m.attr("num_groups")), m.dims("x"), _channels(m)
        m.require(groups > 0 and channels % groups == 0, "the groups do not divide the channels")
        of_groups = m.opset < 21
        m.require(m.dims("s") == m.dims("b") == ((groups if of_groups else channels),), "the scales do not fit")
        one = np.ones(groups, m.dtype("x").numpy())
        scale, shift = (m.s, m.b) if of_groups else (one, np.zeros_like(one))
        folded = m.op.Reshape(m.x, [0, groups, -1])
        normed = m.op.InstanceNormalization(folded, scale, shift, epsilon=float(m.attr("epsilon")))
        target = reshape_target(shape, (shape[0], groups, None))
        back = m.op.Reshape(normed, target if target is not None else m.op.Shape(m.x))
        if of_groups:
            return back
        if _as_batchnorm(m):
            return _batchnorm(m, back, m.s, m.b, channels)
        ones = [1] * (len(shape) - 2)
        return m.op.Add(m.op.Mul(back, m.const("s").reshape(channels, *ones)), m.const("b").reshape(channels, *ones))

    def floats(m: Match) -> bool | str:
        return m.attr("stash_type", 1) == 1 or "is not computed in float32"

    before = op.GroupNormalization(x, s, b, num_groups=..., epsilon=..., stash_type=...)
    guards = (dtype_in("x", _FLOAT), opset_at_least(18), _runs("InstanceNormalization"), _on_cpu, floats)
    return before, after, *guards


# --- LayerNormalization of channels ----------------------------------------------------------------------------------


@rule(exact=False, shared=True, opset=17)
def layer_norm_channels(op: Ops, x: Var, g: Const, h: Const, eps: Scalar, a: Const, b: Const) -> Law:
    """(x - mean x) / sqrt(var x + eps) * g + h == Transpose(LayerNormalization(Transpose(x), g, h))     over channels

    Each row of the kernel is one place of an image with all its channels, so that moving them twice pays.
    """

    def after(m: Match) -> Any:
        rank, channels = len(m.dims("x")), _channels(m)
        m.require(rank > 2 and _reduced(m) == {1}, "the means are not over the channels")
        m.require(channels >= _FEW_CHANNELS, f"{channels} channels are too few")
        scale, shift = per_channel(m, "g", rank, 1), per_channel(m, "h", rank, 1)
        m.require(scale.size == shift.size == channels, "the scale or the shift is not one for each channel")
        m.require(ir.use_count(m.g) == ir.use_count(m.h) == 1, "the scale or the shift is used elsewhere too")
        last = [0, *range(2, rank), 1]
        first = [0, rank - 1, *range(1, rank - 1)]
        kind = m.dtype("x").numpy()
        moved = m.op.Transpose(m.x, perm=last)
        normed = m.op.LayerNormalization(moved, scale.astype(kind), shift.astype(kind), axis=-1, epsilon=_epsilon(m))
        return m.op.Transpose(normed, perm=first)

    before = [op.Add(op.Mul(form, g), h) for form in _centered(op, x, eps, a, b)]
    return before, after, dtype_in("x", _FLOAT), _runs("LayerNormalization", 17), _on_cpu, is_inner


# --- LocalResponseNormalization --------------------------------------------------------------------------------------


@rule(exact=False)
def local_response(op: Ops, x: Var) -> Law:
    """LRN(x) == x / (bias + alpha mean x²) ^ beta     the mean by AveragePool over channels; beta 1/2, 3/4 or 1

    Krizhevsky et al. 2012. The CPU's kernel calls pow for each element: 6 to 25 times as long. It keeps a running sum,
    which an infinite element spoils for all later channels; the mean over a window does not.
    """

    def after(m: Match) -> Any:
        size, beta = int(m.attr("size")), round(float(m.attr("beta", 0.75)), 6)
        alpha, bias = float(m.attr("alpha", 1e-4)), float(m.attr("bias", 1.0))
        m.require(beta in (0.5, 0.75, 1.0), f"beta is {beta:g}")
        m.require(alpha >= 0 and bias > 0, "what is divided by may not be positive")
        m.require(size % 2 == 1, "the window has no middle")
        shape = m.dims("x")
        m.require(len(shape) == 4, "x is no image")
        m.require(all(isinstance(each, int) and each > 0 for each in shape[1:]), "a dimension may be empty")
        squares = unsqueeze(m, m.op.Mul(m.x, m.x), [1])
        pads = [(size - 1) // 2, 0, 0, size // 2, 0, 0]
        pooled = m.op.AveragePool(squares, kernel_shape=[size, 1, 1], pads=pads, count_include_pad=1)
        spread = m.op.Add(m.op.Mul(squeeze(m, pooled, [1]), alpha), bias)
        if beta < 1:
            root = m.op.Sqrt(spread)
            spread = root if beta == 0.5 else m.op.Mul(root, m.op.Sqrt(root))
        return m.op.Div(m.x, spread)

    before = op.LRN(x, size=..., alpha=..., beta=..., bias=...)
    return before, after, dtype_in("x", _FLOAT), opset_at_least(7), _runs("AveragePool"), _on_cpu


RULES = rules_of(globals())


@dataclass(frozen=True)
class GroupNorm(RulePass):
    """Instance, group, channel and local response normalization by the kernels that are fastest."""

    name = "group-norm"
    exact = False
    rules = RULES
