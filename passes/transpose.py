"""Transposes: merged, cancelled, and moved together. Every rule leaves fewer of them, or moves fewer elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accelc import ir
from accelc.guards import INTEGERS, dtype_in
from accelc.pass_base import RulePass
from accelc.passes.forms import (
    COMBINING,
    REDUCE,
    dims_of,
    list_of,
    normal_axes,
    perm_of,
    producer,
    reshape,
    reshape_target,
    sure_dims,
    value_in,
)
from accelc.pattern import Ops, Var
from accelc.rules import Law, Match, rule, rules_of

# fmt: off
_PLACELESS = (
    "Abs", "BitwiseNot", "Cast", "Ceil", "Clip", "Erf", "Floor", "HardSigmoid", "HardSwish", "IsInf", "IsNaN",
    "LeakyRelu", "Neg", "Not", "Relu", "Round", "Sigmoid", "Sign", "Sqrt", "Tanh", "ThresholdedRelu",
)
# fmt: on
"""Pointwise operators whose kernels give an element the same bits wherever it stands. Others (Log, Sin, Elu, Softplus,
...) were seen to round differently in a vector's body and in its tail, so moving their elements is not exact."""
_MAX_CHAIN = 16


def _then(first: Sequence[int], second: Sequence[int]) -> list[int]:
    """The one permutation that does what two do after each other."""
    return [first[each] for each in second]


def _is_still(perm: Sequence[int]) -> bool:
    return list(perm) == list(range(len(perm)))


@rule(shared=True)
def transpose_still(op: Ops, x: Var) -> Law:
    """Transpose(x, perm=[0, 1, 2, ...]) == x"""

    def still(m: Match) -> bool | str:
        return _is_still(perm_of(m, m.root)) or "moves axes"

    return op.Transpose(x, perm=...), x, still


@rule(shared=True)
def transpose_of_transpose(op: Ops, x: Var) -> Law:
    """Transpose(Transpose(x, p), q) == Transpose(x, p[q]), and x itself where that moves nothing"""

    def after(m: Match) -> ir.Value:
        perm = _then(perm_of(m, m.node("inner")), perm_of(m, m.root))
        return m.x if _is_still(perm) else m.op.Transpose(m.x, perm=perm)

    return op.Transpose(op.Transpose(x, perm=..., _as="inner"), perm=...), after


@rule(shared=True)
def transpose_of_ones(op: Ops, x: Var) -> Law:
    """Transpose(x, p) == Reshape(x, shape[p]) where p keeps the order of all axes that are longer than 1"""

    def after(m: Match) -> ir.Value:
        dims, perm = dims_of(m, m.x), perm_of(m, m.root)
        m.require(m.opset >= 5, "Reshape-1 has another form")
        long = [axis for axis in perm if dims[axis] != 1]
        m.require(long == sorted(long) and not _is_still(perm), "moves axes longer than 1")
        target = reshape_target([dims[axis] for axis in perm], dims)
        if target is None:
            m.fail("the shape is not known well enough")
        return reshape(m, m.x, target)

    return op.Transpose(x, perm=...), after


# --- through other operators -----------------------------------------------------------------------------------------


def _chain_above(m: Match) -> tuple[list[ir.Node], ir.Node]:
    """The pointwise operators above the root, from the top, and the Transpose above them."""
    chain: list[ir.Node] = []
    value = m.x
    while len(chain) < _MAX_CHAIN:
        top = producer(m, value, "Transpose")
        if top is not None and chain:
            return chain[::-1], top
        node = producer(m, value, *_PLACELESS, *COMBINING)
        if node is None or not _is_pointwise(node):
            m.fail("no other Transpose above, through operators that take one element at a time")
        chain.append(node)
        value = value_in(m, node, _moving(node)[0])
    return m.fail("the chain is too long")


def _moving(node: ir.Node) -> list[int]:
    """The inputs that have axes to move; the others have one element and do not widen the rank."""
    count = 1 if node.op_type in _PLACELESS else len(node.inputs)
    shapes = [ir.dims(each) for each in node.inputs[:count]]
    ranks = [len(shape) for shape in shapes if shape is not None and any(dim != 1 for dim in shape)]
    least = min(ranks, default=0)
    return [i for i, each in enumerate(shapes) if each is None or len(each) > least or any(dim != 1 for dim in each)]


def _is_pointwise(node: ir.Node) -> bool:
    """Whether a node has one input with axes and no attribute of an old opset that aligns them."""
    old = ("axis", "broadcast", "consumed_inputs")
    return len(_moving(node)) == 1 and all(name not in node.attributes for name in old)


