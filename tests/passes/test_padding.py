"""Pad folded into convolutions and pooling, and only where that is equal."""

from __future__ import annotations

import pytest
from fusion_graphs import cpu, graph
from test_conv import W, X, weight

from accelc import ir
from accelc.passes import conv, padding
from accelc.rewrite import Driver
from accelc.testing import check, unchanged

Q = "int64[8] q = {0,0,1,2,0,0,0,1}"
NOT_NEGATIVE = "r = Relu(x) p = Pad(r, q) "


# --- convolutions


@pytest.mark.parametrize(
    "body",
    [
        "p = Pad(x, q) y = Conv(p, w)",
        "p = Pad(x, q, zero) y = Conv(p, w)",
        "p = Pad(x, q) y = Conv<pads = [1,0,0,1]>(p, w)",
        'p = Pad(x, q) y = Conv<auto_pad = "VALID", strides = [2,2]>(p, w)',
        "p = Pad(x, q) y = Conv<group = 1, dilations = [2,1]>(p, w)",
        'p = Pad(x, q) y = Conv<auto_pad = "SAME_UPPER", strides = [2,3]>(p, w)',
        'p = Pad(x, q) y = Conv<auto_pad = "SAME_LOWER", strides = [3,2], kernel_shape = [3,3]>(p, w)',
        'p = Pad(x, q) y = Conv<auto_pad = "SAME_LOWER">(p, w)',
    ],
)
def test_pad(body: str) -> None:
    check(padding.pad_conv, graph(body, X, f"{W}, {Q}"), ["Conv"], ctx=cpu())


def test_pad_by_hand() -> None:
    before = graph("p = Pad(x, q) y = Conv<pads = [1,0,0,1]>(p, w)", X, f"{W}, {Q}")
    check(padding.pad_conv, before, graph("y = Conv<pads = [2,2,0,2]>(x, w)", X, W), ctx=cpu())
    before = graph('p = Pad(x, q) y = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(p, w)', X, f"{W}, {Q}")
    # 6 + 1 rows take 1 + 1 more, 6 + 3 columns as well
    check(padding.pad_conv, before, graph("y = Conv<pads = [2,3,1,2], strides = [2,2]>(x, w)", X, W), ctx=cpu())


@pytest.mark.parametrize("opset", [18, 19, 21, 23])
def test_pad_with_axes(opset: int) -> None:
    weights = f"{W}, int64[4] q = {{1,2,0,1}}, int64[2] axes = {{-1, 2}}"
    body = "p = Pad(x, q, , axes) y = Conv(p, w)"
    check(padding.pad_conv, graph(body, X, weights, opset=opset), ["Conv"], ctx=cpu())


@pytest.mark.parametrize("opset", [2, 7, 10])
def test_pad_with_attributes(opset: int) -> None:
    body = "p = Pad<pads = [0,0,1,2,0,0,0,1]>(x) y = Conv(p, w)"
    check(padding.pad_conv, graph(body, X, W, opset=opset), ["Conv"], ctx=cpu())


def test_pad_of_one_and_of_three_dimensions() -> None:
    line = graph(
        "p = Pad(x, q) y = Conv<pads = [1,0]>(p, w)",
        "(float[2,4,6] x) => (float[a,b,c] y)",
        f"{weight('w', 4, 4, 3)}, int64[6] q = {{0,0,2,0,0,1}}",
    )
    check(padding.pad_conv, line, ["Conv"], ctx=cpu())
    body = graph(
        "p = Pad(x, q) y = Conv(p, w)",
        "(float[1,2,4,4,4] x) => (float[a,b,c,d,e] y)",
        f"{weight('w', 2, 2, 3, 3, 3)}, int64[10] q = {{0,0,1,0,2,0,0,0,1,1}}",
    )
    check(padding.pad_conv, body, ["Conv"], ctx=cpu())


def test_pad_of_several_convolutions() -> None:
    signature = "(float[2,4,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    before = graph("p = Pad(x, q) y = Conv(p, w) z = Conv<strides = [2,2]>(p, w)", signature, f"{W}, {Q}")
    check(padding.pad_conv, before, ["Conv", "Conv"], fires=2, ctx=cpu())


