import pytest

from accelc import ir
from accelc.pass_base import run_pass
from accelc.passes.control_flow import ControlFlow
from accelc.testing import check, context, same_numbers, unchanged


def if_graph(condition: str, then: str = "t = Exp(x)", other: str = "e = Neg(x)", result: str = "float[2]") -> str:
    return f"""(float[2] x) => ({result} y) <bool c = {{{condition}}}> {{
    y = If(c) <then_branch = a () => ({result} t) {{ {then} }}, else_branch = b () => ({result} e) {{ {other} }}> }}"""


@pytest.mark.parametrize(("condition", "operator"), [("1", "Exp"), ("0", "Neg")])
def test_constant_condition(condition, operator):
    check(ControlFlow(), if_graph(condition), f"(float[2] x) => (float[2] y) {{ y = {operator}(x) }}")


def test_branch_returns_an_outer_value():
    model = ir.parse(
        """(float[2] x) => (float[2] y) <bool c = {1}> { r = Relu(x)
        y = If(c) <then_branch = a () => (float[2] t) { t = Identity(r) }, else_branch = b () => (float[2] e)
            { e = Neg(x) }> }"""
    )
    branch = next(ir.subgraphs(list(model.graph)[1]))
    identity = next(iter(branch))
    branch.outputs[0] = identity.inputs[0]
    branch.remove(identity, safe=True)
    assert run_pass(ControlFlow(), model, context()).changes == 1
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert model.graph.outputs[0].name == "y"


def test_branch_returns_a_weight():
    """An output of the graph keeps its name: an Identity stands between."""
    branch_of = "then_branch = a () => (float[2] t)"
    model = ir.parse(if_graph("1", "t = Neg(w)").replace(branch_of, f"{branch_of} <float[2] w = {{1, 2}}>"))
    branch = next(ir.subgraphs(next(iter(model.graph))))
    node = next(iter(branch))
    branch.outputs[0] = branch.initializers["w"]
    branch.remove(node, safe=True)
    assert run_pass(ControlFlow(), model, context()).changes == 1
    assert [node.op_type for node in model.graph] == ["Identity"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_what_only_the_other_branch_used_goes():
    model = ir.parse(
        """(float[2] x) => (float[2] y) <bool c = {1}, float[2] w = {1, 2}> { r = Add(x, w)
        y = If(c) <then_branch = a () => (float[2] t) { t = Exp(x) }, else_branch = b () => (float[2] e)
            { e = Neg(r) }> }"""
    )
    run_pass(ControlFlow(), model, context())
    assert [node.op_type for node in model.graph] == ["Exp"]
    assert not model.graph.initializers


def test_nested_twenty_deep():
    body = "z20 = Exp(x)"
    for depth in range(20, 0, -1):
        body = f"""z{depth - 1} = If(c) <then_branch = a{depth} () => (float[2] z{depth}) {{ {body} }},
        else_branch = b{depth} () => (float[2] n{depth}) {{ n{depth} = Neg(x) }}>"""
    check(
        ControlFlow(),
        f"(float[2] x) => (float[2] z0) <bool c = {{1}}> {{ {body} }}",
        "(float[2] x) => (float[2] z0) { z0 = Exp(x) }",
        fires=20,
    )


def test_inside_a_branch_that_stays():
    model = ir.parse(
        """(bool d, float[2] x) => (float[2] y) <bool c = {0}> {
        y = If(d) <then_branch = a () => (float[2] t) {
            t = If(c) <then_branch = p () => (float[2] u) { u = Exp(x) }, else_branch = q () => (float[2] v)
                { v = Abs(x) }> },
          else_branch = b () => (float[2] e) { e = Neg(x) }> }"""
    )
    assert run_pass(ControlFlow(), model, context()).changes == 1
    assert [node.op_type for node in ir.walk(model)] == ["If", "Abs", "Neg"]


def test_unknown_and_overridable_conditions_stay():
    graph = if_graph("1")
    unchanged(ControlFlow(), graph.replace("(float[2] x)", "(float[2] x, bool c)", 1))
    unchanged(ControlFlow(), graph.replace("(float[2] x)", "(float[2] x, bool c)", 1).replace("<bool c = {1}>", ""))


def loop(trips: str, condition: str, outputs: str = "y") -> str:
    more, scan = ("", "") if outputs == "y" else (", float[2] r", "r = Abs(p)")
    return f"""(float[2] x) => (float[2] y) <int64 m = {{{trips}}}, bool c = {{{condition}}}> {{ s = Exp(x)
    {outputs} = Loop(m, c, s) <body = b (int64 i, bool k, float[2] p) => (bool k2, float[2] q{more})
    {{ k2 = Identity(k)  q = Neg(p) {scan} }}> }}"""


@pytest.mark.parametrize(("trips", "condition"), [("0", "1"), ("5", "0"), ("-3", "1")])
def test_loop_that_never_runs(trips, condition):
    check(ControlFlow(), loop(trips, condition), "(float[2] x) => (float[2] y) { y = Exp(x) }")


def test_loop_that_runs_stays():
    unchanged(ControlFlow(), loop("1", "1"))
    unchanged(ControlFlow(), loop("4611686018427387904", "1"))


def test_unused_scan_output_is_no_obstacle_but_a_used_one_is():
    check(ControlFlow(), loop("0", "1", "y, scan"), "(float[2] x) => (float[2] y) { y = Exp(x) }")
    used = loop("0", "1", "y, scan").replace("=> (float[2] y)", "=> (float[2] y, float[K,2] scan)", 1)
    unchanged(ControlFlow(), used)


def test_in_a_function_weights_become_nodes():
    model = ir.parse(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] x) => (float[2] y) { y = f.g(x) }
        <domain: "f", opset_import: ["": 20]> g (p) => (q) { c = Constant<value = bool {1}>()
        q = If(c) <then_branch = a () => (float[2] t) <float[2] w = {1, 2}> { t = Add(p, w) },
                   else_branch = b () => (float[2] e) { e = Neg(p) }> }"""
    )
    before = ir.to_proto(model).SerializeToString()
    assert run_pass(ControlFlow(), model, context()).changes == 1
    (function,) = model.functions.values()
    assert [node.op_type for node in function.graph] == ["Constant", "Add"]
    import numpy as np

    same_numbers(before, ir.to_proto(model).SerializeToString(), {"x": np.ones(2, np.float32)}, exact=True)
