"""Blocks of attention, normalization and activation, found by structure."""

from __future__ import annotations

import pytest

from accelc import ir
from accelc.blocks import PASSES, BlockCount, count, find_blocks, tally, users
from accelc.pattern import Ops, Var
from accelc.rules import Law, rule
from accelc.testing import context
from accelc.why import explain_block


def found(source: str) -> list[tuple[str, str, str]]:
    """(kind, state, name of the anchor) of every block."""
    return [(block.kind, block.state, block.where) for block in find_blocks(ir.parse(source))]


def attention(
    between: str = "p = Softmax(s)", scores: str = "s = MatMul(q, kt)", context: str = "c = MatMul(p, v)"
) -> str:
    return f"""(float[2,4,8,16] q, float[2,4,16,8] kt, float[2,4,8,16] v, float[2,1,8,8] mask, bool[2,1,8,8] seen) =>
        (float[2,4,8,16] r)
        <float scale = {{0.25}}, float zero = {{0}}, float low = {{-1e9}}, int64[1] last = {{-1}}> {{
        {scores}
        {between}
        [context] {context}
        r = Relu(c)
    }}"""


# --- attention


@pytest.mark.parametrize(
    "between",
    [
        "p = Softmax(s)",
        "a = Mul(s, scale) b = Add(a, mask) p = Softmax(b)",
        "a = Where(seen, s, low) p = Softmax(a)",
        "a = Div(s, scale) b = Softmax(a) n = IsNaN(b) p = Where(n, zero, b)",
        "a = Softmax(s) p = Dropout(a)",
        "a = Cast<to = 11>(s) b = Softmax(a) p = Cast<to = 1>(b)",
        "a = Div(s, scale) b = Tanh(a) d = Mul(b, scale) p = Softmax(d)",
        "m = ReduceMax(s, last) a = Sub(s, m) e = Exp(a) t = ReduceSum(e, last) p = Div(e, t)",
        "e = Exp(s) t = ReduceSum(e, last) p = Div(e, t)",
    ],
)
def test_attention_in_parts(between: str) -> None:
    assert found(attention(between)) == [("attention", "unfused", "context")]


def test_attention_by_einsum_and_vendor_products() -> None:
    einsum = attention(
        scores='s = Einsum<equation = "bhid,bhdj->bhij">(q, kt)',
        context='c = Einsum<equation = "bhij,bhjd->bhid">(p, v)',
    )
    assert found(einsum) == [("attention", "unfused", "context")]
    vendor = attention(scores="s = com.microsoft.FusedMatMul<alpha = 0.25>(q, kt)")
    assert found(vendor) == [("attention", "unfused", "context")]


def test_what_the_nodes_of_attention_are() -> None:
    model = ir.parse(attention("a = Mul(s, scale) b = Add(a, mask) p = Softmax(b)"))
    (block,) = find_blocks(model)
    assert {node.op_type for node in block.nodes} == {"MatMul", "Mul", "Add", "Softmax"}
    assert [node.op_type for node in users(block)] == ["Relu"]


def test_a_softmax_that_is_no_attention() -> None:
    pooled = """(float[2,8,16] x) => (float[2,1,16] r) <float[16,1] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}> {
        s = MatMul(x, w) t = Transpose<perm = [0,2,1]>(s) p = Softmax(t) r = MatMul(p, x)
    }"""
    assert found(pooled) == []
    ones = ",".join("1" * 128)
    weights = f"""(float[2,8,16] x) => (float[2,8,8] r) <float[8,16] w = {{{ones}}}> {{
        t = Transpose<perm = [1,0]>(w) s = MatMul(x, t) p = Softmax(s) k = Transpose<perm = [0,2,1]>(x) y = MatMul(p, x)
        r = MatMul(y, k)
    }}"""
    assert found(weights) == []
    assert found(attention(context="c = Mul(v, zero)  unused = Relu(p)")) == []


