# ruff: noqa: E501
"""Instance, group and channel normalization from their parts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from fusion_graphs import TARGET, cpu, graph
from test_conv import weight

from accelc import ir
from accelc.context import Context
from accelc.passes import group_norm
from accelc.rewrite import Driver
from accelc.testing import check, context, unchanged

X = "(float[2,4,6,6] x) => (float[a,b,c,d] y)"
AXES = "int64[2] axes = {2, 3}"
PARTS = (
    "m = ReduceMean(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, axes) e = Add(v, eps) s = Sqrt(e) "
    "n = Div(d, s)"
)
RECIPROCAL = PARTS.replace("Mul(d, d)", "Pow(d, two)").replace("n = Div(d, s)", "r = Reciprocal(s) n = Mul(d, r)")
SCALE = "float[4] s = {1, 2, -1, 0.5}, float[4] b = {0, 1, 2, -3}"
C = weight("c", 4, 1, 1)
D = weight("d", 1, 4, 1, 1)


def threads(count: int) -> Context:
    return context(target=dataclasses.replace(TARGET, threads=count))


# --- instance normalization


@pytest.mark.parametrize("body", [PARTS, RECIPROCAL])
@pytest.mark.parametrize("axes", ["{2, 3}", "{-1, -2}"])
def test_instance_norm(body: str, axes: str) -> None:
    before = graph(body.replace("n =", "y ="), X, f"int64[2] axes = {axes}")
    check(group_norm.instance_norm, before, ["InstanceNormalization"], ctx=cpu())


def test_instance_norm_with_old_axes() -> None:
    body = PARTS.replace("n =", "y =").replace("ReduceMean(x, axes)", "ReduceMean<axes = [2,3]>(x)")
    body = body.replace("ReduceMean(q, axes)", "ReduceMean<axes = [2,3]>(q)")
    check(group_norm.instance_norm, graph(body, X, opset=13), ["InstanceNormalization"], ctx=cpu())


def test_instance_norm_of_groups() -> None:
    body = "g = Reshape(x, shape) " + PARTS.replace("(x", "(g").replace("n =", "y =")
    before = graph(body, "(float[2,4,6,6] x) => (float[a,b,c] y)", "int64[3] shape = {0, 2, -1}, int64[1] axes = {2}")
    check(group_norm.instance_norm, before, ["Reshape", "InstanceNormalization"], ctx=cpu())


def test_instance_norm_by_hand() -> None:
    after = "y = InstanceNormalization<epsilon = 0.00001>(x, s, b)"
    ones = "float[4] s = {1, 1, 1, 1}, float[4] b = {0, 0, 0, 0}"
    before = graph(PARTS.replace("n =", "y ="), X, AXES)
    check(group_norm.instance_norm, before, graph(after, X, ones), ctx=cpu())


@pytest.mark.parametrize(
    ("axes", "signature", "reason"),
    [
        ("int64[1] axes = {3}", X, "not over the places"),
        ("int64[1] axes = {1}", X, "not over the places"),
        ("int64[3] axes = {1, 2, 3}", X, "not over the places"),
        ("int64[1] axes = {2}", "(float[2,4,6] x) => (float[a,b,c] y)", "as LayerNormalization does"),
        (AXES, "(double[2,4,6,6] x) => (double[a,b,c,d] y)", "DOUBLE"),
        (AXES, "(float[2,n,6,6] x) => (float[a,b,c,d] y)", "channels is not known"),
        (AXES, "(float[2,200,6,6] x) => (float[a,b,c,d] y)", "larger"),
    ],
)
def test_other_normalizations_stay(axes: str, signature: str, reason: str) -> None:
    kind = "double" if "double" in signature else "float"
    before = graph(PARTS.replace("n =", "y ="), signature, axes, kind=kind)
    unchanged(group_norm.instance_norm, before, reason=reason, ctx=cpu())


@pytest.mark.parametrize("end", ["y = Mul(n, c)", "y = Mul(d, n)", "y = Mul(n, half)"])
def test_scale_into_instance_norm(end: str) -> None:
    weights = ", ".join([SCALE, *([C] if "c)" in end else []), *([D] if "(d" in end else [])])
    before = graph(f"n = InstanceNormalization<epsilon = 0.1>(x, s, b) {end}", X, weights)
    check(group_norm.instance_norm_scale, before, ["InstanceNormalization"], ctx=cpu())


@pytest.mark.parametrize("end", ["y = Add(n, c)", "y = Add(d, n)", "y = Sub(n, c)", "y = Add(n, half)"])
def test_shift_into_instance_norm(end: str) -> None:
    weights = ", ".join([SCALE, *([C] if "c)" in end else []), *([D] if "(d" in end else [])])
    before = graph(f"n = InstanceNormalization<epsilon = 0.1>(x, s, b) {end}", X, weights)
    check(group_norm.instance_norm_shift, before, ["InstanceNormalization"], ctx=cpu())


def test_scale_and_shift_by_hand() -> None:
    signature = "(float[1,1,2,2] x) => (float[1,1,2,2] y)"
    weights = "float[1] s = {2}, float[1] b = {3}, float[1,1,1] c = {5}, float[1,1,1] d = {1}"
    before = ir.parse(graph("n = InstanceNormalization(x, s, b) a = Mul(n, c) y = Sub(a, d)", signature, weights))
    assert Driver([group_norm.instance_norm_scale, group_norm.instance_norm_shift]).run(before, cpu()) == 2
    (left,) = before.graph
    assert [float(ir.const(value).item()) for value in left.inputs[1:]] == [10, 14]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("c", "signature", "reason"),
    [
        ("float[6] c = {1, 2, 3, 4, 5, 6}", X, "not one value per channel"),
        ("float[1,1,4,1,1] c = {1, 2, 3, 4}", "(float[2,4,6,6] x) => (float[a,b,c,d,e] y)", "widen"),
    ],
)
def test_other_scales_stay(c: str, signature: str, reason: str) -> None:
    for rule, end in ((group_norm.instance_norm_scale, "Mul"), (group_norm.instance_norm_shift, "Add")):
        before = graph(f"n = InstanceNormalization(x, s, b) y = {end}(n, c)", signature, f"{SCALE}, {c}")
        unchanged(rule, before, reason=reason, ctx=cpu())


def test_a_single_channel_that_is_widened_stays() -> None:
    signature = "(float[2,1,6,6] x) => (float[a,b,c,d] y)"
    weights = f"float[1] s = {{2}}, float[1] b = {{3}}, {C}"
    before = graph("n = InstanceNormalization(x, s, b) y = Mul(n, c)", signature, weights)
    unchanged(group_norm.instance_norm_scale, before, reason="4 values for 1 channels", ctx=cpu())


# --- scaling and shifting channels


@pytest.mark.parametrize(
    "body", ["p = Mul(x, c) y = Add(p, d)", "p = Mul(c, x) y = Add(d, p)", "p = Mul(x, c) y = Sub(p, d)"]
)
@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 20])
def test_scale_shift(body: str, opset: int) -> None:
    before = graph(body, X, f"{C}, {D}", opset=opset)
    check(group_norm.scale_shift, before, ["BatchNormalization"], ctx=threads(2))


def test_scale_shift_by_hand() -> None:
    weights = "float[2] c = {2, 3}, float[2] d = {5, 5}, float[2] m = {0, 0}, float[2] v = {1, 1}"
    signature = "(float[1,2,16] x) => (float[1,2,16] y)"
    before = graph("p = Mul(x, c) y = Add(p, d)", signature, "float[2,1] c = {2, 3}, float d = {5}")
    after = graph("y = BatchNormalization<epsilon = 0.0>(x, c, d, m, v)", signature, weights)
    check(group_norm.scale_shift, before, after, ctx=threads(2))


def test_scale_shift_of_small_images_with_many_threads() -> None:
    before = graph("p = Mul(x, c) y = Add(p, d)", X, f"{C}, {D}")
    check(group_norm.scale_shift, before, ["BatchNormalization"], ctx=threads(16))


@pytest.mark.parametrize("signature", ["(float[2,4,256,256] x) => (float[a,b,c,d] y)", X.replace("6,6", "h,v")])
def test_scale_shift_of_large_images_stays_with_many_threads(signature: str) -> None:
    before = graph("p = Mul(x, c) y = Add(p, d)", signature, f"{C}, {D}")
    unchanged(group_norm.scale_shift, before, reason="Mul and Add are faster", ctx=threads(16))


@pytest.mark.parametrize(
    ("body", "signature", "weights", "reason"),
    [
        ("p = Mul(x, half) y = Add(p, two)", X, "", "single numbers"),
        (
            "p = Mul(x, c) y = Add(p, d)",
            "(float[2,4] x) => (float[a,b] y)",
            "float[4] c = {1,2,3,4}, float d = {1}",
            "no channels",
        ),
        ("p = Mul(x, c) y = Add(p, d)", X.replace("6,6", "2,2"), f"{C}, {D}", "few places"),
        ("p = Mul(x, c) y = Add(p, d)", X.replace("2,4", "2,n"), f"{C}, {D}", "channels is not known"),
        ("p = Mul(x, c) y = Add(p, d)", X.replace("2,4", "2,1"), f"{C}, {D}", "no channels"),
        ("p = Mul(x, c) y = Add(p, d)", X, f"{D}, float[6] c = {{1,2,3,4,5,6}}", "not one value per channel"),
    ],
)
def test_other_sums_stay(body: str, signature: str, weights: str, reason: str) -> None:
    unchanged(group_norm.scale_shift, graph(body, signature, weights), reason=reason, ctx=threads(2))


def test_scale_shift_of_doubles_stays() -> None:
    weights = f"{C}, {D}".replace("float", "double")
    before = graph("p = Mul(x, c) y = Add(p, d)", X.replace("float", "double"), weights, kind="double")
    unchanged(group_norm.scale_shift, before, reason="DOUBLE", ctx=threads(2))


# --- group normalization


WIDE = "(float[2,4,6,6] x) => (float[2,4,6,6] y)"


@pytest.mark.parametrize(
    "signature", [WIDE, X, "(float[n,4,h,v] x) => (float[a,b,c,d] y)", "(float[n,4,v] x) => (float[a,b,c] y)"]
)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_normalization(signature: str, groups: int) -> None:
    before = graph(f"y = GroupNormalization<num_groups = {groups}, epsilon = 0.1>(x, s, b)", signature, SCALE, opset=21)
    left = ["Reshape", "InstanceNormalization", "Reshape", "BatchNormalization"]
    shaped = ["Shape"] if "v]" in signature else []
    check(group_norm.group_normalization, before, left + shaped, ctx=threads(2))


def test_group_normalization_with_many_threads() -> None:
    signature = WIDE.replace("6,6", "256,256")
    before = graph("y = GroupNormalization<num_groups = 2>(x, s, b)", signature, SCALE, opset=21)
    left = ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add"]
    check(group_norm.group_normalization, before, left, ctx=threads(16))


def test_group_normalization_with_a_scale_for_each_group() -> None:
    weights = "float[2] s = {1, 2}, float[2] b = {3, 4}"
    before = graph("y = GroupNormalization<num_groups = 2>(x, s, b)", WIDE, weights, opset=18)
    check(group_norm.group_normalization, before, ["Reshape", "InstanceNormalization", "Reshape"], ctx=cpu())


def test_other_group_normalizations_stay() -> None:
    body = "y = GroupNormalization<num_groups = 3>(x, s, b)"
    unchanged(group_norm.group_normalization, graph(body, X, SCALE, opset=21), reason="do not divide", ctx=cpu())
    signature = X.replace("2,4", "2,n")
    before = graph(body.replace("3", "2"), signature, SCALE, opset=21)
    unchanged(group_norm.group_normalization, before, reason="channels is not known", ctx=cpu())
    doubles = graph(body.replace("3", "2"), X.replace("float", "double"), SCALE.replace("float", "double"), opset=21)
    unchanged(group_norm.group_normalization, doubles, reason="DOUBLE", ctx=cpu())


# --- normalization of channels


CHANNELS = "(float[2,32,3,5] x) => (float[a,b,c,d] y)"
G = ", ".join([weight("g", 32, 1, 1), weight("h", 1, 32, 1, 1)])


@pytest.mark.parametrize("body", [PARTS, RECIPROCAL])
@pytest.mark.parametrize("signature", [CHANNELS, CHANNELS.replace("2,32,3,5", "n,32,u,v")])
def test_layer_norm_of_channels(body: str, signature: str) -> None:
    before = graph(f"{body} p = Mul(n, g) y = Add(h, p)", signature, f"int64[1] axes = {{1}}, {G}")
    check(group_norm.layer_norm_channels, before, ["Transpose", "LayerNormalization", "Transpose"], ctx=cpu())


def test_layer_norm_of_the_channels_of_a_line() -> None:
    weights = f"int64[1] axes = {{1}}, {weight('g', 32, 1)}, {weight('h', 32, 1)}"
    before = graph(f"{PARTS} p = Mul(g, n) y = Add(p, h)", "(float[2,32,5] x) => (float[a,b,c] y)", weights)
    check(group_norm.layer_norm_channels, before, ["Transpose", "LayerNormalization", "Transpose"], ctx=cpu())


@pytest.mark.parametrize(
    ("signature", "axes", "parameters", "reason"),
    [
        (CHANNELS, "{2}", G, "not over the channels"),
        (X, "{1}", f"{weight('g', 4, 1, 1)}, {weight('h', 4, 1, 1)}", "too few"),
        (CHANNELS, "{1}", f"{weight('g', 32, 1, 1)}, float h = {{1}}", "not one for each channel"),
        (CHANNELS.replace("32", "n"), "{1}", G, "channels is not known"),
    ],
)
def test_other_channels_stay(signature: str, axes: str, parameters: str, reason: str) -> None:
    before = graph(f"{PARTS} p = Mul(n, g) y = Add(p, h)", signature, f"int64[1] axes = {axes}, {parameters}")
    unchanged(group_norm.layer_norm_channels, before, reason=reason, ctx=cpu())


def test_a_group_norm_of_parts_ends_as_two_operators_and_two_views() -> None:
    body = "g = Reshape(x, shape) n = InstanceNormalization(g, one2, zero2) r = Reshape(n, back) p = Mul(r, c) y = Add(p, d)"
    weights = (
        f"int64[3] shape = {{0, 2, -1}}, int64[4] back = {{2, 4, 6, 6}}, float[2] one2 = {{1, 1}}, "
        f"float[2] zero2 = {{0, 0}}, {C}, {D}"
    )
    left = ["Reshape", "InstanceNormalization", "Reshape", "BatchNormalization"]
    check(group_norm.GroupNorm(), graph(body, X, weights), left, ctx=threads(2))


# --- local response normalization


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("opset", [7, 13, 20])
def test_local_response(size: int, beta: float, opset: int) -> None:
    body = f"y = LRN<size = {size}, beta = {beta}, alpha = 0.5, bias = 2.0>(x)"
    left = ["Mul", "Unsqueeze", "AveragePool", "Squeeze", "Mul", "Add", "Div"]
    left += {0.5: ["Sqrt"], 0.75: ["Sqrt", "Sqrt", "Mul"], 1.0: []}[beta]
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    check(group_norm.local_response, graph(body, X, opset=opset), left, ctx=cpu(), x=x)


@pytest.mark.parametrize(
    ("attributes", "signature", "reason"),
    [
        ("beta = 0.6", X, "beta is 0.6"),
        ("bias = 0.0", X, "not be positive"),
        ("alpha = -1.0", X, "not be positive"),
        ("beta = 0.5", X.replace("6,6", "h,6"), "empty"),
        ("beta = 0.5", "(float[2,4,6] x) => (float[a,b,c] y)", "no image"),
    ],
)
def test_other_local_responses_stay(attributes: str, signature: str, reason: str) -> None:
    before = graph(f"y = LRN<size = 3, {attributes}>(x)", signature)
    unchanged(group_norm.local_response, before, reason=reason, ctx=cpu())
