"""Products and transposes of batches that were merged for them alone."""

from __future__ import annotations

import numpy as np
import pytest

from accelc import ir
from accelc.infer import infer_model
from accelc.passes import heads as p
from accelc.rewrite import Driver
from accelc.testing import check, context, same_numbers, unchanged

HEAD = "(float[2,3,4,5] x) => (float[2,3,5,4] y) "
TURNED = HEAD + "{ y = Transpose <perm = [0, 1, 3, 2]> (x) }"


def turn(
    merge: str = "{6, 4, 5}",
    split: str = "{2, 3, 5, 4}",
    *,
    head: str = HEAD,
    attrs: str = "",
    perm: str = "[0, 2, 1]",
) -> str:
    constants = f"int64[{merge.count(',') + 1}] s = {merge}, int64[{split.count(',') + 1}] t = {split}"
    return (
        f"{head} <{constants}> {{ m = Reshape {attrs} (x, s)  r = Transpose <perm = {perm}> (m)"
        f"  y = Reshape {attrs} (r, t) }}"
    )


@pytest.mark.parametrize("merge", ["{6, 4, 5}", "{-1, 4, 5}"])
@pytest.mark.parametrize("split", ["{2, 3, 5, 4}", "{-1, 3, 5, 4}", "{2, -1, 5, 4}"])
def test_transpose_merged(merge: str, split: str) -> None:
    check(p.transpose_merged, turn(merge, split), TURNED)
    check(p.transpose_merged, turn(merge, split, attrs="<allowzero = 1>"), TURNED)


SYMBOLS = "(float[B,3,S,5] x) => (float[B,3,5,S] y) "


def dynamic(split: str, merge: str = "Concat <axis = 0> (minus, s, five)") -> str:
    """Shapes put together from those of x."""
    return (
        f"{SYMBOLS} <int64[1] minus = {{-1}}, int64[1] three = {{3}}, int64[1] five = {{5}}, int64[1] at = {{2}}> {{"
        f" shape = Shape(x)  s = Gather(shape, at)  b = Shape <start = 0, end = 1> (x)  st = {merge}"
        f" m = Reshape(x, st)  r = Transpose <perm = [0, 2, 1]> (m)  sp = {split}  y = Reshape(r, sp) }}"
    )


@pytest.mark.parametrize("first", ["b", "minus"])
def test_transpose_merged_with_symbols(first: str) -> None:
    source = dynamic(f"Concat <axis = 0> ({first}, three, five, s)")
    wanted = SYMBOLS + "{ y = Transpose <perm = [0, 1, 3, 2]> (x) }"
    check(p.transpose_merged, source, wanted)
    check(p.transpose_merged, source, wanted, x=np.arange(210, dtype=np.float32).reshape(2, 3, 7, 5))


def test_transpose_merged_in_another_way() -> None:
    unchanged(p.transpose_merged, turn("{6, 5, 4}", "{2, 3, 4, 5}"), reason="becomes [6, 5, 4]")
    unchanged(p.transpose_merged, turn("{2, 12, 5}", "{2, 5, 3, 4}"), reason="becomes [2, 12, 5]")
    unchanged(p.transpose_merged, turn(split="{3, 2, 5, 4}"), reason="is split into")
    unchanged(p.transpose_merged, turn(split="{2, 3, 4, 5}"), reason="is split into")
    unchanged(p.transpose_merged, turn(split="{2, 15, 4}"), reason="another rank")
    unchanged(p.transpose_merged, turn(split="{6, 5, 4}"), reason="another rank")
    unchanged(
        p.transpose_merged,
        turn("{6, 4, 5}", "{4, 6, 5, 1}", perm="[1, 0, 2]", head="(float[2,3,4,5] x) => (float[4,6,5,1] y)"),
    )
    unchanged(
        p.transpose_merged,
        turn("{6, 4, 5}", "{2, 3, 5, 4}", head="(float[6,20] x) => (float[2,3,5,4] y)"),
        reason="not merged from 4",
    )


def test_a_zero_that_copies_is_no_size() -> None:
    """With allowzero = 0 a 0 is the dimension in the same place, which is another one here."""
    unchanged(p.transpose_merged, turn(split="{0, 3, 5, 4}"), reason="is split into")
    unchanged(p.transpose_merged, turn(merge="{6, 4, 0}"), reason="becomes")
    empty = "(float[2,3,0,5] x) => (float[2,3,5,0] y) "
    unchanged(
        p.transpose_merged, turn("{6, 0, 5}", "{2, 3, 5, 0}", head=empty, attrs="<allowzero = 1>"), reason="empty"
    )


