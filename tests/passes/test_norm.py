# ruff: noqa: E501
"""LayerNormalization and RMSNormalization from their parts."""

from __future__ import annotations

import pytest
from fusion_graphs import cpu, graph

from accelc.passes import norm
from accelc.testing import check, unchanged

AX = "int64[1] ax = {-1}"
G = "float[8] g = {1, 2, 3, 4, -1, 0.5, 0.25, 8}"
B = "float[8] b = {0.5, 1, -1, 0, 2, 3, -2, 0.25}"
OPS = {
    "opset 20": (20, "m = ReduceMean(x, ax)", "v = ReduceMean(p, ax)"),
    "opset 17": (17, "m = ReduceMean<axes = [-1]>(x)", "v = ReduceMean<axes = [-1]>(p)"),
    "opset 11": (11, "m = ReduceMean<axes = [1]>(x)", "v = ReduceMean<axes = [-1]>(p)"),
}
SQUARES = {"pow": "p = Pow(d, two)", "mul": "p = Mul(d, d)"}
QUOTIENTS = {
    "div": "r = Sqrt(w) n = Div(d, r)",
    "reciprocal": "r = Sqrt(w) i = Reciprocal(r) n = Mul(d, i)",
    "one-over": "r = Sqrt(w) i = Div(one, r) n = Mul(i, d)",
    "pow": "i = Pow(w, minus_half) n = Mul(d, i)",
    "pow-div": "r = Pow(w, half) n = Div(d, r)",
}
LN = "LayerNormalization<axis = -1, epsilon = 1e-5>"


def parts(which: str = "opset 20", square: str = "pow", quotient: str = "div") -> str:
    _, mean, variance = OPS[which]
    return f"{mean} d = Sub(x, m) {SQUARES[square]} {variance} w = Add(v, eps) {QUOTIENTS[quotient]} "


def weights(which: str, *more: str) -> str:
    return ", ".join([*([AX] if which == "opset 20" else []), *more])


@pytest.mark.parametrize("which", OPS)
@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("quotient", QUOTIENTS)
def test_layer_norm(which: str, square: str, quotient: str) -> None:
    opset = OPS[which][0]
    body = parts(which, square, quotient) + "k = Mul(n, g) y = Add(b, k)"
    before = graph(body, weights=weights(which, G, B), opset=opset)
    after = graph(f"y = {LN}(x, g, b)", weights=f"{G}, {B}", opset=max(opset, 17))
    model = check(norm.Norm(), before, after, fires=None, ctx=cpu())
    assert model.graph.opset_imports[""] == max(opset, 17)


def test_layer_norm_without_shift() -> None:
    before = graph(parts() + "y = Mul(g, n)", weights=f"{AX}, {G}")
    check(norm.layer_norm_scale, before, graph(f"y = {LN}(x, g)", weights=G), ctx=cpu())


def test_layer_norm_without_scale() -> None:
    ones = "float[8] g = {1, 1, 1, 1, 1, 1, 1, 1}"
    check(
        norm.layer_norm_plain,
        graph(parts() + "y = Neg(n)", weights=AX),
        graph(f"n = {LN}(x, g) y = Neg(n)", weights=ones),
        ctx=cpu(),
    )


def test_layer_norm_without_scale_stays_where_ones_take_more_space() -> None:
    before = graph(parts() + "y = Neg(n)", "(float[2,800] x) => (float[2,800] y)", AX)
    unchanged(norm.layer_norm_plain, before, reason="larger", ctx=cpu())


def test_layer_norm_with_the_scale_inside() -> None:
    body = "m = ReduceMean(x, ax) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, ax) w = Add(v, eps) r = Sqrt(w) "
    for end in ("i = Reciprocal(r) s = Mul(i, g) y = Mul(d, s)", "s = Div(g, r) y = Mul(d, s)"):
        before = graph(body + end, weights=f"{AX}, {G}")
        check(norm.layer_norm_scale_inside, before, graph(f"y = {LN}(x, g)", weights=G), ctx=cpu())