@rule()
def transpose_around_pointwise(op: Ops, x: Var) -> Law:
    """Transpose(F(Transpose(x, p)), q) == Transpose(F(x), p[q]) for operators F that take one element at a time"""

    def after(m: Match) -> ir.Value:
        chain, top = _chain_above(m)
        perm = _then(perm_of(m, top), perm_of(m, m.root))
        value = value_in(m, top)
        for node in chain:
            moving = _moving(node)[0]
            inputs = [value if index == moving else each for index, each in enumerate(node.inputs)]
            value = m.op.copy(node, inputs)
        return value if _is_still(perm) else m.op.Transpose(value, perm=perm)

    return op.Transpose(x, perm=...), after


def _same_transposes(m: Match, values: Sequence[ir.Value | None]) -> Iterator[tuple[ir.Node, list[int]]]:
    for value in values:
        node = producer(m, value, "Transpose", single=False)
        if node is None:
            m.fail("not every input is transposed")
        own = ir.only_user(node.outputs[0]) is m.root and not node.outputs[0].is_graph_output()
        m.require(own, "a transposed input is used elsewhere")
        yield node, perm_of(m, node)
    m.require(len(set(values)) > 1, "there is one Transpose only")


@rule(feeder="Transpose")
def transposes_below(op: Ops) -> Law:
    """F(Transpose(x, p), Transpose(y, p)) == Transpose(F(x, y), p) element by element, shapes agreeing"""

    def after(m: Match) -> ir.Value:
        inputs = list(m.root.inputs)
        moving = _moving(m.root)
        m.require(len(moving) >= 2, "only one input has axes")
        found = list(_same_transposes(m, [inputs[index] for index in moving]))
        perm = found[0][1]
        m.require(all(each == perm for _, each in found), "the inputs are transposed differently")
        shapes = [dims_of(m, value_in(m, node)) for node, _ in found]
        same = all(each == shapes[0] and None not in each for each in shapes)
        m.require(same, "the shapes may differ, so the result may be larger than the inputs")
        for index, (node, _) in zip(moving, found, strict=True):
            inputs[index] = node.inputs[0]
        return m.op.Transpose(m.op.copy(m.root, inputs), perm=perm)  # type: ignore[no-any-return]

    return [getattr(op, name)(...) for name in COMBINING], after


@rule()
def concat_of_transposes(op: Ops) -> Law:
    """Concat(Transpose(x, p), Transpose(y, p), ..., axis=a) == Transpose(Concat(x, y, ..., axis=p[a]), p)"""

    def after(m: Match) -> ir.Value:
        m.require(len(m.root.inputs) >= 2, "joins nothing")
        found = list(_same_transposes(m, m.root.inputs))
        perm = found[0][1]
        m.require(all(each == perm for _, each in found), "the inputs are transposed differently")
        (axis,) = normal_axes(m, [int(m.attr("axis"))], len(perm))
        joined = m.op.Concat(*(node.inputs[0] for node, _ in found), axis=perm[axis])
        return m.op.Transpose(joined, perm=perm)  # type: ignore[no-any-return]

    return op.Concat(..., axis=...), after


@rule()
def reduce_of_transpose(op: Ops, x: Var) -> Law:
    """Reduce(Transpose(x, p), axes) == Transpose(Reduce(x, p[axes])) for integers, summed in any order"""

    def after(m: Match) -> ir.Value:
        perm = perm_of(m, m.node("inner"))
        rank = len(perm)
        at_input = m.opset >= (13 if m.root.op_type == "ReduceSum" else 18)
        given = list_of(m, m.root, "axes", 1)
        m.require(m.attr("keepdims") in (0, 1), "keepdims is neither 0 nor 1")
        m.require(0 not in (sure_dims(m.x) or ()), "kernels return odd shapes for tensors without elements")
        m.require(given, "reduces everything or nothing")
        axes = normal_axes(m, given or [], rank)
        moved = sorted(perm[axis] for axis in axes)
        reduced = m.op.copy(m.root, [m.x, moved]) if at_input else m.op.copy(m.root, [m.x], axes=moved)
        if m.attr("keepdims"):
            rest = perm
        else:
            kept = [perm[axis] for axis in range(rank) if axis not in axes]
            rest = [sorted(kept).index(axis) for axis in kept]
        return reduced if _is_still(rest) else m.op.Transpose(reduced, perm=rest)  # type: ignore[no-any-return]

    inner = op.Transpose(x, perm=..., _as="inner")
    exact = [name for name in REDUCE if name in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")]
    forms = [getattr(op, name)(inner, ..., axes=..., keepdims=...) for name in exact]
    return forms, after, dtype_in("x", INTEGERS)


RULES = rules_of(globals())


@dataclass(frozen=True)
class Transpose(RulePass):
    """Merge, cancel and move transposes so that fewer are left."""

    name = "transpose"
    rules = RULES
