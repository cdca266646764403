"""Symbolic shapes: the expressions, what the analysis finds, and that all of it holds when the model runs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelc import dimexpr as e
from accelc import ir, symbolic
from accelc.dimexpr import Symbol
from accelc.symbolic import Facts
from accelc.testing import context, run

A, B = e.symbol("a"), e.symbol("b")


# --- expressions -----------------------------------------------------------------------------------------------------

_leaves = st.one_of(st.integers(-6, 6), st.sampled_from([A, B]))
_BINARY = {"add": e.add, "sub": e.sub, "mul": e.mul, "minimum": e.minimum, "maximum": e.maximum}
_PYTHON: dict[str, Any] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "minimum": min,
    "maximum": max,
    "floordiv": lambda x, y: x // y,
    "mod": lambda x, y: x % y,
}
_trees = st.recursive(
    _leaves.map(lambda leaf: ("leaf", leaf)),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(sorted(_BINARY)), inner, inner),
        st.tuples(st.sampled_from(["floordiv", "mod"]), inner, st.integers(1, 5).map(lambda n: ("leaf", n))),
    ),
    max_leaves=8,
)


def _build(tree: Any) -> e.Number:
    if tree[0] == "leaf":
        return tree[1]  # type: ignore[no-any-return]
    return getattr(e, tree[0])(_build(tree[1]), _build(tree[2]))  # type: ignore[no-any-return]


def _reference(tree: Any, sizes: dict[Symbol, int]) -> int:
    if tree[0] == "leaf":
        return e.evaluate(tree[1], sizes)
    return int(_PYTHON[tree[0]](_reference(tree[1], sizes), _reference(tree[2], sizes)))


_SIZES = [{Symbol("a"): a, Symbol("b"): b} for a, b in itertools.product((0, 1, 2, 3, 7), repeat=2)]


@given(_trees)
@settings(max_examples=300, deadline=None)
def test_expressions_compute_what_python_does(tree: Any) -> None:
    number = _build(tree)
    if number is None:
        return
    for sizes in _SIZES:
        assert e.evaluate(number, sizes) == _reference(tree, sizes)


@given(_trees, _trees)
@settings(max_examples=300, deadline=None)
def test_what_is_surely_true_is_true(left: Any, right: Any) -> None:
    a, b = _build(left), _build(right)
    if a is None or b is None:
        return
    values = [(e.evaluate(a, sizes), e.evaluate(b, sizes)) for sizes in _SIZES]
    if e.at_least(a, b):
        assert all(x >= y for x, y in values)
    if e.nonnegative(a):
        assert all(x >= 0 for x, _ in values)
    if e.positive(a):
        assert all(x >= 1 for x, _ in values)
    if (verdict := e.equal(a, b)) is not None:
        assert all((x == y) is verdict for x, y in values)
    if e.zero_with(a, b):
        assert all(y == 0 for x, y in values if x == 0)
    if (q := e.quotient(a, b)) is not None:
        assert all(e.evaluate(q, sizes) * y == x for sizes, (x, y) in zip(_SIZES, values, strict=True))


def test_expressions_have_one_form() -> None:
    assert e.add(e.mul(A, B), e.mul(2, A)) == e.mul(A, e.add(2, B))
    assert e.quotient(e.mul(e.mul(A, B), 384), e.mul(e.mul(B, A), 32)) == 12
    assert e.floordiv(e.floordiv(A, 2), 4) == e.floordiv(A, 8)
    assert e.minimum(A, e.add(A, 1)) == A
    assert e.sub(A, A) == 0


def test_a_dimension_may_be_zero() -> None:
    assert e.nonnegative(A)
    assert not e.positive(A)
    assert e.equal(A, 0) is None
    assert e.equal(A, -1) is False


def test_text_of_expressions() -> None:
    assert e.text(A) == "a"
    assert e.text(e.add(e.mul(12, A), e.mul(A, B))) == "a*b + 12*a"
    assert e.text(e.sub(A, 1)) == "a - 1"
    assert e.text(e.symbol("1", invented=True)) is None
    assert e.text(e.minimum(A, 5)) is None
    assert e.text(e.mul(2, e.symbol("past + present"))) is None


# --- what the analysis finds -----------------------------------------------------------------------------------------


def facts_of(text: str) -> tuple[ir.Model, Facts]:
    model = ir.parse(text)
    return model, symbolic.values(model)


def value(model: ir.Model, name: str) -> ir.Value:
    return next(v for node in ir.walk(model) for v in node.outputs if v.name == name)


def content(text: str, name: str = "r") -> list[Any]:
    """The elements of a value, written as text."""
    model, facts = facts_of(text)
    array = facts.content(value(model, name))
    assert array is not None
    return [item if isinstance(item, int) else e.text(item) for item in array.reshape(-1)]


def dims(text: str, name: str = "r") -> list[Any]:
    model, facts = facts_of(text)
    shape = facts.shape(value(model, name))
    assert shape is not None
    return [dim if isinstance(dim, int) else e.text(dim) for dim in shape]


_CONTENTS = [
    ("r = Shape(x)", ["n", "m", 8]),
    ("r = Shape<start = -2>(x)", ["m", 8]),
    ("r = Shape<start = 1, end = -1>(x)", ["m"]),
    ("r = Size(x)", ["8*m*n"]),
    ("s = Shape(x) i = Constant<value_int = -2>() r = Gather(s, i)", ["m"]),
    ("s = Shape(x) i = Constant<value_ints = [2, 0]>() r = Gather(s, i)", [8, "n"]),
    ("s = Shape(x) a = Constant<value_ints = [1]>() b = Constant<value_ints = [9]>() r = Slice(s, a, b)", ["m", 8]),
    ("s = Shape(x) k = Constant<value_ints = [-1]>() r = Concat<axis = 0>(s, k, s)", ["n", "m", 8, -1, "n", "m", 8]),
    ("s = Shape(x) a, r, c = Split<num_outputs = 3>(s)", ["m"]),
    (("s = Shape(x) t = Cast<to = 1>(s) k = Constant<value_float = 2.0>() u = Mul(t, k) v = Floor(u) "
     "r = Cast<to = 7>(v)"), ["2*n", "2*m", 16]),
    ("s = Shape(x) k = Constant<value_int = 3>() t = Mul(s, k) r = Div(t, k)", ["n", "m", 8]),
    ("s = Shape(x) r = ReduceProd<keepdims = 0>(s)", ["8*m*n"]),
    ("s = Shape(x) k = Constant<value_int = -1>() c = Equal(s, k) o = Constant<value_ints = [1]>() r = Where(c, o, s)",
     ["n", "m", 8]),
    ("s = Shape(x) i = Constant<value_ints = [1]>() u = Constant<value_ints = [5]>() r = ScatterElements(s, i, u)",
     ["n", 5, 8]),
    (("s = Shape(x) k = Constant<value_ints = [3, 1]>() t = Reshape(s, k) p = Transpose(t) "
     "f = Constant<value_ints = [-1]>() r = Reshape(p, f)"), ["n", "m", 8]),
    ("s = Shape(x) k = Constant<value_int = 4>() r = Mod(s, k)", [None, None, 0]),
    ("s = Shape(x) q = Shape(s) r = ConstantOfShape<value = int64[1] {7}>(q)", [7, 7, 7]),
    ("a = Constant<value_int = 1>() b = Constant<value_int = 7>() c = Constant<value_int = 2>() r = Range(a, b, c)",
     [1, 3, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "wanted"), _CONTENTS, ids=[body[-40:] for body, _ in _CONTENTS])
def test_contents(body: str, wanted: list[Any]) -> None:
    assert content(f"(float[n,m,8] x) => (r) {{ {body} }}") == wanted


_SHAPES = [
    ("k = Constant<value_ints = [0, -1, 4, 2]>() r = Reshape(x, k)", ["n", "m", 4, 2]),
    ("k = Constant<value_ints = [-1, 8]>() r = Reshape(x, k)", ["m*n", 8]),
    ("s = Shape(x) r = ConstantOfShape(s)", ["n", "m", 8]),
    ("s = Shape(x) o = Constant<value_float = 1.0>() r = Expand(o, s)", ["n", "m", 8]),
    ("r = Flatten<axis = 2>(x)", ["m*n", 8]),
    ("r = Concat<axis = 1>(x, x)", ["n", "2*m", 8]),
    (("s = Shape<start = 1, end = 2>(x) z = Constant<value_ints = [0]>() o = Constant<value_ints = [1]>() "
     "r = Slice(x, z, s, o)"), ["n", "m", 8]),
    ("s = Shape(x) i = Constant<value_int = 1>() g = Gather(s, i) z = Constant<value_int = 0>() r = Range(z, g, i)",
     ["m"]),
    ("t = Transpose<perm = [0, 2, 1]>(x) r = MatMul(x, t)", ["n", "m", "m"]),
    ("k = Constant<value_ints = [1, 2, 3]>() r = Tile(x, k)", ["n", "2*m", 24]),
    ("k = Constant<value_ints = [0, 1, 0, 0, 2, 0]>() r = Pad(x, k)", ["n", "m + 3", 8]),
    ("r = ReduceMean<keepdims = 0>(x)", []),
    ("r = ArgMax<axis = 1, keepdims = 0>(x)", ["n", 8]),
]  # fmt: skip


@pytest.mark.parametrize(("body", "wanted"), _SHAPES, ids=[body[-40:] for body, _ in _SHAPES])
def test_shapes(body: str, wanted: list[Any]) -> None:
    assert dims(f"(float[n,m,8] x) => (r) {{ {body} q = Shape(x) }}") == wanted


def test_better_dimensions_are_written_but_never_invented_ones() -> None:
    model, _ = facts_of(
        "(float[n,m] x, float[k] z) => (float[a,b] y) "
        "{ s = Shape(x) t = Expand(z, s) i = NonZero(x) u = Shape(i) v = Transpose(i) y = Relu(t) }"
    )
    written = [ir.dims(v) for node in ir.walk(model) for v in node.outputs if not v.is_graph_output()]
    assert all(not (isinstance(dim, str) and dim.isdigit()) for shape in written for dim in shape or ())
    assert ir.dims(model.graph.outputs[0]) == ("a", "b")
    assert ir.dims(model.graph.inputs[0]) == ("n", "m")


def test_equal_unknown_dimensions_are_recognized() -> None:
    model, facts = facts_of(
        "(float[n] x) => (int64[p] r, int64[p] q) { i = NonZero(x) j = Transpose(i) "
        "r = Shape<start = 1>(i) q = Shape<end = 1>(j) }"
    )
    left, right = (facts.numbers(v) for v in model.graph.outputs)
    assert left == right
    assert left is not None
    assert left[0] is not None


def test_declared_inner_symbols_are_not_believed() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[n] x, float[n] z) => (int64[1] r) '
        "<float[1,n] i> { i0 = NonZero(x) i = Cast<to = 1>(i0) r = Shape<start = 1>(i) }"
    )
    model = ir.from_proto(proto)
    numbers = symbolic.values(model).numbers(model.graph.outputs[0])
    assert numbers is not None
    assert numbers[0] != e.symbol("n")


def test_overridable_initializers_and_inputs_have_no_known_contents() -> None:
    model, facts = facts_of(
        "(float[n] x, int64[1] k = {3}) => (float[p] y) { s = Shape(x) t = Concat<axis = 0>(k) y = Reshape(x, t) }"
    )
    assert facts.content(value(model, "t")) is None or facts.numbers(value(model, "t")) == (None,)


def test_broadcast_with_a_limited_range_keeps_the_symbol() -> None:
    body = (
        "s = Shape<start = 1, end = 2>(x) z = Constant<value_ints = [0]>() o = Constant<value_ints = [1]>() "
        "p = Slice(table, z, s, o) r = Add(x, p)"
    )
    assert dims(f"(float[n,m] x, float[1,512] table) => (r) {{ {body} }}") == ["n", "m"]


def test_broadcast_of_different_symbols_is_unknown() -> None:
    assert dims("(float[n] x, float[m] z) => (r) { r = Add(x, z) q = Shape(r) }") == [None]


def test_a_zero_in_a_computed_shape_copies_and_so_is_not_believed() -> None:
    # with n == 0 the shape [0, 3] means [2, 3]
    text = (
        "(float[2,3] x, float[n] z) => (r) { s = Shape(z) k = Constant<value_ints = [3]>() t = Concat<axis = 0>(s, k) "
        "r = Reshape(x, t) q = Shape(r) }"
    )
    model, facts = facts_of(text)
    shape = facts.shape(value(model, "r"))
    assert shape is not None
    assert shape[0] == 2  # the total leaves nothing else
    text = text.replace("float[2,3] x", "float[2,m] x").replace("value_ints = [3]", "value_ints = [0]")
    assert dims(text)[0] is None


def test_a_slice_by_unknown_bounds_has_unknown_dimensions() -> None:
    model, facts = facts_of(
        "(float[n,4] x, int64[k] a, int64[k] b) => (float[p,q] r) { t = Slice(x, a, b) r = Relu(t) s = Shape(t) }"
    )
    shape = facts.shape(value(model, "t"))
    assert shape is not None
    assert e.symbol("n") not in shape
    assert 4 not in shape


def test_only_the_body_of_a_loop_knows_its_values() -> None:
    model, facts = facts_of(
        "(float[n] x, int64 trip, bool go) => (float[m] y) { y = Loop(trip, go, x) <body = b "
        "(int64 i, bool c, float[k] state) => (bool c2, float[k2] next) "
        "{ c2 = Identity(c) s = Shape(x) t = Shape(state) next = Concat<axis = 0>(state, state) }> }"
    )
    assert facts.numbers(value(model, "s")) == (e.symbol("n"),)
    inner = facts.numbers(value(model, "t"))
    assert inner is None or e.symbol("k") not in inner


def test_without_shape_arithmetic_nothing_is_walked() -> None:
    _, facts = facts_of("(float[n] x) => (float[n] y) { a = Relu(x) y = Relu(a) }")
    assert not facts.shapes


def test_results_are_cached_until_the_model_changes() -> None:
    model = ir.parse("(float[n] x) => (int64[1] y) { y = Shape(x) }")
    ctx = context()
    assert ctx.analysis(symbolic.values, model) is ctx.analysis(symbolic.values, model)


def test_importing_the_analysis_loads_no_runtime() -> None:
    code = "import sys, accelc.dimexpr; print('sympy' in sys.modules, 'onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- everything found holds when the model runs ----------------------------------------------------------------------

_STEPS = [
    "{o} = Relu({x})",
    "{o} = Transpose<perm = [1, 0]>({x})",
    "{o} = Concat<axis = 0>({x}, {x})",
    "{o}_s = Shape({x}) {o} = Reshape({x}, {o}_s)",
    "{o}_k = Constant<value_ints = [0, -1]>() {o} = Reshape({x}, {o}_k)",
    (
        "{o}_s = Shape<start = 1>({x}) {o}_k = Constant<value_ints = [-1]>() {o}_t = Concat<axis = 0>({o}_k, {o}_s) "
        "{o} = Reshape({x}, {o}_t)"
    ),
    "{o}_k = Constant<value_ints = [-1, 2]>() {o} = Reshape({x}, {o}_k)",
    "{o}_a = Constant<value_ints = [1]>() {o}_b = Constant<value_ints = [-1]>() {o} = Slice({x}, {o}_a, {o}_b)",
    "{o}_a = Constant<value_ints = [-2]>() {o}_b = Constant<value_ints = [99]>() {o} = Slice({x}, {o}_a, {o}_b)",
    "{o}_a = Constant<value_ints = [0]>() {o}_b = Shape<start = 1>({x}) {o} = Slice({x}, {o}_a, {o}_b)",
    (
        "{o}_a = Constant<value_ints = [-1]>() {o}_b = Constant<value_ints = [-9223372036854775807]>() "
        "{o}_c = Constant<value_ints = [0]>() {o} = Slice({x}, {o}_a, {o}_b, {o}_c, {o}_a)"
    ),
    "{o}_s = Shape({x}) {o}_z = ReduceSum<keepdims = 1>({x}) {o} = Expand({o}_z, {o}_s)",
    "{o}_k = Constant<value_ints = [2, 1]>() {o} = Tile({x}, {o}_k)",
    "{o}_s = Shape(w) {o} = Reshape({x}, {o}_s)",
    "{o} = Add({x}, w)",
    "{o}_k = Constant<value_int = 1>() {o}_q = ReduceMax<keepdims = 1>({x}) {o} = Concat<axis = 1>({x}, {x})",
]


@given(st.lists(st.sampled_from(_STEPS), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_fact_holds_when_the_model_runs(steps: list[str], n: int, m: int) -> None:
    body, last = "", "x"
    for index, step in enumerate(steps):
        body += step.format(o=f"v{index}", x=last) + " "
        last = f"v{index}"
    model, facts = facts_of(
        f"(float[n,m] x, float[n,m] w) => (float[p,q] y) {{ {body} q = Shape({last}) y = Relu({last}) }}"
    )
    made = [v for node in ir.walk(model) for v in node.outputs if v.name != "y" and not ir.is_constant(v)]
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=str(v.name)) for v in made)
    proto = onnx.shape_inference.infer_shapes(proto)
    feeds = {"x": np.ones((n, m), np.float32), "w": np.zeros((n, m), np.float32)}
    try:
        results = run(proto.SerializeToString(), feeds)
    except Exception:
        return  # facts speak of runs that succeed
    sizes = {Symbol("n"): n, Symbol("m"): m}
    for each, found in zip(made, results, strict=True):
        shape = facts.shape(each)
        assert shape is not None
        assert len(shape) == found.ndim
        for dim, size in zip(shape, found.shape, strict=True):
            _bind(dim, size, sizes)
        array = facts.content(each)
        for item, element in zip(
            [] if array is None else array.reshape(-1), found.reshape(-1), strict=array is not None
        ):
            if not isinstance(item, int) and not isinstance(item, e.Poly):
                continue
            _bind(item, int(element), sizes)
    for symbol, number in facts.unless_zero.items():
        if symbol in sizes and isinstance(number, e.Poly) and number.symbols <= sizes.keys():
            meant = e.evaluate(number, sizes)
            assert meant in (0, sizes[symbol])


def _bind(number: Any, size: int, sizes: dict[Symbol, int]) -> None:
    """Check a number against what the model gave; an invented symbol means what it was first found to be."""
    if isinstance(number, e.Poly):
        atom = e.single(number)
        if atom is not None and atom.invented:
            assert sizes.setdefault(atom, size) == size
            return
        if not number.symbols <= sizes.keys():
            return
    assert e.evaluate(number, sizes) == size
