"""Rotary embedding in the forms that exporters write: fused with the same numbers, and what only looks like it."""

# ruff: noqa: E501 - a line of a graph stays a line

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from accelc import ir
from accelc.context import Context
from accelc.infer import infer_model
from accelc.passes import rotary as p
from accelc.pipeline import Pipeline
from accelc.plugins import find_backend
from accelc.rewrite import Driver
from accelc.testing import check, context, same_numbers, unchanged

HEADS, SIZE = 3, 8


@dataclass(frozen=True)
class Form:
    """How x [B, H, S, 8] is rotated.

    layout: heads (before the sequence), last (behind it) or turned (a Transpose of [B, S, H, D]). parts: slices, split
    or pairs (interleaved). tables: computed (from positions, halves joined), constant, gathered or batched (by position
    ids of each sample). rest: how many elements behind the rotated part are passed on.
    """

    layout: str = "heads"
    parts: str = "slices"
    tables: str = "computed"
    rest: int = 0
    opset: int = 18
    kind: str = "float"


def cut(name: str, source: str, first: int, end: int, step: int = 1) -> str:
    lines = [f"{name}_{i} = Constant <value_ints = [{n}]> ()" for i, n in enumerate((first, end, 3, step))]
    return "  ".join(lines) + f"  {name} = Slice({source}, {name}_0, {name}_1, {name}_2, {name}_3)"


def tables(form: Form) -> list[str]:
    """c and s, [1 or B, 1, S, 8] (or [.., S, 1, 8] where heads are last)."""
    pairs = form.parts == "pairs"
    axis = "2" if form.layout == "last" else "1"
    half = [1.0, 0.3, 0.1, 0.05]
    numbers = [each for each in half for _ in range(2)] if pairs else half * 2
    place = f"place = Constant <value_ints = [{axis}]> ()"
    if form.tables == "constant":
        made = []
        for name, function in (("c", np.cos), ("s", np.sin)):
            table = function(np.outer(np.arange(5), numbers)).astype(np.float32).reshape(-1)
            shape = "1,5,1,8" if form.layout == "last" else "1,1,5,8"
            made.append(f"{name} = Constant <value = float[{shape}] {{{', '.join(f'{n:.6f}' for n in table)}}}> ()")
        return made
    ids = {
        "computed": "zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  near = Constant <value_ints"
        " = [0]> ()  length0 = Squeeze(length, near)  r = Range(zero, length0, one)  ends = Constant <value_ints ="
        " [0, 2]> ()  at = Unsqueeze(r, ends)",
        "batched": "last = Constant <value_ints = [2]> ()  at = Unsqueeze(ids, last)",
    }
    if form.tables == "gathered":
        table = ", ".join(f"{n:.6f}" for n in np.outer(np.arange(9), numbers).reshape(-1))
        angles = [f"table = Constant <value = float[9,8] {{{table}}}> ()", "angle = Gather(table, ids)"]
    else:
        steps = f"steps = Constant <value = float[4] {{{', '.join(map(str, half))}}}> ()"
        angles = [ids[form.tables], "at_f = Cast <to = 1> (at)", steps, "f = Mul(at_f, steps)"]
        if pairs:
            back = "Constant <value_ints = [0, 0, 8]> ()"
            angles += [
                "ll = Constant <value_ints = [-1]> ()",
                "fu = Unsqueeze(f, ll)",
                "fc = Concat <axis = -1> (fu, fu)",
            ]
            angles += [f"fs = {back}", "angle = Reshape(fc, fs)"]
        else:
            angles.append("angle = Concat <axis = -1> (f, f)")
    if form.kind == "float16":
        ends = ["c1 = Cast <to = 10> (c0)", "s1 = Cast <to = 10> (s0)"]
    else:
        ends = ["c1 = Identity(c0)", "s1 = Identity(s0)"]
    return [
        *angles,
        "c0 = Cos(angle)",
        "s0 = Sin(angle)",
        *ends,
        place,
        "c = Unsqueeze(c1, place)",
        "s = Unsqueeze(s1, place)",
    ]


