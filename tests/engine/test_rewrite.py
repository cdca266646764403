"""The driver: what it visits, what it refuses, how it names things, and where it stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest

from accelc import ir, structure
from accelc.context import Context, Fuel, Settings
from accelc.errors import RuleError
from accelc.infer import infer_model
from accelc.pass_base import RulePass, run_pass
from accelc.pattern import Const, Ops, Trace, Var
from accelc.rewrite import Driver, RuleStats, drop_initializer, propose, remove_dead, replace_value
from accelc.rules import Law, rule
from accelc.target import Target
from accelc.testing import context, run
from accelc.why import explain


@rule()
def double_neg(op: Ops, x: Var) -> Law:
    """-(-x) == x"""
    return op.Neg(op.Neg(x)), x


@rule()
def identity(op: Ops, x: Var) -> Law:
    """Identity(x) == x"""
    return op.Identity(x), x


@rule()
def abs_neg(op: Ops, x: Var) -> Law:
    """|-x| == |x|"""
    return op.Abs(op.Neg(x)), op.Abs(x)


RULES = [double_neg, identity, abs_neg]


def load(source: str) -> ir.Model:
    model = ir.parse(source)
    infer_model(model)
    return model


def drive(model: ir.Model, *rules: Any, ctx: Context | None = None) -> Driver:
    driver = Driver(rules or RULES)
    driver.run(model, ctx or context())
    structure.check(model)
    return driver


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in ir.walk(model)]


def chain(count: int, name: str = "Neg") -> str:
    steps = " ".join(f"v{i + 1} = {name}(v{i})" for i in range(count))
    return f"(float[2] v0) => (float[2] r) {{ {steps} r = Relu(v{count}) }}"


# --- fixpoint and index


def test_runs_to_a_fixpoint() -> None:
    model = load(chain(40))
    driver = drive(model)
    assert operators(model) == ["Relu"]
    assert driver.stats["double_neg"].fired == 20


def test_one_patch_opens_the_way_for_the_next() -> None:
    model = load("(float[2] a) => (float[2] r) { n = Neg(a) i = Identity(n) m = Neg(i) r = Abs(m) }")
    drive(model)
    assert operators(model) == ["Abs"]


def test_only_nodes_with_a_rule_for_their_operator_are_tried() -> None:
    steps = " ".join(f"v{i + 1} = Relu(v{i})" for i in range(50))
    model = load(f"(float[2] v0) => (float[2] r) {{ {steps} n = Neg(v50) i = Identity(n) r = Relu(i) }}")
    driver = drive(model)
    tried = {name: stats.tried for name, stats in driver.stats.items()}
    assert (tried["identity"], tried["abs_neg"]) == (1, 0)
    assert tried["double_neg"] <= 2


def test_cost_is_linear_in_the_graph() -> None:
    tried = []
    for count in (200, 400):
        driver = drive(load(chain(count)))
        tried.append(sum(stats.tried for stats in driver.stats.values()))
    assert tried[1] <= 2.2 * tried[0]


def test_rules_are_tried_in_their_order() -> None:
    @rule()
    def other(op: Ops, x: Var) -> Law:
        """Identity(x) == Abs(x)"""
        return op.Identity(x), op.Abs(x)

    source = "(float[2] a) => (float[2] r) { i = Identity(a) r = Relu(i) }"
    for order in ([identity, other], [other, identity]):
        model = load(source)
        driver = drive(model, *order)
        assert driver.stats[order[0].name].fired == 1
        assert driver.stats[order[1].name].tried == 0


def test_a_record_names_pass_rule_and_node() -> None:
    @dataclass(frozen=True)
    class Tidy(RulePass):
        """Tidy."""

        name = "tidy"
        rules = (identity,)

    ctx = context()
    run_pass(Tidy(), load("(float a) => (float r) { i = Identity(a) r = Abs(i) }"), ctx)
    (record,) = ctx.fuel.records
    assert (record.pass_name, record.rule, record.index) == ("tidy", "identity", 1)
    assert "Identity" in record.node
    assert str(record).startswith("patch 1: tidy >> identity at node ")


# --- fuel, disabled rules, termination


@pytest.mark.parametrize("limit", [0, 1, 5, 20, 99])
def test_fuel_stops_after_that_many_changes(limit: int) -> None:
    model = load(chain(40))
    ctx = Context(Target.cpu(), fuel=Fuel(limit))
    Driver(RULES).run(model, ctx)
    structure.check(model)
    assert len(ctx.fuel.records) == min(limit, 20)
    assert operators(model).count("Neg") == 40 - 2 * min(limit, 20)


def test_changes_with_less_fuel_are_a_prefix() -> None:
    """Bisection relies on it."""

    def records(limit: int | None) -> list[str]:
        ctx = Context(Target.cpu(), fuel=Fuel(limit))
        Driver(RULES).run(load(chain(30)), ctx)
        return [str(record) for record in ctx.fuel.records]

    everything = records(None)
    assert records(7) == everything[:7]


def test_a_disabled_rule_never_fires() -> None:
    model = load(chain(4))
    driver = drive(model, ctx=Context(Target.cpu(), Settings(disabled=frozenset({"double_neg"}))))
    assert operators(model).count("Neg") == 4
    assert driver.stats["double_neg"].tried == 0


def test_a_switched_off_rule_may_not_spend() -> None:
    ctx = Context(Target.cpu(), Settings(disabled=frozenset({"Dead-Node"})), fuel=Fuel(1))
    assert not ctx.spend("dead_node", "n")
    assert ctx.fuel.records == []
    assert ctx.version == 0
    assert ctx.spend("dead_weight", "w")
    assert not ctx.spend("dead_weight", "v")


def test_rules_that_chase_each_other_are_stopped_and_named() -> None:
    @rule()
    def there(op: Ops, x: Var) -> Law:
        """Sin(x) == Cos(x)"""
        return op.Sin(x), op.Cos(x)

    @rule()
    def back(op: Ops, x: Var) -> Law:
        """Cos(x) == Sin(x)"""
        return op.Cos(x), op.Sin(x)

    with pytest.raises(RuleError, match=r"^rule (there|back): does not terminate: \d+ patches in one graph$"):
        drive(load("(float a) => (float r) { s = Sin(a) r = Abs(s) }"), there, back)


def test_a_rule_that_grows_the_graph_forever_is_stopped() -> None:
    @rule()
    def grow(op: Ops, x: Var) -> Law:
        """Abs(x) == Abs(Abs(x))"""
        return op.Abs(x), op.Abs(op.Abs(x))

    with pytest.raises(RuleError, match="rule grow: does not terminate"):
        drive(load("(float a) => (float r) { s = Abs(a) r = Neg(s) }"), grow)


# --- what is refused


def refusal(after: Any, source: str, before: Any = None) -> str:
    """Why the patch of a rule with this replacement is refused; the graph must stay as it was."""

    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return (before or (lambda op, x: op.Neg(x)))(op, x), after

    model = load(source)
    was = ir.text(model)
    driver = Driver([law])
    assert driver.run(model, context()) == 0
    assert ir.text(model) == was
    assert all(not value.uses() or value.producer() for node in model.graph for value in node.outputs)
    (reason,) = driver.stats["law"].refused
    assert reason in explain(law, ir.parse(source), context()).reason
    return reason


NEG = "(float[2,3] a) => (float[2,3] r) { n = Neg(a) r = Abs(n) }"


def test_another_type_is_refused() -> None:
    assert refusal(lambda m: m.op.Cast(m.x, to=11), NEG) == "type FLOAT would become DOUBLE"


def test_another_shape_is_refused() -> None:
    assert refusal(lambda m: m.op.Transpose(m.x), NEG) == "shape [2, 3] would become [3, 2]"
    assert refusal(lambda m: m.op.Reshape(m.x, [6]), NEG) == "rank 2 would become 1"


def test_a_symbolic_dimension_may_be_told_apart_later() -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), op.Abs(x)

    model = load("(float[N,3] a) => (float[N,3] r) { n = Neg(a) r = Relu(n) }")
    assert Driver([law]).run(model, context()) == 1


def test_a_used_output_without_a_replacement_is_refused() -> None:
    split = "(float[4] a) => (float[2] r) { p, q = Split<num_outputs = 2>(a) r = Add(p, q) }"
    only_first = refusal(lambda m: (m.op.Slice(m.x, [0], [2]), None), split, lambda op, x: op.Split(x, num_outputs=2))
    assert only_first == "output 1 is used but the rule gives nothing for it"


def test_the_root_itself_is_no_replacement() -> None:
    assert refusal(lambda m: m.out, NEG) == "the rule replaces a value by itself"


def test_graph_outputs_keep_a_value_of_their_own() -> None:
    """An input, a weight or another output cannot take the name of a graph output."""
    for source in (
        "(float[2] a) => (float[2] r) { r = Identity(a) }",
        "() => (float[2] r) <float[2] w = {1, 2}> { r = Identity(w) }",
        "(float[2] a) => (float[2] n, float[2] r) { n = Neg(a) r = Identity(n) }",
    ):
        wanted = refusal(lambda m: m.x, source, lambda op, x: op.Identity(x))
        assert wanted == "r is an output of the graph and would share its value with another name"


def test_one_value_is_not_two_outputs_of_the_graph() -> None:
    split = "(float[4] a) => (float[2] p, float[2] q) { p, q = Split<num_outputs = 2>(a) }"

    def twice(m: Any) -> Any:
        part = m.op.Slice(m.x, [0], [2])
        return part, part

    wanted = refusal(twice, split, lambda op, x: op.Split(x, num_outputs=2))
    assert wanted == "one value would be the outputs p and q of the graph"


# --- names


def test_graph_outputs_keep_their_names() -> None:
    model = load("(float[2] a) => (float[2] r) { n = Neg(a) r = Identity(n) }")
    drive(model)
    assert [value.name for value in model.graph.outputs] == ["r"]
    assert [value.name for node in model.graph for value in node.outputs] == ["r"]
    assert operators(model) == ["Neg"]


def test_a_replacement_takes_over_the_names_of_what_it_replaces() -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), lambda m: m.op.Sub(m.op.Abs(m.x), np.zeros(2, np.float32), _name="sub")

    model = load("(float[2] a) => (float[2] r) { [the_neg] n = Neg(a) r = Relu(n) }")
    drive(model, law)
    assert [node.name for node in model.graph][:2] == ["the_neg/law", "the_neg"]
    assert [node.outputs[0].name for node in model.graph] == ["the_neg/law_out", "n", "r"]
    assert [node.meta.get("accelc.rule") for node in model.graph] == ["law", "law", None]


def test_new_names_are_unique_even_against_subgraphs() -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Neg(x), lambda m: m.op.Add(m.x, m.op.weight(np.zeros(2, np.float32), "w"))

    model = load(
        """(bool c, float[2] a) => (float[2] r) <float[2] w = {1, 1}> {
        n = Neg(a)  s = Mul(n, w)
        r = If(c) <
            then_branch = g () => (float[2] w_1) { w_1 = Neg(s) }, else_branch = h () => (float[2] v) { v = Exp(s) }
        >
        }"""
    )
    drive(model, law)
    names = [name for graph in ir.all_graphs(model) for name in graph.initializers]
    names += [str(value.name) for node in ir.walk(model) for value in node.outputs]
    assert len(names) == len(set(names))


def test_dead_weights_go_with_the_nodes_that_used_them() -> None:
    @rule()
    def drop(op: Ops, x: Var, w: Const) -> Law:
        """_ == x"""
        return op.Mul(x, w), op.Neg(x)

    model = load("(float[2] a) => (float[2] r) <float[2] w = {1, 2}> { m = Mul(a, w) r = Abs(m) }")
    drive(model, drop)
    assert list(model.graph.initializers) == []


def test_a_weight_that_is_used_elsewhere_or_is_an_input_stays() -> None:
    @rule()
    def drop(op: Ops, x: Var, w: Var) -> Law:
        """_ == x"""
        return op.Mul(x, w), op.Neg(x)

    model = load(
        """(float[2] a, float[2] v = {3, 4}) => (float[2] r, float[2] w) <float[2] w = {1, 2}>
        { m = Mul(a, w) n = Mul(m, v) r = Abs(n) }"""
    )
    drive(model, drop)
    assert sorted(model.graph.initializers) == ["v", "w"]


# --- subgraphs and functions


def test_rules_apply_in_subgraphs() -> None:
    source = """(bool c, float[2] a) => (float[2] r) {
        r = If(c) <
            then_branch = g () => (float[2] u) { p = Neg(a) q = Neg(p) u = Abs(q) },
            else_branch = h () => (float[2] v) { v = Exp(a) }
        >
    }"""
    model = load(source)
    before = ir.to_proto(model).SerializeToString()
    drive(model)
    assert sorted(operators(model)) == ["Abs", "Exp", "If"]
    for flag in (True, False):
        feeds = {"c": np.array(flag), "a": np.array([-1, 2], np.float32)}
        np.testing.assert_array_equal(run(before, feeds)[0], run(ir.to_proto(model).SerializeToString(), feeds)[0])


def test_an_outer_value_used_only_by_a_subgraph_counts_as_used() -> None:
    source = """(bool c, float[2] a) => (float[2] r) {
        n = Neg(a)  m = Neg(n)
        r = If(c) <
            then_branch = g () => (float[2] u) { u = Add(n, m) }, else_branch = h () => (float[2] v) { v = Exp(a) }
        >
    }"""
    model = load(source)
    before = ir.to_proto(model).SerializeToString()
    drive(model)
    feeds = {"c": np.array(True), "a": np.array([-1, 2], np.float32)}
    np.testing.assert_array_equal(run(before, feeds)[0], run(ir.to_proto(model).SerializeToString(), feeds)[0])


def test_a_removed_branch_lets_go_of_what_it_captured() -> None:
    model = load(
        """(bool c, float[2] a) => (float[2] r) <float[2] w = {1, 2}> {
        n = Neg(a)
        i = If(c) <
            then_branch = g () => (float[2] u) { u = Add(n, w) }, else_branch = h () => (float[2] v) { v = Exp(n) }
        >
        r = Abs(a)
        }"""
    )
    node = next(node for node in model.graph if node.op_type == "If")
    remove_dead([node])
    assert operators(model) == ["Abs"]
    assert list(model.graph.initializers) == []


FUNCTION = """<ir_version: 10, opset_import: ["": 20, "f": 1]>
main (float[2] a) => (float[2] r) { r = f.Twice(a) }
<domain: "f", opset_import: ["": 20]>
Twice (p) => (q) { i = Identity(p) q = Mul(i, p) }"""


def test_rules_apply_in_functions_and_weights_become_constants_there() -> None:
    @rule()
    def law(op: Ops, x: Var, y: Var) -> Law:
        """_ == _"""
        return op.Mul(x, y), lambda m: m.op.Add(m.op.Mul(m.x, m.y, _name="inner"), np.zeros(1, np.float32))

    model = load(FUNCTION)
    drive(model, identity)
    (function,) = model.functions.values()
    assert [node.op_type for node in function.graph] == ["Mul"]
    ctx = Context(Target.cpu(), fuel=Fuel(1))
    Driver([law]).run(model, ctx)
    assert [node.op_type for node in function.graph] == ["Constant", "Mul", "Add"]
    assert list(function.graph.initializers) == []
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_functions_have_an_opset_of_their_own() -> None:
    @rule(opset=20)
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Abs(x), op.Gelu(x)

    model = load(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] a) => (float[2] r) { r = f.F(a) }
        <domain: "f", opset_import: ["": 18]> F (p) => (q) { q = Abs(p) }"""
    )
    assert Driver([law]).run(model, context()) == 0
    said = [reason_at(law, model, scope) for scope in ir.scopes(model)]
    assert "needs opset 20, the function has 18" in said