@pytest.mark.parametrize("operator", ["MultiHeadAttention", "GroupQueryAttention", "Attention", "LongformerAttention"])
def test_attention_operators(operator: str) -> None:
    source = f"""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[2,8,16] q) => (float[2,8,16] r) {{ [a] r = com.microsoft.{operator}<num_heads = 4>(q, q, q) }}"""
    assert found(source) == [("attention", "fused", "a")]


def test_an_operator_of_another_domain_is_no_block() -> None:
    source = """<ir_version: 8, opset_import: ["": 17, "acme": 1]>
        g (float[2,8] x) => (float[2,8] r) { a = acme.Attention(x) b = acme.Softmax(a) r = acme.Gelu(b) }"""
    assert found(source) == []


# --- normalizations

CENTERED = "m = ReduceMean(x, last) d = Sub(x, m)"
SPREAD = "v = ReduceMean(q, last) s = Add(v, eps)"


@pytest.mark.parametrize(
    "body",
    [
        f"{CENTERED} q = Pow(d, two) {SPREAD} o = Sqrt(s) [n] r = Div(d, o)",
        f"{CENTERED} q = Mul(d, d) {SPREAD} o = Sqrt(s) [n] r = Div(d, o)",
        f"q = Mul(x, x) {SPREAD} o = Sqrt(s) i = Reciprocal(o) [n] r = Mul(x, i)",
        f"q = Mul(x, x) {SPREAD} o = Sqrt(s) i = Div(one, o) j = Mul(i, g) [n] r = Mul(x, j)",
        f"q = Mul(x, x) {SPREAD} i = Pow(s, back) [n] r = Mul(i, x)",
        "q = ReduceSumSquare(x, last) v = Div(q, eight) s = Add(v, eps) o = Pow(s, half) [n] r = Div(x, o)",
        f"{CENTERED} q = Mul(x, x) {SPREAD} a = Mul(m, m) b = Sub(s, a) o = Sqrt(b) e = Add(o, eps) [n] r = Div(d, e)",
    ],
)
def test_a_norm_in_parts(body: str) -> None:
    assert found(norm(body)) == [("norm", "unfused", "n")]


def norm(body: str) -> str:
    return f"""(float[2,8] x) => (float[2,8] r) <int64[1] last = {{-1}}, float two = {{2}}, float eps = {{1e-5}},
        float one = {{1}}, float back = {{-0.5}}, float half = {{0.5}}, float eight = {{8}},
        float[8] g = {{1,2,3,4,5,6,7,8}}> {{ {body} }}"""


def test_the_form_of_a_norm_that_the_runtime_fuses() -> None:
    form = "q = Pow(x, two) v = ReduceMean(q, last) s = Add(v, eps) o = Sqrt(s) [n] y = Div(x, o) r = Mul(y, g)"
    assert found(norm(form)) == [("norm", "runtime", "n")]
    assert found(norm(form.replace("Mul(y, g)", "Mul(y, x)"))) == [("norm", "unfused", "n")]
    assert found(norm(form.replace("ReduceMean(q, last)", "ReduceMean(q)"))) == [("norm", "unfused", "n")]
    assert found(norm(f"m = Neg(x) {form}".replace("(x,", "(m,"))) == [("norm", "runtime", "n")]
    centered = f"{CENTERED} {form}".replace("Pow(x,", "Pow(d,").replace("Div(x,", "Div(d,")
    assert found(norm(centered)) == [("norm", "unfused", "n")]
    assert found(norm(form.replace("Pow(x, two)", "Mul(x, x)"))) == [("norm", "unfused", "n")]


@pytest.mark.parametrize(
    "body",
    [
        "q = Mul(x, x) v = ReduceMean(q, last) r = Sqrt(v)",  # a deviation that divides nothing
        "q = Mul(x, x) v = ReduceMean(q, last) o = Sqrt(v) r = Mul(x, o)",
        "q = Mul(x, x) v = ReduceSum(q, last) o = Sqrt(v) r = Div(x, o)",  # a length, not a mean
        "v = ReduceMean(x, last) o = Sqrt(v) r = Div(x, o)",
        "q = Mul(x, x) v = ReduceMean(q, last) o = Sqrt(v) r = Div(o, x)",
        "o = Sqrt(x) r = Div(x, o)",
    ],
)
def test_a_root_that_is_no_norm(body: str) -> None:
    assert found(norm(body)) == []