def text(form: Form) -> str:
    width = SIZE + form.rest
    length = "5" if form.tables == "constant" else "S"
    shape = f"B,{length},{HEADS},{width}" if form.layout != "heads" else f"B,{HEADS},{length},{width}"
    result = f"B,{length},{HEADS},{width}" if form.layout == "last" else f"B,{HEADS},{length},{width}"
    body = [
        "length = Shape <start = 1, end = 2> (x)"
        if form.layout != "heads"
        else "length = Shape <start = 2, end = 3> (x)"
    ]
    body += tables(form)
    body.append("z = Transpose <perm = [0, 2, 1, 3]> (x)" if form.layout == "turned" else "z = Identity(x)")
    body.append(cut("t", "z", 0, SIZE) if form.rest else "t = Identity(z)")
    if form.parts == "slices":
        body += [cut("a", "t", 0, 4), cut("b", "t", 4, 2**31 - 1), "n = Neg(b)", "turn = Concat <axis = -1> (n, a)"]
    elif form.parts == "split":
        body += ["a, b = Split <axis = -1, num_outputs = 2> (t)", "n = Neg(b)", "turn = Concat <axis = -1> (n, a)"]
    else:
        body += [cut("a", "t", 0, 2**31 - 1, 2), cut("b", "t", 1, 2**31 - 1, 2), "n = Neg(b)"]
        body += ["l = Constant <value_ints = [-1]> ()", "na = Unsqueeze(n, l)", "aa = Unsqueeze(a, l)"]
        body += ["both = Concat <axis = -1> (na, aa)", "back = Constant <value_ints = [0, 0, 0, 8]> ()"]
        body += ["turn = Reshape(both, back)"]
    body += ["m0 = Mul(t, c)", "m1 = Mul(turn, s)"]
    if form.rest:
        body += ["y0 = Add(m0, m1)", cut("rest", "z", SIZE, 2**31 - 1), "y = Concat <axis = -1> (y0, rest)"]
    else:
        body += ["y = Add(m0, m1)"]
    inputs = [f"{form.kind}[{shape}] x"]
    if form.tables in ("gathered", "batched"):
        inputs.append("int64[B,S] ids")
    lines = "\n  ".join(body)
    return (
        f'<ir_version: 8, opset_import: ["": {form.opset}, "com.microsoft": 1]>\n'
        f"rotated ({', '.join(inputs)}) => ({form.kind}[{result}] y) {{\n  {lines}\n}}"
    )


LEVEL = Pipeline.parse("O1, rotary, O1")


def fused(form: Form, ctx: Context | None = None) -> tuple[ir.Model, Counter[str]]:
    model = ir.parse(text(form))
    LEVEL.run(model, ctx or context())
    return model, Counter(node.op_type for node in model.graph)


def same(form: Form, model: ir.Model) -> None:
    before, after = (ir.to_proto(each).SerializeToString() for each in (ir.parse(text(form)), model))
    rng = np.random.default_rng(0)
    for batch, length in ((1, 5), (2, 5)) if form.tables == "constant" else ((1, 1), (2, 5), (3, 1), (1, 7), (2, 0)):
        order = (batch, HEADS, length) if form.layout == "heads" else (batch, length, HEADS)
        x = rng.standard_normal((*order, SIZE + form.rest)).astype(form.kind.replace("float", "float32")[:7])
        feeds: dict[str, Any] = {"x": x.astype(np.float16 if form.kind == "float16" else np.float32)}
        if form.tables in ("gathered", "batched"):
            feeds["ids"] = rng.integers(0, 9, (batch, length))
        same_numbers(before, after, feeds, exact=False)


