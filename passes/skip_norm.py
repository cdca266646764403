"""Residual sums, embeddings and biases inside the normalizations that follow, where the target gains by it.

A GPU saves a launch and a pass over memory for each sum. The processor's kernels take two to five times as long as the
operators by themselves, so there nothing is fused (see residual.py, which keeps the runtime from doing it).

A sum that is used elsewhere, too, is the fourth output of the fused operator. Rules replace one node at a time: first
the sum becomes that output, then the normalization of it becomes the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

from accelc import ir, symbolic
from accelc.context import Context
from accelc.guards import dtype_in, kernel, known_equal
from accelc.pass_base import PassResult, RulePass
from accelc.pattern import MICROSOFT, Maybe, Ops, Term, Var
from accelc.rules import Law, Match, rule, rules_of

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_SUM = 3
"""The output of the fused operators that is the sum; between it and the first are two that nobody computes."""
_ROOT_MEAN_SQUARE = ("RMSNormalization", "SimplifiedLayerNormalization")
_FUSED = {
    "LayerNormalization": "SkipLayerNormalization",
    **dict.fromkeys(_ROOT_MEAN_SQUARE, "SkipSimplifiedLayerNormalization"),
}
_MOST_IDS = 2**31 - 1


# --- what a match must fulfil ----------------------------------------------------------------------------------------


def _gains(m: Match) -> bool | str:
    slower = "the processor's kernel is slower than the two operators"
    return m.ctx.target.provider != "CPUExecutionProvider" or slower


def _kernel(m: Match, norm: ir.Node) -> None:
    found = m.ctx.allows(MICROSOFT, _FUSED[norm.op_type], m.opset, {"T": m.dtype("x")})
    m.require(found is True, str(found))


def _require_addends(m: Match) -> tuple[ir.Value, ir.Value]:
    """(input, skip) of the sum x + y: of one shape, or a skip that is repeated over the batch.

    Both are [B,S,H] or [T,H]; a repeated skip is [1,S,H] or [S,H].
    """
    m.require(m.dtype("x") == m.dtype("y"), "the addends have different types")
    left, right = m.dims("x"), m.dims("y")
    m.require(2 <= max(len(left), len(right)) <= 3, "the sum is neither a matrix nor a batch of them")
    if known_equal(left, right):
        return m.x, m.y
    for wide, narrow, order in ((left, right, (m.x, m.y)), (right, left, (m.y, m.x))):
        if len(wide) == 3 and (
            known_equal(wide[1:], narrow) or (narrow[:1] == (1,) and known_equal(wide[1:], narrow[1:]))
        ):
            return order
    return m.fail(f"shapes {list(left)} and {list(right)} of the sum are not surely equal")


def _require_parameters(m: Match, norm: ir.Node, scale: ir.Value, shift: ir.Value | None, total: ir.Value) -> None:
    """The norm is over the last dimension, with parameters of its size and type."""
    rank = len(ir.dims(total) or ())
    axis = int(_attribute(norm, "axis", -1))
    m.require(rank and axis in (-1, rank - 1), "the norm is not over the last dimension alone")
    m.require(int(_attribute(norm, "stash_type", 1)) == 1, "the norm is not computed in float32")
    width = (ir.dims(total) or ())[-1]
    m.require(width != 0, "the normalized dimension is empty")
    for value in (scale, shift):
        if value is not None:
            m.require(isinstance(width, int) and ir.dims(value) == (width,), "a parameter is not one row")
            m.require(value.dtype == m.dtype("x"), "a parameter has another type")


def _attribute(node: ir.Node, name: str, default: float) -> float:
    """An attribute of a norm, whose schema may not be known here."""
    found = ir.attribute(node, name)
    return default if found is None else float(found)


def _epsilon(norm: ir.Node) -> float:
    return _attribute(norm, "epsilon", 1e-5)


def _fused(m: Match, norm: ir.Node, outputs: int) -> Any:
    """The fused operator for a norm of x + y."""
    scale = norm.inputs[1]
    shift = norm.inputs[2] if len(norm.inputs) > 2 else None
    assert scale is not None
    total = norm.inputs[0]
    assert total is not None
    left, right = _require_addends(m)
    _require_parameters(m, norm, scale, shift, total)
    m.require(_epsilon(norm) >= 0, "epsilon is negative")
    _kernel(m, norm)
    parameters = [scale] if norm.op_type in _ROOT_MEAN_SQUARE else [scale, shift]
    build = getattr(m.op.ms, _FUSED[norm.op_type])
    return build(left, right, *parameters, epsilon=_epsilon(norm), _outputs=outputs, _like=total)


# --- sums ------------------------------------------------------------------------------------------------------------


def _norms(op: Ops, x: Term, g: Var, h: Maybe) -> list[Any]:
    return [
        op.LayerNormalization(x, g, h, _as="norm", _any=True),
        *(getattr(op, name)(x, g, _as="norm", _any=True) for name in _ROOT_MEAN_SQUARE),
    ]


@rule(exact=False)
def skip_norm(op: Ops, x: Var, y: Var, g: Var, h: Maybe) -> Law:
    """LayerNormalization(x + y, g, h) == SkipLayerNormalization(x, y, g, h)     RMSNormalization likewise"""

    def after(m: Match) -> Any:
        return _fused(m, m.node("norm"), 1)

    total = op.any_of(op.Add(x, y), op.Sum(x, y))
    return _norms(op, total, g, h), after, _gains, dtype_in("x", _TYPES)


@rule(exact=False)
def skip_norm_sum(op: Ops, x: Var, y: Var) -> Law:
    """x + y, normalized and used elsewhere == fourth output of SkipLayerNormalization(x, y, ...)"""

    def after(m: Match) -> Any:
        norm = _first_norm(m)
        return _fused(m, norm, _SUM + 1)[_SUM]

    return [op.Add(x, y), op.Sum(x, y)], after, _gains, dtype_in("x", _TYPES)


def _first_norm(m: Match) -> ir.Node:
    """The norm of a sum that has other uses."""
    uses = [use.node for use in m.out.uses() if use.idx == 0 and use.node.op_type in _FUSED and not use.node.domain]
    m.require(uses, "no norm takes it")
    norm = uses[0]
    m.require(norm.graph is m.root.graph, "the norm is in an inner graph")
    m.require(m.out.is_graph_output() or ir.use_count(m.out) > 1, "only the norm takes it")
    used = [value for value in norm.outputs[1:] if ir.use_count(value) or value.is_graph_output()]
    m.require(not used, "mean or deviation of the norm are used")
    for value in norm.inputs[1:]:
        # The fused operator stands where the sum stood, before what the norm may still wait for.
        m.require(value is None or value.producer() is None or ir.is_constant(value), "a parameter is computed")
    return norm


@rule(exact=False, shared=True)
def skip_norm_first(op: Ops, x: Var, y: Var, g: Var, h: Maybe, b: Maybe) -> Law:
    """LayerNormalization(fourth output of SkipLayerNormalization(x, y, g, h), g, h) == its first output"""

    def after(m: Match) -> Any:
        skip, norm = m.node("skip"), m.node("norm")
        m.require(skip.op_type == _FUSED[norm.op_type], "the norms are of different kinds")
        same = np.float32(_attribute(skip, "epsilon", 1e-12)) == np.float32(_epsilon(norm))
        m.require(same, "the epsilons differ")
        fits = m.dims("x")[-1:] == m.dims("y")[-1:] == m.dims("g") != (0,)
        m.require(fits, "a parameter is not one row")
        first = skip.outputs[0]
        m.require(not ir.use_count(first) and not first.is_graph_output(), "the first output is taken")
        _require_parameters(m, norm, m.g, m["h"], m.x)
        return first

    skip = op.ms.SkipLayerNormalization(x, y, g, h, b, _output=_SUM, _as="skip", _any=True)
    plain = op.ms.SkipSimplifiedLayerNormalization(x, y, g, b, _output=_SUM, _as="skip", _any=True)
    return [*_norms(op, skip, g, h)[:1], *_norms(op, plain, g, h)[1:]], after


# --- biases ----------------------------------------------------------------------------------------------------------


@rule(exact=False)
def skip_norm_bias(op: Ops, x: Var, y: Var, g: Var, h: Maybe, b: Var) -> Law:
    """SkipLayerNormalization(x + b, y, g, h) == SkipLayerNormalization(x, y, g, h, b)     b is one row"""

    def after(m: Match) -> Any:
        (width,) = m.dims("g")
        m.require(width and m.dims("b") == (width,) == m.dims("x")[-1:] == m.dims("y")[-1:], "b is not one row")
        m.require(ir.is_constant(m.b), "b is not constant")
        m.require(m.dtype("b") == m.dtype("x"), "b has another type")
        inner, outer = m.node("sum").outputs[0], m.root.inputs
        m.require(known_equal(m.dims("x"), ir.dims(inner) or ()), "b widens the sum")
        parts = [m.x if value is inner else value for value in outer[:2]]
        parameters = list(outer[2:3]) if m.root.op_type == _FUSED["RMSNormalization"] else [m.g, m["h"]]
        return m.op.copy(m.root, [*parts, *parameters, m.b])

    biased = op.Add(x, b, _as="sum")
    forms = []
    for first, second in ((biased, y), (y, biased)):
        forms.append(op.ms.SkipLayerNormalization(first, second, g, h, _any=True))
        forms.append(op.ms.SkipSimplifiedLayerNormalization(first, second, g, _any=True))
    return forms, after, dtype_in("x", _TYPES)


# --- embeddings ------------------------------------------------------------------------------------------------------


@rule(exact=False)
def embed_norm(op: Ops, w: Var, i: Var, p: Var, j: Var, g: Var, h: Var) -> Law:
    """LayerNormalization(w[i] + p[j], g, h) == EmbedLayerNormalization(i, w, p, g, h, j)     ids, positions"""

    def after(m: Match) -> Any:
        (ids, words), (positions, table) = _by_rank(m, ("i", "w"), ("j", "p"))
        return _embedded(m, [ids, None, words, table, None], positions)

    total = op.Add(op.Gather(w, i), op.Gather(p, j))
    return (
        op.LayerNormalization(total, g, h, _as="norm", _any=True),
        after,
        _gains,
        kernel("EmbedLayerNormalization", T="w"),
    )


@rule(exact=False)
def embed_norm_segments(op: Ops, w: Var, i: Var, p: Var, j: Var, s: Var, k: Var, g: Var, h: Var) -> Law:
    """LayerNormalization(w[i] + p[j] + s[k], g, h) == EmbedLayerNormalization(i, k, w, p, s, g, h, j)"""

    def after(m: Match) -> Any:
        first, second = _by_rank(m, ("i", "w"), ("j", "p"))
        if m.dims("k") != ir.dims(first[0]) and known_equal(m.dims("j"), m.dims("i")):
            # The operator repeats only positions over the batch.
            (ids, words), (segments, kinds), (positions, table) = first, second, (m.k, m.s)
        else:
            (ids, words), (positions, table), (segments, kinds) = first, second, (m.k, m.s)
        m.require(known_equal(ir.dims(segments) or (), ir.dims(ids) or ()), "segments and ids differ in shape")
        return _embedded(m, [ids, segments, words, table, kinds], positions)

    def gathered(table: Var, ids: Var) -> Any:
        return op.Gather(table, ids)

    total = op.Add(op.Add(gathered(w, i), gathered(p, j)), gathered(s, k))
    return (
        op.LayerNormalization(total, g, h, _as="norm", _any=True),
        after,
        _gains,
        kernel("EmbedLayerNormalization", T="w"),
    )


_Lookup = tuple[ir.Value, ir.Value]
"""(ids [B,S], table [N,H])"""


def _by_rank(m: Match, one: tuple[str, str], other: tuple[str, str]) -> tuple[_Lookup, _Lookup]:
    """Two lookups, the one whose ids vary over the batch first."""
    for name in (one[0], other[0]):
        m.require(len(m.dims(name)) == 2, f"ids {list(m.dims(name))} are not batch by length")
    a, b = ((getattr(m, ids), getattr(m, table)) for ids, table in (one, other))
    return (b, a) if m.dims(one[0])[0] == 1 and m.dims(other[0])[0] != 1 else (a, b)


def _embedded(m: Match, inputs: list[ir.Value | None], positions: ir.Value) -> Any:
    norm = m.node("norm")
    ids, tables = inputs[0], [value for value in inputs[2:] if value is not None]
    total = norm.inputs[0]
    assert ids is not None
    assert total is not None
    width = m.dims("g")
    for table in tables:
        shape = ir.dims(table) or ()
        m.require(
            ir.is_constant(table) and len(shape) == 2 and shape[1:] == width, "a table is not constant, or no matrix"
        )
        m.require(isinstance(shape[0], int) and shape[0] <= _MOST_IDS, "a table has too many rows")
        m.require(table.dtype == m.dtype("g") == m.dtype("h"), "the types differ")
    axis = int(_attribute(norm, "axis", -1))
    m.require(axis in (-1, 2) and m.dims("h") == width, "the norm is not over the last dimension alone")
    m.require(_attribute(norm, "stash_type", 1) == 1, "the norm is not computed in float32")
    length, here = ir.dims(ids) or (), ir.dims(positions) or ()
    fits = known_equal(length[1:], here[1:]) or _counts_along(positions, length[1])
    m.require(fits, "ids and positions differ in length")
    m.require(here[0] == 1 or known_equal(length, here), "ids and positions differ in batch")
    small: dict[ir.Value, ir.Value] = {}
    looked_up = ((ids, inputs[2]), (inputs[1], inputs[4]))
    given = [None if value is None else _small(m, value, table, small) for value, table in looked_up]
    m.require(_pays(m, [*map(_rows, tables)]), "the parts are not known to be slower")
    row = [*given, *inputs[2:], m.g, m.h, None, _small(m, positions, inputs[3], small)]
    made = m.op.ms.EmbedLayerNormalization(*row, epsilon=_epsilon(norm), _outputs=2, _like=total)
    return made[0]


def _counts_along(positions: ir.Value, length: ir.Dim) -> bool:
    """Whether positions are the beginning of a constant [1,N], as many as a dimension has: 0:length along axis 1.

    Where N is not enough the sum of the embeddings fails, before as after.
    """
    node = positions.producer()
    if node is None or node.op_type != "Slice" or not 4 <= len(node.inputs) <= 5 or not isinstance(length, str):
        return False
    data, starts, ends, axes = node.inputs[:4]
    steps = node.inputs[4] if len(node.inputs) > 4 else None
    shape, end = ir.dims(data) or (), ends.producer() if ends is not None else None
    if not ir.is_constant(data) or len(shape) != 2 or shape[0] != 1 or shape[1] == 1 or end is None:
        return False
    if not (_is_only(starts, 0) and _is_only(axes, 1, -1) and (steps is None or _is_only(steps, 1))):
        return False
    first, last = ir.attribute(end, "start", 0), ir.attribute(end, "end")
    counted = (ir.dims(end.inputs[0]) or ())[first:last]
    return end.op_type == "Shape" and counted == (length,)


def _is_only(value: ir.Value | None, *allowed: int) -> bool:
    array = ir.const(value)
    return array is not None and array.size == 1 and int(array.reshape(())) in allowed


def _rows(table: ir.Value) -> int:
    rows = (ir.dims(table) or (0,))[0]
    assert isinstance(rows, int)
    return rows


def _pays(m: Match, rows: list[int]) -> bool:
    """Whether the fused operator is the faster one with what makes its ids fit. Without a measurement it is not."""
    width = m.dims("g")[0]
    if not isinstance(width, int) or not width or m.dtype("g") != ir.DataType.FLOAT:
        return False
    build = partial(_embed_models, rows, width)
    return m.ctx.decide(m.rule.name, f"tables {rows} width {width}", "parts", build) == "fused"


_IDS = 128


def _embed_models(rows: list[int], width: int) -> dict[str, onnx.ModelProto]:
    """The parts and the fused operator on one text, for `Context.decide`."""
    names = ["w", "p", "t"][: len(rows)]
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal((count, width)).astype(np.float32) for name, count in zip(names, rows, strict=True)
    }
    arrays |= {"g": np.ones(width, np.float32), "h": np.zeros(width, np.float32)}
    weights = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    weights += [
        onnx.numpy_helper.from_array(np.array(count, np.int64), f"n_{name}")
        for name, count in zip(names, rows, strict=True)
    ]
    ids = ", ".join(f"int64[1,{_IDS}] i_{name}" for name in names)
    gathered = " ".join(f"a_{name} = Gather({name}, k_{name})" for name in names)
    total = "s = Add(a_w, a_p) " + ("u = Add(s, a_t)" if "t" in names else "u = Identity(s)")
    safe = " ".join(f"k_{name} = Mod(i_{name}, n_{name})" for name in names)
    small = " ".join(f"c_{name} = Cast<to=6>(k_{name})" for name in names)
    kinds = ("c_t", "t") if "t" in names else ("", "")
    fused = (
        f"y, e = com.microsoft.EmbedLayerNormalization<epsilon=1e-5>(c_w, {kinds[0]}, w, p, {kinds[1]}, g, h, , c_p)"
    )
    unsafe = " ".join(f"k_{name} = Identity(i_{name})" for name in names)
    bodies = {
        "parts": f"{unsafe} {gathered} {total} y = LayerNormalization(u, g, h)",
        "fused": f"{safe} {small} {fused}",
    }
    made = {}
    for name, body in bodies.items():
        head = f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> {name}'
        made[name] = onnx.parser.parse_model(f"{head} ({ids}) => (float[1,{_IDS},{width}] y) {{ {body} }}")
        made[name].graph.initializer.extend(weights)
    return made


def _small(m: Match, ids: ir.Value, table: ir.Value | None, known: dict[ir.Value, ir.Value]) -> Any:
    """Ids as int32 from 0 on, as the operator wants them; Gather counts negative ones from the end of the table."""
    assert table is not None
    array = ir.const(ids)
    if array is not None:
        m.require(array.size == 0 or array.min() >= 0, "an id is negative")
        return array.astype(np.int32)
    if ids not in known:
        kind = ids.dtype
        m.require(kind in (ir.DataType.INT32, ir.DataType.INT64), "the ids are no integers")
        m.require(m.opset >= 10, "needs opset 10 for Mod")
        safe = m.op.Mod(ids, np.array(_rows(table), np.int32 if kind == ir.DataType.INT32 else np.int64))
        known[ids] = safe if kind == ir.DataType.INT32 else m.op.Cast(safe, to=ir.DataType.INT32.value)
    return known[ids]


RULES = rules_of(globals())


@dataclass(frozen=True)
class SkipNorm(RulePass):
    """Fuse residual sums, embeddings and biases into the normalizations that follow, where the target gains."""

    name = "skip-norm"
    exact = False
    rules = RULES

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if ctx.target.provider != "CPUExecutionProvider":
            ctx.analysis(symbolic.values, model)  # writes the dimensions it finds into the shapes of inner values
        result = super().run(model, ctx)
        if result.changes:
            for graph in ir.all_graphs(model):
                for node in graph:
                    _drop_unused_outputs(node)
        return result


def _drop_unused_outputs(node: ir.Node) -> None:
    """Leave out outputs that nobody uses: kernels compute the sum only when it is asked for."""
    if node.domain != MICROSOFT or node.op_type not in (*_FUSED.values(), "EmbedLayerNormalization"):
        return
    used = [bool(ir.use_count(value) or value.is_graph_output()) for value in node.outputs]
    least = 2 if node.op_type == "EmbedLayerNormalization" else 1
    last = max([index + 1 for index, each in enumerate(used) if each] + [least])
    if last < len(used):
        node.resize_outputs(last)
    for value, each in zip(node.outputs[1:], used[1:], strict=False):
        if not each and least == 1:
            value.name = ""
