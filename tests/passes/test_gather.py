"""Gathers that fetch everything in order: what they become, and the index arithmetic that is another one."""

# ruff: noqa: E501 - a line of a graph stays a line

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accelc import ir
from accelc.passes import _elements
from accelc.passes import gather as p
from accelc.testing import check, same_numbers, unchanged

COUNT = (
    "zero = Constant <value_int = 0> ()  one = Constant <value_int = 1> ()  two = Constant <value_int = 2> ()\n"
    "rows_n = Gather <axis = 0> (shape, zero)  columns_n = Gather <axis = 0> (shape, one)\n"
)
AXES = "row_axes = Constant <value_ints = [1, 2, 3]> ()  column_axes = Constant <value_ints = [0, 1, 2]> ()\n"


def flat(
    *,
    view: str = "f = Reshape(x, minus)",
    axis: str = "",
    step: str = "columns_n",
    rows: str = "Range(zero, rows_n, one)",
    columns: str = "Range(zero, columns_n, one)",
    row_axes: str = "row_axes",
    column_axes: str = "column_axes",
    head: str = "(float[B,S] x) => (float[B,1,1,S] y) ",
    before: str = "shape = Shape(x)",
    known: str = "int64[B] r, int64[S] c",
) -> str:
    """The lookup of a mask in a flattened matrix, by row times width plus column."""
    return (
        f"{head} <{known}, int64[1] minus = {{-1}}, int64[2] column = {{-1, 1}}> {{ {before}\n{COUNT}{AXES}"
        f"r = {rows}  b = Unsqueeze(r, {row_axes})  c = {columns}  s = Unsqueeze(c, {column_axes})\n"
        f"offset = Mul(b, {step})  index = Add(s, offset)\n{view}\ny = Gather {axis} (f, index) }}"
    )


MATRIX = np.arange(35, dtype=np.float32).reshape(5, 7)


def left(model: ir.Model) -> list[str]:
    """The operators that the outputs depend on, in order."""
    kinds: list[str] = []
    stack = [value.producer() for value in model.graph.outputs]
    while stack:
        node = stack.pop()
        if node is not None and node.op_type not in ("Constant", "Shape", "Range"):
            kinds.append(node.op_type)
            stack.extend(value.producer() for value in node.inputs if value is not None)
    return kinds


def fetches(rule: Any, source: str, wanted: list[str], **feeds: Any) -> None:
    """The rule fires once, what remains computes the same, and it is these operators."""
    from accelc.infer import infer_model
    from accelc.rewrite import Driver
    from accelc.testing import context

    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    infer_model(model)
    assert Driver([rule]).run(model, context()) == 1
    assert left(model) == wanted
    assert Driver([rule]).run(model, context()) == 0
    for each in [feeds] if feeds else [{"x": MATRIX}, {"x": MATRIX[:1]}, {"x": MATRIX[:, :1]}, {"x": MATRIX[:0]}]:
        same_numbers(before, ir.to_proto(model).SerializeToString(), each, exact=True)


@pytest.mark.parametrize("axis", ["", "<axis = 0>", "<axis = -1>"])
def test_gather_flat(axis: str) -> None:
    fetches(p.gather_flat, flat(axis=axis), ["Unsqueeze"])


@pytest.mark.parametrize("axis", ["", "<axis = -2>"])
def test_gather_flat_of_a_column(axis: str) -> None:
    source = flat(view="f = Flatten <axis = 2> (x)", axis=axis, head="(float[B,S] x) => (float[B,1,1,S,1] y) ")
    fetches(p.gather_flat, source, ["Unsqueeze"])


FLAT = (
    "(float[5,7] x) => (float[5,1,1,7] y) <int64[1] minus = {-1}, int64 zero = {0}, int64 one = {1}, int64 five = {5},"
    " int64 seven = {7}, int64[3] p = {1, 2, 3}, int64[3] q = {0, 1, 2}> { r = Range(zero, five, one)  b = Unsqueeze(r, p)"
    " c = Range(zero, seven, one)  s = Unsqueeze(c, q)  offset = Mul(b, seven)  index = Add(s, offset)"
    " f = Reshape(x, minus)  y = Gather(f, index) }"
)


