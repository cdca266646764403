"""The shapes pass: what it resolves, and that every size of the symbols, 0 and 1 included, still gives the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelc import ir, structure
from accelc.context import Fuel
from accelc.infer import infer_model
from accelc.pass_base import run_pass
from accelc.passes.shapes import Shapes
from accelc.source import Source
from accelc.testing import check, context, run, same_arrays, unchanged

SHAPES = Shapes()
CORPUS = os.environ.get("ACCELC_CORPUS")


def optimized(text: str) -> tuple[bytes, ir.Model]:
    """The bytes before, and the model after, checked for its structure and for coming to an end."""
    model = ir.parse(text)
    infer_model(model)
    before = ir.to_proto(model).SerializeToString()
    ctx = context()
    ctx.contract = structure.contract(model)
    run_pass(SHAPES, model, ctx)
    structure.check(model)
    again = [run_pass(SHAPES, model, context()).changes for _ in range(3)]
    assert again[-1] == 0, again
    return before, model


def same(before: bytes, model: ir.Model, **feeds: np.ndarray[Any, Any]) -> None:
    """Both models give the same, or the original fails."""
    try:
        wanted = run(before, feeds)
    except Exception:
        return
    for old, new in zip(wanted, run(ir.to_proto(model).SerializeToString(), feeds), strict=True):
        same_arrays(old, new, exact=True)


def ops(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in ir.walk(model) if node.op_type != "Constant")


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


# --- constants -------------------------------------------------------------------------------------------------------


def test_a_known_dimension_becomes_a_constant() -> None:
    check(
        SHAPES,
        "(float[n,12,8] x) => (int64[1] y) { s = Shape(x) i = Constant<value_ints = [1]>() g = Gather(s, i) "
        "y = Neg(g) }",
        "(float[n,12,8] x) => (int64[1] y) <int64[1] g = {12}> { y = Neg(g) }",
    )


def test_one_constant_stands_for_a_whole_chain() -> None:
    check(
        SHAPES,
        "(float[4,6] x) => (float[p,q] y) { s = Shape(x) k = Constant<value_ints = [2, 2]>() t = Div(s, k) "
        "z = Constant<value_ints = [-1]>() b = ReduceProd<keepdims = 1>(t) "
        "c = Concat<axis = 0>(z, b) y = Reshape(x, c) }",
        "(float[4,6] x) => (float[p,q] y) <int64[2] c = {-1, 6}> { y = Reshape(x, c) }",
    )


def test_a_symbolic_dimension_stays() -> None:
    unchanged(SHAPES, "(float[n,12] x) => (int64[1] y) { s = Shape<end = 1>(x) y = Neg(s) }")


def test_a_known_output_of_the_graph_stays_computed() -> None:
    unchanged(SHAPES, "(float[4,6] x) => (int64[2] y) { y = Shape(x) }")


def test_a_default_that_a_caller_may_override_is_not_read() -> None:
    unchanged(SHAPES, "(float[n] x, int64[2] k = {2, 3}) => (float[p,q] y) { t = Identity(k) y = Reshape(x, t) }")


# --- Reshape ---------------------------------------------------------------------------------------------------------

_HEADS = (
    "(float[batch,seq,12] x) => (float[p,q,r,t] y) { s = Shape(x) i = Constant<value_ints = [0]>() "
    "j = Constant<value_ints = [1]>() a = Gather(s, i) b = Gather(s, j) k = Constant<value_ints = [-1, 4]>() "
    "c = Concat<axis = 0>(a, b, k) y = Reshape(x, c) }"
)


def test_own_dimensions_become_zeros_and_what_is_left_a_number() -> None:
    check(
        SHAPES,
        _HEADS,
        "(float[batch,seq,12] x) => (float[p,q,r,t] y) <int64[4] c = {0, 0, 3, 4}> { y = Reshape(x, c) }",
    )


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("seq", [0, 1, 5])
def test_heads_are_split_and_joined_for_every_size(batch: int, seq: int) -> None:
    before, model = optimized(
        "(float[batch,seq,12] x) => (float[p,q,r] y) { s = Shape(x) i = Constant<value_ints = [0]>() "
        "j = Constant<value_ints = [1]>() a = Gather(s, i) b = Gather(s, j) k = Constant<value_ints = [3, 4]>() "
        "c = Concat<axis = 0>(a, b, k) h = Reshape(x, c) t = Transpose<perm = [0, 2, 1, 3]>(h) "
        "u = Transpose<perm = [0, 2, 1, 3]>(t) v = Shape(u) m = Gather(v, i) n = Gather(v, j) "
        "l = Constant<value_ints = [12]>() d = Concat<axis = 0>(m, n, l) w = Reshape(u, d) y = Relu(w) }"
    )
    assert ops(model) == ["Relu", "Reshape", "Reshape", "Transpose", "Transpose"]
    same(before, model, x=floats(batch, seq, 12))


def test_minus_one_where_no_other_dimension_can_be_zero() -> None:
    text = (
        "(float[n,m,8] x) => (float[p,q] y) {{ s = Shape<end = {end}>(x) t = ReduceProd<keepdims = 1>(s) "
        "k = Constant<value_ints = [{size}]>() c = Concat<axis = 0>(t, k) y = Reshape(x, c) }}"
    )
    before, model = optimized(text.format(end=2, size=8))
    shape = ir.const(next(node for node in ir.walk(model) if node.op_type == "Reshape").inputs[1])
    assert shape is not None
    assert shape.tolist() == [-1, 8]
    for n, m in [(0, 3), (3, 0), (0, 0), (1, 1), (2, 3)]:
        same(before, model, x=floats(n, m, 8))


def test_no_minus_one_beside_a_dimension_that_can_be_zero() -> None:
    """[n, 8 * m] works for an empty batch, [0, -1] does not: the runtime cannot divide by no elements."""
    text = (
        "(float[n,m,8] x) => (float[p,q] y) { a = Shape<end = 1>(x) s = Shape<start = 1>(x) "
        "t = ReduceProd<keepdims = 1>(s) c = Concat<axis = 0>(a, t) y = Reshape(x, c) }"
    )
    before, model = optimized(text)
    for n, m in [(0, 3), (1, 1), (2, 3)]:
        feeds = {"x": floats(n, m, 8)}
        assert run(before, feeds)[0].shape == (n, 8 * m)
        same(before, model, **feeds)
    broken = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[n,m,8] x) => (float[p,q] y) '
        "<int64[2] c = {0, -1}> { y = Reshape(x, c) }"
    )
    with pytest.raises(Exception, match=r"[Rr]eshape"):
        run(broken.SerializeToString(), {"x": floats(0, 3, 8)})


def test_minus_one_stays_where_it_was() -> None:
    before, model = optimized(
        "(float[n,m,8] x) => (float[p,q] y) { a = Shape<end = 1>(x) k = Constant<value_ints = [-1]>() "
        "c = Concat<axis = 0>(a, k) y = Reshape(x, c) }"
    )
    shape = ir.const(next(node for node in ir.walk(model) if node.op_type == "Reshape").inputs[1])
    assert shape is not None
    assert shape.tolist() == [0, -1]
    for n, m in [(0, 3), (3, 0), (1, 1), (2, 3)]:
        same(before, model, x=floats(n, m, 8))


def test_zeros_are_not_written_for_a_shape_that_takes_zeros_literally() -> None:
    before, model = optimized(
        "(float[n,0,8] x) => (float[p,q,r] y) { a = Shape<end = 1>(x) k = Constant<value_ints = [0, 8]>() "
        "c = Concat<axis = 0>(a, k) r = Relu(x) y = Reshape<allowzero = 1>(r, c) }"
    )
    for n in (0, 1, 3):
        same(before, model, x=floats(n, 0, 8))


def test_allowzero_goes_where_the_shape_copies() -> None:
    check(
        SHAPES,
        "(float[n,6] x) => (float[p,q,r] y) { a = Shape<end = 1>(x) k = Constant<value_ints = [2, 3]>() "
        "c = Concat<axis = 0>(a, k) y = Reshape<allowzero = 1>(x, c) }",
        "(float[n,6] x) => (float[p,q,r] y) <int64[3] c = {0, 2, 3}> { y = Reshape(x, c) }",
    )


def test_another_inputs_dimension_is_not_copied() -> None:
    before, model = optimized(
        "(float[n,m] x, float[k] z) => (float[p,q] y) { a = Shape(z) b = Shape<start = 1>(x) "
        "c = Concat<axis = 0>(a, b) r = Relu(x) y = Reshape(r, c) }"
    )
    for n, m, k in [(2, 3, 2), (2, 3, 0), (0, 3, 0), (1, 1, 1), (2, 0, 5)]:
        same(before, model, x=floats(n, m), z=floats(k))


def test_one_symbol_is_one_size() -> None:
    check(
        SHAPES,
        "(float[n,6] x, float[n] z) => (float[p,q,r] y) { a = Shape(z) k = Constant<value_ints = [2, 3]>() "
        "c = Concat<axis = 0>(a, k) y = Reshape(x, c) }",
        "(float[n,6] x, float[n] z) => (float[p,q,r] y) <int64[3] c = {0, 2, 3}> { y = Reshape(x, c) }",
    )


def test_reshape_to_the_same_shape() -> None:
    check(
        SHAPES,
        "(float[n,m] x) => (float[n,m] y) { a = Relu(x) s = Shape(x) b = Reshape(a, s) y = Neg(b) }",
        "(float[n,m] x) => (float[n,m] y) { a = Relu(x) y = Neg(a) }",
    )
    check(
        SHAPES,
        "(float[n,8] x) => (float[n,8] y) { k = Constant<value_ints = [-1, 8]>() b = Reshape(x, k) y = Neg(b) }",
        "(float[n,8] x) => (float[n,8] y) { y = Neg(x) }",
    )
    unchanged(
        SHAPES, "(float[n,8] x) => (float[p,q] y) { k = Constant<value_ints = [8, -1]>() b = Reshape(x, k) y = Neg(b) }"
    )


# --- Expand, Slice, Tile ---------------------------------------------------------------------------------------------


def test_expand_to_the_same_shape() -> None:
    check(
        SHAPES,
        "(float[n,m] x) => (float[n,m] y) { a = Relu(x) s = Shape(a) k = Constant<value_int = -1>() e = Equal(s, k) "
        "o = Constant<value_ints = [1, 1]>() w = Where(e, o, s) b = Expand(a, w) y = Neg(b) }",
        "(float[n,m] x) => (float[n,m] y) { a = Relu(x) y = Neg(a) }",
    )


def test_expand_needs_only_the_dimensions_that_grow() -> None:
    before, model = optimized(
        "(float[n,1] x) => (float[p,q] y) { s = Shape<end = 1>(x) k = Constant<value_ints = [4]>() "
        "c = Concat<axis = 0>(s, k) y = Expand(x, c) }"
    )
    assert ops(model) == ["Expand"]
    for n in (0, 1, 3):
        same(before, model, x=floats(n, 1))


def test_expand_by_another_dimension_stays() -> None:
    before, model = optimized("(float[n] x, float[m] z) => (float[p] y) { s = Shape(z) y = Expand(x, s) }")
    assert ops(model) == ["Expand", "Shape"]
    for n, m in [(1, 3), (3, 1), (3, 3), (1, 0)]:
        same(before, model, x=floats(n), z=floats(m))


def test_slice_of_everything() -> None:
    check(
        SHAPES,
        "(float[n,m] x) => (float[n,m] y) <int64[1] z = {0}, int64[1] o = {1}> "
        "{ a = Relu(x) s = Shape<start = 1, end = 2>(x) b = Slice(a, z, s, o) y = Neg(b) }",
        "(float[n,m] x) => (float[n,m] y) { a = Relu(x) y = Neg(a) }",
    )
    unchanged(
        SHAPES,
        "(float[n,m] x) => (float[n,p] y) <int64[1] z = {0}, int64[1] o = {1}> "
        "{ s = Shape<start = 0, end = 1>(x) b = Slice(x, z, s, o) y = Neg(b) }",
    )


def test_tile_by_ones() -> None:
    check(
        SHAPES,
        "(float[n,m] x) => (float[n,m] y) <int64[2] o = {1, 1}> { a = Tile(x, o) y = Neg(a) }",
        "(float[n,m] x) => (float[n,m] y) { y = Neg(x) }",
    )


def test_an_input_is_not_renamed_to_an_output() -> None:
    unchanged(SHAPES, "(float[n,m] x) => (float[n,m] y) <int64[2] o = {1, 1}> { y = Tile(x, o) }")


# --- dimensions that must still be computed --------------------------------------------------------------------------


def test_the_shape_is_read_before_the_compute() -> None:
    check(
        SHAPES,
        "(float[n,m] x) => (float[n,m] y, int64[2] z) { a = Relu(x) y = Exp(a) s = Shape(y) z = Neg(s) }",
        "(float[n,m] x) => (float[n,m] y, int64[2] z) { a = Relu(x) y = Exp(a) s = Shape(x) z = Neg(s) }",
    )


def test_equal_dimensions_are_computed_once() -> None:
    _, model = optimized(
        "(float[n,m] x) => (int64[1] y, int64[1] z) { a = Relu(x) s = Shape(x) t = Shape(a) "
        "i = Constant<value_int = 1>() g = Gather(s, i) k = Constant<value_ints = [0]>() u = Unsqueeze(g, k) "
        "j = Constant<value_ints = [1]>() h = Gather(t, j) y = Neg(u) z = Abs(h) }"
    )
    assert ops(model) == ["Abs", "Neg", "Shape"]


def test_a_chain_becomes_one_shape() -> None:
    check(
        SHAPES,
        "(float[n,m,8] x) => (int64[2] y) { s = Shape(x) i = Constant<value_int = 0>() j = Constant<value_int = 1>() "
        "k = Constant<value_ints = [0]>() g = Gather(s, i) h = Gather(s, j) u = Unsqueeze(g, k) v = Unsqueeze(h, k) "
        "c = Concat<axis = 0>(u, v) y = Neg(c) }",
        "(float[n,m,8] x) => (int64[2] y) { s = Shape<start = 0, end = 2>(x) y = Neg(s) }",
        fires=3,
    )


def test_before_opset_15_shape_has_no_range() -> None:
    text = (
        '<ir_version: 8, opset_import: ["": 13]> g (float[n,m,8] x) => (int64[1] y) '
        "{ s = Shape(x) i = Constant<value_int = 1>() k = Constant<value_ints = [0]>() "
        "g = Gather(s, i) u = Unsqueeze(g, k) y = Neg(u) }"
    )
    before, model = optimized(text)
    assert ops(model) == ["Gather", "Neg", "Shape"]
    assert not any(node.attributes for node in ir.walk(model) if node.op_type == "Shape")
    same(before, model, x=floats(2, 3, 8))


def test_branches_see_the_outer_dimensions() -> None:
    before, model = optimized(
        "(float[n,12] x, bool c) => (float[p,q,r] y) { y = If(c) <then_branch = t () => (float[p,q,r] a) "
        "{ s = Shape<end = 1>(x) k = Constant<value_ints = [3, 4]>() d = Concat<axis = 0>(s, k) a = Reshape(x, d) }, "
        "else_branch = f () => (float[p,q,r] b) { s2 = Shape<end = 1>(x) k2 = Constant<value_ints = [4, 3]>() "
        "d2 = Concat<axis = 0>(s2, k2) b = Reshape(x, d2) }> }"
    )
    assert ops(model) == ["If", "Reshape", "Reshape"]
    for n in (0, 1, 2):
        for condition in (True, False):
            same(before, model, x=floats(n, 12), c=np.array(condition))


def test_fuel_stops_it_anywhere() -> None:
    full = ir.parse(_HEADS)
    infer_model(full)
    count = run_pass(SHAPES, full, context()).changes
    assert count > 0
    for limit in range(count):
        model = ir.parse(_HEADS)
        infer_model(model)
        ctx = context()
        ctx.fuel = Fuel(limit)
        assert run_pass(SHAPES, model, ctx).changes == limit
        structure.check(model)


def test_a_rule_can_be_switched_off() -> None:
    model = ir.parse(_HEADS)
    infer_model(model)
    ctx = context(disabled=frozenset({"reshape-constant"}))
    result = run_pass(SHAPES, model, ctx)
    assert not any(each.fired for each in result.rules if each.rule == "reshape-constant")
    assert "Shape" in ops(model)


# --- any chain, any size ---------------------------------------------------------------------------------------------

_STEPS = [
    "{o} = Relu({x})",
    "{o} = Transpose<perm = [1, 0]>({x})",
    "{o} = Concat<axis = 1>({x}, {x})",
    "{o}_s = Shape({x}) {o} = Reshape({x}, {o}_s)",
    "{o}_s = Shape(w) {o} = Reshape({x}, {o}_s)",
    "{o}_s = Shape(w) {o} = Expand({x}, {o}_s)",
    "{o}_a = Shape<end = 1>({x}) {o}_k = Constant<value_ints = [-1]>() {o}_c = Concat<axis = 0>({o}_a, {o}_k) {o} = Reshape({x}, {o}_c)",  # noqa: E501
    "{o}_a = Shape<end = 1>({x}) {o}_k = Constant<value_ints = [-1]>() {o}_c = Concat<axis = 0>({o}_k, {o}_a) {o} = Reshape({x}, {o}_c)",  # noqa: E501
    "{o}_a = Shape<end = 1>({x}) {o}_b = Shape<start = 1>({x}) {o}_c = Concat<axis = 0>({o}_b, {o}_a) {o} = Reshape({x}, {o}_c)",  # noqa: E501
    "{o}_p = Size({x}) {o}_q = Constant<value_ints = [1]>() {o}_r = Reshape({o}_p, {o}_q) {o}_c = Concat<axis = 0>({o}_r, {o}_q) {o} = Reshape({x}, {o}_c)",  # noqa: E501
    "{o}_a = Constant<value_ints = [0]>() {o}_b = Shape<start = 1>({x}) {o} = Slice({x}, {o}_a, {o}_b)",
    "{o}_a = Constant<value_ints = [1]>() {o}_b = Constant<value_ints = [99]>() {o} = Slice({x}, {o}_a, {o}_b)",
]  # fmt: skip


@given(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=5), st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_chain_of_shapes_gives_the_same(steps: list[str], literal: bool) -> None:
    body, last = "", "x"
    for index, step in enumerate(steps):
        body += step.format(o=f"v{index}", x=last) + " "
        last = f"v{index}"
    if literal:
        body = body.replace("Reshape(", "Reshape<allowzero = 1>(")
    before, model = optimized(f"(float[n,m] x, float[n,m] w) => (float[p,q] y) {{ {body} y = Neg({last}) }}")
    for n, m in [(0, 0), (0, 2), (3, 0), (1, 1), (2, 3), (4, 1)]:
        same(before, model, x=floats(n, m), w=floats(n, m))


@pytest.mark.skipif(not CORPUS, reason="ACCELC_CORPUS names no folder of models")
@pytest.mark.parametrize(
    ("name", "at_most"),
    [("random_encoder", 51), ("tinybert", 75), ("predict_spectrogram", 349), ("version-RFB-320", 163), ("reshape", 1)],
)
def test_models_in_use(name: str, at_most: int) -> None:
    model = Source.of(Path(str(CORPUS)) / f"{name}.onnx").fresh()
    ctx = context()
    ctx.contract = structure.contract(model)
    run_pass(SHAPES, model, ctx)
    assert len(ops(model)) <= at_most
