"""What surrounds a convolution folded into it: bias, scales, normalization of its input; padding is in padding.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc.pass_base import RulePass
from accelc.pattern import Const, Maybe, Op, Ops, Term, Var
from accelc.rules import Law, Match, rule, rules_of

from . import padding
from ._folding import Array, float64, optional, per_channel, require_no_growth, require_own, rounded


def _convs(op: Ops, x: Term, w: Const, b: Maybe) -> tuple[Op, Op]:
    return op.Conv(x, w, b, _as="conv", _any=True), op.ConvTranspose(x, w, b, _as="conv", _any=True)


def _group(m: Match) -> int:
    return int(m.attr("group", 1, node="conv"))


def _is_transposed(m: Match) -> bool:
    return m.node("conv").op_type == "ConvTranspose"


def _channels(m: Match) -> int:
    """How many channels the convolution puts out."""
    shape = m.const("w").shape
    return int(shape[1] * _group(m) if _is_transposed(m) else shape[0])


def _scale_outputs(m: Match, weight: Array, factor: Array) -> Array:
    """The weight with each output channel scaled. factor: [channels] or [1]."""
    tail = [1] * (weight.ndim - 2)
    if not _is_transposed(m) or factor.size == 1:
        return float64(weight) * factor.reshape(-1, 1, *tail)
    split = float64(weight).reshape(_group(m), -1, *weight.shape[1:])
    return np.asarray((split * factor.reshape(_group(m), 1, -1, *tail)).reshape(weight.shape))


def _along_inputs(m: Match, weight: Array, factor: Array) -> Array:
    """The weight with each input channel scaled. factor: [input channels] or [1]."""
    tail = [1] * (weight.ndim - 2)
    if _is_transposed(m) or factor.size == 1:
        return float64(weight) * factor.reshape(-1, 1, *tail)
    split = float64(weight).reshape(_group(m), -1, *weight.shape[1:])
    return np.asarray((split * factor.reshape(_group(m), 1, -1, *tail)).reshape(weight.shape))


def _after_it(m: Match) -> Array:
    """The constant c combined into the convolution's result, per output channel."""
    c = per_channel(m, "c", m.const("w").ndim, 1)
    m.require(c.size in (1, _channels(m)), f"c has {c.size} values for {_channels(m)} channels")
    return c


def _before_it(m: Match) -> Array:
    """The constant c combined into the convolution's input, per input channel."""
    weight, shape = m.const("w"), m.dims("x")
    m.require(len(shape) == weight.ndim, "c widens the input")
    c = per_channel(m, "c", weight.ndim, 1)
    inputs = weight.shape[0] if _is_transposed(m) else weight.shape[1] * _group(m)
    m.require(c.size == 1 or (c.size == inputs == shape[1]), f"c has {c.size} values for {inputs} input channels")
    return c


def _bias(m: Match, offset: Array) -> Array:
    """The bias with an offset [channels] or [1] added to it."""
    weight, bias = m.const("w"), optional(m, "b")
    base = np.zeros(_channels(m)) if bias is None else float64(bias)
    made = rounded(m, base + offset, weight)
    require_no_growth(m, made, "b", "c")
    return made


def _add(m: Match) -> Any:
    c = _after_it(m)
    sign = -1.0 if m.root.op_type == "Sub" else 1.0
    return m.op.copy(m.node("conv"), [m.x, m.w, _bias(m, sign * c)])


@rule(exact=False)
def conv_add(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """Conv(x, w, b) ± c == Conv(x, w, b ± c)     c per output channel; ConvTranspose likewise"""
    return [form(conv, c) for conv in _convs(op, x, w, b) for form in (op.Add, op.Sub)], _add


def _multiply(m: Match) -> Any:
    weight, c = m.const("w"), _after_it(m)
    require_own(m, "w")
    if m.root.op_type == "Div":
        m.require((c != 0).all(), "divides by zero")
        c = 1 / c
    bias = optional(m, "b")
    new = None if bias is None else rounded(m, float64(bias) * c, weight)
    if new is not None:
        require_no_growth(m, new, "b", "c")
    return m.op.copy(m.node("conv"), [m.x, rounded(m, _scale_outputs(m, weight, c), weight), new])


@rule(exact=False)
def conv_mul(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """Conv(x, w, b) * c == Conv(x, w * c, b * c)     c per output channel; ConvTranspose and Div likewise"""
    return [form(conv, c) for conv in _convs(op, x, w, b) for form in (op.Mul, op.Div)], _multiply


def _multiply_input(m: Match) -> Any:
    weight, c = m.const("w"), _before_it(m)
    require_own(m, "w")
    if m.node("scale").op_type == "Div":
        m.require((c != 0).all(), "divides by zero")
        c = 1 / c
    return m.op.copy(m.root, [m.x, rounded(m, _along_inputs(m, weight, c), weight), m["b"]])


@rule(exact=False)
def mul_conv(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """Conv(x * c, w, b) == Conv(x, w * c, b)     c per input channel; ConvTranspose and Div likewise"""
    scaled = op.any_of(op.Mul(x, c, _as="scale"), op.Div(x, c, _as="scale"))
    return list(_convs(op, scaled, w, b)), _multiply_input


def _unpadded(m: Match) -> bool | str:
    if m.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return "pads by auto_pad"
    return not any(m.attr("pads") or ()) or "pads with zeros, which are not shifted"


@rule(exact=False)
def add_conv(op: Ops, x: Var, w: Const, b: Maybe, c: Const) -> Law:
    """Conv(x ± c, w, b) == Conv(x, w, b ± sum(w * c))     without padding, c per input channel"""

    def after(m: Match) -> Any:
        weight, c_ = m.const("w"), _before_it(m)
        sign = -1.0 if m.node("shift").op_type == "Sub" else 1.0
        offset = sign * _along_inputs(m, weight, c_).reshape(weight.shape[0], -1).sum(1)
        return m.op.copy(m.root, [m.x, m.w, _bias(m, offset)])

    shifted = op.any_of(op.Add(x, c, _as="shift"), op.Sub(x, c, _as="shift"))
    return op.Conv(shifted, w, b, _as="conv", _any=True), after, _unpadded


RULES = (*rules_of(globals()), *padding.RULES)


@dataclass(frozen=True)
class Conv(RulePass):
    """Fold bias, scales and input normalization into convolutions, and padding into convolutions and pooling."""

    name = "conv"
    exact = False
    rules = RULES
