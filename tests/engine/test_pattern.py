"""Terms against graphs: what matches, what it binds, and why the rest does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

from accelc import ir
from accelc.pattern import (
    AnyOf,
    Const,
    Literal,
    Maybe,
    Op,
    Ops,
    Scalar,
    State,
    Term,
    Trace,
    Var,
    attribute_default,
    close_to,
    depth,
    match,
    term,
)

op = Ops()
x, y, z = Var("x"), Var("y"), Var("z")
Bindings = dict[str, str | None]


def root_of(model: ir.Model) -> ir.Node:
    node = model.graph.outputs[0].producer()
    assert node is not None
    return node


def find(pattern: Op, source: str, *, shared: bool = False, opset: int = 20) -> list[Bindings]:
    """Every match at the node behind the first output: the names each variable stands for."""
    state = State(root_of(ir.parse(source)), opset, shared)
    return [{name: v and v.name for name, v in found.values.items()} for found in match(pattern, state)]


def reason(pattern: Op, source: str, *, shared: bool = False) -> str:
    trace = Trace()
    assert list(match(pattern, State(root_of(ir.parse(source)), 20, shared, trace))) == []
    return f"{trace.where}: {trace.reason}"


def graph(body: str, inputs: str = "float[2] a, float[2] b", weights: str = "") -> str:
    return f"({inputs}) => (float[2] r) {f'<{weights}>' if weights else ''} {{ {body} }}"


# --- variables


def test_a_variable_stands_for_any_value() -> None:
    assert find(op.Sub(x, y), graph("r = Sub(a, b)")) == [{"x": "a", "y": "b"}]


def test_a_repeated_variable_is_one_value() -> None:
    assert find(op.Sub(x, x), graph("r = Sub(a, a)")) == [{"x": "a"}]
    assert "x would have to be two different values" in reason(op.Sub(x, x), graph("r = Sub(a, b)"))


def test_repeated_across_levels() -> None:
    swish = op.Mul(x, op.Sigmoid(x))
    assert find(swish, graph("s = Sigmoid(a) r = Mul(a, s)")) == [{"x": "a"}]
    assert find(swish, graph("s = Sigmoid(a) r = Mul(s, a)")) == [{"x": "a"}]
    assert find(swish, graph("s = Sigmoid(a) r = Mul(b, s)")) == []


def test_bindings_are_gone_after_a_miss() -> None:
    state = State(root_of(ir.parse(graph("n = Neg(a) r = Sub(n, b)"))), 20)
    assert list(match(op.Sub(op.Neg(x), op.Neg(y)), state)) == []
    assert (state.values, state.nodes, state.labels) == ({}, [], {})


def test_const_wants_a_constant() -> None:
    c = Const("c")
    assert find(op.Sub(x, c), graph("r = Sub(a, w)", weights="float[2] w = {1, 2}")) == [{"x": "a", "c": "w"}]
    assert find(op.Sub(x, c), graph("w = Constant<value_floats = [1.0, 2.0]>() r = Sub(a, w)"))
    assert "c is not constant" in reason(op.Sub(x, c), graph("r = Sub(a, b)"))


def test_a_weight_that_a_caller_may_replace_is_not_constant() -> None:
    source = "(float[2] a, float[2] w = {1, 2}) => (float[2] r) { r = Sub(a, w) }"
    assert find(op.Sub(x, Const("c")), source) == []


@pytest.mark.parametrize("weight", ["float w = {3}", "float[1] w = {3}"])
def test_scalar_keeps_the_rank(weight: str) -> None:
    assert find(op.Sub(x, Scalar("s")), graph("r = Sub(a, w)", weights=weight)) == [{"x": "a", "s": "w"}]


def test_scalar_that_widens_the_result_is_none() -> None:
    source = "(float[2] a) => (float[1,2] r) <float[1,1] w = {3}> { r = Sub(a, w) }"
    assert "s is not a scalar" in reason(op.Sub(x, Scalar("s")), source)
    assert "s is not a scalar" in reason(op.Sub(x, Scalar("s")), graph("r = Sub(a, w)", weights="float[2] w = {1, 1}"))


# --- order


@pytest.mark.parametrize("name", ["Add", "Mul", "Max", "Min", "Sum"])
def test_commutative_operators_are_tried_both_ways(name: str) -> None:
    pattern = getattr(op, name)(op.Neg(x), y)
    assert find(pattern, graph(f"n = Neg(a) r = {name}(b, n)")) == [{"x": "a", "y": "b"}]
    assert find(pattern, graph(f"n = Neg(a) r = {name}(n, b)")) == [{"x": "a", "y": "b"}]


@pytest.mark.parametrize("name", ["Sub", "Div", "Pow", "PRelu"])
def test_others_are_not(name: str) -> None:
    assert find(getattr(op, name)(op.Neg(x), y), graph(f"n = Neg(a) r = {name}(b, n)")) == []


def test_both_orders_are_two_matches() -> None:
    assert find(op.Add(x, y), graph("r = Add(a, b)")) == [{"x": "a", "y": "b"}, {"x": "b", "y": "a"}]
    assert find(op.Add(x, y), graph("r = Add(a, a)")) == [{"x": "a", "y": "a"}]


def test_operators_of_other_domains_do_not_commute() -> None:
    source = """<ir_version: 10, opset_import: ["": 20, "my.domain": 1]>
    main (float[2] a, float[2] b) => (float[2] r) { n = Neg(a) r = my.domain.Add(b, n) }"""
    assert find(Op("my.domain", "Add", (op.Neg(x), y)), source) == []


def test_backtracks_into_an_inner_choice_for_an_outer_one() -> None:
    """x is bound to `a` by the first order of the inner Add; only its second order agrees with the outer Mul."""
    pattern = op.Div(op.Add(x, y), y)
    assert find(pattern, graph("s = Add(a, b) r = Div(s, a)")) == [{"x": "b", "y": "a"}]
    assert find(pattern, graph("s = Add(a, b) r = Div(s, b)")) == [{"x": "a", "y": "b"}]


def test_backtracks_over_alternatives() -> None:
    either = op.any_of(op.Neg(x), op.Neg(op.Abs(x)))
    assert find(op.Sub(either, x), graph("m = Abs(a) n = Neg(m) r = Sub(n, a)")) == [{"x": "a"}]


def test_backtracking_leaves_labels_and_nodes_of_the_match_only() -> None:
    pattern = op.Add(op.any_of(op.Neg(op.Exp(x), _as="wrong"), op.Neg(op.Abs(x), _as="right")), y)
    state = State(root_of(ir.parse(graph("m = Abs(a) n = Neg(m) r = Add(b, n)"))), 20)
    for found in match(pattern, state):
        assert set(found.labels) == {"right"}
        assert [node.op_type for node in found.nodes] == ["Add", "Neg", "Abs"]


# --- consumers


def test_consumers_are_nodes_and_counted_without_a_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = graph("n = Neg(a) r = Add(n, n)")
    assert find(op.Add(op.Neg(x), op.Neg(x)), twice) == [{"x": "a"}]
    hub = graph("n = Neg(a) " + " ".join(f"u{i} = Abs(n)" for i in range(50)) + " r = Sub(n, b)")
    monkeypatch.setattr(ir.Value, "uses", None)
    assert "51 consumers" in reason(op.Sub(op.Neg(x), y), hub)
    node = root_of(ir.parse(twice))
    assert node.inputs[0] is not None
    assert ir.only_user(node.inputs[0]) is node
    assert ir.only_user(node.outputs[0]) is None


# --- alternatives and optional inputs


@pytest.mark.parametrize("name", ["Relu", "Tanh"])
def test_any_of_takes_either(name: str) -> None:
    assert find(op.Neg(op.any_of(op.Relu(x), op.Tanh(x))), graph(f"t = {name}(a) r = Neg(t)")) == [{"x": "a"}]


def test_any_of_may_offer_a_literal_or_a_variable() -> None:
    pattern = op.Sub(x, op.any_of(1.0, op.Neg(y)))
    assert find(pattern, graph("r = Sub(a, w)", weights="float w = {1}")) == [{"x": "a"}]
    assert find(pattern, graph("n = Neg(b) r = Sub(a, n)")) == [{"x": "a", "y": "b"}]


CLIP = "(float[2] a, float lo, float hi) => (float[2] r) { r = Clip(%s) }"


@pytest.mark.parametrize(
    ("inputs", "bound"),
    [
        ("a, lo, hi", {"x": "a", "lo": "lo", "hi": "hi"}),
        ("a, lo", {"x": "a", "lo": "lo", "hi": None}),
        ("a, , hi", {"x": "a", "lo": None, "hi": "hi"}),
        ("a", {"x": "a", "lo": None, "hi": None}),
    ],
)
def test_maybe_is_present_or_absent(inputs: str, bound: Bindings) -> None:
    assert find(op.Clip(x, Maybe("lo"), Maybe("hi")), CLIP % inputs) == [bound]


def test_absent_means_absent() -> None:
    assert find(op.Clip(x, None, y), CLIP % "a, , hi") == [{"x": "a", "y": "hi"}]
    assert "must be absent" in reason(op.Clip(x, None, y), CLIP % "a, lo, hi")
    assert "input y is absent" in reason(op.Clip(x, y, z), CLIP % "a, , hi")


def test_more_inputs_than_the_pattern_has_are_a_miss() -> None:
    assert "has 3 inputs, the pattern 1" in reason(op.Clip(x), CLIP % "a, lo, hi")


def test_trailing_absent_inputs_do_not_count() -> None:
    assert find(op.Clip(x), CLIP % "a, , ") == [{"x": "a"}]


def test_open_inputs() -> None:
    source = "(float[2] a, float[2] b) => (float[6] r) { n = Neg(a) r = Concat<axis = 0>(n, b, b) }"
    assert find(op.Concat(op.Neg(x), ..., axis=0), source) == [{"x": "a"}]
    assert find(op.Concat(..., axis=0), source) == [{}]
    assert find(op.Concat(op.Neg(x), axis=0), source) == []


# --- literals

ONE_AND_TWO = {"float16": (0x3C00, 0x4000), "bfloat16": (0x3F80, 0x4000)}
"""The text format takes the bits of 16-bit numbers."""
NUMBERS = "float double float16 bfloat16 int8 uint8 int16 uint16 int32 uint32 int64 uint64".split()


@pytest.mark.parametrize("dtype", NUMBERS)
def test_literal_in_every_type(dtype: str) -> None:
    one, two = ONE_AND_TWO.get(dtype, (1, 2))
    weights = f"{dtype} one = {{{one}}}, {dtype} two = {{{two}}}"
    source = f"({dtype}[2] a) => ({dtype}[2] r) <{weights}> {{ r = Add(a, %s) }}"
    assert find(op.Add(x, 1), source % "one") == [{"x": "a"}]
    assert find(op.Add(x, 1.0), source % "one") == [{"x": "a"}]
    assert "is 2" in reason(op.Add(x, 1), source % "two")


def test_literal_bool_is_no_number() -> None:
    source = "(bool[2] a) => (bool[2] r) <bool t = {1}> { r = And(a, t) }"
    assert find(op.And(x, True), source) == [{"x": "a"}]
    assert find(op.And(x, False), source) == []
    assert find(op.And(x, 1), source) == []


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["f32", "f16", "bf16"])
def test_literal_within_two_units_in_the_last_place(kind: Any) -> None:
    wanted = math.sqrt(2)
    here = np.asarray(wanted).astype(kind)
    unit = np.asarray(2.0 ** (-7 if kind is ml_dtypes.bfloat16 else -np.finfo(kind).nmant)).astype(kind)
    assert close_to(here, wanted)
    assert close_to((here + unit).astype(kind), wanted)
    assert not close_to((here + kind(8) * unit).astype(kind), wanted)


def test_literal_that_its_type_can_hold_is_exact() -> None:
    assert close_to(np.float32(0.5), 0.5)
    assert not close_to(np.nextafter(np.float32(0.5), np.float32(1)), 0.5)
    assert close_to(np.nextafter(np.float64(0.1), 1.0), 0.1)
    assert not close_to(np.float64(0.1) * (1 + 2.0**-50), 0.1)
    assert not close_to(np.float64(np.float32(0.1)), 0.1)
    assert not close_to(np.nextafter(np.float64(0.5), 1.0), 0.5)
    assert close_to(np.float64(1 / np.sqrt(2)), 0.7071067811865476)
    assert not close_to(np.float32(1e-30), 0.0)
    assert not close_to(np.float32(np.nan), 0.0)
    assert not close_to(np.float32(np.inf), 1.0)
    assert not close_to(np.float32(-1), 1.0)


def test_literal_integers_do_not_round() -> None:
    assert close_to(np.int64(2**53 + 1), 2**53 + 1)
    assert not close_to(np.int64(3), 3.5)


def test_literal_may_be_a_constant_node_or_one_element_of_any_rank_that_does_not_widen() -> None:
    assert find(op.Add(x, 1.0), graph("w = Constant<value_float = 1.0>() r = Add(a, w)")) == [{"x": "a"}]
    assert find(op.Add(x, 1.0), graph("r = Add(a, w)", weights="float[1] w = {1}")) == [{"x": "a"}]
    wide = "(float[2] a) => (float[1,2] r) <float[1,1] w = {1}> { r = Add(a, w) }"
    assert "may widen the result" in reason(op.Add(x, 1.0), wide)
    assert "not a constant of one element" in reason(op.Add(x, 1.0), graph("r = Add(a, b)"))
    assert find(op.Add(x, 1.0), graph("r = Add(a, w)", weights="float[2] w = {1, 1}")) == []


# --- attributes


def test_an_attribute_nobody_asked_for_must_be_at_its_default() -> None:
    source = "(float[2,3] a) => (float[2,3] r) { r = Softmax%s(a) }"
    assert find(op.Softmax(x), source % "")
    assert find(op.Softmax(x), source % "<axis = -1>")
    assert "attribute axis=0 is not the default" in reason(op.Softmax(x), source % "<axis = 0>")
    assert find(op.Softmax(x, axis=...), source % "<axis = 0>")
    assert find(op.Softmax(x, _any=True), source % "<axis = 0>")


def test_an_attribute_asked_for_may_be_left_at_its_default() -> None:
    source = "(float[2,3] a) => (float[2,3] r) { r = Softmax(a) }"
    assert find(op.Softmax(x, axis=-1), source)
    assert "attribute axis is -1, the pattern wants 0" in reason(op.Softmax(x, axis=0), source)


def test_defaults_are_those_of_the_opset() -> None:
    assert (attribute_default("", "Softmax", "axis", 11), attribute_default("", "Softmax", "axis", 13)) == (1, -1)
    source = "(float[2,3] a) => (float[2,3] r) { r = Softmax<axis = 1>(a) }"
    assert find(op.Softmax(x), source, opset=11)
    assert not find(op.Softmax(x), source, opset=13)


def test_attributes_without_a_default_and_unknown_operators() -> None:
    assert attribute_default("", "Transpose", "perm", 20) is None
    assert attribute_default("", "NoSuchOperator", "axis", 20) is None
    source = "(float[2,3] a) => (float[3,2] r) { r = Transpose<perm = [1, 0]>(a) }"
    assert not find(op.Transpose(x), source)
    assert find(op.Transpose(x, perm=[1, 0]), source)
    assert not find(op.Transpose(x, perm=(0, 1)), source)


def test_string_and_float_attributes() -> None:
    pad = "(float[1,1,4] a) => (float[1,1,4] r) <float[1,1,3] w = {1,1,1}> { r = Conv<auto_pad = %s>(a, w) }"
    assert find(op.Conv(x, y, auto_pad="SAME_UPPER"), pad % '"SAME_UPPER"')
    assert not find(op.Conv(x, y), pad % '"SAME_UPPER"')
    leaky = graph("r = LeakyRelu<alpha = 0.2>(a)")
    assert find(op.LeakyRelu(x, alpha=0.2), leaky), "0.2 is compared as a 32-bit float"
    assert not find(op.LeakyRelu(x), leaky)


def test_an_attribute_that_refers_to_its_function_never_matches() -> None:
    model = ir.parse(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2,3] a) => (float[2,3] r) { r = f.S<n = 0>(a) }
        <domain: "f", opset_import: ["": 20]> S<n>(p) => (q) { q = Softmax<axis = @n>(p) }"""
    )
    (function,) = model.functions.values()
    trace = Trace()
    assert not list(match(op.Softmax(x, _any=True), State(function.graph[0], 20, trace=trace)))
    assert "refers to an attribute of its function" in trace.reason