def test_symbols_that_are_not_told_apart() -> None:
    unchanged(p.transpose_merged, dynamic("Concat <axis = 0> (minus, three, s, five)"), reason="is split into")
    unchanged(
        p.transpose_merged,
        "(float[B,3,S,5] x, int64[3] st) => (float[B,3,5,S] y) <int64[1] minus = {-1}, int64[1] three = {3}, "
        "int64[1] five = {5}, int64[1] at = {2}> { shape = Shape(x)  s = Gather(shape, at)  m = Reshape(x, st)"
        "  r = Transpose <perm = [0, 2, 1]> (m)  sp = Concat <axis = 0> (minus, three, five, s)  y = Reshape(r, sp) }",
        reason="becomes",
    )


# --- products --------------------------------------------------------------------------------------------------------

PRODUCT = "(float[2,3,4,5] x, float[2,3,5,6] y) => (float[2,3,4,6] z) "
SHAPES = {"s": "{6, 4, 5}", "t": "{6, 5, 6}", "u": "{2, 3, 4, 6}"}


def product(head: str = PRODUCT, *, turned: bool = False, **changed: str) -> str:
    shapes = {**SHAPES, **changed}
    constants = ", ".join(f"int64[{each.count(',') + 1}] {name} = {each}" for name, each in shapes.items())
    right = "b0 = Reshape(y, t)  b = Transpose <perm = [0, 2, 1]> (b0)" if turned else "b = Reshape(y, t)"
    return f"{head} <{constants}> {{ a = Reshape(x, s)  {right}  c = MatMul(a, b)  z = Reshape(c, u) }}"


@pytest.mark.parametrize("s", ["{6, 4, 5}", "{-1, 4, 5}"])
@pytest.mark.parametrize("u", ["{2, 3, 4, 6}", "{-1, 3, 4, 6}", "{2, -1, 4, 6}"])
def test_matmul_merged(s: str, u: str) -> None:
    check(p.matmul_merged, product(s=s, u=u), PRODUCT + "{ z = MatMul(x, y) }")


def test_matmul_merged_and_turned() -> None:
    head = PRODUCT.replace("2,3,5,6", "2,3,6,5")
    wanted = head + "{ t = Transpose <perm = [0, 1, 3, 2]> (y)  z = MatMul(x, t) }"
    check(p.matmul_merged, product(head, turned=True, t="{6, 6, 5}"), wanted)


def test_matmul_merged_in_another_way() -> None:
    unchanged(p.matmul_merged, product(PRODUCT.replace("y)", "y)").replace("2,3,5,6", "3,2,5,6")), reason="batches")
    unchanged(p.matmul_merged, product(u="{3, 2, 4, 6}"), reason="is split into")
    unchanged(p.matmul_merged, product(u="{2, 12, 6}"), reason="another rank")
    unchanged(p.matmul_merged, product(u="{2, 3, 6, 4}"), reason="is split into")
    square = "(float[2,3,4,4] x, float[2,3,4,4] y) => (float[2,3,4,4] z) "
    unchanged(p.matmul_merged, product(square, s="{2, 12, 4}", t="{2, 4, 12}", u="{2, 3, 4, 12}"), reason="becomes")
    unchanged(
        p.matmul_merged,
        product("(float[6,20] x, float[2,3,5,6] y) => (float[2,3,4,6] z) "),
        reason="x is not merged from 4",
    )
    unchanged(
        p.matmul_merged,
        product("(float[2,3,4,5] x, float[6,30] y) => (float[2,3,4,6] z) "),
        reason="y is not merged from 4",
    )


def test_matmul_merged_and_scaled() -> None:
    """A factor on either side or on the product stays where it is; merges that others use stay as well."""
    source = (
        PRODUCT + "<int64[3] s = {6, 4, 5}, int64[3] t = {6, 5, 6}, int64[4] u = {2, 3, 4, 6}, float f = {3.0}> {"
        " a = Reshape(x, s)  b0 = Reshape(y, t)  b = Div(b0, f)  c = MatMul(a, b)  z = Reshape(c, u) }"
    )
    check(p.matmul_merged, source, PRODUCT + "<float f = {3.0}> { b = Div(y, f)  z = MatMul(x, b) }")
    both = source.replace("z) ", "z, float[6,4,5] w) ").replace("z = Reshape(c, u)", "z = Reshape(c, u)  w = Neg(a)")
    check(p.matmul_merged, both, ["Reshape", "Neg", "Div", "MatMul"])
    wide = source.replace("float f = {3.0}", "float[6] f = {1, 2, 3, 4, 5, 6}")
    unchanged(p.matmul_merged, wide, reason="not scaled by a constant of one element")
    used = source.replace("z) ", "z, float[6,5,6] w) ").replace("z = Reshape(c, u)", "z = Reshape(c, u)  w = Neg(b)")
    unchanged(p.matmul_merged, used, reason="used elsewhere")
    shown = source.replace("z) ", "z, float[6,4,6] c) ")
    unchanged(p.matmul_merged, shown, reason="used elsewhere")