@pytest.mark.parametrize(
    "shift",
    [
        "t = Mul(m, s) u = Sub(b, t)",
        "q = Neg(m) t = Mul(q, s) u = Add(t, b)",
        "t = Mul(m, s) q = Neg(t) u = Add(q, b)",
    ],
)
def test_layer_norm_of_keras(shift: str) -> None:
    body = "m = ReduceMean(x, ax) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, ax) w = Add(v, eps) r = Sqrt(w) "
    before = graph(
        f"{body} i = Reciprocal(r) s = Mul(i, g) k = Mul(x, s) {shift} y = Add(k, u)", weights=f"{AX}, {G}, {B}"
    )
    check(norm.layer_norm_keras, before, graph(f"y = {LN}(x, g, b)", weights=f"{G}, {B}"), ctx=cpu(), x=_random())


def _random():
    import numpy as np

    return np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32)


def test_layer_norm_over_two_axes() -> None:
    scale = "float[2,3] g = {1, 2, 3, 4, 5, 6}"
    body = parts().replace("ax)", "two_axes)") + "y = Mul(n, g)"
    signature = "(float[4,2,3] x) => (float[4,2,3] y)"
    before = graph(body, signature, f"int64[2] two_axes = {{1, 2}}, {scale}")
    after = graph("y = LayerNormalization<axis = -2, epsilon = 1e-5>(x, g)", signature, scale)
    check(norm.layer_norm_scale, before, after, ctx=cpu())


def test_layer_norm_with_a_scale_of_leading_ones() -> None:
    before = graph(
        parts() + "k = Mul(n, g) y = Add(k, b)",
        weights=f"{AX}, {G.replace('[8]', '[1,8]')}, {B.replace('[8]', '[1,8]')}",
    )
    check(norm.Norm(), before, graph(f"y = {LN}(x, g, b)", weights=f"{G}, {B}"), fires=None, ctx=cpu())


def test_layer_norm_on_dynamic_rows() -> None:
    signature = "(float[n,t,8] x) => (float[n,t,8] y)"
    before = graph(parts() + "y = Mul(n, g)", signature.replace("[n,t", "[a,b"), f"{AX}, {G}")
    check(norm.layer_norm_scale, before, graph(f"y = {LN}(x, g)", signature.replace("[n,t", "[a,b"), G), ctx=cpu())


def test_layer_norm_in_double() -> None:
    signature = "(double[2,8] x) => (double[2,8] y)"
    before = graph(parts() + "y = Mul(n, g)", signature, f"{AX}, {G.replace('float', 'double')}", kind="double")
    after = graph(f"y = {LN}(x, g)", signature, G.replace("float", "double"))
    check(norm.layer_norm_scale, before, after, ctx=cpu())


HALF = "(float16[2,8] h, float16[8] g) => (float16[2,8] y)"


def test_layer_norm_in_half_precision_with_float_inside() -> None:
    before = graph("x = Cast<to = 1>(h) " + parts() + "c = Cast<to = 10>(n) y = Mul(c, g)", HALF, AX)
    after = graph(f"y = {LN}(h, g)", HALF)
    check(norm.layer_norm_cast, before, after, ctx=cpu())


def test_layer_norm_in_half_precision_with_other_casts_stays() -> None:
    before = graph("x = Cast<to = 11>(h) " + parts() + "c = Cast<to = 10>(n) y = Mul(c, g)", HALF, AX, kind="double")
    unchanged(norm.layer_norm_cast, before, reason="not computed in float32", ctx=cpu())


@pytest.mark.parametrize(
    ("change", "extra", "reason"),
    [
        (("ReduceMean(x, ax)", "ReduceMean(x, first)"), "int64[1] first = {0}", "different axes"),
        (("ax)", "first)"), "int64[1] first = {0}", "not over the last axes"),
        (("two)", "three)"), "", ""),
        (("Sub(x, m)", "Sub(m, x)"), "", ""),
        (("Div(d, r)", "Div(x, r)"), "", ""),
        (("ReduceMean(x, ax)", "ReduceMean(x)"), "", ""),
    ],
)
def test_other_normalizations_stay(change: tuple[str, str], extra: str, reason: str) -> None:
    body = parts().replace(*change) + "y = Mul(n, g)"
    more = [each for each in (AX if "ax)" in body else "", extra, G) if each]
    unchanged(norm.layer_norm_scale, graph(body, weights=", ".join(more)), reason=reason, ctx=cpu())


def test_a_scale_per_row_stays() -> None:
    before = graph(parts() + "y = Mul(n, s)", weights=f"{AX}, float[2,1] s = {{1, 2}}")
    unchanged(norm.layer_norm_scale, before, reason="s", ctx=cpu())
    before = graph(parts() + "y = Mul(n, s)", weights=f"{AX}, float[2,8] s = {{{','.join('1' * 16)}}}")
    unchanged(norm.layer_norm_scale, before, reason="does not fit", ctx=cpu())