FORMS = {
    "slices": Form(),
    "split": Form(parts="split"),
    "pairs": Form(parts="pairs"),
    "heads last": Form(layout="last"),
    "heads last, pairs": Form(layout="last", parts="pairs"),
    "turned": Form(layout="turned"),
    "turned, split": Form(layout="turned", parts="split"),
    "turned, pairs": Form(layout="turned", parts="pairs"),
    "constant tables": Form(tables="constant"),
    "constant tables, pairs": Form(tables="constant", parts="pairs", layout="last"),
    "gathered": Form(tables="gathered", layout="turned"),
    "gathered, pairs": Form(tables="gathered", layout="last", parts="pairs"),
    "positions of each sample": Form(tables="batched", layout="turned"),
    "positions of each sample, pairs": Form(tables="batched", parts="pairs"),
    "in part": Form(rest=4),
    "in part, turned": Form(rest=4, layout="turned"),
    "in part, pairs": Form(rest=2, layout="last", parts="pairs"),
    "half precision": Form(kind="float16"),
    "opset 23": Form(opset=23),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_is_fused_and_computes_the_same(form: Form) -> None:
    model, left = fused(form)
    assert left["RotaryEmbedding"] == 1, left
    assert not left["Neg"]
    assert not left["Slice"]
    same(form, model)


def test_where_the_opset_cannot_be_raised_the_vendor_operator_takes_its_place() -> None:
    model = ir.parse(text(Form(layout="turned")))
    Pipeline.parse("O1").run(model, context())
    assert Driver([p.rotary_vendor]).run(model, context()) == 1
    (node,) = [each for each in model.graph if each.op_type == "RotaryEmbedding"]
    assert node.domain == "com.microsoft"
    same(Form(layout="turned"), model)


def test_portable_takes_no_vendor_operator() -> None:
    model, left = fused(Form(), context(portable=True))
    assert left["RotaryEmbedding"] == 1
    assert not [node for node in model.graph if node.domain]


def test_cuda_has_the_operator() -> None:
    _, left = fused(Form(layout="turned"), context(target=find_backend("cuda")().target()))
    assert left["RotaryEmbedding"] == 1


def test_old_opsets_take_the_vendor_operator() -> None:
    """Operators that are copied keep the form of the model's opset, which would be wrong for the raised one."""
    old = '<ir_version: 8, opset_import: ["": 12, "com.microsoft": 1]> g '
    constants = ", ".join(f"int64[1] {name} = {{{NUMBERS[name]}}}" for name in ("zero", "middle", "end", "three"))
    source = re.sub(r" \w+ = Constant <value_ints = \[\d+\]> \(\) ?", " ", halves()).replace(
        "{", f"<{constants}> {{", 1
    )
    unchanged(p.rotary, old + source, reason="of opset 12")
    check(p.rotary_vendor, old + source, ["Reshape", "Reshape", "RotaryEmbedding"])


def test_double_has_no_kernel() -> None:
    source = halves().replace("float[", "double[")
    unchanged(p.rotary, source, reason="x is DOUBLE")
    unchanged(p.rotary_vendor, source, reason="x is DOUBLE")


def test_heads_before_which_a_transpose_stands_need_none() -> None:
    """The operator reads [B, S, H * D], and what reads the result finds the Transpose right behind it."""
    model, left = fused(Form(layout="turned"))
    assert left["Transpose"] == 1
    (node,) = [each for each in model.graph if each.op_type == "RotaryEmbedding"]
    assert ir.attribute(node, "num_heads") == HEADS


# --- each rule -------------------------------------------------------------------------------------------------------

NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "middle": 4, "end": 8, "all": 12}
TURN = (
    "a = Slice(x, zero, middle, three)  b = Slice(x, middle, end, three)  n = Neg(b)  t = Concat <axis = -1> (n, a)\n"
)
PAIRS = (
    "a = Slice(x, zero, end, three, two)  b = Slice(x, one, end, three, two)  n = Neg(b)  l = Constant <value_ints = [-1]> ()"
    "  na = Unsqueeze(n, l)  aa = Unsqueeze(a, l)  both = Concat <axis = -1> (na, aa)"
    "  back = Constant <value_ints = [2, 3, 5, 8]> ()  t = Reshape(both, back)\n"
)
TWICE = "c = Concat <axis = -1> (f, f)  s = Concat <axis = -1> (g, g)\n"
TWO = (
    "lt = Constant <value_ints = [-1]> ()  fu = Unsqueeze(f, lt)  gu = Unsqueeze(g, lt)  fc = Concat <axis = -1> (fu, fu)"
    "  gc = Concat <axis = -1> (gu, gu)  cs = Constant <value_ints = [1, 1, 5, 8]> ()  c = Reshape(fc, cs)"
    "  s = Reshape(gc, cs)\n"
)
TILED = (
    "new = Constant <value_ints = [0, 1, 4]> ()  fu = Unsqueeze(f, new)  gu = Unsqueeze(g, new)"
    "  times = Constant <value_ints = [1, 1, 1, 1, 2]> ()  ft = Tile(fu, times)  gt = Tile(gu, times)"
    "  cs = Constant <value_ints = [1, 1, 5, 8]> ()  c = Reshape(ft, cs)  s = Reshape(gt, cs)\n"
)


