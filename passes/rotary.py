"""Rotary position embedding (Su et al. 2021) in the forms that exporters write, as RotaryEmbedding.

    y = x cos + rotate(x) sin          x [B, H, S, D] or [B, S, H, D]

rotate swaps the halves of the last dimension, or (interleaved) the elements of each pair, and negates what comes first.
The operator wants the caches [B, S, D / 2]; exporters compute [.., S, D] with each number twice. Where a Transpose made
[B, H, S, D], the operator runs before it, on [B, S, H * D]: attention then reads that as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelc import ir
from accelc.guards import known_equal
from accelc.pass_base import RulePass
from accelc.pattern import Ops, Term, Var
from accelc.rules import Law, Match, rule, rules_of

from .attention_block import HEADS_LAST, rows
from .attention_masks import length
from .forms import list_of, sure_dims
from .rotary_parts import Span, half, span

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class _Rotation:
    """What is rotated. size: D of the rotated part. whole: the span of x, or of x and what is passed on behind it.

    cos, sin: names of the variables. halved: whether these are [.., D / 2] already.
    """

    size: int
    whole: Span
    interleaved: bool
    cos: str = "c"
    sin: str = "s"
    halved: bool = False


def _adjacent(m: Match, first: Span, second: Span, interleaved: bool) -> Span:
    """The span of which two are the halves, or the even and the odd elements. A miss where they are something else."""
    step, shift = (2, 1) if interleaved else (1, first.count)
    same = first.source is second.source and first.others == second.others and first.count == second.count
    fits = same and second.start == first.start + shift and first.step == second.step == step
    m.require(fits, "the parts that are exchanged are not the halves of one value")
    return Span(first.source, first.start, 1, 2 * first.count, first.others)


def _rotation(m: Match, *, interleaved: bool) -> _Rotation:
    """Of x cos + rotate(x) sin: x as one span, and that rotate is made of its own parts."""
    x = span(m, m.x)
    whole = _adjacent(m, span(m, m.a), span(m, m.b), interleaved)
    m.require(x == whole, "what is multiplied by the cosine is not what is rotated")
    return _Rotation(x.count, x, interleaved)


def _passed(m: Match, value: ir.Value, x: Span) -> Span | None:
    """The span right behind x, where the only use of a result is to be put before it; None otherwise."""
    users = [use.node for use in value.uses()]
    if len(users) != 1 or users[0].op_type != "Concat" or users[0].domain or value.is_graph_output():
        return None
    joined = users[0]
    rank = len(m.dims("x"))
    last = ir.attribute(joined, "axis") in (-1, rank - 1)
    if len(joined.inputs) != 2 or joined.inputs[0] is not value or not last or joined.inputs[1] is None:
        return None
    rest = span(m, joined.inputs[1])
    behind = rest.source is x.source and rest.others == x.others and rest.step == 1
    return rest if behind and rest.start == x.start + x.count else None


# --- the caches ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """heads: the axis of heads, 1 or 2. shape: that of x. batched: whether the caches differ between samples."""

    heads: int
    shape: tuple[ir.Dim, ...]
    batched: bool

    @property
    def length(self) -> ir.Dim:
        """S"""
        return self.shape[3 - self.heads]


def _place(m: Match, rotation: _Rotation, shape: tuple[ir.Dim, ...]) -> _Place:
    """Which dimension of x is which, by what the caches vary along."""
    width = rotation.size // 2 if rotation.halved else rotation.size
    found = []
    for name in (rotation.cos, rotation.sin):
        given = sure_dims(getattr(m, name))
        m.require(given is not None and len(given) <= 4, f"the rank of {name} is not at most 4")
        assert given is not None
        m.require(given[-1:] == (width,), f"{name} is not of size {width}")
        found.append((*(1,) * (4 - len(given)), *given))
    cos, sin = found
    m.require(known_equal(cos[:3], sin[:3]), "cosine and sine are of different shapes")
    batched = cos[0] != 1
    m.require(not batched or known_equal(cos[:1], shape[:1]), "the caches are of another batch size")
    for heads in (1, 2):
        if cos[heads] == 1 and known_equal(cos[3 - heads : 4 - heads], shape[3 - heads : 4 - heads]):
            return _Place(heads, shape, batched)
    return m.fail(f"caches {list(cos)} do not vary along one dimension of {list(shape)}")


def _cache(m: Match, rotation: _Rotation, place: _Place, name: str, *, flat: bool) -> ir.Value:
    """A cache as [B, S, D / 2], or flat as [S, D / 2]."""
    value: ir.Value = getattr(m, name)
    rank = len(ir.dims(value) or ())
    kept = value if rotation.halved else half(m, value, interleaved=rotation.interleaved)
    size = rotation.size // 2
    if place.batched:
        m.require(not flat and rank == 4, "the caches differ between samples")
        made: ir.Value = m.op.Reshape(kept, [0, -1, size])
        return made
    made = m.op.Reshape(kept, [-1, size] if flat else [1, -1, size])
    if flat or place.shape[0] == 1:
        return made
    batch = length(m, place.shape[0], m.x if not rotation.halved else m.a, 0)
    shape = [batch, 1, 1] if isinstance(batch, int) else m.op.Concat(batch, [1, 1], axis=0)
    wide: ir.Value = m.op.Expand(made, shape)
    return wide


# --- the operator ----------------------------------------------------------------------------------------------------


def _built(m: Match, rotation: _Rotation, *, vendor: bool) -> ir.Value:
    """RotaryEmbedding on what is rotated, in the layout that costs no transpose."""
    whole = rotation.whole
    value = m.x if not rotation.halved else m.a
    dtype = value.dtype
    m.require(dtype in _TYPES, f"x is {dtype}")
    assert dtype is not None
    domain, opset = ("com.microsoft", m.opset) if vendor else ("", max(m.opset, 23))
    kernel = m.ctx.allows(domain, "RotaryEmbedding", opset, {"T": dtype})
    m.require(kernel is True, str(kernel))
    for name in (rotation.cos, rotation.sin):
        m.require(m.dtype(name) == dtype, f"{name} is of another type than x")
    shape = sure_dims(value)
    m.require(shape is not None and len(shape) == 4, "x is not of rank 4")
    assert shape is not None
    m.require(rotation.size % 2 == 0 and rotation.size > 0, "the rotated part has no halves")
    m.require(m.opset >= (10 if vendor else 13), f"the operators around it are of opset {m.opset}")
    place = _place(m, rotation, shape)
    caches = [_cache(m, rotation, place, name, flat=vendor) for name in (rotation.cos, rotation.sin)]
    attrs: dict[str, int] = {"interleaved": 1} if rotation.interleaved else {}
    if whole.count != rotation.size:
        attrs["rotary_embedding_dim"] = rotation.size
    inputs = [[0], *caches] if vendor else caches
    exact = whole.count == rotation.size and not rotation.halved
    parts = _Parts(whole, m.x if exact else None)
    return _in_layout(m, parts, place, inputs, attrs, vendor=vendor)


@dataclass(frozen=True)
class _Parts:
    """What the operator reads, as a span and, where it is in the graph, as a value."""

    whole: Span
    value: ir.Value | None


def _in_layout(
    m: Match, parts: _Parts, place: _Place, inputs: list[Any], attrs: dict[str, int], *, vendor: bool
) -> ir.Value:
    build, whole = (m.op.ms if vendor else m.op).RotaryEmbedding, parts.whole
    dtype = whole.source.type
    heads = place.shape[place.heads]
    turned = rows(whole.source) if place.heads == 1 and not whole.others else None
    known = isinstance(heads, int) and heads > 0
    if place.heads == 1 and (turned is None or not known):
        m.require("rotary_embedding_dim" not in attrs or known, "the number of heads is not known")
        if known:
            attrs = {**attrs, "num_heads": heads}  # type: ignore[dict-item]
        made: ir.Value = build(parts.value or whole.cut(m, whole.source), *inputs, **attrs)
        made.type, made.shape = dtype, ir.Shape([*place.shape[:3], whole.count])
        return made
    m.require(known, "the number of heads is not known")
    assert isinstance(heads, int)
    width = heads * whole.count
    piece = whole.cut(m, turned) if turned is not None else parts.value or whole.cut(m, whole.source)
    made = build(m.op.Reshape(piece, [0, 0, width]), *inputs, num_heads=heads, **attrs)
    made.type, made.shape = dtype, ir.Shape([place.shape[0], place.length, width])
    split: ir.Value = m.op.Reshape(made, [0, 0, heads, whole.count])
    if place.heads == 2:
        return split
    back: ir.Value = m.op.Transpose(split, perm=list(HEADS_LAST))
    return back


# --- laws ------------------------------------------------------------------------------------------------------------


def _swapped(op: Ops, a: Var, b: Var) -> Term:
    return op.Concat(op.Neg(b), a, axis=..., _as="turn")


def _swapped_pairs(op: Ops, a: Var, b: Var, t: Var) -> Term:
    first, second = op.Unsqueeze(op.Neg(b), ..., axes=..., _as="one"), op.Unsqueeze(a, ..., axes=..., _as="two")
    return op.Reshape(op.Concat(first, second, axis=..., _as="turn"), t, allowzero=..., _as="joined")


def _rotated(op: Ops, x: Var, turned: Term, c: Var, s: Var, label: str | None = None) -> Any:
    return op.Add(op.Mul(x, c), op.Mul(turned, s), _as=label)


def _require_halves(m: Match) -> None:
    m.require(m.attr("axis", node="turn") in (-1, len(m.dims("x")) - 1), "joined along another axis than the last")


def _require_pairs(m: Match, label: str = "joined") -> None:
    """Pairs are put together along a new last axis, which then becomes one with the axis before it."""
    rank = len(m.dims("a"))
    for each in ("one", "two"):
        m.require(list_of(m, m.node(each), "axes", 1) in ([-1], [rank]), "pairs are not made along a new last axis")
    m.require(m.attr("axis", node="turn") in (-1, rank), "joined along another axis than the last")
    out, inner = sure_dims(m.node(label).outputs[0]), m.dims("a")
    m.require(out is not None and len(out) == rank, "the pairs are not put back into the last axis")
    assert out is not None
    last, before = out[-1], inner[-1]
    fits = isinstance(last, int) and isinstance(before, int) and last == 2 * before
    m.require(fits and known_equal(out[:-1], inner[:-1]), "the pairs are not put back into the last axis")


def _whole(m: Match, *, interleaved: bool) -> _Rotation:
    if interleaved:
        _require_pairs(m)
    else:
        _require_halves(m)
    rotation = _rotation(m, interleaved=interleaved)
    m.require(_passed(m, m.out, rotation.whole) is None, "a part that is passed on is put behind it")
    return rotation


def _partial(m: Match, *, interleaved: bool) -> _Rotation:
    if interleaved:
        _require_pairs(m)
    else:
        _require_halves(m)
    m.require(m.attr("axis") in (-1, len(m.dims("x")) - 1), "joined along another axis than the last")
    rotation = _rotation(m, interleaved=interleaved)
    x = rotation.whole
    rest = _passed(m, m.node("sum").outputs[0], x)
    if rest is None:
        m.fail("what is put behind it is not the rest of the same value")
    whole = Span(x.source, x.start, 1, x.count + rest.count, x.others)
    return _Rotation(rotation.size, whole, interleaved)


@rule(exact=False, shared=True, opset=23)
def rotary_partial(op: Ops, x: Var, a: Var, b: Var, c: Var, s: Var, r: Var) -> Law:
    """Concat(x cos + rotate(x) sin, r) == RotaryEmbedding(Concat(x, r), cos, sin, rotary_embedding_dim=D)"""
    rotated = _rotated(op, x, _swapped(op, a, b), c, s, "sum")
    return op.Concat(rotated, r, axis=...), lambda m: _built(m, _partial(m, interleaved=False), vendor=False)


@rule(exact=False, shared=True, opset=23)
def rotary(op: Ops, x: Var, a: Var, b: Var, c: Var, s: Var) -> Law:
    """x cos + rotate(x) sin == RotaryEmbedding(x, cos, sin)     rotate(x) = [-x_2, x_1]; ai.onnx 23"""
    before = _rotated(op, x, _swapped(op, a, b), c, s)
    return before, lambda m: _built(m, _whole(m, interleaved=False), vendor=False)


@rule(exact=False, shared=True, opset=23)
def rotary_pairs_partial(op: Ops, x: Var, a: Var, b: Var, c: Var, s: Var, r: Var, t: Var) -> Law:
    """Concat(x cos + rotate(x) sin, r) == RotaryEmbedding(Concat(x, r), cos, sin, interleaved=1)     for pairs"""
    rotated = _rotated(op, x, _swapped_pairs(op, a, b, t), c, s, "sum")
    return op.Concat(rotated, r, axis=...), lambda m: _built(m, _partial(m, interleaved=True), vendor=False)


@rule(exact=False, shared=True, opset=23)
def rotary_pairs(op: Ops, x: Var, a: Var, b: Var, c: Var, s: Var, t: Var) -> Law:
    """x cos + rotate(x) sin == RotaryEmbedding(x, cos, sin, interleaved=1)     rotate(x) = [-x_1, x_0, -x_3, ..]"""
    before = _rotated(op, x, _swapped_pairs(op, a, b, t), c, s)
    return before, lambda m: _built(m, _whole(m, interleaved=True), vendor=False)


@rule(exact=False, shared=True, opset=23)
def rotary_parts(op: Ops, a: Var, b: Var, c: Var, s: Var) -> Law:
    """[a cos - b sin, b cos + a sin] == RotaryEmbedding([a, b], cos, sin)     ai.onnx 23"""

    def after(m: Match) -> ir.Value:
        m.require(m.attr("axis") in (-1, len(m.dims("a")) - 1), "joined along another axis than the last")
        whole = _adjacent(m, span(m, m.a), span(m, m.b), False)
        return _built(m, _Rotation(whole.count, whole, False, halved=True), vendor=False)

    first, second = op.Sub(op.Mul(a, c), op.Mul(b, s)), op.Add(op.Mul(b, c), op.Mul(a, s))
    return op.Concat(first, second, axis=...), after


@rule(exact=False, shared=True)
def rotary_vendor(op: Ops, x: Var, a: Var, b: Var, c: Var, s: Var) -> Law:
    """x cos + rotate(x) sin == RotaryEmbedding(x, [0], cos, sin)     com.microsoft, where ai.onnx 23 cannot be"""
    before = _rotated(op, x, _swapped(op, a, b), c, s)
    return before, lambda m: _built(m, _whole(m, interleaved=False), vendor=True)


RULES = rules_of(globals())


@dataclass(frozen=True)
class Rotary(RulePass):
    """Fuse rotary position embedding."""

    name = "rotary"
    exact = False
    rules = RULES