def test_pad_of_images_of_any_size() -> None:
    signature = "(float[N,4,H,V] x) => (float[a,b,c,d] y)"
    check(padding.pad_conv, graph("p = Pad(x, q) y = Conv(p, w)", signature, f"{W}, {Q}"), ["Conv"], ctx=cpu())


@pytest.mark.parametrize(
    ("body", "more", "reason"),
    [
        ("p = Pad(x, q, one) y = Conv(p, w)", Q, "pads with 1"),
        ("p = Pad(x, q) y = Conv(p, w)", "int64[8] q = {0,0,1,-1,0,0,0,1}", "crops"),
        ("p = Pad(x, q) y = Conv(p, w)", "int64[8] q = {1,0,1,1,0,0,0,1}", "the batch or the channels"),
        ("p = Pad(x, q) y = Conv(p, w)", "int64[8] q = {0,1,0,0,0,0,0,0}", "the batch or the channels"),
        ('p = Pad<mode = "reflect">(x, q) y = Conv(p, w)', Q, "mode"),
        ('p = Pad<mode = "edge">(x, q) y = Conv(p, w)', Q, "mode"),
        ('p = Pad<mode = "wrap">(x, q) y = Conv(p, w)', Q, "mode"),
        ("p = Pad(x, q, , a) y = Conv(p, w)", "int64[2] q = {1,1}, int64[2] a = {2,3}", "do not fit the axes"),
        ('p = Pad(x, q) y = Conv<auto_pad = "SAME_UPPER", dilations = [2,2]>(p, w)', Q, "dilated"),
    ],
)
def test_other_padding_stays(body: str, more: str, reason: str) -> None:
    unchanged(padding.pad_conv, graph(body, X, f"{W}, {more}"), reason=reason, ctx=cpu())


def test_auto_pad_of_images_of_any_size_stays() -> None:
    signature = "(float[N,4,H,V] x) => (float[a,b,c,d] y)"
    before = graph('p = Pad(x, q) y = Conv<auto_pad = "SAME_UPPER">(p, w)', signature, f"{W}, {Q}")
    unchanged(padding.pad_conv, before, reason="not known", ctx=cpu())


def test_auto_pad_that_crops_stays() -> None:
    before = graph(
        'p = Pad(x, q) y = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(p, w)',
        X,
        f"{weight('w', 4, 4, 1, 1)}, int64[8] q = {{0,0,1,2,0,0,1,0}}",
    )
    unchanged(padding.pad_conv, before, reason="would crop", ctx=cpu())


def test_computed_padding_stays() -> None:
    signature = "(float[2,4,6,6] x, int64[8] q) => (float[a,b,c,d] y)"
    unchanged(padding.pad_conv, graph("p = Pad(x, q) y = Conv(p, w)", signature, W), reason="not constant", ctx=cpu())
    signature = "(float[2,4,6,6] x, float v) => (float[a,b,c,d] y)"
    before = graph("p = Pad(x, q, v) y = Conv(p, w)", signature, f"{W}, {Q}")
    unchanged(padding.pad_conv, before, reason="not constant", ctx=cpu())


def test_pad_before_conv_transpose_stays() -> None:
    unchanged(conv.Conv(), graph("p = Pad(x, q) y = ConvTranspose(p, w)", X, f"{W}, {Q}"), ctx=cpu())


BYTES = "(uint8[2,4,6,6] x) => (int32[a,b,c,d] y)"
BYTE_W = f"uint8[3,4,2,2] w = {{{','.join(str(i % 7) for i in range(48))}}}"


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("p = Pad(x, q, z) y = ConvInteger(p, w, z, v)", "uint8 z = {3}, uint8 v = {2}"),
        ("p = Pad(x, q, k) y = ConvInteger<pads = [1,0,0,1]>(p, w, z)", "uint8 z = {3}, uint8 k = {3}"),
        ("p = Pad(x, q) y = ConvInteger(p, w)", ""),
    ],
)
def test_pad_into_conv_integer(body: str, more: str) -> None:
    weights = ", ".join(filter(None, [BYTE_W, Q, more]))
    check(padding.pad_conv_integer, graph(body, BYTES, weights), ["ConvInteger"], ctx=cpu())