def test_gather_flat_checked() -> None:
    check(p.gather_flat, FLAT, "(float[5,7] x) => (float[5,1,1,7] y) <int64[2] a = {1, 2}> { y = Unsqueeze(x, a) }")


def test_gather_flat_of_the_first_rows() -> None:
    """As many rows as another input has."""
    head = "(float[B,S] x, float[C] z) => (float[C,1,1,S] y) "
    before = "shape = Shape(x)  few = Shape(z)  nothing = Constant <value_ints = [0]> ()  n = Squeeze(few, nothing)"
    source = flat(rows="Range(zero, n, one)", head=head, before=before, known="int64[C] r, int64[S] c")
    fetches(p.gather_flat, source, ["Unsqueeze", "Gather"], x=MATRIX, z=MATRIX[0, :3])
    fetches(p.gather_flat, source, ["Unsqueeze", "Gather"], x=MATRIX, z=MATRIX[0, :0])


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "another step": ({"step": "rows_n"}, "the step is"),
    "a step of two": ({"step": "two"}, "the step is"),
    "rows from one": ({"rows": "Range(one, rows_n, one)"}, "does not count from 0 by 1"),
    "every other column": ({"columns": "Range(zero, columns_n, two)"}, "does not count from 0 by 1"),
    "as many columns as rows": (
        {"columns": "Range(zero, rows_n, one)", "known": "int64[B] r, int64[B] c"},
        "reads past the end of a row",
    ),
    "rows and columns exchanged": (
        {"row_axes": "column_axes", "column_axes": "row_axes", "head": "(float[B,S] x) => (float[S,1,1,B] y) "},
        "varies along another axis",
    ),
    "another axis of a column": (
        {
            "view": "f = Flatten <axis = 2> (x)",
            "axis": "<axis = 1>",
            "step": "columns_n",
            "head": "(float[B,S] x) => (float[K,B,1,1,S] y) ",
        },
        "gathers along another axis",
    ),
    "flattened to a row": (
        {"view": "f = Flatten <axis = 0> (x)", "head": "(float[B,S] x) => (float[B,1,1,S,K] y) "},
        "is flattened to another shape",
    ),
    "another shape": (
        {"view": "f = Reshape(x, column)", "head": "(float[B,S] x) => (float[B,1,1,S,K] y) "},
        "is flattened to another shape",
    ),
    "not a matrix": ({"head": "(float[B,S,2] x) => (float[B,1,1,S] y) "}, "x is not a matrix"),
}


@pytest.mark.parametrize(("changed", "reason"), WRONG.values(), ids=WRONG.keys())
def test_gather_flat_of_something_else(changed: dict[str, str], reason: str) -> None:
    unchanged(p.gather_flat, flat(**changed), reason=reason)


# --- pairs -----------------------------------------------------------------------------------------------------------


def grid(
    *,
    rows: str = "Range(zero, rows_n, one)",
    columns: str = "Range(zero, columns_n, one)",
    shape: str = "rows_1, ones, ones, columns_1",
    pairs: str = "Concat <axis = -1> (p0, p1)",
    axis: str = "[-1]",
    attrs: str = "",
    head: str = "(float[B,S] x) => (float[B,1,1,S] y) ",
    before: str = "shape = Shape(x)",
    known: str = "int64[B] r, int64[S] c, int64[B,1,1,S] be, int64[B,1,1,S] se",
) -> str:
    """The lookup of a mask by pairs of row and column."""
    return (
        f"{head} <{known}> {{ {before}\n{COUNT}{AXES}ones = Constant <value_ints = [1]> ()  twos = Constant <value_ints = [2]> ()\n"
        f"at = Constant <value_ints = {axis}> ()  rows_1 = Shape <start = 0, end = 1> (x)\n"
        f"columns_1 = Shape <start = 1, end = 2> (x)  full = Concat <axis = 0> ({shape})\n"
        f"r = {rows}  b = Unsqueeze(r, row_axes)  c = {columns}  s = Unsqueeze(c, column_axes)\n"
        f"be = Expand(b, full)  se = Expand(s, full)  p0 = Unsqueeze(be, at)  p1 = Unsqueeze(se, at)\n"
        f"index = {pairs}  y = GatherND {attrs} (x, index) }}"
    )