def halves(
    *,
    x: str = "float[2,3,5,8] x",
    caches: str = "float[1,1,5,4] f, float[1,1,5,4] g",
    y: str = "float[2,3,5,8] y",
    turn: str = TURN,
    twice: str = TWICE,
    end: str = "m = Mul(x, c)  k = Mul(t, s)  y = Add(m, k)",
) -> str:
    body = f"{turn}{twice}{end}"
    used = [name for name in NUMBERS if re.search(rf"\b{name}\b", body)]
    cuts = "  ".join(f"{name} = Constant <value_ints = [{NUMBERS[name]}]> ()" for name in used)
    return f"({x}, {caches}) => ({y}) {{ {cuts}\n{body} }}"


PART = {
    "x": "float[2,3,5,12] w",
    "y": "float[2,3,5,12] y",
    "end": "m = Mul(x, c)  k = Mul(t, s)  z = Add(m, k)  r = Slice(w, end, all, three)  y = Concat <axis = -1> (z, r)",
}
FIRST = "x = Slice(w, zero, end, three)  "


def fuses(rule: Any, source: str) -> None:
    """The rule fires once, and computes the same."""
    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    infer_model(model)
    assert Driver([rule]).run(model, context()) == 1
    kinds = Counter(node.op_type for node in model.graph)
    assert kinds["RotaryEmbedding"] == 1
    assert not kinds["Neg"]
    rng = np.random.default_rng(0)
    feeds = {
        str(value.name): rng.standard_normal([int(each or 0) for each in ir.dims(value) or ()]).astype(np.float32)
        for value in ir.parse(source).graph.inputs
    }
    same_numbers(before, ir.to_proto(model).SerializeToString(), feeds, exact=False)


BUILT = ["Reshape", "Expand", "Reshape", "Expand", "RotaryEmbedding"]


def test_rotary() -> None:
    check(p.rotary, halves(), BUILT)
    check(p.rotary, halves(x="float[1,3,5,8] x", y="float[1,3,5,8] y"), ["Reshape", "Reshape", "RotaryEmbedding"])
    batched = halves(caches="float[2,1,5,4] f, float[2,1,5,4] g")
    check(p.rotary, batched, ["Reshape", "Reshape", "RotaryEmbedding"])
    last = halves(caches="float[1,3,1,4] f, float[1,3,1,4] g")
    check(p.rotary, last, [*BUILT, "Reshape", "Reshape"])