# --- activations


CUBIC = "c = Pow(x, three) p = Mul(c, cubic) s = Add(x, p)"


def gate(body: str) -> str:
    return f"""(float[2,8] x, float[2,8] y) => (float[2,8] r) <float root = {{1.4142135}}, float one = {{1}},
        float half = {{0.5}}, float three = {{3}}, float cubic = {{0.044715}}, float tau = {{0.7978845}},
        float a = {{1.702}}, float zero = {{0}}, float six = {{6}}> {{ {body} }}"""


@pytest.mark.parametrize(
    "body",
    [
        "d = Div(x, root) [g] e = Erf(d) s = Add(e, one) m = Mul(x, s) r = Mul(m, half)",
        "d = Div(x, root) [g] e = Erf(d) s = Add(e, one) h = Mul(x, half) r = Mul(h, s)",
        f"{CUBIC} t = Mul(s, tau) [g] u = Tanh(t) v = Add(u, one) h = Mul(x, half) r = Mul(h, v)",
        "s = Mul(x, a) [g] i = Sigmoid(s) r = Mul(x, i)",
        "s = Softplus(x) [g] t = Tanh(s) r = Mul(x, t)",
        "[g] h = HardSigmoid<alpha = 0.1666667>(x) r = Mul(x, h)",
        "s = Add(x, three) [g] c = Clip(s, zero, six) m = Mul(x, c) r = Div(m, six)",
        "s = Add(x, three) [g] c = Clip(s, zero, six) d = Div(c, six) r = Mul(x, d)",
        "s = Add(x, three) [g] c = Clip(s, zero, six) d = Div(x, six) r = Mul(d, c)",
    ],
)
def test_an_activation_in_parts(body: str) -> None:
    assert found(gate(body)) == [("activation", "unfused", "g")]


def test_silu_is_left_to_the_runtime() -> None:
    assert found(gate("[g] i = Sigmoid(x) r = Mul(x, i)")) == [("activation", "runtime", "g")]


@pytest.mark.parametrize(
    "body",
    [
        "i = Sigmoid(x) r = Mul(y, i)",
        "t = Tanh(x) r = Mul(y, t)",
        "t = Tanh(x) r = Mul(x, t)",
        "c = Clip(x, zero, six) r = Mul(y, c)",
        "d = Div(x, root) e = Erf(d) r = Add(e, one)",
        "r = Sigmoid(x)",
    ],
)
def test_a_gate_that_is_no_activation(body: str) -> None:
    assert found(gate(body)) == []