def test_pad_with_another_zero_point_stays() -> None:
    before = graph("p = Pad(x, q) y = ConvInteger(p, w, z)", BYTES, f"{BYTE_W}, {Q}, uint8 z = {{3}}")
    unchanged(padding.pad_conv_integer, before, reason="pads with 0, the convolution with 3", ctx=cpu())
    signature = BYTES.replace("x)", "x, uint8 z)")
    before = graph("p = Pad(x, q) y = ConvInteger(p, w, z)", signature, f"{BYTE_W}, {Q}")
    unchanged(padding.pad_conv_integer, before, reason="not constant", ctx=cpu())


SCALES = "float s = {0.5}, float t = {0.25}, float u = {4}, uint8 z = {3}, uint8 v = {1}"


def test_pad_into_qlinear_conv() -> None:
    signature = BYTES.replace("int32", "uint8")
    before = graph("p = Pad(x, q, z) y = QLinearConv(p, s, z, w, t, v, u, v)", signature, f"{BYTE_W}, {Q}, {SCALES}")
    check(padding.pad_qlinear_conv, before, ["QLinearConv"], ctx=cpu())
    before = graph("p = Pad(x, q, v) y = QLinearConv(p, s, z, w, t, v, u, v)", signature, f"{BYTE_W}, {Q}, {SCALES}")
    unchanged(padding.pad_qlinear_conv, before, reason="pads with 1", ctx=cpu())


# --- pooling


@pytest.mark.parametrize(
    "attributes",
    [
        "kernel_shape = [3,3]",
        "kernel_shape = [3,4], strides = [2,1], pads = [1,0,0,1], count_include_pad = 1",
        "kernel_shape = [3,3], strides = [2,2], ceil_mode = 1, pads = [0,0,1,1], count_include_pad = 1",
        'kernel_shape = [5,6], auto_pad = "SAME_LOWER", count_include_pad = 1',
    ],
)
def test_pad_into_average_pool(attributes: str) -> None:
    more = "int64[8] q = {0,0,1,1,0,0,0,1}" if "ceil" in attributes else Q
    before = graph(f"p = Pad(x, q) y = AveragePool<{attributes}>(p)", X, more)
    if "ceil" in attributes:  # 6 + 1 + 1 rows, windows of 3 in steps of 2: not even
        unchanged(padding.pad_average_pool, before, reason="rounds the size up", ctx=cpu())
        before = before.replace("[0,0,1,1]", "[0,0,2,1]")
    check(padding.pad_average_pool, before, ["AveragePool"], ctx=cpu())


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ("kernel_shape = [3,3], pads = [1,0,0,1]", "does not count its own padding"),
        ('kernel_shape = [5,6], auto_pad = "SAME_LOWER"', "does not count its own padding"),
        ("kernel_shape = [3,3], strides = [3,2], ceil_mode = 1", "rounds the size up"),
        ("kernel_shape = [2,2]", "pads a whole window"),
        ("kernel_shape = [3,3], dilations = [2,1]", "dilated"),
    ],
)
def test_other_average_pools_stay(attributes: str, reason: str) -> None:
    before = graph(f"p = Pad(x, q) y = AveragePool<{attributes}>(p)", X, Q)
    unchanged(padding.pad_average_pool, before, reason=reason, ctx=cpu())


def test_average_pool_of_ones_stays() -> None:
    before = graph("p = Pad(x, q, one) y = AveragePool<kernel_shape = [3,3]>(p)", X, Q)
    unchanged(padding.pad_average_pool, before, reason="not zeros", ctx=cpu())
    before = graph("p = Pad(x, q) y = AveragePool<kernel_shape = [3,3]>(p)", X, Q, opset=6)
    unchanged(padding.pad_average_pool, before, ctx=cpu())


def test_an_average_pool_of_unknown_size_stays() -> None:
    signature = "(float[2,4,h,6] x) => (float[a,b,c,d] y)"
    before = graph("p = Pad(x, q) y = AveragePool<kernel_shape = [3,3]>(p)", signature, Q)
    unchanged(padding.pad_average_pool, before, reason="not known", ctx=cpu())
    signature = "(float[2,4,0,6] x) => (float[a,b,c,d] y)"
    before = graph("p = Pad(x, q) y = AveragePool<kernel_shape = [3,3]>(p)", signature, Q)
    unchanged(padding.pad_average_pool, before, reason="empty", ctx=cpu())


