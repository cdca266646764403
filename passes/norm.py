"""Layer and root-mean-square normalization, from the operators that exporters write, as one operator."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import FLOATS, dtype_in
from accelc.pass_base import RulePass
from accelc.pattern import AnyOf, Const, Op, Ops, Scalar, Term, Var
from accelc.rules import Law, Match, rule, rules_of

from ._folding import NODE_BYTES, Array, is_inner

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_ONES_BYTES = 6 * NODE_BYTES
_ONES_SHARE = 1 / 256
"""A scale of ones may take what the operators it stands for take in a file, or this share of the graph's weights."""


# --- terms -----------------------------------------------------------------------------------------------------------


def _mean(op: Ops, x: Term, axes: Const, label: str) -> AnyOf:
    """The mean over axes given as an attribute (up to opset 17) or as an input."""
    return op.any_of(op.ReduceMean(x, axes=..., _as=label), op.ReduceMean(x, axes, _as=label))


def _square(op: Ops, x: Term) -> AnyOf:
    return op.any_of(op.Pow(x, 2.0), op.Mul(x, x))


def _roots(op: Ops, spread: Term) -> tuple[Op, ...]:
    return op.Sqrt(spread), op.Pow(spread, 0.5)


def _inverses(op: Ops, spread: Term) -> tuple[Op, ...]:
    root = op.any_of(*_roots(op, spread))
    return op.Reciprocal(root), op.Div(1.0, root), op.Pow(spread, -0.5)


def _divided(op: Ops, x: Term, spread: Term) -> tuple[Op, ...]:
    """x / sqrt(spread) as exporters write it."""
    return op.Div(x, op.any_of(*_roots(op, spread))), op.Mul(x, op.any_of(*_inverses(op, spread)))


def _centered(op: Ops, x: Term, eps: Scalar, a: Const, b: Const) -> tuple[Op, ...]:
    """(x - mean x) / sqrt(var x + eps)"""
    distance = op.Sub(x, _mean(op, x, a, "mean"))
    # The square must see the same difference as the quotient: two equal nodes, or one.
    return _divided(op, distance, op.Add(_mean(op, _square(op, distance), b, "variance"), eps))


def _cast(op: Ops, x: Term, label: str) -> Op:
    return op.Cast(x, to=..., _as=label)


# --- what a match must fulfil ----------------------------------------------------------------------------------------


def _axes(m: Match, label: str, rank: int) -> frozenset[int]:
    """The dimensions a ReduceMean goes over, from 0 on."""
    node = m.node(label)
    axes: Iterable[int] | None = ir.attribute(node, "axes")
    if axes is None and len(node.inputs) > 1:
        array = ir.const(node.inputs[1])
        m.require(array is not None, "the axes are not constant")
        assert array is not None
        axes = array.reshape(-1).tolist()
    m.require(axes, "the mean is over everything")
    return frozenset(int(axis) % rank for axis in axes or ())


def _normalized(m: Match, labels: tuple[str, ...]) -> tuple[int, tuple[int, ...]]:
    """(first normalized axis, negative; sizes of the normalized dimensions). A miss unless these are the last ones."""
    shape = m.dims("x")
    rank = len(shape)
    chosen = {_axes(m, label, rank) for label in labels}
    m.require(len(chosen) == 1, "the means are over different axes")
    axes = next(iter(chosen))
    m.require(axes == set(range(rank - len(axes), rank)), "the mean is not over the last axes")
    sizes = [size for size in shape[rank - len(axes) :] if isinstance(size, int)]
    m.require(len(sizes) == len(axes), "a normalized dimension is not known")
    m.require(all(sizes), "a normalized dimension is empty")
    return -len(axes), tuple(sizes)


def _epsilon(m: Match) -> float:
    eps = m.scalar("eps")
    m.require(math.isfinite(eps) and eps >= 0, "epsilon is negative")
    return eps


def _parameter(m: Match, name: str, sizes: tuple[int, ...]) -> Any:
    """A scale or shift in the shape of the normalized dimensions: the value itself, or a constant without its ones."""
    value = getattr(m, name)
    shape = m.dims(name)
    if shape == sizes:
        return value
    m.require(math.prod(d for d in shape if isinstance(d, int)) == math.prod(sizes), f"{name} does not fit")
    m.require(shape[len(shape) - len(sizes) :] == sizes and len(shape) <= len(m.dims("x")), f"{name} does not fit")
    m.require(ir.use_count(value) == 1, f"the weight {name} is used elsewhere too")
    return m.const(name).reshape(sizes)


def _same_type(m: Match, *names: str) -> None:
    kinds = {m.dtype(name) for name in names}
    m.require(len(kinds) == 1, f"the types differ: {', '.join(sorted(str(kind) for kind in kinds))}")


def _kernel(op_type: str, opset: int, **types: str) -> Any:
    def guard(m: Match) -> bool | str:
        return m.ctx.allows("", op_type, max(m.opset, opset), {name: m.dtype(each) for name, each in types.items()})

    return guard


