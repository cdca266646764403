"""Bias, scales, transposes and reshapes folded into matrix products."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_graphs import cpu, graph

from accelc.passes import gemm
from accelc.testing import check, unchanged

X = "(float[2,3] x) => (float[2,4] y)"
X3 = "(float[5,2,3] x) => (float[5,2,4] y)"


def weight(name: str, *shape: int) -> str:
    numbers = (
        np.random.default_rng(len(shape)).integers(1, 9, int(np.prod(shape))) / 8 * (-1) ** np.arange(np.prod(shape))
    )
    return f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(map(str, numbers))}}}"


W, WT, B, C = weight("w", 3, 4), weight("w", 4, 3), weight("b", 4), "float[4] c = {2, -1, 0.5, 3}"


# --- bias


@pytest.mark.parametrize("end", ["y = Add(a, b)", "y = Add(b, a)"])
@pytest.mark.parametrize("shape", [(4,), (1, 4)])
def test_matmul_add(end: str, shape: tuple[int, ...]) -> None:
    weights = f"{W}, {weight('b', *shape)}"
    check(
        gemm.matmul_add, graph(f"a = MatMul(x, w) {end}", X, weights), graph("y = Gemm(x, w, b)", X, weights), ctx=cpu()
    )


def test_matmul_add_of_dynamic_rows_in_double() -> None:
    signature = "(double[n,3] x, double[3,4] w, double[4] b) => (double[n,4] y)"
    check(
        gemm.matmul_add,
        graph("a = MatMul(x, w) y = Add(a, b)", signature),
        graph("y = Gemm(x, w, b)", signature),
        ctx=cpu(),
    )


def test_matmul_add_stays() -> None:
    unchanged(
        gemm.matmul_add, graph("a = MatMul(x, w) y = Add(a, b)", X3, f"{W}, {B}"), reason="x is not a matrix", ctx=cpu()
    )
    per_row = graph("a = MatMul(x, w) y = Add(a, b)", X, f"{W}, {weight('b', 2, 1)}")
    unchanged(gemm.matmul_add, per_row, reason="not one row", ctx=cpu())
    integer = graph("a = MatMul(x, w) y = Add(a, b)", "(int32[2,3] x, int32[3,4] w, int32[4] b) => (int32[2,4] y)")
    unchanged(gemm.matmul_add, integer, reason="x is", ctx=cpu())
    single = graph("a = MatMul(x, w) y = Add(a, b)", X, f"{weight('w', 3, 1)}, {B}")
    unchanged(gemm.matmul_add, single, reason="not one row", ctx=cpu())


@pytest.mark.parametrize("own", ["", ", b"])
@pytest.mark.parametrize("c", [C, "float[1,4] c = {1, 2, 3, 4}", "float c = {3}"])
def test_gemm_add(own: str, c: str) -> None:
    body = f"a = Gemm<alpha = 2.0, beta = 0.5>(x, w{own}) y = Add(a, c)"
    check(gemm.gemm_add, graph(body, X, ", ".join([W, c] + [B] * bool(own))), ["Gemm"], ctx=cpu())


def test_gemm_add_stays() -> None:
    before = graph("a = Gemm(x, w) y = Add(a, c)", X, f"{W}, float[2,1] c = {{1, 2}}")
    unchanged(gemm.gemm_add, before, reason="not one row", ctx=cpu())
    before = graph("a = Gemm(x, w, b) y = Add(a, c)", X, f"{W}, {weight('b', 2, 4)}, {C}")
    unchanged(gemm.gemm_add, before, reason="not one row", ctx=cpu())
    before = graph("a = Gemm(x, w, b) y = Add(a, c)", "(float[2,3] x, float[4] b) => (float[2,4] y)", f"{W}, {C}")
    unchanged(gemm.gemm_add, before, reason="b is not constant", ctx=cpu())


# --- scales


@pytest.mark.parametrize("end", ["Mul", "Div"])
@pytest.mark.parametrize("c", [C, "float c = {0.125}", "float[1,4] c = {1, 2, 3, 4}"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_mul(end: str, c: str, transposed: int) -> None:
    body = f"a = Gemm<transB = {transposed}, beta = 3.0>(x, w, b) y = {end}(a, c)"
    check(gemm.gemm_mul, graph(body, X, f"{WT if transposed else W}, {B}, {c}"), ["Gemm"], ctx=cpu())


def test_gemm_mul_stays() -> None:
    zero = graph("a = Gemm(x, w) y = Div(a, c)", X, f"{W}, float[4] c = {{1, 0, 2, 3}}")
    unchanged(gemm.gemm_mul, zero, reason="divides by zero", ctx=cpu())
    signature = "(float[2,3] x) => (float[2,4] y, float[2,4] z)"
    shared = graph("a = Gemm(x, w) y = Mul(a, c) z = Gemm(x, w)", signature, f"{W}, {C}")
    unchanged(gemm.gemm_mul, shared, reason="used elsewhere", ctx=cpu())


@pytest.mark.parametrize("end", ["y = Mul(a, c)", "y = Mul(c, a)", "y = Div(a, c)"])
@pytest.mark.parametrize("c", ["float c = {0.125}", "float[1] c = {0.125}", C])
@pytest.mark.parametrize("signature", [X, X3])
def test_matmul_mul(end: str, c: str, signature: str) -> None:
    check(gemm.matmul_mul, graph(f"a = MatMul(x, w) {end}", signature, f"{W}, {c}"), ["MatMul"], ctx=cpu())


def test_matmul_mul_by_hand() -> None:
    signature = "(float[2,1] x) => (float[2,1] y)"
    before = graph("a = MatMul(x, w) y = Div(a, c)", signature, "float[1,1] w = {3}, float c = {2}")
    check(gemm.matmul_mul, before, graph("y = MatMul(x, w)", signature, "float[1,1] w = {1.5}"), ctx=cpu())


@pytest.mark.parametrize(
    ("c", "out", "reason"),
    [("float[2,1] c = {1, 2}", "2,4", "not one row"), ("float[1,1,1] c = {2}", "1,2,4", "not one row")],
)
def test_matmul_mul_stays(c: str, out: str, reason: str) -> None:
    before = graph("a = MatMul(x, w) y = Mul(a, c)", f"(float[2,3] x) => (float[{out}] y)", f"{W}, {c}")
    unchanged(gemm.matmul_mul, before, reason=reason, ctx=cpu())


def test_matmul_of_computed_weights_stays() -> None:
    before = graph("a = MatMul(x, w) y = Mul(a, half)", "(float[2,3] x, float[3,4] w) => (float[2,4] y)")
    unchanged(gemm.matmul_mul, before, reason="w is not constant", ctx=cpu())


@pytest.mark.parametrize("start", ["a = Mul(x, c)", "a = Mul(c, x)", "a = Div(x, c)"])
@pytest.mark.parametrize("c", ["float c = {0.125}", "float[3] c = {1, 2, 4}", "float[1,3] c = {1, 2, 4}"])
@pytest.mark.parametrize("signature", [X, X3])
def test_mul_matmul(start: str, c: str, signature: str) -> None:
    check(gemm.mul_matmul, graph(f"{start} y = MatMul(a, w)", signature, f"{W}, {c}"), ["MatMul"], ctx=cpu())


def test_mul_matmul_stays() -> None:
    rows = graph("a = Mul(x, c) y = MatMul(a, w)", X, f"{W}, float[2,1] c = {{1, 2}}")
    unchanged(gemm.mul_matmul, rows, reason="not one row", ctx=cpu())
    widened = graph("a = Mul(x, c) y = MatMul(a, w)", X.replace("2,3", "2,1"), f"{W}, float[3] c = {{1, 2, 4}}")
    unchanged(gemm.mul_matmul, widened, reason="may widen", ctx=cpu())


def test_a_query_with_bias_is_scaled() -> None:
    body = "a = MatMul(x, w) s = Add(a, b) y = Mul(s, half)"
    check(gemm.matmul_bias_mul, graph(body, X3, f"{W}, {B}"), ["MatMul", "Add"], ctx=cpu())
    rows = graph("a = MatMul(x, w) s = Add(a, b) y = Mul(s, c)", X3, f"{W}, {B}, {C}")
    unchanged(gemm.matmul_bias_mul, rows, reason="c is not a scalar", ctx=cpu())


@pytest.mark.parametrize("start", ["a = Mul(x, half)", "a = Div(x, two)"])
def test_mul_gemm(start: str) -> None:
    check(gemm.mul_gemm, graph(f"{start} y = Gemm<transB = 1>(a, w, b)", X, f"{WT}, {B}"), ["Gemm"], ctx=cpu())


def test_mul_gemm_by_a_vector_stays() -> None:
    before = graph("a = Mul(x, c) y = Gemm(a, w)", X, f"{W}, float[3] c = {{1, 2, 4}}")
    unchanged(gemm.mul_gemm, before, reason="c is not a scalar", ctx=cpu())


# --- transposes


@pytest.mark.parametrize("perm", ["", "<perm = [1, 0]>"])
@pytest.mark.parametrize("flag", [0, 1])
def test_transposes(perm: str, flag: int) -> None:
    a = "(float[3,2] x, float[3,4] w)" if not flag else "(float[2,3] x, float[3,4] w)"
    before = graph(f"t = Transpose{perm}(x) y = Gemm<transA = {flag}>(t, w)", f"{a} => (float[2,4] y)")
    after = graph(f"y = Gemm<transA = {1 - flag}>(x, w)", f"{a} => (float[2,4] y)")
    check(gemm.gemm_transpose_a, before, after, ctx=cpu())
    b = "(float[2,3] x, float[4,3] w)" if not flag else "(float[2,3] x, float[3,4] w)"
    before = graph(f"t = Transpose{perm}(w) y = Gemm<transB = {flag}>(x, t)", f"{b} => (float[2,4] y)")
    after = graph(f"y = Gemm<transB = {1 - flag}>(x, w)", f"{b} => (float[2,4] y)")
    check(gemm.gemm_transpose_b, before, after, ctx=cpu())


def test_a_transpose_that_does_nothing_stays() -> None:
    before = graph("t = Transpose<perm = [0, 1]>(x) y = Gemm(t, w)", X, W)
    unchanged(gemm.gemm_transpose_a, before, reason="perm", ctx=cpu())


def test_a_transpose_used_elsewhere_stays() -> None:
    before = graph("t = Transpose(x) y = Gemm(t, w)", "(float[3,2] x) => (float[2,4] y, float[2,3] t)", W)
    unchanged(gemm.gemm_transpose_a, before, reason="output of the graph", ctx=cpu())


# --- reshapes


def test_reshape_gemm_reshape() -> None:
    shapes = "int64[2] p = {-1, 3}, int64[3] q = {5, 2, 4}"
    body = "r = Reshape(x, p) a = Gemm(r, w, b) y = Reshape(a, q)"
    check(gemm.reshape_gemm_reshape, graph(body, X3, f"{W}, {B}, {shapes}"), ["MatMul", "Add"], ctx=cpu())
    body = "r = Reshape(x, p) a = Gemm<transB = 1>(r, w, b) y = Reshape(a, q)"
    check(gemm.reshape_gemm_reshape, graph(body, X3, f"{WT}, {B}, {shapes}"), ["MatMul", "Add"], ctx=cpu())


def test_reshape_gemm_reshape_with_one_dynamic_dimension() -> None:
    shapes = "int64[2] p = {-1, 3}, int64[3] q = {-1, 2, 4}"
    body = "r = Reshape(x, p) a = Gemm(r, w, b) y = Reshape(a, q)"
    check(
        gemm.reshape_gemm_reshape,
        graph(body, "(float[n,2,3] x) => (float[m,2,4] y)", f"{W}, {B}, {shapes}"),
        ["MatMul", "Add"],
        ctx=cpu(),
    )


@pytest.mark.parametrize(
    ("signature", "shapes", "reason"),
    [
        ("(float[5,2,3] x) => (float[2,5,4] y)", "int64[2] p = {-1, 3}, int64[3] q = {2, 5, 4}", "the rows"),
        ("(float[5,3,2] x) => (float[5,2,4] y)", "int64[2] p = {-1, 3}, int64[3] q = {5, 2, 4}", "cut differently"),
        ("(float[2,3] x) => (float[1,2,4] y)", "int64[2] p = {-1, 3}, int64[3] q = {1, 2, 4}", "not known"),
        ("(float[n,m,3] x) => (float[o,p,4] y)", "int64[2] p = {-1, 3}, int64[3] q = {-1, 2, 4}", "the rows"),
    ],
)
def test_other_reshapes_stay(signature: str, shapes: str, reason: str) -> None:
    before = graph("r = Reshape(x, p) a = Gemm(r, w, b) y = Reshape(a, q)", signature, f"{W}, {B}, {shapes}")
    unchanged(gemm.reshape_gemm_reshape, before, reason=reason, ctx=cpu())


def test_a_transposed_weight_used_elsewhere_stays() -> None:
    before = graph("t = Transpose(w) y = Gemm(x, t)", "(float[2,3] x, float[4,3] w) => (float[2,4] y, float[3,4] t)")
    unchanged(gemm.gemm_transpose_b, before, reason="output of the graph", ctx=cpu())