LEAST = "float least = {-3.4028235e38}"
POOL = "MaxPool<kernel_shape = [3,3]>(p)"


@pytest.mark.parametrize(
    "start",
    [
        "p = Pad(x, q, least) ",
        NOT_NEGATIVE,
        "r = Sigmoid(x) p = Pad(r, q) ",
        "r = Clip(x, half, six) p = Pad(r, q, half) ",
        "r = Clip(x, zero) t = Transpose<perm = [0,1,3,2]>(r) p = Pad(t, q) ",
        "r = Relu(x) t = Abs(x) c = Concat<axis = 1>(r, t) p = Pad(c, q) ",
        "r = Max(x, zero) p = Pad(r, q) ",
        "r = Relu(x) t = Exp(x) c = Min(t, r) s = Slice(c, starts, ends) p = Pad(s, q) ",
    ],
)
@pytest.mark.parametrize(
    "end",
    [
        f"y = {POOL}",
        'y = MaxPool<kernel_shape = [5,5], strides = [2,2], auto_pad = "SAME_UPPER">(p)',
        "y = MaxPool<kernel_shape = [3,5], strides = [1,2], pads = [1,0,0,1]>(p)",
    ],
)
def test_pad_into_max_pool(start: str, end: str) -> None:
    more = [Q, LEAST] if "least" in start else [Q]
    more += ["int64[1] starts = {1}, int64[1] ends = {2}"] if "starts" in start else []
    model = ir.parse(graph(start + end, X, ", ".join(more)))
    left = sorted(node.op_type for node in model.graph if node.op_type != "Pad")
    check(padding.pad_max_pool, graph(start + end, X, ", ".join(more)), left, ctx=cpu())


def test_bytes_are_never_negative() -> None:
    signature = "(uint8[2,4,6,6] x) => (uint8[a,b,c,d] y)"
    check(padding.pad_max_pool, graph(f"p = Pad(x, q) y = {POOL}", signature, Q), ["MaxPool"], ctx=cpu())
    signed = graph(f"p = Pad(x, q, v) y = {POOL}", signature.replace("uint8", "int8"), f"{Q}, int8 v = {{-128}}")
    check(padding.pad_max_pool, signed, ["MaxPool"], ctx=cpu())
    signed = graph(f"p = Pad(x, q) y = {POOL}", signature.replace("uint8", "int8"), Q)
    unchanged(padding.pad_max_pool, signed, reason="less than 0", ctx=cpu())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"p = Pad(x, q) y = {POOL}", "may be less than 0"),
        (f"r = Tanh(x) p = Pad(r, q) y = {POOL}", "may be less than 0"),
        (f"r = Clip(x, minus_half) p = Pad(r, q) y = {POOL}", "may be less than 0"),
        (f"r = Relu(x) p = Pad(r, q, half) y = {POOL}", "may be less than 0.5"),
        (f"r = Relu(x) c = Concat<axis = 1>(r, x) p = Pad(c, q) y = {POOL}", "may be less than 0"),
        (f"{NOT_NEGATIVE} y = MaxPool<kernel_shape = [3,3], strides = [3,2], ceil_mode = 1>(p)", "rounds the size up"),
        (f"{NOT_NEGATIVE} y = MaxPool<kernel_shape = [2,2]>(p)", "pads a whole window"),
        (f"{NOT_NEGATIVE} y = MaxPool<kernel_shape = [3,3], dilations = [2,1]>(p)", "dilated"),
    ],
)
def test_other_max_pools_stay(body: str, reason: str) -> None:
    unchanged(padding.pad_max_pool, graph(body, X, Q), reason=reason, ctx=cpu())


def test_a_max_pool_whose_places_are_used_stays() -> None:
    signature = "(float[2,4,6,6] x) => (float[a,b,c,d] y, int64[e,f,g,h] z)"
    before = graph(NOT_NEGATIVE + "y, z = MaxPool<kernel_shape = [3,3]>(p)", signature, Q)
    unchanged(padding.pad_max_pool, before, reason="the places are used", ctx=cpu())


# --- what stands between


NHWC = "(float[2,6,6,4] x) => (float[a,b,c,d] y)"
MOVED = "int64[8] q = {0,1,2,0,0,0,1,0}"


