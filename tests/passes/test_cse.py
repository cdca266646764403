import pytest

from accelc import ir
from accelc.pass_base import run_pass
from accelc.passes.cse import Cse
from accelc.testing import check, context, unchanged


def test_same_node_twice():
    check(
        Cse(),
        "(float[2] x) => (float[2] y) { a = Relu(x)  b = Relu(x)  y = Add(a, b) }",
        "(float[2] x) => (float[2] y) { a = Relu(x)  y = Add(a, a) }",
    )


def test_chains_merge_in_one_walk():
    check(
        Cse(),
        "(float[2] x) => (float[2] y) { a = Relu(x)  b = Relu(x)  c = Neg(a)  d = Neg(b)  y = Add(c, d) }",
        "(float[2] x) => (float[2] y) { a = Relu(x)  c = Neg(a)  y = Add(c, c) }",
        fires=2,
    )


def test_output_name_is_taken_over():
    check(
        Cse(),
        "(float[2] x) => (float[2] y, float[2] z) { a = Relu(x)  y = Relu(x)  z = Neg(a) }",
        "(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Neg(y) }",
    )


@pytest.mark.parametrize(
    "graph",
    [
        "(float[2] x) => (float[2] y, float[2] z) { y = Relu(x)  z = Relu(x) }",
        "(float[2] x) => (float[2] y) { a = LeakyRelu<alpha = 0.1>(x)  b = LeakyRelu<alpha = 0.2>(x)  y = Add(a, b) }",
        "(float[2] x, float l) => (float[2] y) { a = Clip(x, l)  b = Clip(x, , l)  y = Add(a, b) }",
        "(float[2] x, float[2] w) => (float[2] y) { a = Sub(x, w)  b = Sub(w, x)  y = Div(a, b) }",
        "(float[2] x) => (float[2] y) { a = RandomNormalLike(x)  b = RandomNormalLike(x)  y = Sub(a, b) }",
        """(float[2] x) => (float[2] y)
        { a = RandomUniformLike<seed = 1.0>(x)  b = RandomUniformLike<seed = 1.0>(x)  y = Sub(a, b) }""",
        "(float[2] x) => (float[2] y) { a = Bernoulli(x)  b = Bernoulli(x)  y = Sub(a, b) }",
        "(float[2] x, float r, bool t) => (float[2] y) { a = Dropout(x, r, t)  b = Dropout(x, r, t)  y = Sub(a, b) }",
        """<ir_version: 10, opset_import: ["": 20, "my.domain": 1]> g (float[2] x) => (float[2] y)
        { a = my.domain.Next(x)  b = my.domain.Next(x)  y = Sub(a, b) }""",
    ],
    ids=[
        "two outputs",
        "attribute",
        "absent input",
        "order",
        "random",
        "seeded",
        "bernoulli",
        "training",
        "unknown domain",
    ],
)
def test_stays(graph):
    unchanged(Cse(), graph)


def test_tensor_attributes_are_compared_by_their_bits():
    unchanged(
        Cse(),
        """(int64[1] n) => (float[N] y) { a = ConstantOfShape<value = float[1] {0.0}>(n)
        b = ConstantOfShape<value = float[1] {-0.0}>(n)  y = Div(a, b) }""",
    )
    check(
        Cse(),
        """(int64[1] n) => (float[N] y) { a = ConstantOfShape<value = float[1] {2.0}>(n)
        b = ConstantOfShape<value = float[1] {2.0}>(n)  y = Div(a, b) }""",
        "(int64[1] n) => (float[N] y) { a = ConstantOfShape<value = float[1] {2.0}>(n)  y = Div(a, a) }",
    )


IF = """If(c) <then_branch = g{0} () => (float[2] t{0}) {{ u{0} = {1}(x)  t{0} = Neg(u{0}) }},
        else_branch = h{0} () => (float[2] e{0}) {{ e{0} = Neg(x) }}>"""


def test_equal_branches_merge():
    model = ir.parse(
        f"(bool c, float[2] x) => (float[2] y) "
        f"{{ a = {IF.format(1, 'Exp')}  b = {IF.format(2, 'Exp')}  y = Add(a, b) }}"
    )
    assert run_pass(Cse(), model, context()).changes == 1
    assert [node.op_type for node in model.graph] == ["If", "Add"]


@pytest.mark.parametrize(("first", "second"), [("Exp", "Abs"), ("RandomNormalLike", "RandomNormalLike")])
def test_other_branches_stay(first, second):
    unchanged(
        Cse(),
        f"(bool c, float[2] x) => (float[2] y) "
        f"{{ a = {IF.format(1, first)}  b = {IF.format(2, second)}  y = Add(a, b) }}",
    )


def test_a_branch_sees_what_is_around_it():
    model = ir.parse(
        """(bool c, float[2] x) => (float[2] y, float[2] z) { z = Exp(x)
        y = If(c) <then_branch = a () => (float[2] t) { u = Exp(x)  t = Neg(u) },
                   else_branch = b () => (float[2] e) { v = Abs(x)  w = Abs(x)  e = Add(v, w) }> }"""
    )
    assert run_pass(Cse(), model, context()).changes == 2
    assert [node.op_type for node in ir.walk(model)] == ["Exp", "If", "Neg", "Abs", "Add"]


def test_siblings_do_not_see_each_other():
    unchanged(
        Cse(),
        """(bool c, float[2] x) => (float[2] y) {
        y = If(c) <then_branch = a () => (float[2] t) { u = Exp(x)  t = Neg(u) },
                   else_branch = b () => (float[2] e) { v = Exp(x)  e = Abs(v) }> }""",
    )


FUNCTIONS = """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] x) => (float[2] y)
{ a = f.g(x)  b = f.g(x)  y = Sub(a, b) } <domain: "f", opset_import: ["": 20]> g (p) => (q) { q = BODY(p) }"""


def test_calls_of_functions():
    model = ir.parse(FUNCTIONS.replace("BODY", "Relu"))
    assert run_pass(Cse(), model, context()).changes == 1
    unchanged(Cse(), FUNCTIONS.replace("BODY", "RandomNormalLike"))