def reason_at(law: Any, model: ir.Model, scope: ir.Scope) -> str:
    trace = Trace()
    for node in list(scope.graph):
        propose(law, node, scope, context(), RuleStats(law.name, law.source), trace)
    return trace.reason


# --- opset


def test_the_opset_is_raised_only_when_a_rule_needs_it_and_that_is_said() -> None:
    @rule(opset=20, exact=False)
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Erf(x), op.Gelu(x)

    source = '<ir_version: 8, opset_import: ["": %d]> main (float[2] a) => (float[2] r) { e = Erf(a) r = Abs(e) }'
    ctx = context()
    model = load(source % 17)
    assert Driver([law]).run(model, ctx) == 1
    assert model.opset_imports[""] == 20
    assert ctx.notes == ["opset raised from 17 to 20 for law"]
    assert model.ir_version >= 9, "opset 20 came with IR version 9"

    untouched = load('<ir_version: 8, opset_import: ["": 17]> main (float[2] a) => (float[2] r) { r = Abs(a) }')
    assert Driver([law]).run(untouched, context()) == 0
    assert untouched.opset_imports[""] == 17


def test_a_new_domain_is_imported() -> None:
    @rule(exact=False)
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Erf(x), op.ms.Gelu(x)

    source = '<ir_version: 8, opset_import: ["": 17]> main (float[2] a) => (float[2] r) { e = Erf(a) r = Abs(e) }'
    model = load(source)
    drive(model, law)
    assert model.opset_imports["com.microsoft"] == 1