_LAYER_KERNEL = _kernel("LayerNormalization", 17, T="x")
_RMS_KERNEL = _kernel("RMSNormalization", 23, T="x")


# --- LayerNormalization ----------------------------------------------------------------------------------------------


def _layer_norm(m: Match, scale: Any, sizes: tuple[int, ...], axis: int, bias: Any = None) -> Any:
    return m.op.LayerNormalization(m.x, scale, bias, axis=axis, epsilon=_epsilon(m))


@rule(exact=False, shared=True, opset=17)
def layer_norm_scale(op: Ops, x: Var, g: Var, eps: Scalar, a: Const, b: Const) -> Law:
    """(x - mean x) / sqrt(var x + eps) * g == LayerNormalization(x, g)     Ba et al. 2016; ai.onnx 17"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean", "variance"))
        _same_type(m, "x", "g")
        return _layer_norm(m, _parameter(m, "g", sizes), sizes, axis)

    before = [op.Mul(form, g) for form in _centered(op, x, eps, a, b)]
    return before, after, dtype_in("x", FLOATS), _LAYER_KERNEL, is_inner


@rule(exact=False, shared=True, opset=17)
def layer_norm_scale_inside(op: Ops, x: Var, g: Var, eps: Scalar, a: Const, b: Const) -> Law:
    """(x - mean x) * (g / sqrt(var x + eps)) == LayerNormalization(x, g)     ai.onnx 17"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean", "variance"))
        _same_type(m, "x", "g")
        return _layer_norm(m, _parameter(m, "g", sizes), sizes, axis)

    distance = op.Sub(x, _mean(op, x, a, "mean"))
    spread = op.Add(_mean(op, _square(op, distance), b, "variance"), eps)
    scaled = [op.Mul(inner, g) for inner in _inverses(op, spread)]
    before = [op.Mul(distance, op.any_of(*scaled, *(op.Div(g, root) for root in _roots(op, spread))))]
    return before, after, dtype_in("x", FLOATS), _LAYER_KERNEL, is_inner


@rule(exact=False, shared=True, opset=17)
def layer_norm_keras(op: Ops, x: Var, g: Var, h: Var, eps: Scalar, a: Const, b: Const) -> Law:
    """x s + (h - mean(x) s) == LayerNormalization(x, g, h)     s = g / sqrt(var x + eps), Keras; ai.onnx 17"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean", "variance"))
        _same_type(m, "x", "g", "h")
        return _layer_norm(m, _parameter(m, "g", sizes), sizes, axis, _parameter(m, "h", sizes))

    mean = _mean(op, x, a, "mean")
    square = _square(op, op.any_of(op.Sub(x, mean), op.Sub(mean, x)))
    spread = op.Add(_mean(op, square, b, "variance"), eps)
    factor = op.any_of(*(op.Mul(inverse, g) for inverse in _inverses(op, spread)))
    shift = op.any_of(
        op.Sub(h, op.Mul(mean, factor)),
        op.Add(op.Mul(op.Neg(mean), factor), h),
        op.Add(op.Neg(op.Mul(mean, factor)), h),
    )
    return op.Add(op.Mul(x, factor), shift), after, dtype_in("x", FLOATS), _LAYER_KERNEL, is_inner


@rule(exact=False, shared=True, opset=17)
def layer_norm_cast(op: Ops, x: Var, g: Var, eps: Scalar, a: Const, b: Const) -> Law:
    """cast(normalize(cast x)) * g == LayerNormalization(x, g, stash_type=1)     half precision with a float32 inside"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean", "variance"))
        _require_float_inside(m)
        return _layer_norm(m, _parameter(m, "g", sizes), sizes, axis)

    up = _cast(op, x, "up")
    before = [op.Mul(_cast(op, form, "down"), g) for form in _centered(op, up, eps, a, b)]
    return before, after, dtype_in("x", _HALVES), _LAYER_KERNEL, is_inner


def _require_float_inside(m: Match) -> None:
    m.require(m.attr("to", node="up") == ir.DataType.FLOAT.value, "is not computed in float32")
    m.require(m.attr("to", node="down") == m.dtype("x").value, "is not cast back to the type of x")
    _same_type(m, "x", "g")


