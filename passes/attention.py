"""Multi-head attention from the operators that exporters write, as the one operator that the target runs fastest.

The three operands keep their layout [B, S, H, D] where Transpose made [B, H, S, D] of it only for the product: the
kernels read it as it is. What the exporters do to the heads before and after is then cancelled by other passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelc import ir
from accelc.guards import known_equal
from accelc.pass_base import RulePass
from accelc.passes.forms import squeeze, unsqueeze
from accelc.pattern import Maybe, Ops, Term, Var
from accelc.rules import Law, Match, rule, rules_of

from .attention_block import HEADS_LAST, Block, read_block, repeated, rows, transposed, unswapped
from .attention_choice import choose
from .attention_masks import added_bias, attention_mask, require_no_overflow
from .attention_projections import projections

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def _weights(op: Ops, scores: Var) -> Term:
    """The softmax of scores as it goes into the last product: behind a guard against rows of NaN, cast, or plain."""
    plain = op.Softmax(scores, axis=..., _as="softmax")
    again = op.Softmax(scores, axis=..., _as="softmax")
    guarded = op.Where(op.IsNaN(plain), 0.0, plain, _as="guard")
    narrowed = op.Cast(again, to=..., _as="narrow")
    return op.any_of(op.Softmax(scores, axis=..., _as="softmax"), guarded, narrowed)


def _read(m: Match) -> Block:
    """The block, and what holds for every kernel."""
    block = read_block(m)
    m.require(m.dtype("v") in _TYPES, f"v is {m.dtype('v')}")
    m.require(block.q.dtype == block.kt.dtype == m.dtype("v"), "q, k and v are of different types")
    m.require(block.wide == m.has("narrow"), "the softmax is cast on one side only")
    back = not m.has("narrow") or m.attr("to", node="narrow") == m.dtype("v").value
    m.require(back, "the softmax is cast to another type than v")
    q, kt, v = (ir.dims(each) or () for each in (block.q, block.kt, m.v))
    same = known_equal(q[:-2], kt[:-2]) and known_equal(q[:-2], v[:-2])
    m.require(same, f"batch and heads of q, k and v are {q[:-2]}, {kt[:-2]} and {v[:-2]}")
    m.require(0 not in (*q, *kt, *v), "there is nothing to attend to, which kernels refuse")
    scores = ir.dims(block.scores) or ()
    widened = _differ(kt[-1:], v[-2:-1]) or (block.masked and _differ(scores, (*q[:-1], kt[-1])))
    m.require(not widened, f"scores {(*q[:-1], kt[-1])} become {scores} by a mask")
    for label in ("softmax", "guard", "narrow"):
        if m.has(label):
            out = m.node(label).outputs[0]
            used = {use.node for use in out.uses()}
            m.require(not out.is_graph_output() and used <= set(m.nodes), f"the weights {out.name} are used elsewhere")
    return block


def _differ(left: Sequence[ir.Dim], right: Sequence[ir.Dim]) -> bool:
    """Whether two shapes are surely different. Exporters give sizes that must agree several symbols."""
    if len(left) != len(right):
        return True
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(left, right, strict=True))


@dataclass(frozen=True)
class _Operands:
    """q, k, v ready for a kernel. heads: (of q, of k and v). flat: [B, S, H * D], else [B, H, S, D].

    added: a leading dimension of 1 was put before heads that are merged with the batch.
    """

    q: ir.Value
    k: ir.Value
    v: ir.Value
    heads: tuple[ir.Dim, ir.Dim]
    flat: bool
    added: bool


def _operands(m: Match, block: Block, *, must_be_flat: bool = False) -> _Operands:
    """The layout that costs no transpose where there is one. A miss where the kernel wants flat and it is not."""
    shape = ir.dims(block.q) or ()
    if len(shape) == 3:
        m.require(not must_be_flat, "heads and batch are one dimension")
        k = unswapped(m, block.kt)
        q, k, v = (unsqueeze(m, each, [0]) for each in (block.q, k, m.v))
        return _Operands(q, k, v, (None, None), flat=False, added=True)
    m.require(len(shape) == 4, f"q has {len(shape)} dimensions")
    if all(_heads(each) == 1 for each in (block.q, block.kt, m.v)):
        return _one_head(m, block)
    few_k, few_v = _repeated_keys(block), repeated(m.v)
    fewer = few_k is not None and few_v is not None and _heads(few_k) == _heads(few_v) is not None and not must_be_flat
    k_rows = rows(few_k) if few_k is not None and fewer else rows(block.kt, swapped=True)
    flat = _flat(m, (rows(block.q), k_rows, rows(few_v if few_v is not None and fewer else m.v)))
    if flat is not None:
        return flat
    k, v = unswapped(m, block.kt), m.v
    if must_be_flat:
        return _flat_queries(m, block, k)
    if fewer and few_k is not None and few_v is not None:
        k, v = few_k, few_v
    return _Operands(block.q, k, v, (None, None), flat=False, added=False)


def _repeated_keys(block: Block) -> ir.Value | None:
    """The k [B, G, T, D] with fewer heads, where it was repeated before it was transposed."""
    found = transposed(block.kt)
    return repeated(found[0]) if found is not None and found[1] == (0, 1, 3, 2) else None


def _flat(m: Match, sources: Sequence[ir.Value | None]) -> _Operands | None:
    """Operands as [B, S, H * D] of these [B, S, H, D] (of q, k and v), where the result goes back to that layout."""
    users = [use.node for use in m.out.uses()]
    back = len(users) == 1 and users[0].op_type == "Transpose" and not m.out.is_graph_output()
    if not back or tuple(ir.attribute(users[0], "perm") or ()) != HEADS_LAST:
        return None
    made: list[ir.Value] = []
    heads: list[ir.Dim] = []
    for source in sources:
        shape = ir.dims(source)
        if shape is None or not isinstance(shape[2], int) or not isinstance(shape[3], int):
            return None
        heads.append(shape[2])
        made.append(m.op.Reshape(source, [0, 0, shape[2] * shape[3]]))
    if heads[1] != heads[2]:
        return None
    q, k, v = made
    return _Operands(q, k, v, (heads[0], heads[1]), flat=True, added=False)


def _heads(value: ir.Value) -> ir.Dim:
    """H of a value [B, H, S, D]."""
    return (ir.dims(value) or (None, None))[1]


def _one_head(m: Match, block: Block) -> _Operands:
    """Operands [B, 1, S, D] without their dimension of heads."""
    q, k, v = (squeeze(m, each, [1]) for each in (block.q, unswapped(m, block.kt), m.v))
    return _Operands(q, k, v, (1, 1), flat=True, added=False)


def _flat_queries(m: Match, block: Block, k: ir.Value) -> _Operands:
    """q as [B, S, H * D], by a transpose that is new, beside k and v as they are."""
    q, heads, size = block.q, m.dims("v")[1], (ir.dims(block.q) or ())[3]
    fits = isinstance(heads, int) and isinstance(size, int)
    same = {_heads(each) for each in (q, block.kt, m.v)} == {heads}
    m.require(fits and same, "the number and size of heads are not known")
    m.require(m.dims("v")[3] == size, "heads of k and v differ in size")
    assert isinstance(heads, int)
    assert isinstance(size, int)
    line = m.op.Reshape(m.op.Transpose(q, perm=list(HEADS_LAST)), [0, 0, heads * size])
    return _Operands(line, k, m.v, (heads, heads), flat=True, added=False)


def _back(m: Match, made: ir.Value, operands: _Operands) -> ir.Value:
    """The result of a kernel in the layout of the product that it replaces."""
    if operands.added:
        return squeeze(m, made, [0])
    if not operands.flat:
        return made
    if operands.heads == (1, 1):
        return unsqueeze(m, made, [1])
    size = m.dims("v")[3]
    result: ir.Value = m.op.Transpose(m.op.Reshape(made, [0, 0, operands.heads[0], size]), perm=list(HEADS_LAST))
    return result


@rule(exact=False, shared=True, opset=23)
def attention(op: Ops, scores: Var, v: Var) -> Law:
    """softmax(scale q kᵀ + mask) v == Attention(q, k, v, mask, scale)     Vaswani et al. 2017; ai.onnx 23"""

    def after(m: Match) -> Any:
        block = _read(m)
        kernel = m.ctx.allows("", "Attention", max(m.opset, 23), {"T1": m.dtype("v"), "T2": m.dtype("v")})
        m.require(kernel is True, str(kernel))
        chosen = choose(m, block)
        m.require(chosen == "Attention", f"{chosen} is faster here")
        mask = attention_mask(m, block)
        operands = _operands(m, block)
        heads = {"q_num_heads": operands.heads[0], "kv_num_heads": operands.heads[1]} if operands.flat else {}
        precision = ir.DataType.FLOAT.value if block.wide else None
        made = m.op.Attention(
            operands.q, operands.k, operands.v, mask, scale=block.scale, softmax_precision=precision, **heads
        )
        return _back(m, made, operands)

    return op.MatMul(_weights(op, scores), v), after


@rule(exact=False, opset=23)
def attention_of_rows(op: Ops, q: Var, k: Var, v: Var, mask: Maybe) -> Law:
    """Attention of q, k, v [B, H, S, D] == Attention of [B, S, H * D]     where all are transposed from and to that"""

    def after(m: Match) -> Any:
        m.require(len(m.dims("q")) == 4, "q has no dimension of heads")
        unused = all(not ir.use_count(each) and not each.is_graph_output() for each in m.root.outputs[1:])
        m.require(unused, "another output than the first is used")
        operands = _flat(m, [rows(each) for each in (m.q, m.k, m.v)])
        if operands is None:
            m.fail("q, k, v or the result are not transposed from [B, S, H, D]")
        inputs = [operands.q, operands.k, operands.v, m["mask"]]
        heads = {"q_num_heads": operands.heads[0], "kv_num_heads": operands.heads[1]}
        return _back(m, m.op.copy(m.root, inputs, outputs=1, **heads), operands)

    return [op.Attention(q, k, v, _any=True), op.Attention(q, k, v, mask, _any=True)], after


@rule(exact=False, shared=True)
def attention_of_projections(op: Ops, scores: Var, v: Var) -> Law:
    """softmax(scale (x Wq)(x Wk)ᵀ + mask) x Wv == Attention(x, [Wq Wk Wv], bias=mask, scale)     com.microsoft"""

    def after(m: Match) -> Any:
        block = _read(m)
        kernel = m.ctx.allows("com.microsoft", "Attention", m.opset, {"T": m.dtype("v")})
        m.require(kernel is True, str(kernel))
        on_cpu = m.ctx.target.provider == "CPUExecutionProvider"
        m.require(on_cpu and choose(m, block) == "Attention", "MultiHeadAttention is taken here")
        made_of = projections(m, block)
        bias, alive = added_bias(m, block)
        made = m.op.ms.Attention(
            made_of.x, made_of.weight, made_of.bias, None, None, bias, num_heads=made_of.heads, scale=block.scale
        )
        shape = ir.dims(made_of.x) or ()
        made.type, made.shape = m.v.type, ir.Shape([*shape[:2], made_of.width])
        operands = _Operands(made, made, made, (made_of.heads, made_of.heads), flat=True, added=False)
        return _back(m, made if alive is None else m.op.Mul(made, alive), operands)

    return op.MatMul(_weights(op, scores), v), after


@rule(exact=False, shared=True)
def multi_head_attention(op: Ops, scores: Var, v: Var) -> Law:
    """softmax(scale q kᵀ + mask) v == MultiHeadAttention(q, k, v, bias=mask, scale)     com.microsoft"""

    def after(m: Match) -> Any:
        block = _read(m)
        kernel = m.ctx.allows("com.microsoft", "MultiHeadAttention", m.opset, {"T": m.dtype("v")})
        m.require(kernel is True, str(kernel))
        chosen = choose(m, block)
        m.require(chosen != "plain", "the plain operators are faster here")
        operands = _operands(m, block, must_be_flat=True)
        m.require(operands.heads[0] == operands.heads[1], "k and v have fewer heads than q")
        bias, alive = added_bias(m, block)
        made = m.op.ms.MultiHeadAttention(
            operands.q, operands.k, operands.v, None, None, bias, num_heads=operands.heads[0], scale=block.scale
        )
        made.type, made.shape = operands.q.type or m.v.type, _flat_shape(m, block)
        return _back(m, made if alive is None else m.op.Mul(made, alive), operands)

    return op.MatMul(_weights(op, scores), v), after


def _flat_shape(m: Match, block: Block) -> ir.Shape:
    """[B, S, H * Dv]"""
    q, v = ir.dims(block.q) or (), m.dims("v")
    heads, size = v[1], v[3]
    width = heads * size if isinstance(heads, int) and isinstance(size, int) else None
    return ir.Shape([q[0], q[2], width])


@rule(exact=False, shared=True)
def softmax_guard(op: Ops, scores: Var, v: Var) -> Law:
    """Where(IsNaN(softmax z), 0, softmax z) v == softmax(z) v     where no mask can be -inf for a whole row"""

    def after(m: Match) -> Any:
        block = read_block(m)
        finite = all(choice.low > -math.inf for choice in block.choices) and not block.biases
        m.require(finite, "a row that is fully masked would become NaN")
        require_no_overflow(m, block)
        return m.op.MatMul(m.node("softmax").outputs[0], m.v)

    softmax = op.Softmax(scores, axis=..., _as="softmax")
    return op.MatMul(op.Where(op.IsNaN(softmax), 0.0, softmax, _as="guard"), v), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Attention(RulePass):
    """Fuse multi-head attention into the operator that runs it fastest on the target."""

    name = "attention"
    exact = False
    rules = RULES
