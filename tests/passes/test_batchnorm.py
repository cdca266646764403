# ruff: noqa: E501
"""BatchNormalization folded into the operator before or after it."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_graphs import cpu, graph

from accelc.passes import batchnorm
from accelc.testing import check, unchanged

SIGNATURE = "(float[2,3,6,6] x) => (float[a,b,c,d] y)"
MATRIX = "(float[2,3] x) => (float[2,4] y)"
STATS = "float[4] s = {1, -2, 0.5, 3}, float[4] t = {0, 1, -1, 2}, float[4] m = {0.1, 0.2, -0.3, 1}, float[4] v = {1, 0.25, 4, 2}"


def values(*shape: int) -> str:
    numbers = np.random.default_rng(len(shape)).integers(-9, 9, int(np.prod(shape))) / 8
    return f"[{','.join(map(str, shape))}] {{name}} = {{{{{', '.join(map(str, numbers))}}}}}"


def weight(name: str, *shape: int) -> str:
    return "float" + values(*shape).format(name=name)


def test_conv_by_hand() -> None:
    stats = "float[1] s = {4}, float[1] t = {1}, float[1] m = {2}, float[1] v = {4}"
    before = graph(
        "a = Conv(x, w) y = BatchNormalization<epsilon = 0.0>(a, s, t, m, v)",
        "(float[1,1,2,2] x) => (float[1,1,2,2] y)",
        f"float[1,1,1,1] w = {{3}}, {stats}",
        opset=15,
    )
    after = graph(
        "y = Conv(x, w, b)",
        "(float[1,1,2,2] x) => (float[1,1,2,2] y)",
        "float[1,1,1,1] w = {6}, float[1] b = {-3}",
        opset=15,
    )
    check(batchnorm.batchnorm_conv, before, after, ctx=cpu())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [7, 9, 14, 15, 20])
def test_conv(bias: bool, opset: int) -> None:
    more = ["", ""] if not bias else [", b", ", " + weight("b", 4)]
    body = f"a = Conv<pads = [1,1,1,1], strides = [2,2]>(x, w{more[0]}) y = BatchNormalization<momentum = 0.5>(a, s, t, m, v)"
    check(
        batchnorm.batchnorm_conv,
        graph(body, SIGNATURE, weight("w", 4, 3, 3, 3) + more[1] + ", " + STATS, opset=opset),
        ["Conv"],
        ctx=cpu(),
    )


def test_grouped_conv() -> None:
    body = "a = Conv<group = 2>(x, w) y = BatchNormalization(a, s, t, m, v)"
    check(
        batchnorm.batchnorm_conv,
        graph(body, SIGNATURE.replace("2,3", "2,2"), weight("w", 4, 1, 3, 3) + ", " + STATS, opset=15),
        ["Conv"],
        ctx=cpu(),
    )


def test_conv_in_one_dimension() -> None:
    body = "a = Conv(x, w) y = BatchNormalization(a, s, t, m, v)"
    check(
        batchnorm.batchnorm_conv,
        graph(body, "(float[2,3,6] x) => (float[a,b,c] y)", weight("w", 4, 3, 2) + ", " + STATS, opset=15),
        ["Conv"],
        ctx=cpu(),
    )


@pytest.mark.parametrize(("group", "shape"), [(1, (3, 4, 3, 3)), (2, (6, 2, 3, 3))])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose(group: int, shape: tuple[int, ...], bias: bool) -> None:
    more = ["", ""] if not bias else [", b", ", " + weight("b", 4)]
    body = f"a = ConvTranspose<group = {group}>(x, w{more[0]}) y = BatchNormalization(a, s, t, m, v)"
    check(
        batchnorm.batchnorm_conv_transpose,
        graph(body, SIGNATURE.replace("2,3", f"2,{shape[0]}"), weight("w", *shape) + more[1] + ", " + STATS, opset=15),
        ["ConvTranspose"],
        ctx=cpu(),
    )


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["", "float[4]", "float[1,4]", "float"])
def test_gemm(transposed: int, bias: str) -> None:
    shape = (4, 3) if transposed else (3, 4)
    size = "{2}" if bias == "float" else "{1, 2, -3, 4}"
    more = ["", ""] if not bias else [", b", f", {bias} b = {size}"]
    body = (
        f"a = Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>(x, w{more[0]}) y = BatchNormalization(a, s, t, m, v)"
    )
    check(
        batchnorm.batchnorm_gemm,
        graph(body, MATRIX, weight("w", *shape) + more[1] + ", " + STATS, opset=15),
        ["Gemm"],
        ctx=cpu(),
    )


def test_matmul() -> None:
    body = "a = MatMul(x, w) y = BatchNormalization(a, s, t, m, v)"
    check(
        batchnorm.batchnorm_matmul,
        graph(body, MATRIX, weight("w", 3, 4) + ", " + STATS, opset=15),
        ["MatMul", "Add"],
        ctx=cpu(),
    )


CONV = "a = Conv(x, w) y = BatchNormalization(a, s, t, m, v)"


def test_a_weight_that_others_use_stays() -> None:
    signature = "(float[2,3,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    before = graph(CONV + " z = Conv(x, w)", signature, weight("w", 4, 3, 3, 3) + ", " + STATS)
    unchanged(batchnorm.batchnorm_conv, before, reason="used elsewhere", ctx=cpu())


def test_a_result_that_others_use_stays() -> None:
    signature = "(float[2,3,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    before = graph(CONV + " z = Relu(a)", signature, weight("w", 4, 3, 3, 3) + ", " + STATS)
    unchanged(batchnorm.batchnorm_conv, before, reason="2 consumers", ctx=cpu())


def test_a_computed_weight_stays() -> None:
    signature = "(float[2,3,6,6] x, float[4,3,3,3] w) => (float[a,b,c,d] y)"
    unchanged(batchnorm.batchnorm_conv, graph(CONV, signature, STATS), reason="w is not constant", ctx=cpu())
    signature = "(float[2,3,6,6] x, float[4] b) => (float[a,b,c,d] y)"
    before = graph(CONV.replace("w)", "w, b)"), signature, weight("w", 4, 3, 3, 3) + ", " + STATS)
    unchanged(batchnorm.batchnorm_conv, before, reason="b is not constant", ctx=cpu())


def test_a_negative_variance_stays() -> None:
    before = graph(CONV, SIGNATURE, weight("w", 4, 3, 3, 3) + ", " + STATS.replace("0.25", "-0.25"))
    unchanged(batchnorm.batchnorm_conv, before, reason="a variance is negative", ctx=cpu())


def test_training_mode_stays() -> None:
    body = CONV.replace("y = BatchNormalization(", "y, rm, rv = BatchNormalization<training_mode = 1>(")
    before = graph(body, SIGNATURE, weight("w", 4, 3, 3, 3) + ", " + STATS, opset=15)
    unchanged(batchnorm.batchnorm_conv, before, reason="training_mode", ctx=cpu())


def test_statistics_per_element_stay() -> None:
    body = CONV.replace("BatchNormalization(", "BatchNormalization<spatial = 0>(")
    before = graph(body, SIGNATURE, weight("w", 4, 3, 3, 3) + ", " + STATS, opset=8)
    unchanged(batchnorm.batchnorm_conv, before, reason="spatial", ctx=cpu())


def test_further_outputs_before_opset_14_stay() -> None:
    body = CONV.replace("y = ", "y, rm, rv, sm, sv = ")
    before = graph(body, SIGNATURE, weight("w", 4, 3, 3, 3) + ", " + STATS, opset=9)
    unchanged(batchnorm.batchnorm_conv, before, reason="training mode", ctx=cpu())


def test_a_matmul_of_a_batch_stays() -> None:
    before = graph(
        "a = MatMul(x, w) y = BatchNormalization(a, s, t, m, v)",
        "(float[2,4,3] x) => (float[2,4,4] y)",
        weight("w", 3, 4) + ", " + STATS,
    )
    unchanged(batchnorm.batchnorm_matmul, before, reason="of matrices", ctx=cpu())


def test_a_bias_per_row_stays() -> None:
    body = "a = Gemm(x, w, b) y = BatchNormalization(a, s, t, m, v)"
    before = graph(body, MATRIX, weight("w", 3, 4) + ", float[2,1] b = {1, 2}, " + STATS)
    unchanged(batchnorm.batchnorm_gemm, before, reason="bias", ctx=cpu())
    before = graph(body, MATRIX.replace("2,", "4,"), weight("w", 3, 4) + ", float[4,1] b = {1, 2, 3, 4}, " + STATS)
    unchanged(batchnorm.batchnorm_gemm, before, reason="bias", ctx=cpu())


def test_a_factor_too_large_for_the_type_stays() -> None:
    before = graph(
        CONV, SIGNATURE, weight("w", 4, 3, 3, 3) + ", " + STATS.replace("float[4] s = {1", "float[4] s = {3e38")
    )
    before = before.replace("v = {1,", "v = {0.0001,")
    unchanged(batchnorm.batchnorm_conv, before, reason="not finite", ctx=cpu())


def test_alone_it_stays() -> None:
    unchanged(
        batchnorm.BatchNorm(),
        graph("y = BatchNormalization(x, s, t, m, v)", "(float[2,4] x) => (float[2,4] y)", STATS),
        ctx=cpu(),
    )


def test_a_conv_transpose_weight_that_others_use_stays() -> None:
    body = "a = ConvTranspose(x, w) y = BatchNormalization(a, s, t, m, v) z = ConvTranspose(x, w)"
    signature = "(float[2,3,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    before = graph(body, signature, weight("w", 3, 4, 3, 3) + ", " + STATS)
    unchanged(batchnorm.batchnorm_conv_transpose, before, reason="used elsewhere", ctx=cpu())


# --- before it


IMAGE = "(float[2,4,6,6] x) => (float[a,b,c,d] y)"
LEVEL = (
    "float[4] s = {1, -2, 0.5, 3}, float[4] t = {0, 0, 0, 0}, float[4] m = {0, 0, 0, 0}, float[4] v = {1, 0.25, 4, 2}"
)
NORM = "n = BatchNormalization(x, s, t, m, v) "


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("stats", [STATS, LEVEL])
def test_before_conv(bias: bool, group: int, stats: str) -> None:
    more = ["", ""] if not bias else [", b", ", " + weight("b", 8)]
    pads = ", pads = [1,1,0,1]" if stats is LEVEL else ""
    body = f"{NORM} y = Conv<strides = [2,1], group = {group}{pads}>(n, w{more[0]})"
    before = graph(body, IMAGE, weight("w", 8, 4 // group, 3, 3) + more[1] + ", " + stats)
    check(batchnorm.conv_batchnorm, before, ["Conv"], ctx=cpu())


def test_before_conv_by_hand() -> None:
    stats = "float[1] s = {4}, float[1] t = {1}, float[1] m = {2}, float[1] v = {4}"
    signature = "(float[1,1,2,2] x) => (float[1,1,2,2] y)"
    body = "n = BatchNormalization<epsilon = 0.0>(x, s, t, m, v) y = Conv(n, w)"
    before = graph(body, signature, f"float[1,1,1,1] w = {{3}}, {stats}")
    after = graph("y = Conv(x, w, b)", signature, "float[1,1,1,1] w = {6}, float[1] b = {-9}")
    check(batchnorm.conv_batchnorm, before, after, ctx=cpu())


@pytest.mark.parametrize("attribute", ["pads = [1,1,1,1]", 'auto_pad = "SAME_UPPER"'])
def test_before_a_padded_conv_it_stays(attribute: str) -> None:
    before = graph(f"{NORM} y = Conv<{attribute}>(n, w)", IMAGE, f"{weight('w', 4, 4, 3, 3)}, {STATS}")
    unchanged(batchnorm.conv_batchnorm, before, reason="pads with zeros", ctx=cpu())


def test_before_conv_it_stays_where_others_need_it() -> None:
    signature = "(float[2,4,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    weights = f"{weight('w', 4, 4, 3, 3)}, {STATS}"
    before = graph(NORM + "y = Conv(n, w) z = Relu(n)", signature, weights)
    unchanged(batchnorm.conv_batchnorm, before, reason="2 consumers", ctx=cpu())
    before = graph(NORM + "y = Conv(n, w) z = Conv(x, w)", signature, weights)
    unchanged(batchnorm.conv_batchnorm, before, reason="used elsewhere", ctx=cpu())
    before = graph(NORM + "r = Relu(n) y = Conv(r, w)", IMAGE, weights)
    unchanged(batchnorm.BatchNorm(), before, ctx=cpu())
    before = graph(NORM + "y = ConvTranspose(n, w)", IMAGE, weights)
    unchanged(batchnorm.BatchNorm(), before, ctx=cpu())


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", ["", "float[5]", "float[1,5]", "float"])
@pytest.mark.parametrize("flat", [False, True])
def test_before_gemm(transposed: int, bias: str, flat: bool) -> None:
    rows = 8 if flat else 4
    shape = (5, rows) if transposed else (rows, 5)
    more = ["", ""] if not bias else [", b", f", {bias} b = {'{2}' if bias == 'float' else '{1, 2, -3, 4, 5}'}"]
    body = (NORM + "f = Flatten(n) " if flat else NORM.replace("n =", "f =")) + (
        f"y = Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>(f, w{more[0]})"
    )
    signature = "(float[2,4,1,2] x) => (float[a,b] y)" if flat else "(float[2,4] x) => (float[a,b] y)"
    before = graph(body, signature, weight("w", *shape) + more[1] + ", " + STATS)
    check(batchnorm.gemm_batchnorm, before, ["Flatten"] * flat + ["Gemm"], ctx=cpu())


@pytest.mark.parametrize("flat", [False, True])
def test_before_matmul(flat: bool) -> None:
    body = (NORM + "f = Flatten(n) " if flat else NORM.replace("n =", "f =")) + "y = MatMul(f, w)"
    signature = "(float[2,4,1,2] x) => (float[a,b] y)" if flat else "(float[2,4] x) => (float[a,b] y)"
    before = graph(body, signature, weight("w", 8 if flat else 4, 5) + ", " + STATS)
    check(batchnorm.matmul_batchnorm, before, ["Flatten"] * flat + ["MatMul", "Add"], ctx=cpu())


def test_before_a_product_of_a_batch_it_stays() -> None:
    signature = "(float[2,4,4] x) => (float[a,b,c] y)"
    before = graph(NORM + "y = MatMul(n, w)", signature, weight("w", 4, 5) + ", " + STATS)
    unchanged(batchnorm.matmul_batchnorm, before, reason="of matrices", ctx=cpu())
    flat = graph(
        NORM + "f = Flatten<axis = 2>(n) y = MatMul(f, w)",
        "(float[2,4,1,2] x) => (float[a,b] y)",
        weight("w", 2, 5) + ", " + STATS,
    )
    unchanged(batchnorm.matmul_batchnorm, flat, reason="flattens the batch", ctx=cpu())


def test_before_a_transposed_gemm_it_stays() -> None:
    before = graph(
        NORM + "y = Gemm<transA = 1>(n, w)", "(float[4,4] x) => (float[a,b] y)", f"{weight('w', 4, 5)}, {STATS}"
    )
    unchanged(batchnorm.gemm_batchnorm, before, reason="transA", ctx=cpu())
