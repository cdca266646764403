# ruff: noqa: E501
"""GELU in every form that exporters write."""

from __future__ import annotations

import pytest
from fusion_graphs import cpu, graph

from accelc.passes import gelu
from accelc.testing import check, unchanged

ERF = {
    "pytorch": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(d, half)",
    "pytorch-mul": "a = Mul(x, inv_root2) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Mul(half, d)",
    "half-of-x": "h = Mul(x, half) a = Mul(x, inv_root2) b = Erf(a) c = Add(b, one) y = Mul(h, c)",
    "half-of-gate": "a = Mul(inv_root2, x) b = Erf(a) c = Add(one, b) d = Mul(c, half) y = Mul(x, d)",
    "half-of-gate-left": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Mul(half, c) y = Mul(d, x)",
    "halved-by-division": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Mul(x, c) y = Div(d, two)",
    "gate-divided": "a = Div(x, root2) b = Erf(a) c = Add(b, one) d = Div(c, two) y = Mul(x, d)",
    "x-divided": "h = Div(x, two) a = Div(x, root2) b = Erf(a) c = Add(b, one) y = Mul(h, c)",
    "half-inside": "a = Div(x, root2) b = Erf(a) h = Mul(b, half) c = Add(h, half) y = Mul(x, c)",
    "erfc": "n = Neg(x) a = Mul(n, inv_root2) b = Erf(a) c = Sub(one, b) h = Mul(x, half) y = Mul(h, c)",
    "erfc-negative": "a = Mul(x, minus_inv_root2) b = Erf(a) c = Sub(one, b) d = Mul(x, c) y = Mul(d, half)",
}
TANH = {
    "pow": "p = Pow(x, three) q = Mul(p, cubic) r = Add(x, q) s = Mul(r, root2pi) t = Tanh(s) u = Add(t, one) v = Mul(x, u) y = Mul(v, half)",
    "pow-half-of-x": "p = Pow(x, three) q = Mul(cubic, p) r = Add(q, x) s = Mul(root2pi, r) t = Tanh(s) u = Add(one, t) h = Mul(half, x) y = Mul(h, u)",
    "products": "o = Mul(x, x) p = Mul(x, o) q = Mul(p, cubic) r = Add(x, q) s = Mul(r, root2pi) t = Tanh(s) u = Add(t, one) v = Mul(u, half) y = Mul(x, v)",
    "cubic-first": "o = Mul(x, cubic) p = Mul(o, x) q = Mul(p, x) r = Add(x, q) s = Mul(r, root2pi) t = Tanh(s) u = Add(t, one) h = Mul(x, half) y = Mul(h, u)",
    "factored": "o = Mul(x, x) p = Mul(o, cubic) q = Add(p, one) r = Mul(x, q) s = Mul(r, root2pi) t = Tanh(s) u = Add(t, one) h = Mul(x, half) y = Mul(h, u)",
    "gelu-fast": "a = Mul(x, root2pi) o = Mul(x, cubic) p = Mul(o, x) q = Add(p, one) s = Mul(a, q) t = Tanh(s) u = Add(t, one) h = Mul(x, half) y = Mul(h, u)",
    "square": "o = Pow(x, two) p = Mul(o, cubic) q = Add(one, p) r = Mul(x, q) s = Mul(r, root2pi) t = Tanh(s) g = Mul(t, half) u = Add(g, half) y = Mul(x, u)",
}


@pytest.mark.parametrize("form", ERF)
def test_erf(form: str) -> None:
    check(gelu.gelu_erf, graph(ERF[form]), graph("y = Gelu(x)"), ctx=cpu())


@pytest.mark.parametrize("form", ERF)
def test_erf_below_opset_20_becomes_the_vendor_operator(form: str) -> None:
    check(gelu.gelu_erf, graph(ERF[form], opset=14), graph("y = com.microsoft.Gelu(x)", opset=14), ctx=cpu())


@pytest.mark.parametrize("form", TANH)
def test_tanh(form: str) -> None:
    check(gelu.gelu_tanh, graph(TANH[form]), graph('y = Gelu<approximate = "tanh">(x)'), ctx=cpu())


@pytest.mark.parametrize("form", TANH)
def test_tanh_below_opset_20_becomes_the_vendor_operator(form: str) -> None:
    check(gelu.gelu_tanh, graph(TANH[form], opset=13), graph("y = com.microsoft.FastGelu(x)", opset=13), ctx=cpu())


@pytest.mark.parametrize(
    ("body", "after"), [(ERF["pytorch"], "y = Gelu(x)"), (TANH["pow"], 'y = Gelu<approximate = "tanh">(x)')]
)
def test_portable_raises_the_opset(body: str, after: str) -> None:
    ctx = cpu(portable=True)
    rule = gelu.gelu_erf_20 if "Erf" in body else gelu.gelu_tanh_20
    model = check(rule, graph(body, opset=14, ir_version=7), graph(after), ctx=ctx)
    assert (model.graph.opset_imports[""], model.ir_version) == (20, 9)
    assert any("raised from 14 to 20" in note for note in ctx.notes)


