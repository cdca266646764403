# ruff: noqa: E501
"""Parallel convolutions and products of one input as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from fusion_graphs import TARGET, graph
from test_conv import weight

from accelc import ir
from accelc.context import Context, Settings
from accelc.pass_base import run_pass
from accelc.passes.merge import Merge
from accelc.testing import check, run, same_arrays, unchanged


class Chosen(Context):
    """A context whose measurements always prefer one way; it remembers what it was asked."""

    def __init__(self, choice: str = "merged", **settings: Any) -> None:
        super().__init__(TARGET, Settings(**settings))
        self.choice, self.asked = choice, list[tuple[str, str, str]]()
        self.models: list[Mapping[str, onnx.ModelProto]] = []

    def decide(self, rule: str, case: str, default: str, build: Callable[[], Mapping[str, onnx.ModelProto]]) -> str:
        self.asked.append((rule, case, default))
        self.models.append(build())
        return self.choice or default


HEADS = "(float[1,8,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
HEAD = "r = Relu(x) a = Conv<pads = [1,1,1,1]>(r, u{0}) b = Conv<pads = [1,1,1,1]>(r, w{1}) y = Transpose(a) z = Transpose(b)"
U, W = weight("u", 6, 8, 3, 3), weight("w", 3, 8, 3, 3)
BIASES = f"{weight('k', 6)}, {weight('l', 3)}"
ROWS = "(float[2,5,8] x) => (float[a,b,c] y, float[d,e,f] z)"
PRODUCTS = "r = Relu(x) a = MatMul(r, u) b = MatMul(r, w) y = Relu(a) z = Relu(b)"
ROW_WEIGHTS = f"{weight('u', 8, 6)}, {weight('w', 8, 3)}"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [11, 13, 20])
def test_convolutions(bias: bool, opset: int) -> None:
    body = HEAD.format(*((", k", ", l") if bias else ("", "")))
    before = graph(body, HEADS, f"{U}, {W}, {BIASES}" if bias else f"{U}, {W}", opset=opset)
    check(Merge(), before, ["Relu", "Conv", "Split", "Transpose", "Transpose"], ctx=Chosen())


def test_convolutions_by_hand() -> None:
    signature = "(float[1,1,2,2] x) => (float[1,2,2,2] y, float[1,1,2,2] z)"
    before = graph("y = Conv(x, u) z = Conv(x, w)", signature, "float[2,1,1,1] u = {2, 3}, float[1,1,1,1] w = {5}")
    after = graph(
        "y, z = Split<axis = 1>(m, s) ".join(["m = Conv(x, w) ", ""]),
        signature,
        "float[3,1,1,1] w = {2, 3, 5}, int64[2] s = {2, 1}",
    )
    check(Merge(), before, after, ctx=Chosen())


def test_three_convolutions_and_another_one() -> None:
    body = "a = Conv(x, u) b = Conv(x, w) c = Conv(x, t) d = Conv<strides = [2,2]>(x, v) y = Concat<axis = 1>(a, b, c) z = Relu(d)"
    weights = f"{U}, {W}, {weight('t', 1, 8, 3, 3)}, {weight('v', 2, 8, 3, 3)}"
    check(Merge(), graph(body, HEADS, weights), ["Conv", "Split", "Concat", "Conv", "Relu"], ctx=Chosen())


def test_products() -> None:
    check(Merge(), graph(PRODUCTS, ROWS, ROW_WEIGHTS), ["Relu", "MatMul", "Split", "Relu", "Relu"], ctx=Chosen())


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_gemms(transposed: int, bias: bool) -> None:
    form = f"Gemm<alpha = 0.5, beta = 2.0, transB = {transposed}>"
    ends = ("r, u, k", "r, w, l") if bias else ("r, u", "r, w")
    body = f"r = Relu(x) a = {form}({ends[0]}) b = {form}({ends[1]}) y = Relu(a) z = Relu(b)"
    shapes = ((6, 8), (3, 8)) if transposed else ((8, 6), (8, 3))
    weights = f"{weight('u', *shapes[0])}, {weight('w', *shapes[1])}" + (f", {BIASES}" if bias else "")
    before = graph(body, "(float[2,8] x) => (float[a,b] y, float[c,d] z)", weights)
    check(Merge(), before, ["Relu", "Gemm", "Split", "Relu", "Relu"], ctx=Chosen())


@pytest.mark.parametrize(
    ("body", "signature", "weights"),
    [
        (HEAD.format(", k", ", l"), HEADS, f"{U}, {W}, {BIASES}"),
        (HEAD.format("", "").replace("Transpose", "Relu"), HEADS, f"{U}, {W}"),
        (HEAD.format("", ""), HEADS.replace("1,8", "n,8"), f"{U}, {W}"),
        (PRODUCTS, ROWS, ROW_WEIGHTS),
    ],
)
def test_the_alternatives_are_equal(body: str, signature: str, weights: str) -> None:
    ctx = Chosen("apart")
    unchanged(Merge(), graph(body, signature, weights), ctx=ctx)
    assert len(ctx.models) == 1
    models = ctx.models[0]
    assert list(models) == ["apart", "merged"]
    (x,) = models["apart"].graph.input
    shape = [dim.dim_value for dim in x.type.tensor_type.shape.dim]
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    for a, b in zip(*(run(model.SerializeToString(), feeds) for model in models.values()), strict=True):
        same_arrays(a, b, exact=False)


@pytest.mark.parametrize(
    ("body", "signature", "weights"),
    [
        (HEAD.format("", ""), HEADS, f"{U}, {weight('w', 3, 8, 1, 1)}"),
        (HEAD.format(", k", ""), HEADS, f"{U}, {W}, {weight('k', 6)}"),
        (HEAD.format("", "").replace("pads = [1,1,1,1]", "pads = [1,1,0,0]", 1), HEADS, f"{U}, {W}"),
        (
            HEAD.format("", "").replace("pads", "group = 2, pads"),
            HEADS,
            f"{weight('u', 6, 4, 3, 3)}, {weight('w', 2, 4, 3, 3)}",
        ),
        (HEAD.format("", "").replace("w)", "u)"), HEADS, U),
        (HEAD.format("", ""), HEADS.replace(") =>", ", float[3,8,3,3] w) =>"), U),
        (HEAD.format("", "").replace("(r, w", "(x, w"), HEADS, f"{U}, {W}"),
        (PRODUCTS.replace("MatMul(r, u)", "MatMul(u, r)"), ROWS, f"{weight('u', 6, 5)}, {weight('w', 8, 3)}"),
        (PRODUCTS, ROWS, f"{weight('u', 2, 8, 6)}, {weight('w', 2, 8, 3)}"),
        (
            "r = Relu(x) a = Gemm(r, u, k) b = Gemm(r, w, l) y = Relu(a) z = Relu(b)",
            "(float[2,8] x) => (float[a,b] y, float[c,d] z)",
            f"{ROW_WEIGHTS}, {weight('k', 2, 6)}, {weight('l', 2, 3)}",
        ),
    ],
)
def test_what_differs_stays(body: str, signature: str, weights: str) -> None:
    ctx = Chosen()
    unchanged(Merge(), graph(body, signature, weights), ctx=ctx)
    assert not ctx.asked


def test_the_shipped_answer() -> None:
    ctx = Chosen("")
    check(
        Merge(),
        graph(HEAD.format("", ""), HEADS, f"{U}, {W}"),
        ["Relu", "Conv", "Split", "Transpose", "Transpose"],
        ctx=ctx,
    )
    inner = graph(HEAD.format("", "").replace("Transpose", "Relu"), HEADS, f"{U}, {W}")
    unchanged(Merge(), inner, ctx=Chosen(""))
    wide = graph(HEAD.format("", ""), HEADS, f"{weight('u', 32, 8, 3, 3)}, {weight('w', 64, 8, 3, 3)}")
    unchanged(Merge(), wide, ctx=Chosen(""))
    unchanged(Merge(), graph(PRODUCTS, ROWS, ROW_WEIGHTS), ctx=Chosen(""))
    assert [rule for rule, _, _ in ctx.asked][:1] == ["merge_conv"]


def test_a_rule_that_is_switched_off_asks_nothing() -> None:
    ctx = Chosen(disabled=frozenset({"merge_conv"}))
    unchanged(Merge(), graph(HEAD.format("", ""), HEADS, f"{U}, {W}"), ctx=ctx)
    assert not ctx.asked


def test_in_a_branch() -> None:
    body = graph(
        "y = If<then_branch = t () => (float[2,5,9] p) { "
        "r = Relu(x) a = MatMul(r, u) b = MatMul(r, w) p = Concat<axis = -1>(a, b) }, "
        "else_branch = e () => (float[2,5,9] q) { q = Identity(k) }>(c)",
        "(bool c, float[2,5,8] x) => (float[2,5,9] y)",
        f"{ROW_WEIGHTS}, {weight('k', 2, 5, 9)}",
    )
    model = ir.parse(body)
    before = ir.to_proto(model).SerializeToString()
    assert run_pass(Merge(), model, Chosen()).changes == 1
    after = ir.to_proto(model).SerializeToString()
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    for c in (True, False):
        feeds = {"c": np.array(c), "x": x}
        for a, b in zip(run(before, feeds), run(after, feeds), strict=True):
            same_arrays(a, b, exact=False)