def test_rotary_pairs() -> None:
    check(p.rotary_pairs, halves(turn=PAIRS, twice=TWO), BUILT)
    check(
        p.rotary_pairs, halves(turn=PAIRS, twice=TILED, caches="float[5,4] f, float[5,4] g"), ["Unsqueeze"] * 2 + BUILT
    )
    thrice = halves(
        turn=PAIRS, twice=TILED.replace("[1, 1, 1, 1, 2]", "[1, 1, 1, 2, 1]"), caches="float[5,4] f, float[5,4] g"
    )
    unchanged(p.rotary_pairs, thrice, reason="not known to keep")


def test_rotary_partial() -> None:
    check(p.rotary_partial, halves(**PART, turn=FIRST + TURN), BUILT)
    unchanged(p.rotary, halves(**PART, turn=FIRST + TURN), reason="a part that is passed on is put behind it")
    check(p.rotary_pairs_partial, halves(**PART, turn=FIRST + PAIRS, twice=TWO), BUILT)


def test_rotary_vendor() -> None:
    check(p.rotary_vendor, halves(), ["Reshape", "Reshape", "RotaryEmbedding"])
    batched = halves(caches="float[2,1,5,4] f, float[2,1,5,4] g")
    unchanged(p.rotary_vendor, batched, reason="the caches differ between samples")


def parts(end: str = "y = Concat <axis = -1> (u, v)", caches: str = "float[1,1,5,4] f, float[1,1,5,4] g") -> str:
    cuts = "a = Slice(x, zero, middle, three)  b = Slice(x, middle, end, three)\n"
    sums = "ac = Mul(a, f)  bs = Mul(b, g)  u = Sub(ac, bs)  bc = Mul(b, f)  as = Mul(a, g)  v = Add(bc, as)  "
    return halves(turn=cuts, twice=sums, end=end, caches=caches)


def test_rotary_parts() -> None:
    check(p.rotary_parts, parts(), BUILT)


def test_rotary_parts_of_something_else() -> None:
    unchanged(p.rotary_parts, parts("y = Concat <axis = -1> (v, u)"))
    unchanged(
        p.rotary_parts, parts("y = Concat <axis = 2> (u, v)").replace("[2,3,5,8] y", "[2,3,10,4] y"), reason="axis"
    )
    unchanged(p.rotary_parts, parts().replace("Sub(ac, bs)", "Sub(bs, ac)"))
    other = parts().replace("b = Slice(x, middle, end, three)", "b = Slice(x, zero, middle, three)")
    unchanged(p.rotary_parts, other, reason="not the halves of one value")


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "the other half negated": (
        {"turn": TURN.replace("Neg(b)", "Neg(a)").replace("(n, a)", "(n, b)")},
        "not the halves of one value",
    ),
    "halves in order": (
        {"turn": TURN.replace("n = Neg(b)", "n = Neg(a)").replace("(n, a)", "(n, b)")},
        "not the halves",
    ),
    "joined elsewhere": (
        {"turn": TURN.replace("<axis = -1> (n", "<axis = 2> (n"), "x": "float[2,3,4,8] x", "y": "float[2,3,8,8] y"},
        "",
    ),
    "unequal parts": (
        {"turn": TURN.replace("zero, middle", "zero, two").replace("middle, end", "two, end")},
        "not the halves of one value",
    ),
    "parts of another value": (
        {"x": "float[2,3,5,8] x, float[2,3,5,8] w", "turn": TURN.replace("(x,", "(w,")},
        "is not what is rotated",
    ),
    "different halves of the cosine": ({"twice": TWICE.replace("(f, f)", "(f, g)")}, ""),
    "halves of the sine joined elsewhere": (
        {
            "twice": "c = Concat <axis = -1> (f, f)  s = Concat <axis = 2> (h, h)\n",
            "caches": "float[1,1,4,4] f, float[1,1,2,8] h",
            "x": "float[2,3,4,8] x",
            "y": "float[2,3,4,8] y",
        },
        "",
    ),
    "caches for each head": ({"caches": "float[1,3,5,4] f, float[1,3,5,4] g"}, "do not vary along one dimension"),
    "caches that are unlike": ({"caches": "float[1,1,5,4] f, float[1,1,1,4] g"}, "of different shapes"),
    "caches without positions": ({"caches": "float[1,1,1,4] f, float[1,1,1,4] g"}, "do not vary along one dimension"),
    "caches that are inputs": (
        {"caches": "float[1,1,5,8] c, float[1,1,5,8] s", "twice": ""},
        "not known to hold each number twice",
    ),
    "cosine of pairs": ({"twice": TWO}, ""),
    "samples that differ": (
        {"caches": "float[N,1,5,4] f, float[N,1,5,4] g", "y": "float[2,3,5,8] y"},
        "another batch size",
    ),
    "a step": ({"turn": TURN.replace("zero, middle, three)", "zero, end, three, two)")}, "not the halves"),
    "rank 3": (
        {
            "x": "float[3,5,8] x",
            "y": "float[3,5,8] y",
            "caches": "float[1,5,4] f, float[1,5,4] g",
            "turn": TURN.replace("three)", "two)"),
        },
        "not of rank 4",
    ),
}