@rule(exact=False, shared=True, opset=17)
def layer_norm_plain(op: Ops, x: Var, eps: Scalar, a: Const, b: Const) -> Law:
    """(x - mean x) / sqrt(var x + eps) == LayerNormalization(x, 1)     where the ones cost nothing; ai.onnx 17"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean", "variance"))
        _require_no_scale(m)
        ones = _ones(m, sizes)
        return _layer_norm(m, ones, sizes, axis)

    return list(_centered(op, x, eps, a, b)), after, dtype_in("x", FLOATS), _LAYER_KERNEL, is_inner


def _ones(m: Match, sizes: tuple[int, ...]) -> Array:
    """A scale of ones, of which the file will hold one for all norms of a size."""
    ones = np.ones(sizes, m.dtype("x").numpy())
    if ones.nbytes > _ONES_BYTES:
        tensors = (ir.const_tensor(value) for value in m.graph.initializers.values())
        weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
        m.require(ones.nbytes <= _ONES_SHARE * weights, "a scale of ones would make the file larger")
    return ones


def _require_no_scale(m: Match) -> None:
    """A miss where the result is scaled next: that rule takes the scale along."""
    users = [use.node for use in m.out.uses()]
    if len(users) == 1 and not m.out.is_graph_output():
        others = [value for value in users[0].inputs if value is not m.out]
        m.require(users[0].op_type != "Cast", "is cast next")
        m.require(users[0].op_type != "Mul" or not any(map(ir.is_constant, others)), "is scaled next")


@rule(exact=False)
def layer_norm_bias(op: Ops, x: Var, g: Var, h: Var) -> Law:
    """LayerNormalization(x, g) + h == LayerNormalization(x, g, h)"""

    def after(m: Match) -> Any:
        sizes = tuple(size for size in m.dims("g") if isinstance(size, int))
        m.require(len(sizes) == len(m.dims("g")), "the shape of g is not known")
        return m.op.copy(m.node("norm"), [m.x, m.g, _parameter(m, "h", sizes)], outputs=1)

    return op.Add(op.LayerNormalization(x, g, _as="norm", _any=True), h), after


# --- RMSNormalization ------------------------------------------------------------------------------------------------


def _rms(op: Ops, x: Term, eps: Scalar, a: Const) -> tuple[Op, ...]:
    """x / sqrt(mean x² + eps)"""
    return _divided(op, x, op.Add(_mean(op, _square(op, x), a, "mean"), eps))


@rule(exact=False, shared=True, opset=23)
def rms_norm(op: Ops, x: Var, g: Var, eps: Scalar, a: Const) -> Law:
    """x / sqrt(mean x² + eps) * g == RMSNormalization(x, g)     Zhang & Sennrich 2019; ai.onnx 23"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean",))
        _same_type(m, "x", "g")
        return m.op.RMSNormalization(m.x, _parameter(m, "g", sizes), axis=axis, epsilon=_epsilon(m))

    before = [op.Mul(form, g) for form in _rms(op, x, eps, a)]
    return before, after, dtype_in("x", FLOATS), _RMS_KERNEL, is_inner


@rule(exact=False, shared=True, opset=23)
def rms_norm_cast(op: Ops, x: Var, g: Var, eps: Scalar, a: Const) -> Law:
    """cast(rms(cast x)) * g == RMSNormalization(x, g, stash_type=1)     half precision with a float32 inside"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean",))
        _require_float_inside(m)
        return m.op.RMSNormalization(m.x, _parameter(m, "g", sizes), axis=axis, epsilon=_epsilon(m))

    before = [op.Mul(_cast(op, form, "down"), g) for form in _rms(op, _cast(op, x, "up"), eps, a)]
    return before, after, dtype_in("x", _HALVES), _RMS_KERNEL, is_inner


@rule(exact=False, shared=True, opset=23)
def rms_norm_plain(op: Ops, x: Var, eps: Scalar, a: Const) -> Law:
    """x / sqrt(mean x² + eps) == RMSNormalization(x, 1)     where the ones cost nothing; ai.onnx 23"""

    def after(m: Match) -> Any:
        axis, sizes = _normalized(m, ("mean",))
        _require_no_scale(m)
        return m.op.RMSNormalization(m.x, _ones(m, sizes), axis=axis, epsilon=_epsilon(m))

    return list(_rms(op, x, eps, a)), after, dtype_in("x", FLOATS), _RMS_KERNEL, is_inner


@rule(exact=False)
def rms_divide(op: Ops, x: Var, y: Var, eps: Scalar, a: Const) -> Law:
    """x * reciprocal(sqrt(mean x² + eps)) == x / sqrt(mean x² + eps)     which the runtime fuses while loading"""

    def after(m: Match) -> Any:
        m.require(m.y is m.x, "what is divided is not what is normalized")
        m.require(any(use.node.op_type == "Mul" for use in m.out.uses()), "is not scaled next, so stays unfused anyway")
        return m.op.Div(m.x, m.node("root").outputs[0])

    spread = op.Add(_mean(op, op.Pow(y, 2.0), a, "mean"), eps)
    root = op.Sqrt(spread, _as="root")
    return op.Mul(x, op.any_of(op.Reciprocal(root), op.Div(1.0, root))), after, dtype_in("x", FLOATS)


RULES = rules_of(globals())


@dataclass(frozen=True)
class Norm(RulePass):
    """Fuse LayerNormalization and RMSNormalization from their parts."""

    name = "norm"
    exact = False
    rules = RULES