# --- inner nodes


def test_an_inner_node_with_another_consumer() -> None:
    pattern = op.Add(op.Neg(x), y)
    source = graph("n = Neg(a) s = Add(n, b) t = Abs(n) r = Mul(s, t)")
    inner = op.Mul(pattern, op.Abs(z))
    assert "its output has 2 consumers" in reason(inner, source)
    assert find(inner, source, shared=True) == [{"x": "a", "y": "b", "z": "n"}]


def test_an_inner_node_used_twice_by_one_consumer_is_its_own() -> None:
    assert find(op.Add(op.Neg(x), op.Neg(x)), graph("n = Neg(a) r = Add(n, n)")) == [{"x": "a"}]


def test_an_inner_graph_output() -> None:
    source = "(float[2] a) => (float[2] r, float[2] n) { n = Neg(a) r = Abs(n) }"
    assert "its output n is an output of the graph" in reason(op.Abs(op.Neg(x)), source)
    assert find(op.Abs(op.Neg(x)), source, shared=True)


def test_the_output_of_an_operator_with_several() -> None:
    source = "(float[4] a) => (float[2] r) <int64[2] two = {2,2}> { p, q = Split<axis = 0>(a, two) r = Neg(q) }"
    split = op.Split(x, y, axis=0, _output=1)
    assert find(op.Neg(split), source) == [{"x": "a", "y": "two"}]
    assert "output 1 is used, the pattern wants output 0" in reason(op.Neg(op.Split(x, y, axis=0)), source)
    both = "(float[4] a) => (float[2] r) <int64[2] t = {2,2}> { p, q = Split<axis = 0>(a, t) n = Neg(q) r = Add(n, p) }"
    assert "its output 0 is used as well" in reason(op.Add(op.Neg(split), z), both)