# --- sums ------------------------------------------------------------------------------------------------------------

SUM = "(float[2,3,4,5] x, float[2,3,5,6] y, float[6,4,6] w) => (float[2,3,4,6] z) "


def summed(head: str = SUM, scale: str = "", u: str = "{2, 3, 4, 6}", rest: str = "d = Add(c, w)") -> str:
    constants = f"int64[3] s = {{6, 4, 5}}, int64[3] t = {{6, 5, 6}}, int64[{u.count(',') + 1}] u = {u}"
    product = "c0 = MatMul(a, b)  c = Mul(c0, f)" if scale else "c = MatMul(a, b)"
    extra = f", float f = {{{scale}}}" if scale else ""
    return (
        f"{head} <{constants}{extra}> {{ a = Reshape(x, s)  b = Reshape(y, t)  {product}  {rest}  z = Reshape(d, u) }}"
    )


def test_sum_merged() -> None:
    check(p.sum_merged, summed(), ["MatMul", "Reshape", "Add"])
    check(p.sum_merged, summed(rest="d = Add(w, c)"), ["MatMul", "Reshape", "Add"])
    check(p.sum_merged, summed(u="{-1, 3, 4, 6}"), ["MatMul", "Reshape", "Add"])
    check(p.sum_merged, summed(scale="0.5"), ["MatMul", "Mul", "Reshape", "Add"])
    rows = summed(SUM.replace("[6,4,6]", "[6,1,6]"), scale="0.5")
    check(p.sum_merged, rows, ["MatMul", "Mul", "Slice", "Slice", "Concat", "Reshape", "Add"])


def test_sum_of_something_else() -> None:
    unchanged(p.sum_merged, summed(SUM.replace("[6,4,6]", "[1,4,6]")), reason="is not of batch size 6")
    unchanged(p.sum_merged, summed(SUM.replace("[6,4,6]", "[6,4,1]")), reason="varies along other columns")
    unchanged(p.sum_merged, summed(SUM.replace("[6,4,6]", "[4,6]")), reason="not of rank 3")
    unchanged(p.sum_merged, summed(u="{3, 2, 4, 6}"), reason="is split into")
    unchanged(p.sum_merged, summed(rest="d = Add(w, w)"), reason="no summand is a product")
    shown = summed(SUM.replace("z)", "z, float[6,4,6] d)"))
    unchanged(p.sum_merged, shown, reason="the sum is used elsewhere")


def test_the_pass_keeps_numbers_of_a_whole_block() -> None:
    """Scores and context of two products, as sizes that differ from each other."""
    source = (
        "(float[B,3,S,5] q, float[B,3,S,5] k, float[B,3,S,5] v) => (float[B,3,S,5] y) "
        "<float[B,3,S,S] p4, int64[1] minus = {-1}, int64[1] three = {3}, int64[1] five = {5}, int64[1] at = {2}> {"
        " shape = Shape(q)  s = Gather(shape, at)  m = Concat <axis = 0> (minus, s, five)"
        " qm = Reshape(q, m)  km = Reshape(k, m)  kt = Transpose <perm = [0, 2, 1]> (km)  s0 = MatMul(qm, kt)"
        " four = Concat <axis = 0> (minus, three, s, s)  s4 = Reshape(s0, four)  p4 = Softmax <axis = -1> (s4)"
        " back = Concat <axis = 0> (minus, s, s)  p3 = Reshape(p4, back)  vm = Reshape(v, m)  o3 = MatMul(p3, vm)"
        " out = Concat <axis = 0> (minus, three, s, five)  y = Reshape(o3, out) }"
    )
    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    infer_model(model)
    assert Driver(p.RULES).run(model, context()) == 2
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("MatMul") == 2
    assert "Reshape" not in kinds
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (2, 7)):
        feeds = {name: rng.standard_normal((batch, 3, length, 5)).astype(np.float32) for name in "qkv"}
        same_numbers(before, ir.to_proto(model).SerializeToString(), feeds, exact=True)