def test_portable_stays_where_the_opset_cannot_be_raised() -> None:
    body = "w = Softmax<axis = 0>(x) " + ERF["pytorch"].replace("Mul(x, c)", "Mul(w, c)").replace("Div(x,", "Div(w,")
    unchanged(gelu.gelu_erf_20, graph(body, opset=11), reason="cannot be raised", ctx=cpu(portable=True))
    unchanged(gelu.gelu_erf, graph(body, opset=11), reason="--portable is on", ctx=cpu(portable=True))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ERF["pytorch"].replace("root2", "two"), "1.41421"),
        (ERF["pytorch"].replace("half", "one"), "wants the constant 0.5"),
        (ERF["pytorch"].replace("one", "two"), ""),
        (ERF["pytorch"].replace("Mul(x, c)", "Mul(a, c)"), ""),
    ],
)
def test_other_constants_or_values_are_no_gelu(body: str, reason: str) -> None:
    unchanged(gelu.gelu_erf, graph(body), reason=reason, ctx=cpu())


def test_a_portable_tanh_gelu_with_other_constants_stays() -> None:
    unchanged(gelu.gelu_tanh_20, graph(TANH["pow"].replace("cubic", "half")), ctx=cpu(portable=True))


@pytest.mark.parametrize("change", [("root2pi", "half"), ("cubic", "half"), ("three", "two"), ("one", "two")])
def test_other_constants_are_no_tanh_gelu(change: tuple[str, str]) -> None:
    unchanged(gelu.gelu_tanh, graph(TANH["pow"].replace(*change)), ctx=cpu())


def test_an_inner_value_that_is_used_elsewhere_stays() -> None:
    signature = "(float[2,8] x) => (float[2,8] y, float[2,8] b)"
    unchanged(gelu.gelu_erf, graph(ERF["pytorch"], signature), reason="is an output of the graph", ctx=cpu())


def test_a_constant_that_widens_the_result_stays() -> None:
    body = ERF["pytorch"].replace("half", "wide")
    signature = "(float[2,8] x) => (float[1,2,8] y)"
    unchanged(gelu.gelu_erf, graph(body, signature, "float[1,1,1] wide = {0.5}"), reason="widen", ctx=cpu())


def test_types_without_a_kernel_stay() -> None:
    kind = "double"
    signature = f"({kind}[2,8] x) => ({kind}[2,8] y)"
    unchanged(gelu.gelu_tanh, graph(TANH["pow"], signature, kind=kind), reason="no kernel", ctx=cpu())
    unchanged(gelu.quick_gelu, graph(QUICK, signature, kind=kind), reason="no kernel", ctx=cpu())


def test_a_half_precision_model_that_computes_gelu_in_float() -> None:
    signature = "(float16[2,8] h) => (float16[2,8] z)"
    before = graph(f"x = Cast<to = 1>(h) {ERF['pytorch']} z = Cast<to = 10>(y)", signature)
    after = graph("x = Cast<to = 1>(h) y = Gelu(x) z = Cast<to = 10>(y)", signature)
    check(gelu.gelu_erf, before, after, ctx=cpu())


QUICK = "a = Mul(x, quick) b = Sigmoid(a) y = Mul(x, b)"


def test_quick() -> None:
    check(gelu.quick_gelu, graph(QUICK), graph("y = com.microsoft.QuickGelu<alpha = 1.702>(x)"), ctx=cpu())


def test_quick_of_another_value_stays() -> None:
    body = "a = Mul(z, quick) b = Sigmoid(a) y = Mul(x, b)"
    signature = "(float[2,8] x, float[2,8] z) => (float[2,8] y)"
    unchanged(gelu.quick_gelu, graph(body, signature), reason="two different values", ctx=cpu())


def test_quick_with_an_infinite_factor_stays() -> None:
    import onnx

    from accelc import ir
    from accelc.rewrite import Driver

    model = ir.parse(graph("a = Mul(x, f) b = Sigmoid(a) y = Mul(x, b)", weights="float f = {1}"))
    array = onnx.numpy_helper.to_array(onnx.helper.make_tensor("f", 1, [], [float("inf")]))
    model.graph.initializers["f"].const_value = ir.array_tensor(array)
    assert Driver([gelu.quick_gelu]).run(model, cpu()) == 0


def test_silu_stays_for_the_runtime() -> None:
    unchanged(gelu.Gelu(), graph("b = Sigmoid(x) y = Mul(b, x)"), ctx=cpu())


def test_a_sigmoid_used_twice_is_no_quick_gelu() -> None:
    signature = "(float[2,8] x) => (float[2,8] y, float[2,8] z)"
    unchanged(gelu.quick_gelu, graph(QUICK + " z = Neg(b)", signature), ctx=cpu())
    unchanged(gelu.quick_gelu, graph(QUICK), reason="--portable is on", ctx=cpu(portable=True))