def test_a_producer_in_an_outer_graph_is_not_part_of_the_pattern() -> None:
    source = """(bool c, float[2] a) => (float[2] r) {
        n = Neg(a)
        r = If(c) <then_branch = g () => (float[2] u) { u = Abs(n) }, else_branch = h () => (float[2] v) { v = Exp(n) }>
    }"""
    model = ir.parse(source)
    abs_node = next(node for node in ir.walk(model) if node.op_type == "Abs")
    trace = Trace()
    assert not list(match(op.Abs(op.Neg(x)), State(abs_node, 20, True, trace)))
    assert "is in an outer graph" in trace.reason
    assert [found.values["x"] for found in match(op.Abs(x), State(abs_node, 20))] == list(abs_node.inputs)


def test_constants_of_an_outer_graph_count() -> None:
    source = """(bool c, float[2] a) => (float[2] r) <float one = {1}> {
        r = If(c) <
            then_branch = g () => (float[2] u) { u = Add(a, one) }, else_branch = h () => (float[2] v) { v = Exp(a) }
        >
    }"""
    add = next(node for node in ir.walk(ir.parse(source)) if node.op_type == "Add")
    assert len(list(match(op.Add(x, 1.0), State(add, 20)))) == 1


# --- traces and terms


def test_the_trace_keeps_the_deepest_miss() -> None:
    pattern = op.Mul(op.Add(op.Erf(x), 1.0), 0.5)
    source = graph("e = Erf(a) s = Add(e, one) r = Mul(s, w)", weights="float one = {1}, float w = {0.25}")
    assert "wants the constant 0.5, but w is 0.25" in reason(pattern, source)
    far = graph("e = Tanh(a) s = Add(e, one) r = Mul(s, w)", weights="float one = {1}, float w = {0.5}")
    assert "wants Erf before it, but Tanh" in reason(pattern, far)