@pytest.mark.parametrize("axis", ["[-1]", "[4]"])
@pytest.mark.parametrize("joined", ["-1", "4"])
def test_gather_grid(axis: str, joined: str) -> None:
    fetches(p.gather_grid, grid(axis=axis, pairs=f"Concat <axis = {joined}> (p0, p1)"), ["Unsqueeze"])


GRID = (
    "(float[5,7] x) => (float[5,1,1,7] y) <int64 zero = {0}, int64 one = {1}, int64 five = {5}, int64 seven = {7},"
    " int64[3] p = {1, 2, 3}, int64[3] q = {0, 1, 2}, int64[4] full = {5, 1, 1, 7}, int64[1] last = {-1}> {"
    " r = Range(zero, five, one)  b = Unsqueeze(r, p)  c = Range(zero, seven, one)  s = Unsqueeze(c, q)"
    " be = Expand(b, full)  se = Expand(s, full)  p0 = Unsqueeze(be, last)  p1 = Unsqueeze(se, last)"
    " index = Concat <axis = -1> (p0, p1)  y = GatherND(x, index) }"
)


def test_gather_grid_checked() -> None:
    check(p.gather_grid, GRID, "(float[5,7] x) => (float[5,1,1,7] y) <int64[2] a = {1, 2}> { y = Unsqueeze(x, a) }")


def test_gather_grid_of_the_first_columns() -> None:
    head = "(float[B,S] x, float[C] z) => (float[B,1,1,C] y) "
    before = "shape = Shape(x)  few = Shape(z)  nothing = Constant <value_ints = [0]> ()  n = Squeeze(few, nothing)"
    known = "int64[B] r, int64[C] c, int64[B,1,1,C] be, int64[B,1,1,C] se"
    changed = {"columns": "Range(zero, n, one)", "shape": "rows_1, ones, ones, few"}
    source = grid(**changed, head=head, before=before, known=known)
    fetches(p.gather_grid, source, ["Unsqueeze", "Gather"], x=MATRIX, z=MATRIX[0, :3])


WRONG_GRID: dict[str, tuple[dict[str, str], str]] = {
    "columns first": ({"pairs": "Concat <axis = -1> (p1, p0)"}, "varies along another axis"),
    "joined elsewhere": (
        {"pairs": "Concat <axis = 0> (p0, p1)", "head": "(float[B,S] x) => (float[K,1,1,S,S] y) "},
        "not made of pairs",
    ),
    "unsqueezed elsewhere": ({"axis": "[3]", "head": "(float[B,S] x) => (float[B,1,1,S,S] y) "}, "not made of pairs"),
    "two heads": (
        {"shape": "rows_1, twos, ones, columns_1", "head": "(float[B,S] x) => (float[B,2,1,S] y) "},
        "",
    ),
    "more rows": (
        {
            "shape": "twos, ones, ones, columns_1",
            "head": "(float[B,S] x) => (float[C,1,1,S] y) ",
            "known": "int64[B] r, int64[S] c, int64[2,1,1,S] be",
        },
        "is not expanded",
    ),
    "rows from one": ({"rows": "Range(one, rows_n, one)"}, "does not count from 0 by 1"),
    "columns by two": ({"columns": "Range(zero, columns_n, two)"}, "does not count from 0 by 1"),
    "batches": (
        {"attrs": "<batch_dims = 1>", "head": "(float[B,S,2] x) => (float[B,1,1,S] y) "},
        "batch_dims",
    ),
    "not a matrix": ({"head": "(float[B,S,2] x) => (float[B,1,1,S,2] y) "}, "x is not a matrix"),
}