# --- determinism and helpers


def test_the_same_graph_gives_the_same_bytes() -> None:
    body = "p = Neg(a) q = Neg(p) s = Identity(q) t = Neg(b) u = Abs(t) r = Add(s, u)"
    source = f"(float[2] a, float[2] b) => (float[2] r) {{ {body} }}"
    results = set()
    for _ in range(3):
        model = load(source)
        drive(model)
        results.add(ir.to_proto(model).SerializeToString(deterministic=True))
    assert len(results) == 1


def test_replace_value_keeps_what_callers_see_of_an_output() -> None:
    model = load("(float[2] a) => (float[2] r) { n = Neg(a) r = Identity(n) }")
    old = model.graph.outputs[0]
    old.doc_string, new = "the result", model.graph[0].outputs[0]
    replace_value(old, new)
    assert model.graph.outputs[0] is new
    assert (new.name, new.doc_string, ir.dims(new)) == ("r", "the result", (2,))


def test_an_output_declared_without_a_shape_gets_none() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        g (float[2] a) => (float[2] r) { n = Neg(a) i = Identity(n) r = Abs(i) }"""
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = ir.from_proto(proto)
    infer_model(model)
    expected = structure.contract(model)
    driver = Driver(RULES)
    assert driver.run(model, context()) == 2
    structure.check(model, expected)
    assert operators(model) == ["Abs"]
    assert ir.dims(model.graph.outputs[0]) is None


def test_drop_initializer_keeps_what_is_used() -> None:
    model = load("(float[2] a) => (float[2] r) <float[2] w = {1, 2}, float[2] spare = {1, 2}> { r = Mul(a, w) }")
    for value in list(model.graph.initializers.values()):
        drop_initializer(value)
    assert list(model.graph.initializers) == ["w"]


def test_stats_count_tries_and_time() -> None:
    driver = drive(load(chain(4)))
    stats = driver.stats["double_neg"]
    assert (stats.fired, stats.source) == (2, double_neg.source)
    assert stats.tried >= 2
    assert stats.seconds > 0


def test_a_node_is_tried_again_when_a_value_lost_its_other_consumer() -> None:
    """The inner Neg has two consumers until the Mul is gone."""

    @rule()
    def waits(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Abs(op.Neg(x)), op.Relu(x)

    @rule(shared=True)
    def opens(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Mul(op.Neg(x), 0.0), op.Exp(x)

    body = "n = Neg(a) r = Abs(n) m = Mul(n, z) s = Sin(m)"
    source = f"(float[2] a) => (float[2] r, float[2] s) <float z = {{0}}> {{ {body} }}"
    alone = load(source)
    assert Driver([waits]).run(alone, context()) == 0
    model = load(source)
    assert Driver([waits, opens]).run(model, context()) == 2
    assert sorted(operators(model)) == ["Exp", "Relu", "Sin"]