def test_terms_are_checked() -> None:
    assert term(2) == Literal(2)
    assert term(None) is None
    with pytest.raises(TypeError, match="not a term: 'two'"):
        op.Add(x, "two")
    with pytest.raises(AttributeError):
        op._repr_html_  # noqa: B018


def test_depth_counts_operators() -> None:
    assert depth(x) == 0
    assert depth(op.Mul(x, op.Add(op.Erf(x), 1.0))) == 3
    assert depth(op.any_of(x, op.Neg(op.Neg(x)))) == 2


def test_the_vendor_domain_is_kept_apart() -> None:
    source = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
    main (float[2] a) => (float[2] r) { r = com.microsoft.Gelu(a) }"""
    assert find(op.ms.Gelu(x), source) == [{"x": "a"}]
    assert find(op.Gelu(x), source) == []
    assert str(op.ms.Gelu(x)) == "com.microsoft.Gelu"


def test_attribute_values_come_from_the_schema_as_text() -> None:
    assert attribute_default("", "Conv", "auto_pad", 20) == "NOTSET"
    assert onnx.defs.get_schema("Conv", 20).attributes["auto_pad"].default_value.s == b"NOTSET"


def test_a_choice_of_choices() -> None:
    options: Sequence[Term] = AnyOf((op.any_of(op.Neg(x), op.Abs(x)), op.Exp(x))).options
    assert len(options) == 2
    assert find(op.Relu(AnyOf(tuple(options))), graph("t = Exp(a) r = Relu(t)")) == [{"x": "a"}]