@pytest.mark.parametrize(("changed", "reason"), WRONG_GRID.values(), ids=WRONG_GRID.keys())
def test_gather_grid_of_something_else(changed: dict[str, str], reason: str) -> None:
    unchanged(p.gather_grid, grid(**changed), reason=reason)


# --- conditions that hold --------------------------------------------------------------------------------------------


def condition(first: str = "0", step: str = "1", limit: str = "0", test: str = "GreaterOrEqual") -> str:
    return (
        "(bool[B,1,1] y, int64 n) => (bool[B,R,C] z) "
        f"<int64 first = {{{first}}}, int64 step = {{{step}}}, int64 limit = {{{limit}}}, int64[2] shape = {{-1, 1}}> {{"
        f" r = Range(first, n, step)  c = Reshape(r, shape)  x = {test}(c, limit)  z = And(x, y) }}"
    )


@pytest.mark.parametrize(("first", "limit"), [("0", "0"), ("2", "0"), ("0", "-3")])
def test_and_true(first: str, limit: str) -> None:
    y = np.array([[[True]], [[False]]])
    for n in (5, 3, 0):
        source = condition(first, limit=limit)
        check(p.and_true, source, ["Range", "Reshape", "GreaterOrEqual", "Shape", "Expand"], y=y, n=np.array(n))


def test_and_of_what_may_be_false() -> None:
    unchanged(p.and_true, condition(first="-1"), reason="may be false")
    unchanged(p.and_true, condition(limit="1"), reason="may be false")
    unchanged(p.and_true, condition(step="-1"), reason="may be false")
    unchanged(p.and_true, condition(test="Greater"), reason="may be false")
    unchanged(p.and_true, condition(test="LessOrEqual"), reason="may be false")
    unknown = condition().replace("int64 first = {0}, ", "").replace("int64 n)", "int64 n, int64 first)")
    unchanged(p.and_true, unknown, reason="may be false")


# --- elements of shapes ----------------------------------------------------------------------------------------------


def elements(body: str, constants: str = "") -> tuple[ir.Dim, ...] | None:
    from accelc.infer import infer_model

    model = ir.parse(
        f"(float[B,3,S] x, int64[2] unknown) => (int64[K] y) <int64 unused = {{0}}{constants}> {{ {body} }}"
    )
    infer_model(model)
    return _elements.elements(model.graph.outputs[0])


def test_elements_of_shapes() -> None:
    pick, cut = ", int64[2] i = {-1, 0}", ", int64[1] s = {1}, int64[1] e = {9}"
    assert elements("y = Shape(x)") == ("B", 3, "S")
    assert elements("y = Shape <start = -1> (x)") == ("S",)
    assert elements("y = Shape <start = 1, end = -1> (x)") == (3,)
    assert elements("a = Shape(x)  y = Gather(a, i)", pick) == ("S", "B")
    assert elements("a = Shape(x)  y = Slice(a, s, e)", cut) == (3, "S")
    assert elements("a = Shape(x)  b = Cast <to = 6> (a)  y = Cast <to = 7> (b)") == ("B", 3, "S")
    assert elements("a = Shape(x)  y = Concat <axis = 0> (a, s)", cut) == ("B", 3, "S", 1)


def test_elements_that_are_not_known() -> None:
    matrix = ", int64[2,2] m = {1, 2, 3, 4}, int64[1] i = {1}, int64[1] one = {1}, int64[1] t = {-1}, int64[1] e = {9}"
    assert elements("y = Identity(unknown)") is None
    assert elements("y = Gather(m, i)", matrix) is None
    assert elements("y = Slice(m, i, e, one)", matrix) is None
    assert elements("y = Concat <axis = 1> (m, m)", matrix) is None
    assert elements("a = Shape(x)  y = Slice(a, e, i, one, t)", matrix) is None
    assert elements("a = Shape(x)  b = Cast <to = 9> (a)  y = Cast <to = 7> (b)") is None
    assert elements("a = Shape(x)  y = Gather(a, e)", matrix) is None
    assert elements("a = Shape(x)  y = Add(a, a)") is None