def test_operators() -> None:
    source = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>
        g (float[2,8] x) => (float[2,8] r) <float[8] s = {1,1,1,1,1,1,1,1}> {
            a = LayerNormalization(x, s) b = Gelu(a) c = com.microsoft.FastGelu(b) d = HardSwish(c)
            e = com.microsoft.SkipLayerNormalization(d, d, s) r = com.microsoft.QuickGelu(e)
        }"""
    assert [(kind, state) for kind, state, _ in found(source)] == [
        ("norm", "fused"),
        *[("activation", "fused")] * 3,
        ("norm", "fused"),
        ("activation", "fused"),
    ]


# --- where they are, and how many


def test_blocks_in_subgraphs() -> None:
    source = """(bool c, float[2,8] x) => (float[2,8] r) {
        r = If(c) <
            then_branch = t () => (float[2,8] u) { i = Sigmoid(x) u = Mul(x, i) },
            else_branch = e () => (float[2,8] v) { [gelu] v = Gelu(x) }
        >
    }"""
    assert sorted(state for _, state, _ in found(source)) == ["fused", "runtime"]


CALLS = """<ir_version: 10, opset_import: ["": 20, "f": 1]>
    main (float[2,8] x) => (float[2,8] r) { a = f.Twice(x) r = f.One(a) }
    <domain: "f", opset_import: ["": 20, "f": 1]> Twice (p) => (q) { o = f.One(p) q = f.One(o) }
    <domain: "f", opset_import: ["": 20]> One (p) => (q) { q = Gelu(p) }
    <domain: "f", opset_import: ["": 20]> Never (p) => (q) { q = Gelu(p) }"""


def test_a_function_counts_as_often_as_it_is_called() -> None:
    assert tally(find_blocks(ir.parse(CALLS))) == {("activation", "fused"): 3}


def test_counts() -> None:
    before = {("attention", "unfused"): 6, ("norm", "fused"): 3, ("activation", "runtime"): 2}
    later = {("attention", "fused"): 4, ("attention", "unfused"): 1, ("norm", "fused"): 3, ("activation", "runtime"): 2}
    assert count(before, later) == {
        "attention": BlockCount(found=6, fused=4, runtime=0, unfused=1, gone=1),
        "norm": BlockCount(found=3, fused=3, runtime=0, unfused=0),
        "activation": BlockCount(found=2, fused=0, runtime=2, unfused=0),
    }
    assert count({}, {("norm", "fused"): 1}) == {"norm": BlockCount(1, 1, 0, 0)}
    assert count({}, {}) == {}


def test_the_passes_of_every_kind_exist() -> None:
    from accelc.plugins import entries

    assert {name for names in PASSES.values() for name in names} <= entries("pass").keys()


def test_the_search_is_linear() -> None:
    """Many consumers and long chains of admitted operators do not multiply."""
    steps = 400
    chain = " ".join(f"v{i + 1} = Add(v{i}, x)" for i in range(steps))
    roots = " ".join(f"s{i} = Softmax(v{steps})" for i in range(steps))
    source = f"(float[2,8] x) => (float[2,8] r) {{ v0 = Neg(x) {chain} {roots} r = Relu(s0) }}"
    model = ir.parse(source)
    looked = 0
    original = ir.Value.producer

    def producer(self: ir.Value) -> ir.Node | None:
        nonlocal looked
        looked += 1
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ir.Value, "producer", producer)
        assert find_blocks(model) == []
    assert looked < 150 * steps


# --- why a block stays in parts


def test_the_closest_rule_is_the_one_that_covers_most_of_the_block() -> None:
    @rule(exact=False)
    def deep(op: Ops, x: Var) -> Law:
        """_ == _"""
        return op.Add(op.Neg(op.Neg(op.Neg(op.Abs(op.Abs(x))))), 1.0), op.Relu(x)

    @rule(exact=False, shared=True)
    def near(op: Ops, p: Var, v: Var) -> Law:
        """_ == _"""
        return op.Add(op.MatMul(op.Softmax(op.Abs(p)), v), 1.0), op.Relu(p)

    @rule(exact=False, shared=True)
    def fits(op: Ops, p: Var, v: Var) -> Law:
        """_ == _"""
        return op.MatMul(op.Softmax(p), v), op.Relu(v), lambda m: m.dtype("v").name == "DOUBLE" or "v is not double"

    @rule(exact=False, shared=True)
    def fires(op: Ops, p: Var, v: Var) -> Law:
        """_ == _"""
        return op.MatMul(op.Softmax(p), v), op.Relu(v)

    source = attention().replace("r = Relu(c)", "d = Neg(c) e = Neg(d) f = Neg(e) t = Add(c, one) r = Add(f, t)")
    model = ir.parse(source.replace("<float scale", "<float one = {1}, float scale"))
    (block,) = find_blocks(model)
    before = ir.text(model)
    why = explain_block(block, [deep, near], context())
    assert why.rule is near
    assert why.reason.startswith("wants Abs before it, but MatMul")
    assert explain_block(block, [deep, near, fits], context()).reason == "v is not double"
    found = explain_block(block, [deep, near, fits, fires], context())
    assert (found.rule, found.reason) == (fires, "")
    assert explain_block(block, [deep], context()).reason == "wants Abs before it, but MatMul (context) stands there"
    assert explain_block(block, [], context()).rule is None
    assert ir.text(model) == before
