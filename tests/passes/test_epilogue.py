"""What kernels can take along: biases, activations, transposes, scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from accelc.backends.cuda import CudaBackend
from accelc.context import Context
from accelc.passes.epilogue import (
    Epilogue,
    bias_fast_gelu,
    bias_gelu,
    conv_add_relu,
    conv_relu,
    gemm_activation,
    matmul_scale,
    matmul_scale_inside,
    matmul_transpose_left,
    matmul_transpose_right,
    silu,
)
from accelc.rules import Rule
from accelc.testing import check, context, same_numbers, unchanged

B = "float[4] b = {1,-2,3,-4}"


def cuda() -> Context:
    return context(target=CudaBackend().target())


@pytest.mark.parametrize(
    ("rule", "gelu", "fused"),
    [
        (bias_gelu, "Gelu(s)", "BiasGelu"),
        (bias_gelu, "com.microsoft.Gelu(s)", "BiasGelu"),
        (bias_fast_gelu, 'Gelu<approximate="tanh">(s)', "FastGelu"),
        (bias_fast_gelu, "com.microsoft.FastGelu(s)", "FastGelu"),
    ],
)
def test_gelu_takes_a_bias(rule: Rule, gelu: str, fused: str) -> None:
    check(
        rule,
        f"(float[N,S,4] x) => (float[N,S,4] y) <{B}> {{ s = Add(x, b)  y = {gelu} }}",
        f"(float[N,S,4] x) => (float[N,S,4] y) <{B}> {{ y = com.microsoft.{fused}(x, b) }}",
    )


def test_bias_gelu_wants_one_row_and_leaves_the_other_form_alone() -> None:
    graph = "(float[2,4] x) => (float[2,4] y) <float[2,1] b = {1,2}> { s = Add(x, b)  y = Gelu(s) }"
    unchanged(bias_gelu, graph, reason="is not one row")
    unchanged(bias_gelu, graph.replace("float[2,1]", "float").replace("{1,2}", "{1}"), reason="is not one row")
    tanh = f'(float[2,4] x) => (float[2,4] y) <{B}> {{ s = Add(x, b)  y = Gelu<approximate="tanh">(s) }}'
    unchanged(bias_gelu, tanh)
    unchanged(bias_fast_gelu, tanh.replace('<approximate="tanh">', ""))
    unchanged(bias_gelu, tanh.replace('<approximate="tanh">', ""), reason="portable", ctx=context(portable=True))


def test_bias_gelu_in_half_precision_has_a_kernel_on_cuda_only() -> None:
    graph = "(float16[2,4] x) => (float16[2,4] y) <float16[4] b = {1,2,3,4}> { s = Add(x, b)  y = Gelu(s) }"
    unchanged(bias_gelu, graph, reason="no kernel for BiasGelu")
    check(bias_gelu, graph, ["BiasGelu"], ctx=cuda())


def test_silu() -> None:
    check(
        silu,
        "(float[2,4] x) => (float[2,4] y) { s = Sigmoid(x)  y = Mul(x, s) }",
        "(float[2,4] x) => (float[2,4] y) { y = com.microsoft.QuickGelu<alpha=1.0>(x) }",
    )
    unchanged(silu, "(float[2,4] x, float[2,4] z) => (float[2,4] y) { s = Sigmoid(z)  y = Mul(x, s) }")
    unchanged(silu, "(double[2,4] x) => (double[2,4] y) { s = Sigmoid(x)  y = Mul(x, s) }", reason="DOUBLE")


PRODUCT = "(float[2,3,4,5] x, float[2,3,4,6] y) => (float[2,3,5,6] z)"


def test_matmul_transpose_left() -> None:
    check(
        matmul_transpose_left,
        PRODUCT + " { t = Transpose<perm=[0,1,3,2]>(x)  z = MatMul(t, y) }",
        PRODUCT + " { z = com.microsoft.FusedMatMul<transA=1>(x, y) }",
    )


def test_matmul_transpose_right() -> None:
    check(
        matmul_transpose_right,
        "(float[6,4] x, float[5,4] y) => (float[5,6] z) { t = Transpose(x)  z = MatMul(y, t) }",
        "(float[6,4] x, float[5,4] y) => (float[5,6] z) { z = com.microsoft.FusedMatMul<transB=1>(y, x) }",
    )


def test_transposes_and_scale_come_together() -> None:
    check(
        Epilogue(),
        "(float[2,4,5] x, float[2,6,4] y) => (float[2,5,6] z) <float c = {0.125}> "
        "{ t = Transpose<perm=[0,2,1]>(x)  u = Transpose<perm=[0,2,1]>(y)  p = MatMul(t, u)  z = Mul(p, c) }",
        "(float[2,4,5] x, float[2,6,4] y) => (float[2,5,6] z) "
        "{ z = com.microsoft.FusedMatMul<alpha=0.125, transA=1, transB=1>(x, y) }",
        fires=3,
    )


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("(float[4,2,5] x, float[2,4,6] y) => (float[2,5,6] z) { t = Transpose<perm=[1,2,0]>(x)  z = MatMul(t, y) }",
         "the Transpose is [1, 2, 0]"),
        ("(float[4,5] x, float[4] y) => (float[5] z) { t = Transpose(x)  z = MatMul(t, y) }", "y is a vector"),
        ("(float[4,5] x, float[4,6] y) => (float[5,6] z, float[5,4] t) { t = Transpose(x)  z = MatMul(t, y) }",
         "output of the graph"),
        ("(int32[4,5] x, int32[4,6] y) => (int32[5,6] z) { t = Transpose(x)  z = MatMul(t, y) }", "INT32"),
    ],
)  # fmt: skip
def test_matmul_transpose_refuses(graph: str, reason: str) -> None:
    unchanged(matmul_transpose_left, graph, reason=reason)


@pytest.mark.parametrize(("scale", "alpha"), [("Mul(p, c)", "4.0"), ("Mul(c, p)", "4.0"), ("Div(p, c)", "0.25")])
def test_matmul_scale(scale: str, alpha: str) -> None:
    head = "(float[2,3,5] x, float[2,5,4] y) => (float[2,3,4] z)"
    check(
        matmul_scale,
        f"{head} <float c = {{4}}> {{ p = MatMul(x, y)  z = {scale} }}",
        f"{head} {{ z = com.microsoft.FusedMatMul<alpha={alpha}>(x, y) }}",
    )


@pytest.mark.parametrize("product", ["MatMul(s, y)", "MatMul(y, s)"])
def test_matmul_scale_inside(product: str) -> None:
    head = "(float[4,4] x, float[4,4] y) => (float[4,4] z)"
    check(
        matmul_scale_inside,
        f"{head} <float c = {{4}}> {{ s = Div(x, c)  z = {product} }}",
        f"{head} {{ z = com.microsoft.FusedMatMul<alpha=0.25>({product[7:-1].replace('s', 'x')}) }}",
    )


@pytest.mark.parametrize(
    ("scale", "number", "reason"),
    [("Mul(p, c)", "0", "the scale is 0"), ("Div(p, c)", "0", "not finite"), ("Div(c, p)", "2", "is not constant")],
)
def test_matmul_scale_refuses(scale: str, number: str, reason: str) -> None:
    graph = (
        f"(float[2,3] x, float[3,4] y) => (float[2,4] z) <float c = {{{number}}}> {{ p = MatMul(x, y)  z = {scale} }}"
    )
    unchanged(matmul_scale, graph, reason="" if "constant" in reason else reason)


def test_matmul_scale_wants_a_scalar() -> None:
    graph = "(float[2,3] x, float[3,2] y, float[2] c) => (float[2,2] z) { p = MatMul(x, y)  z = Mul(p, c) }"
    unchanged(matmul_scale, graph)


GEMM = "(float[2,3] x, float[4,3] w) => (float[2,4] y)"


@pytest.mark.parametrize(
    ("activation", "attributes"),
    [
        ("Relu(g)", 'activation="Relu"'),
        ("Tanh(g)", 'activation="Tanh"'),
        ("Sigmoid(g)", 'activation="Sigmoid"'),
        ("LeakyRelu<alpha=0.5>(g)", 'activation="LeakyRelu", activation_alpha=0.5'),
        ("LeakyRelu(g)", 'activation="LeakyRelu", activation_alpha=0.01'),
    ],
)
def test_gemm_activation(activation: str, attributes: str) -> None:
    check(
        gemm_activation,
        f"{GEMM} <{B}> {{ g = Gemm<transB=1, alpha=0.5>(x, w, b)  y = {activation} }}",
        f"{GEMM} <{B}> {{ y = com.microsoft.FusedGemm<transB=1, alpha=0.5, {attributes}>(x, w, b) }}",
    )


def test_gemm_activation_without_a_bias_and_not_on_cuda() -> None:
    graph = f"{GEMM} {{ g = Gemm<transB=1>(x, w)  y = Relu(g) }}"
    check(gemm_activation, graph, ["FusedGemm"])
    unchanged(gemm_activation, graph, reason="no kernel for FusedGemm", ctx=cuda())
    unchanged(gemm_activation, graph.replace("Relu", "Elu"))


CONV = "(float[1,2,5,5] x, float[3,2,3,3] w) => (float[1,3,5,5] y) <float[3] b = {1,2,3}>"


class Measured(Context):
    """A context where everything fused was measured to be faster."""

    def decide(self, rule: str, case: str, default: str, build: Callable[[], Mapping[str, Any]]) -> str:
        models = build()
        assert list(models) == ["parts", "fused"]
        assert default == "parts"
        rng = np.random.default_rng(0)
        feeds = {
            value.name: rng.standard_normal([dim.dim_value for dim in value.type.tensor_type.shape.dim]).astype(
                "float32"
            )
            for value in models["parts"].graph.input
        }
        same_numbers(*(model.SerializeToString() for model in models.values()), feeds, exact=False)
        return "fused"


def measured() -> Context:
    return Measured(CudaBackend().target())


def test_conv_relu() -> None:
    graph = f"{CONV} {{ c = Conv<pads=[1,1,1,1]>(x, w, b)  y = Relu(c) }}"
    after = f'{CONV} {{ y = com.microsoft.FusedConv<pads=[1,1,1,1], activation="Relu">(x, w, b) }}'
    check(conv_relu, graph, after, ctx=measured())
    unchanged(conv_relu, graph, reason="fuses convolutions while loading")
    unchanged(conv_relu, graph, reason="not known to be slower", ctx=cuda())


def test_conv_relu_refuses_what_was_not_tried() -> None:
    graph = f'{CONV} {{ c = Conv<auto_pad="SAME_UPPER">(x, w, b)  y = Relu(c) }}'
    unchanged(conv_relu, graph, reason="pads by itself", ctx=measured())
    line = "(float[1,2,5] x, float[3,2,1] w) => (float[1,3,5] y) { c = Conv(x, w)  y = Relu(c) }"
    unchanged(conv_relu, line, reason="two dimensions", ctx=measured())
    unknown = "(float[1,C,5,5] x, float[3,C,1,1] w) => (float[1,3,5,5] y) { c = Conv(x, w)  y = Relu(c) }"
    unchanged(conv_relu, unknown, reason="not known to be slower", ctx=measured())


def test_conv_add_relu() -> None:
    head = "(float[1,2,5,5] x, float[3,2,1,1] w, float[1,3,5,5] z) => (float[1,3,5,5] y) <float[3] b = {1,2,3}>"
    graph = f"{head} {{ c = Conv(x, w, b)  s = Add(c, z)  y = Relu(s) }}"
    after = f'{head} {{ y = com.microsoft.FusedConv<activation="Relu">(x, w, b, z) }}'
    check(conv_add_relu, graph, after, ctx=measured())
    unchanged(conv_add_relu, graph.replace("(x, w, b)", "(x, w)"), reason="has no bias", ctx=measured())
    wide = graph.replace("float[1,3,5,5] z", "float[1,3,1,1] z")
    unchanged(conv_add_relu, wide, reason="not surely the shape", ctx=measured())


def test_what_the_other_operand_must_be() -> None:
    moved = "(float[4,2,5] x, float[2,6,4] y) => (float[2,6,5] z) { t = Transpose<perm=[1,0,2]>(x)  z = MatMul(y, t) }"
    unchanged(matmul_transpose_right, moved, reason="the Transpose is [1, 0, 2]")
    zero = "(float[2,3] x, float[3,4] y) => (float[2,4] z) <float c = {0}> { s = Mul(x, c)  z = MatMul(s, y) }"
    unchanged(matmul_scale_inside, zero, reason="the scale is 0")
