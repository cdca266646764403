from accelc import ir
from accelc.pass_base import run_pass
from accelc.passes.dce import Dce
from accelc.testing import check, context, unchanged

HEAD = '<ir_version: 10, opset_import: ["": 20]> g '


def test_dead_chain_and_its_weight():
    check(
        Dce(),
        HEAD + "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = Add(x, w)  b = Relu(a)  y = Neg(x) }",
        "(float[2] x) => (float[2] y) { y = Neg(x) }",
        fires=3,
    )


def test_inputs_stay_used_or_not():
    unchanged(Dce(), HEAD + "(float[2] x, float[2] unused) => (float[2] y) { y = Neg(x) }")


def test_overridable_initializer_stays():
    model = ir.parse(HEAD + "(float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}> { y = Neg(x) }")
    assert run_pass(Dce(), model, context()).changes == 0
    assert "w" in model.graph.initializers


def test_dead_code_in_a_branch_frees_what_it_used():
    model = ir.parse(
        HEAD
        + """(bool c, float[2] x) => (float[2] y) {
        only = Exp(x)
        y = If(c) <then_branch = a () => (float[2] t) { dead = Neg(only)  t = Relu(x) },
                   else_branch = b () => (float[2] e) { e = Neg(x) }> }"""
    )
    assert run_pass(Dce(), model, context()).changes == 2
    assert [node.op_type for node in ir.walk(model)] == ["If", "Relu", "Neg"]


def test_unused_optional_output():
    model = ir.parse(HEAD + "(float[1,1,4,4] x) => (float[1,1,3,3] y) { y, i = MaxPool<kernel_shape = [2, 2]>(x) }")
    assert run_pass(Dce(), model, context()).changes == 1
    assert len(next(iter(model.graph)).outputs) == 1


def test_outputs_that_count_stay():
    unchanged(Dce(), HEAD + "(float[4] x) => (float[2] y) <int64[2] s = {2, 2}> { y, rest = Split<axis = 0>(x, s) }")


def test_functions_and_imports():
    model = ir.parse(
        """<ir_version: 10, opset_import: ["": 20, "f": 1, "g": 1, "com.microsoft": 1]>
        main (float[2] x) => (float[2] y) { y = f.used(x) }
        <domain: "f", opset_import: ["": 20]> used (a) => (b) { b = Relu(a) }
        <domain: "g", opset_import: ["": 20, "f": 1]> unused (a) => (b) { b = f.used(a) }"""
    )
    run_pass(Dce(), model, context())
    assert [key[1] for key in model.functions] == ["used"]
    assert set(model.graph.opset_imports) == {"", "f"}
