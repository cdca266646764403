"""Concat."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

import numpy as np
import pytest

from accelc import ir
from accelc.infer import infer_model
from accelc.passes import concat as p
from accelc.rewrite import Driver
from accelc.testing import check, context, unchanged

BIG = 2**63 - 1


def test_concat_of_one() -> None:
    head = "(float[2,3] x) => (float[2,3] y) "
    check(p.concat_of_one, head + "{ a = Concat<axis=1>(x) y = Relu(a) }", head + "{ y = Relu(x) }")
    unchanged(p.concat_of_one, "(float[2] x) => (float[4] y) { y = Concat<axis=0>(x, x) }", reason="2 inputs")


def test_concat_of_concat() -> None:
    head = "(float[2,3] x, float[2,1] z) => (float[2,8] y) "
    before = head + "{ a = Concat<axis=-1>(z, x) y = Concat<axis=1>(x, a, z) }"
    check(p.concat_of_concat, before, head + "{ y = Concat<axis=1>(x, z, x, z) }")
    other = "(float[2,2] x) => (float[4,4] y) { a = Concat<axis=0>(x, x) b = Relu(a) y = Concat<axis=1>(a, b) }"
    unchanged(p.concat_of_concat, other, reason="no input is")
    axes = "(float[2,2] x, float[4,2] z) => (float[4,4] y) { a = Concat<axis=0>(x, x) y = Concat<axis=1>(a, z) }"
    unchanged(p.concat_of_concat, axes, reason="no input is")
    twice = "(float[2] x) => (float[8] y) { a = Concat<axis=0>(x, x) y = Concat<axis=0>(a, a) }"
    unchanged(p.concat_of_concat, twice, reason="no input is")


def test_a_chain_of_concats_is_one_patch() -> None:
    head = "(float[1] x, float[N] z) => (float[M] y) "
    chain = "a0 = Concat<axis=0>(x, z) " + " ".join(f"a{i + 1} = Concat<axis=0>(a{i}, z)" for i in range(30))
    after = head + f"{{ a = Concat<axis=0>({', '.join(['x'] + ['z'] * 31)}) y = Relu(a) }}"
    check(p.concat_of_concat, head + f"{{ {chain} y = Relu(a30) }}", after, fires=1)
    order = "(float[1] x, float[1] z, float[1] w) => (float[7] y) "
    before = (
        "{ a = Concat<axis=0>(x, z) b = Concat<axis=0>(w, a, x) c = Concat<axis=-1>(z, w) y = Concat<axis=0>(b, c, x) }"
    )
    check(p.concat_of_concat, order + before, order + "{ y = Concat<axis=0>(w, x, z, x, z, w, x) }")
    # Where the outer axis is not known to be the same, the inner ones are joined still.
    unknown = """<ir_version: 10, opset_import: ["": 20, "other": 1]>
    main (float[1] x) => (float[M] y) {
        u = other.F(x) a = Concat<axis=0>(u, u) b = Concat<axis=0>(a, u) c = Concat<axis=-1>(b, u) y = other.F(c)
    }"""
    model = ir.parse(unknown)
    infer_model(model)
    assert Driver([p.concat_of_concat]).run(model, context()) == 1
    assert [(node.op_type, len(node.inputs)) for node in model.graph] == [
        ("F", 1),
        ("Concat", 3),
        ("Concat", 2),
        ("F", 1),
    ]


def test_concat_of_empty() -> None:
    head = "(float[2,3] x, float[2,1] z, float[2,0] e) => (float[2,4] y) "
    check(p.concat_of_empty, head + "{ y = Concat<axis=1>(x, e, z) }", head + "{ y = Concat<axis=1>(x, z) }")
    head = "(float[2,3] x) => (float[2,3] y) "
    check(
        p.concat_of_empty,
        head + "<float[2,0] e = {}> { a = Concat<axis=-1>(e, x) y = Relu(a) }",
        head + "{ y = Relu(x) }",
    )
    unchanged(p.concat_of_empty, "(float[2,0] x) => (float[4,0] y) { y = Concat<axis=0>(x, x) }", reason="no part")


def test_concat_of_split() -> None:
    head = "(float[2,7] x) => (float[2,7] y) "
    before = head + "{ a, b, c = Split<axis=1, num_outputs=3>(x) d = Concat<axis=-1>(a, b, c) y = Relu(d) }"
    check(p.concat_of_split, before, head + "{ y = Relu(x) }")
    swapped = "(float[4] x) => (float[4] y) { a, b = Split<num_outputs=2>(x) y = Concat<axis=0>(b, a) }"
    unchanged(p.concat_of_split, swapped, reason="in order")
    turned = "(float[2,2] x) => (float[1,4] y) { a, b = Split<num_outputs=2>(x) y = Concat<axis=1>(a, b) }"
    unchanged(p.concat_of_split, turned, reason="another axis")


def graph(cuts: tuple[int, ...], size: str, tail: str = "d = Concat<axis=0>({}) y = Relu(d)", more: str = "") -> str:
    weights = ", ".join(f"int64[1] c{index} = {{{cut}}}" for index, cut in enumerate(cuts))
    parts = "".join(f"p{i} = Slice(x, c{i}, c{i + 1}) " for i in range(len(cuts) - 1))
    names = ", ".join(f"p{i}" for i in range(len(cuts) - 1))
    return f"(float[{size}] x{more}) => (float[M] y) <{weights}> {{ {parts} {tail.format(names)} }}"


@pytest.mark.parametrize("cuts", [(0, 2, 5), (0, 2, BIG), (0, -2, BIG), (0, 1, 3, 9)])
@pytest.mark.parametrize("size", ["5", "1"])
def test_concat_of_slices(cuts: tuple[int, ...], size: str) -> None:
    after = f"(float[{size}] x) => (float[M] y) {{ y = Relu(x) }}"
    check(p.concat_of_slices, graph(cuts, size), after)


@pytest.mark.parametrize("cuts", [(0, 2, BIG), (0, -2, BIG), (0, 7, BIG), (0, -7, BIG)])
def test_concat_of_slices_of_any_length(cuts: tuple[int, ...]) -> None:
    check(p.concat_of_slices, graph(cuts, "N"), "(float[N] x) => (float[M] y) { y = Relu(x) }",
          x=np.arange(4, dtype=np.float32))  # fmt: skip


def test_concat_of_some_slices() -> None:
    before = graph((1, 2, 4), "5", "y = Concat<axis=0>({}, z)", ", float[2] z")
    after = "(float[5] x, float[2] z) => (float[M] y) <int64[1] a = {1}, int64[1] b = {4}, int64[1] c = {0}> { d = Slice(x, a, b, c) y = Concat<axis=0>(d, z) }"
    check(p.concat_of_slices, before, after)


def test_slices_that_do_not_follow() -> None:
    apart = "(float[5] x) => (float[3] y) <int64[1] a = {0}, int64[1] b = {1}, int64[1] c = {3}, int64[1] d = {5}> "
    unchanged(
        p.concat_of_slices,
        apart + "{ p = Slice(x, a, b) q = Slice(x, c, d) y = Concat<axis=0>(p, q) }",
        reason="no two",
    )
    unchanged(p.concat_of_slices, graph((3, 1, 4), "N"), reason="no two")
    used = graph((1, 2, 4), "5", "q = Relu(p0) y = Concat<axis=0>({}, q)")
    unchanged(p.concat_of_slices, used, reason="used elsewhere")


def test_concat_of_constants() -> None:
    head = "(int64[1] x) => (int64[4] y) "
    before = head + "<int64[2] c = {1,2}, int64[1] d = {3}> { y = Concat<axis=0>(x, c, d) }"
    check(p.concat_of_constants, before, head + "<int64[3] c = {1,2,3}> { y = Concat<axis=0>(x, c) }")
    apart = "(int64[1] x) => (int64[4] y) <int64[2] c = {1,2}, int64[1] d = {3}> { y = Concat<axis=0>(c, x, d) }"
    unchanged(p.concat_of_constants, apart, reason="side by side")
    shared = "(int64[1] x) => (int64[3] y) <int64[1] c = {1}> { y = Concat<axis=0>(x, c, c) }"
    unchanged(p.concat_of_constants, shared, reason="side by side")