def test_an_unknown_normalized_dimension_stays() -> None:
    signature = "(float[2,n] x, float[n] g) => (float[2,n] y)"
    before = graph(parts() + "y = Mul(n, g)", signature.replace("n]", "k]"), AX)
    unchanged(norm.layer_norm_scale, before, reason="not known", ctx=cpu())


def test_a_mean_used_elsewhere_stays() -> None:
    signature = "(float[2,8] x) => (float[2,8] y, float[2,1] z)"
    before = graph(parts() + "y = Mul(n, g) z = Neg(m)", signature, f"{AX}, {G}")
    unchanged(norm.layer_norm_scale, before, reason="outside of the match", ctx=cpu())


def test_a_shift_that_does_not_fit_stays() -> None:
    before = graph(f"n = {LN}(x, g) y = Add(n, s)", weights=f"{G}, float[2,1] s = {{1, 2}}")
    unchanged(norm.layer_norm_bias, before, reason="does not fit", ctx=cpu())
    signature = "(float[2,8] x, float[2,8] s) => (float[2,8] y)"
    unchanged(norm.layer_norm_bias, graph(f"n = {LN}(x, g) y = Add(n, s)", signature, G), ctx=cpu())


def test_a_blocked_opset_stays() -> None:
    body = "x = Softmax<axis = 0>(z) " + parts("opset 11") + "y = Mul(n, g)"
    before = graph(body, "(float[2,8] z) => (float[2,8] y)", G, opset=11)
    unchanged(norm.layer_norm_scale, before, reason="cannot be raised", ctx=cpu())


# --- root mean square


RMS = "p = Pow(x, two) v = ReduceMean(p, ax) w = Add(v, eps) "
RMS_ENDS = {
    "div": "r = Sqrt(w) n = Div(x, r) y = Mul(n, g)",
    "reciprocal": "r = Sqrt(w) i = Reciprocal(r) n = Mul(x, i) y = Mul(g, n)",
    "one-over": "r = Sqrt(w) i = Div(one, r) n = Mul(x, i) y = Mul(g, n)",
    "pow": "i = Pow(w, minus_half) n = Mul(x, i) y = Mul(n, g)",
}


@pytest.mark.parametrize("end", RMS_ENDS)
@pytest.mark.parametrize("opset", [18, 23])
def test_rms_norm(end: str, opset: int) -> None:
    before = graph(RMS + RMS_ENDS[end], weights=f"{AX}, {G}", opset=opset)
    after = graph("y = RMSNormalization<axis = -1, epsilon = 1e-5>(x, g)", weights=G, opset=23, ir_version=11)
    check(norm.rms_norm, before, after, ctx=cpu())


def test_rms_norm_in_half_precision_with_float_inside() -> None:
    body = f"x = Cast<to = 1>(h) {RMS} r = Sqrt(w) i = Reciprocal(r) n = Mul(x, i) c = Cast<to = 10>(n) y = Mul(g, c)"
    after = graph("y = RMSNormalization<axis = -1, epsilon = 1e-5>(h, g)", HALF, opset=23, ir_version=11)
    check(norm.rms_norm_cast, graph(body, HALF, AX), after, ctx=cpu())


@pytest.mark.parametrize("end", RMS_ENDS)
def test_rms_norm_without_a_scale(end: str) -> None:
    parts, _, scaled = RMS_ENDS[end].rpartition("y = ")
    assert "n" in scaled
    before = graph(RMS + parts.replace("n =", "y ="), weights=AX)
    ones = "float[8] g = {1,1,1,1,1,1,1,1}"
    after = graph("y = RMSNormalization<axis = -1, epsilon = 1e-5>(x, g)", weights=ones, opset=23, ir_version=11)
    check(norm.rms_norm_plain, before, after, ctx=cpu())


def test_rms_norm_without_a_scale_leaves_it_to_a_scale_and_makes_no_large_weight() -> None:
    scaled = graph(RMS + RMS_ENDS["div"], weights=f"{AX}, {G}")
    unchanged(norm.rms_norm_plain, scaled, reason="is scaled next", ctx=cpu())
    wide = graph(RMS + "r = Sqrt(w) y = Div(x, r)", "(float[2,4096] x) => (float[2,4096] y)", AX)
    unchanged(norm.rms_norm_plain, wide, reason="would make the file larger", ctx=cpu())