@pytest.mark.parametrize(("changed", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_only_looks_like_it(changed: dict[str, str], reason: str) -> None:
    source = halves(**changed)
    unchanged(p.rotary, source, reason=reason)
    unchanged(p.rotary_vendor, source)


WRONG_PAIRS: dict[str, tuple[dict[str, str], str]] = {
    "a stack in front": (
        {"turn": PAIRS.replace("<axis = -1> (na", "<axis = 3> (na")},
        "joined along another axis",
    ),
    "halves exchanged": ({"turn": PAIRS.replace("(na, aa)", "(aa, na)")}, ""),
    "cosine of halves": ({"twice": TWICE}, ""),
    "constant cosine of halves": (
        {"twice": "c = Constant <value = float[1,1,1,8] {1, 2, 3, 4, 1, 2, 3, 4}> ()  s = Concat <axis = -1> (g, g)\n"},
        "",
    ),
    "odd parts first": (
        {
            "turn": PAIRS.replace("x, zero, end", "x, ONE, end")
            .replace("x, one, end", "x, zero, end")
            .replace("ONE", "one")
        },
        "not the halves",
    ),
}


@pytest.mark.parametrize(("changed", "reason"), WRONG_PAIRS.values(), ids=WRONG_PAIRS.keys())
def test_pairs_that_only_look_like_it(changed: dict[str, str], reason: str) -> None:
    unchanged(p.rotary_pairs, halves(**{"turn": PAIRS, "twice": TWO, **changed}), reason=reason)


def test_what_is_put_behind_is_the_rest() -> None:
    other = {**PART, "x": "float[2,3,5,12] w, float[2,3,5,12] v"}
    end = PART["end"].replace("Slice(w", "Slice(v")
    unchanged(p.rotary_partial, halves(**{**other, "end": end}, turn=FIRST + TURN), reason="is not the rest")
    twice = {"x": "float[2,3,5,12] v, float[2,3,5,12] w"}
    unchanged(
        p.rotary_pairs_partial,
        halves(**{**PART, **twice, "end": end}, turn=FIRST + PAIRS, twice=TWO),
        reason="is not the rest",
    )
    fuses(p.rotary, halves(**{**other, "end": end}, turn=FIRST + TURN))


@pytest.mark.parametrize("name", ["c", "s"])
def test_a_table_that_differs_in_one_place_stays(name: str) -> None:
    form = replace(FORMS["constant tables"])
    source = text(form)
    start = source.index(f"{name} = Constant")
    spot = source.index("{", start) + 1
    model = ir.parse(source[:spot] + "0.123456" + source[source.index(",", spot) :])
    LEVEL.run(model, context())
    assert "RotaryEmbedding" not in {node.op_type for node in model.graph}
