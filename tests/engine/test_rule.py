"""Rules: how laws are read, what a match answers, and what a replacement may be built from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accelc import ir
from accelc.context import Context
from accelc.errors import RuleError
from accelc.guards import FLOATS, dtype_in, kernel, known_equal, opset_at_least
from accelc.infer import infer_model
from accelc.pattern import Const, Maybe, Ops, Scalar, Var
from accelc.plugins import find_backend
from accelc.rewrite import Driver
from accelc.rules import Law, Match, Rule, rule, rules_of
from accelc.target import Target
from accelc.testing import check, context, unchanged
from accelc.why import explain


def keeps_shape(m: Match) -> bool | str:
    return known_equal(m.dims("x"), ir.dims(m.out) or ()) or "the shapes may differ"


@rule()
def add_zero(op: Ops, x: Var) -> Law:
    """x + (-0) == x

    The rest of the docstring explains.
    """
    return op.Add(x, -0.0), x, keeps_shape


ADD = "(float[2] a) => (float[2] r) <float z = {-0.0}> { n = Neg(a) s = Add(n, z) r = Relu(s) }"


def match_of(law: Rule, source: str, ctx: Context | None = None) -> Match:
    """The first match anywhere in a graph."""
    model = ir.parse(source)
    for node in model.graph:
        for found in law.matches(node, 20, ctx or context()):
            return found
    raise AssertionError("no match")


# --- the decorator


def test_a_rule_knows_its_law_and_where_it_stands() -> None:
    assert (add_zero.name, str(add_zero), add_zero.law) == ("add_zero", "add_zero", "x + (-0) == x")
    assert add_zero.doc.endswith("The rest of the docstring explains.")
    line = add_zero_line()
    assert add_zero.source == f"engine/test_rule.py:{line}"
    assert (add_zero.exact, add_zero.shared, add_zero.opset, len(add_zero.where)) == (True, False, 0, 1)


def add_zero_line() -> int:
    from pathlib import Path

    return Path(__file__).read_text(encoding="utf-8").splitlines().index("@rule()") + 1


def test_options_reach_the_rule() -> None:
    @rule(exact=False, shared=True, opset=20, name="other")
    def law(op: Ops, x: Var) -> Law:
        """Neg(x) == x"""
        return op.Neg(x), x

    assert (law.name, law.exact, law.shared, law.opset) == ("other", False, True, 20)


def test_annotations_decide_what_a_variable_stands_for() -> None:
    seen: list[Any] = []

    @rule()
    def law(op: Ops, a: Var, b: Const, c: Scalar, d: Maybe, e) -> Law:  # type: ignore[no-untyped-def]
        """_ == _"""
        seen.extend([a, b, c, d, e])
        return op.Clip(a, b, c), a

    assert [type(each) for each in seen] == [Var, Const, Scalar, Maybe, Var]
    assert [each.name for each in seen] == list("abcde")


def test_annotations_may_be_classes() -> None:
    namespace: dict[str, Any] = {"Const": Const, "seen": []}
    exec("def law(op, w: Const):\n    '''w == w'''\n    seen.append(w)\n    return op.Neg(w), w", namespace)
    rule()(namespace["law"])
    assert type(namespace["seen"][0]) is Const


def test_a_rule_without_a_law_is_refused() -> None:
    with pytest.raises(RuleError, match=r"rule silent \(engine/test_rule.py:\d+\): has no law in its docstring"):

        @rule()
        def silent(op: Ops, x: Var) -> Law:
            return op.Neg(x), x


@pytest.mark.parametrize("before", [lambda op, x: x, lambda op, x: [], lambda op, x: op.any_of(op.Neg(x), op.Abs(x))])
def test_the_root_must_be_an_operator(before: Any) -> None:
    with pytest.raises(RuleError, match="must match an operator at its root"):

        @rule()
        def rootless(op: Ops, x: Var) -> Law:
            """x == x"""
            return before(op, x), x


def test_rules_of_keeps_the_order() -> None:
    namespace = {"second": add_zero, "text": "no rule", "first": square}
    assert rules_of(namespace) == (add_zero, square)


# --- what a match answers


@rule(exact=False)
def square(op: Ops, x: Var, e: Scalar) -> Law:
    """x^2 == x * x"""

    def after(m: Match) -> ir.Value:
        m.require(m.scalar("e") == 2, "the exponent is not 2")
        value: ir.Value = m.op.Mul(m.x, m.x)
        return value

    return op.Pow(x, e), after, dtype_in("x", FLOATS)


POW = "(float[2] a) => (float[2] r) <float e = {%s}> { p = Pow(a, e) r = Neg(p) }"


def test_values_and_constants() -> None:
    m = match_of(square, POW % 2)
    assert (m.x.name, m.e.name, m["x"], m["nothing"]) == ("a", "e", m.x, None)
    assert (m.const("e").tolist(), m.scalar("e"), m.dims("x"), m.dtype("x")) == (2.0, 2.0, (2,), ir.DataType.FLOAT)
    assert m.out.name == "p"
    assert m.graph.name == "main"
    with pytest.raises(AttributeError, match="rule square binds nothing to 'q' here"):
        _ = m.q


def test_attributes_come_from_the_node_or_its_schema() -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Softmax(op.Transpose(x, perm=..., _as="inner"), axis=...), x

    m = match_of(law, "(float[2,3] a) => (float[3,2] r) { t = Transpose<perm = [1, 0]>(a) r = Softmax(t) }")
    assert m.attr("axis") == -1
    assert m.attr("perm", node="inner") == (1, 0)
    assert m.attr("nothing", 7) == 7
    assert m.node("inner").op_type == "Transpose"
    assert (m.has("inner"), m.has("outer")) == (True, False)
    assert [node.op_type for node in m.nodes] == ["Softmax", "Transpose"]


def test_a_miss_says_why() -> None:
    ctx = context()
    assert explain(square, ir.parse(POW % 3), ctx).reason == "the exponent is not 2"

    @rule()
    def asks(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), lambda m: m.const("x")

    model = ir.parse("(float[2] a) => (float[2] r) { r = Neg(a) }")
    assert explain(asks, model, ctx).reason == "x is not constant"

    @rule()
    def scalar(op: Ops, x: Const) -> Law:
        """_ == _"""
        return op.Neg(x), lambda m: m.scalar("x")

    model = ir.parse("() => (float[2] r) <float[2] w = {1, 2}> { r = Neg(w) }")
    assert explain(scalar, model, ctx).reason == "x has 2 elements, not one"


def test_unknown_ranks_and_types_are_misses() -> None:
    @rule()
    def rank(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), lambda m: m.dims("x") and m.x

    @rule()
    def kind(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), lambda m: m.dtype("x") and m.x

    source = """<ir_version: 10, opset_import: ["": 20, "other": 1]>
    main (float[2] a) => (float[2] r) { u = other.Unknown(a) n = Neg(u) r = Abs(n) }"""
    assert explain(rank, ir.parse(source), context()).reason == "the rank of x is unknown"
    assert explain(kind, ir.parse(source), context()).reason == "the type of x is unknown"


# --- guards


def test_a_guard_says_no_by_reason_or_by_its_name() -> None:
    def never(m: Match) -> bool:
        return False

    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), x, never

    unchanged(law, "(float[2] a) => (float[2] r) { n = Neg(a) r = Abs(n) }", reason="never")


def test_shared_guards() -> None:
    graph = "(float[2] a, float[3,2] b) => (float[3,2] r) { n = Add(a, b) r = Abs(n) }"
    cpu = find_backend("cpu")(()).target()

    def law_with(*guards: Any) -> Rule:
        @rule()
        def law(op: Ops, x: Var, y: Var) -> Law:
            """_ == _"""
            return op.Add(x, y), lambda m: m.fail("all guards hold"), *guards

        return law

    for guard, said in [
        (opset_at_least(20), "all guards hold"),
        (opset_at_least(21), "needs opset 21, the model has 20"),
        (dtype_in("x", FLOATS), "all guards hold"),
        (dtype_in("x", {ir.DataType.INT8}), "x is FLOAT"),
        (kernel("FastGelu", T="x"), "all guards hold"),
        (kernel("NoSuchOperator", T="x"), "has no kernel for NoSuchOperator with T=tensor(float)"),
    ]:
        unchanged(law_with(guard), graph, reason=said, ctx=context(target=cpu))
    portable = context(portable=True, target=cpu)
    unchanged(law_with(kernel("FastGelu", T="x")), graph, reason="--portable is on", ctx=portable)


def test_a_context_for_tests_has_the_kernels_of_the_cpu() -> None:
    assert context().allows("com.microsoft", "FastGelu", 20, {"T": ir.DataType.FLOAT}) is True
    assert context().allows("", "Gelu", 20, {"T": ir.DataType.FLOAT}) is True
    assert context(target=Target.cpu([])).allows("", "Gelu", 20, {"T": ir.DataType.FLOAT}) is not True


def test_equal_shapes_need_proof() -> None:
    check(add_zero, ADD, "(float[2] a) => (float[2] r) { n = Neg(a) r = Relu(n) }")
    assert known_equal((2, "N"), (2, "N"))
    assert not known_equal(("N",), ("M",))
    assert not known_equal((None,), (None,))
    assert not known_equal((2,), (2, 2))


# --- replacements


def build(after: Any, graph: str = POW % 2, exact: bool = True) -> ir.Model:
    """The graph after a rule with this replacement fired once."""

    @rule(exact=exact)
    def law(op: Ops, x: Var, e: Const) -> Law:
        """_ == _"""
        return op.Pow(x, e), after

    model = ir.parse(graph)
    infer_model(model)
    assert Driver([law]).run(model, context()) == 1
    return model


def test_arrays_numbers_and_lists_become_constants() -> None:
    def after(m: Match) -> Any:
        grown = m.op.Reshape(m.x, [1, 2])
        grown = m.op.Mul(grown, np.array([[1.0, 2.0]], np.float32))
        grown = m.op.Add(grown, 3)
        return m.op.Reshape(grown, [-1])

    model = build(after)
    kinds = [(str(v.dtype), ir.dims(v)) for v in model.graph.initializers.values()]
    assert kinds == [("INT64", (2,)), ("FLOAT", (1, 2)), ("FLOAT", ()), ("INT64", (1,))]
    assert [node.op_type for node in model.graph] == ["Reshape", "Mul", "Add", "Reshape", "Neg"]


def test_only_what_is_used_enters_the_graph() -> None:
    def after(m: Match) -> Any:
        m.op.weight(np.zeros(4, np.float32), "spare")
        return m.op.Mul(m.x, m.x)

    assert list(build(after).graph.initializers) == []


def test_trailing_absent_inputs_are_left_out_and_copies_keep_attributes() -> None:
    def after(m: Match) -> Any:
        clipped = m.op.Clip(m.x, None, None)
        return m.op.copy(m.node("inner"), [clipped], axis=1)

    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(op.Softmax(x, axis=..., _as="inner")), after

    model = ir.parse("(float[2,3] a) => (float[2,3] r) { s = Softmax<axis = 0>(a) n = Neg(s) r = Abs(n) }")
    assert Driver([law]).run(model, context()) == 1
    assert [(node.op_type, len(node.inputs), ir.attributes(node)) for node in model.graph] == [
        ("Clip", 1, {}),
        ("Softmax", 1, {"axis": 1}),
        ("Abs", 1, {}),
    ]


def test_what_cannot_become_an_input() -> None:
    with pytest.raises(RuleError, match="rule law: cannot make an input of 'text'"):
        build(lambda m: m.op.Mul(m.x, "text"))


def test_a_replacement_is_no_choice() -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), op.Abs(op.any_of(op.Exp(x), op.Log(x)))

    with pytest.raises(RuleError, match="a replacement cannot be a choice"):
        Driver([law]).run(ir.parse("(float[2] a) => (float[2] r) { n = Neg(a) r = Relu(n) }"), context())


def test_terms_as_replacements() -> None:
    @rule()
    def law(op: Ops, x: Var, lo: Maybe, hi: Maybe) -> Law:
        """_ == _"""
        return op.Clip(op.Identity(x), lo, hi), op.Clip(x, lo, hi)

    check(
        law,
        "(float[2] a, float h) => (float[2] r) { n = Identity(a) c = Clip(n, , h) r = Neg(c) }",
        "(float[2] a, float h) => (float[2] r) { c = Clip(a, , h) r = Neg(c) }",
    )


def test_literal_replacements_take_the_type_of_the_root() -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """x + 2 == x - (-2)"""
        return op.Add(x, 2), op.Sub(x, -2)

    for kind in ("float", "double", "int32", "int64"):
        check(
            law,
            f"({kind}[2] a) => ({kind}[2] r) <{kind} w = {{2}}> {{ s = Add(a, w) r = Abs(s) }}",
            f"({kind}[2] a) => ({kind}[2] r) <{kind} w = {{-2}}> {{ s = Sub(a, w) r = Abs(s) }}",
        )


def test_several_forms() -> None:
    @rule()
    def pick(op: Ops, x: Var) -> Law:
        """Split of one part == x"""
        forms = [op.Split(x, num_outputs=1, axis=...), op.Identity(x)]
        return forms, x

    split = "(float[4] a) => (float[4] r) { p = Split<num_outputs = 1>(a) r = Neg(p) }"
    check(pick, split, "(float[4] a) => (float[4] r) { r = Neg(a) }")
    check(
        pick,
        "(float[4] a) => (float[4] r) { p = Identity(a) r = Neg(p) }",
        "(float[4] a) => (float[4] r) { r = Neg(a) }",
    )