def test_a_scale_of_ones_may_be_a_small_share_of_the_weights() -> None:
    zeros = ", ".join("0" * 128 * 256)
    weights = f"{AX}, float[128,256] big = {{{zeros}}}"
    before = graph(
        RMS + "r = Sqrt(w) d = Div(x, r) y = MatMul(d, big)", "(float[2,128] x) => (float[2,256] y)", weights
    )
    check(norm.rms_norm_plain, before, ["RMSNormalization", "MatMul"], ctx=cpu())


def test_rms_norm_of_another_value_stays() -> None:
    signature = "(float[2,8] x, float[2,8] z) => (float[2,8] y)"
    before = graph(RMS + RMS_ENDS["div"].replace("Div(x", "Div(z"), signature, f"{AX}, {G}")
    unchanged(norm.rms_norm, before, ctx=cpu())


def test_rms_norm_becomes_the_form_the_runtime_fuses_where_the_opset_cannot_be_raised() -> None:
    head = "x = Softmax<axis = 0>(z) p = Pow(x, two) v = ReduceMean<axes = [-1]>(p) w = Add(v, eps) r = Sqrt(w) "
    signature = "(float[2,8] z) => (float[2,8] y)"
    before = graph(head + "i = Reciprocal(r) n = Mul(i, x) y = Mul(n, g)", signature, G, opset=11)
    after = graph(head + "n = Div(x, r) y = Mul(n, g)", signature, G, opset=11)
    check(norm.Norm(), before, after, ctx=cpu())


def test_a_reciprocal_of_another_root_stays() -> None:
    signature = "(float[2,8] x, float[2,8] z) => (float[2,8] y)"
    before = graph(RMS + "r = Sqrt(w) i = Reciprocal(r) y = Mul(z, i)", signature, AX)
    unchanged(norm.rms_divide, before, reason="not what is normalized", ctx=cpu())
    before = graph(RMS + "r = Sqrt(w) i = Reciprocal(r) y = Mul(x, i)", weights=AX)
    unchanged(norm.rms_divide, before, reason="not scaled next", ctx=cpu())


def test_a_shift_joins_the_normalization() -> None:
    before = graph(f"n = {LN}(x, g) y = Add(b, n)", weights=f"{G}, {B}")
    check(norm.layer_norm_bias, before, graph(f"y = {LN}(x, g, b)", weights=f"{G}, {B}"), ctx=cpu())


def test_a_reciprocal_becomes_a_division() -> None:
    before = graph(RMS + "r = Sqrt(w) i = Reciprocal(r) n = Mul(i, x) y = Mul(n, g)", weights=f"{AX}, {G}")
    after = graph(RMS + "r = Sqrt(w) n = Div(x, r) y = Mul(n, g)", weights=f"{AX}, {G}")
    check(norm.rms_divide, before, after, ctx=cpu())


def test_scales_and_shifts_that_do_not_fit_stay() -> None:
    head = "m = ReduceMean(x, ax) d = Sub(x, m) p = Mul(d, d) v = ReduceMean(p, ax) w = Add(v, eps) r = Sqrt(w) i = Reciprocal(r) "
    row = "float[2,1] s = {1, 2}"
    inside = graph(head + "k = Mul(i, s) y = Mul(d, k)", weights=f"{AX}, {row}")
    unchanged(norm.layer_norm_scale_inside, inside, ctx=cpu())
    keras = graph(
        head + "k = Mul(i, g) a = Mul(x, k) t = Mul(m, k) u = Sub(s, t) y = Add(a, u)", weights=f"{AX}, {G}, {row}"
    )
    unchanged(norm.layer_norm_keras, keras, ctx=cpu())


def test_rms_norm_in_half_precision_with_other_casts_stays() -> None:
    body = f"x = Cast<to = 11>(h) {RMS} r = Sqrt(w) n = Div(x, r) c = Cast<to = 10>(n) y = Mul(g, c)"
    unchanged(norm.rms_norm_cast, graph(body, HALF, AX, kind="double"), reason="not computed in float32", ctx=cpu())


def test_an_empty_normalized_dimension_stays() -> None:
    before = graph(parts() + "y = Neg(n)", "(float[2,0] x) => (float[2,0] y)", AX)
    unchanged(norm.layer_norm_plain, before, reason="is empty", ctx=cpu())