@pytest.mark.parametrize(
    ("start", "opset"),
    [("p = Pad(x, q)", 13), ("p = Pad(x, q, zero)", 20), ("p = Pad<pads = [0,1,2,0,0,0,1,0]>(x)", 9)],
)
def test_pad_before_a_transpose(start: str, opset: int) -> None:
    weights = W if opset < 11 else f"{W}, {MOVED}"
    before = graph(f"{start} t = Transpose<perm = [0,3,1,2]>(p) y = Conv(t, w)", NHWC, weights, opset=opset)
    check(padding.pad_transpose, before, ["Transpose", "Pad", "Conv"], ctx=cpu())
    check(conv.Conv(), before, ["Transpose", "Conv"], fires=2, ctx=cpu())


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("p = Pad(x, q) t = Transpose<perm = [0,3,1,2]>(p) y = Relu(t)", MOVED, "neither a convolution nor pooling"),
        ("p = Pad(x, q) y = Transpose<perm = [0,3,1,2]>(p)", MOVED, "an output of the graph"),
        (
            "p = Pad(x, q) t = Transpose<perm = [0,3,1,2]>(p) y = Conv(t, w)",
            f"{W}, int64[8] q = {{1,1,2,0,0,0,1,0}}",
            "the batch",
        ),
        (
            "p = Pad(x, q) t = Transpose<perm = [0,3,1,2]>(p) y = Conv(t, w)",
            f"{W}, int64[8] q = {{0,1,-2,0,0,0,1,0}}",
            "crops",
        ),
    ],
)
def test_other_transposes_stay(body: str, weights: str, reason: str) -> None:
    unchanged(padding.pad_transpose, graph(body, NHWC, weights), reason=reason, ctx=cpu())


@pytest.mark.parametrize(
    "end",
    [
        "Relu(p)",
        "LeakyRelu<alpha = 0.2>(p)",
        "Clip(p, zero, six)",
        "Clip(p, , six)",
        "HardSwish(p)",
        "Tanh(p)",
        "Neg(p)",
    ],
)
def test_pad_before_an_activation(end: str) -> None:
    before = graph(f"p = Pad(x, q) a = {end} y = Conv(a, w)", X, f"{W}, {Q}")
    name = end.partition("(")[0].partition("<")[0]
    check(padding.pad_activation, before, [name, "Pad", "Conv"], ctx=cpu())
    check(conv.Conv(), before, [name, "Conv"], fires=2, ctx=cpu())


def test_pad_before_an_old_activation() -> None:
    before = graph(
        "p = Pad<pads = [0,0,1,2,0,0,0,1]>(x) a = Clip<min = -1.0, max = 6.0>(p) y = Conv(a, w)", X, W, opset=9
    )
    check(padding.pad_activation, before, ["Clip", "Pad", "Conv"], ctx=cpu())
    above = before.replace("-1.0", "1.0")
    unchanged(padding.pad_activation, above, reason="zero lies outside", ctx=cpu())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("p = Pad(x, q, one) a = Relu(p) y = Conv(a, w)", "not zeros"),
        ("p = Pad(x, q) a = Clip(p, half, six) y = Conv(a, w)", "zero lies outside"),
        ("p = Pad(x, q) a = Relu(p) b = Tanh(a) y = Conv(b, w)", "neither a convolution nor pooling"),
    ],
)
def test_other_activations_stay(body: str, reason: str) -> None:
    unchanged(padding.pad_activation, graph(body, X, f"{W}, {Q}"), reason=reason, ctx=cpu())


def test_an_activation_with_a_computed_limit_stays() -> None:
    signature = "(float[2,4,6,6] x, float l) => (float[a,b,c,d] y)"
    before = graph("p = Pad(x, q) a = Clip(p, l) y = Conv(a, w)", signature, f"{W}, {Q}")
    unchanged(padding.pad_activation, before, reason="not constant", ctx=cpu())


def test_pad_relu_max_pool_ends_as_one_pool() -> None:
    model = ir.parse(graph(f"p = Pad(x, q) r = Relu(p) y = {POOL.replace('(p)', '(r)')}", X, Q))
    assert Driver(conv.RULES).run(model, cpu()) == 2
    assert [node.op_type for node in model.graph] == ["Relu", "MaxPool"]
