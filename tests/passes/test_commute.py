"""Work moved to the side that has less data."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from fusion_graphs import cpu
from fusion_graphs import graph as graph_with

from accelc import estimate, ir
from accelc.infer import infer_model
from accelc.passes import commute_linear, commute_resize, commute_select
from accelc.passes.commute import Commute
from accelc.pipeline import Pipeline
from accelc.rules import Rule
from accelc.testing import check, inputs, run, same_numbers, shape_of, unchanged

RESIZE = 'mode = "linear", coordinate_transformation_mode = "half_pixel"'


def graph(body: str, signature: str, weights: str) -> str:
    """A model with those of the weights that its body names."""
    words = set(re.findall(r"\w+", body))
    found = re.findall(r"(\w+(?:\[[^]]*])? (\w+) = \{[^}]*\})", weights)
    return graph_with(body, signature, ", ".join(text for text, name in found if name in words))


def weight(name: str, *shape: int, kind: str = "float") -> str:
    numbers = np.random.default_rng(len(name) + sum(shape)).integers(-8, 9, int(np.prod(shape))) / 8
    return f"{kind}[{','.join(map(str, shape))}] {name} = {{{', '.join(map(str, numbers))}}}"


def plain(source: str) -> dict[str, Any]:
    """Random inputs, without infinities: what is not finite spreads to other places on the other side."""
    return next(inputs(ir.parse(source)))


def moved(how: Callable[..., ir.Model], what: Rule, source: str, operators: Sequence[str]) -> ir.Model:
    """`check` on finite inputs. how: check itself, so that who looks for the examples of a rule finds these."""
    return how(what, source, operators, ctx=cpu(), **plain(source))


# --- upsampling ------------------------------------------------------------------------------------------------------


def resized(attrs: str = RESIZE, scales: str = "1, 1, 4, 4", end: str = "y = Conv(r, w, b)", w: str = "") -> str:
    return graph(
        f"r = Resize<{attrs}>(x,, s) {end}",
        "(float[2,8,16,16] x) => (float[a,b,c,d] y)",
        f"{w or weight('w', 6, 8, 1, 1)}, {weight('b', 6)}, float[4] s = {{{scales}}}",
    )


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"])
def test_conv_goes_before_upsampling(mode: str, coordinates: str) -> None:
    model = moved(
        check,
        commute_resize.conv_of_resize,
        resized(f'mode = "{mode}", coordinate_transformation_mode = "{coordinates}"', "1, 1, 3, 2.5"),
        ["Conv", "Resize"],
    )
    assert [node.op_type for node in model.graph] == ["Conv", "Resize"]


def test_conv_in_groups_goes_before_upsampling() -> None:
    source = resized(end="y = Conv<group = 2>(r, w, b)", w=weight("w", 6, 4, 1, 1))
    moved(check, commute_resize.conv_of_resize, source, ["Conv", "Resize"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (resized('mode = "cubic"'), "not tested"),
        (resized('mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"'), "outside"),
        (resized(f"{RESIZE}, antialias = 1"), "antialiased"),
        (resized(f"{RESIZE}, exclude_outside = 1"), "excludes"),
        (resized(f'{RESIZE}, keep_aspect_ratio_policy = "not_larger"'), "aspect ratio"),
        (resized(scales="1, 1, 0.5, 0.5"), "costs as much"),
        (resized(end="y = Conv<pads = [1,1,1,1]>(r, w, b)"), "it pads"),
        (resized(end="y = Conv<strides = [2,2]>(r, w, b)"), "strides"),
        (resized(w=weight("w", 6, 8, 3, 3)), "larger than 1"),
        (resized(scales="1, 2, 4, 4", w=weight("w", 6, 16, 1, 1)), "batch or channels"),
    ],
)
def test_conv_stays_after_other_resizes(source: str, reason: str) -> None:
    unchanged(commute_resize.conv_of_resize, source, reason=reason, ctx=cpu())


def test_conv_of_many_outputs_stays_after_upsampling() -> None:
    unchanged(
        commute_resize.conv_of_resize,
        resized(scales="1, 1, 1.1, 1", w=weight("w", 400, 8, 1, 1)).replace(weight("b", 6), weight("b", 400)),
        reason="costs as much",
        ctx=cpu(),
    )


def test_sizes_of_an_unknown_shape_stay() -> None:
    source = graph(
        f"r = Resize<{RESIZE}>(x,,, s) y = Conv(r, w)",
        "(float[2,8,16,16] x, int64[4] s) => (float[a,b,c,d] y)",
        weight("w", 6, 8, 1, 1),
    )
    unchanged(commute_resize.conv_of_resize, source, reason="sizes are not known", ctx=cpu())
    unchanged(commute_resize.resize_by_scales, source, reason="not known to be a whole number", ctx=cpu())


def test_sizes_become_scales() -> None:
    for sizes, scales in (("2, 8, 32, 48", "1, 1, 2, 3"), ("2, 8, 16, 16", "1, 1, 1, 1")):
        form = f"y = Resize<{RESIZE}>(x,,, s)"
        before = graph(form, "(float[2,8,16,16] x) => (float[a,b,c,d] y)", f"int64[4] s = {{{sizes}}}")
        after = graph(
            f"y = Resize<{RESIZE}>(x,, s)",
            "(float[2,8,16,16] x) => (float[a,b,c,d] y)",
            f"float[4] s = {{{scales}}}",
        )
        check(commute_resize.resize_by_scales, before, after, ctx=cpu())


@pytest.mark.parametrize(
    ("attrs", "sizes", "reason"),
    [
        (RESIZE, "2, 8, 40, 32", "whole number"),
        (RESIZE, "2, 8, 8, 8", "whole number"),
        (f'{RESIZE}, keep_aspect_ratio_policy = "not_larger"', "2, 8, 32, 32", "aspect ratio"),
        ('mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize"', "2, 8, 32, 32", "more than"),
    ],
)
def test_other_sizes_stay(attrs: str, sizes: str, reason: str) -> None:
    source = graph(
        f"y = Resize<{attrs}>(x, roi,, s)",
        "(float[2,8,16,16] x) => (float[a,b,c,d] y)",
        f"int64[4] s = {{{sizes}}}, float[8] roi = {{0, 0, 0, 0, 1, 1, 1, 1}}",
    )
    unchanged(commute_resize.resize_by_scales, source, reason=reason, ctx=cpu())


def test_a_resize_to_the_same_grid_goes() -> None:
    for given in ("Resize<{}>(x,, s)", "Resize<{}>(x,,, n)"):
        source = graph(
            f"r = {given.format(RESIZE)} y = Neg(r)",
            "(float[2,8,16,16] x) => (float[a,b,c,d] y)",
            "float[4] s = {1, 1, 1, 1}, int64[4] n = {2, 8, 16, 16}",
        )
        moved(check, commute_resize.resize_to_same_grid, source, ["Neg"])
    unchanged(commute_resize.resize_to_same_grid, resized(), reason="changes the size", ctx=cpu())
    cubic = resized('mode = "cubic"', "1, 1, 1, 1")
    unchanged(commute_resize.resize_to_same_grid, cubic, reason="linearly", ctx=cpu())


def joined(parts: str = "r, q", w: str = "", more: str = "", out: str = "y = Conv(c, w, b)") -> str:
    return graph(
        f"r = Resize<{RESIZE}>(x,, s) {more} c = Concat<axis = 1>({parts}) {out}",
        "(float[2,64,8,8] x, float[2,4,32,32] q, float[2,4,32,32] p) => (float[e,f,g,h] y)",
        f"{w or weight('w', 6, 68, 1, 1)}, {weight('b', 6)}, float[4] s = {{1, 1, 4, 4}}",
    )


def test_conv_of_a_concat_is_split() -> None:
    moved(check, commute_resize.conv_of_concat, joined(), ["Conv", "Resize", "Conv", "Add"])
    moved(check, commute_resize.conv_of_concat, joined("q, r"), ["Conv", "Resize", "Conv", "Add"])
    source = joined("q, r, p", weight("w", 6, 72, 1, 1))
    moved(check, commute_resize.conv_of_concat, source, ["Conv", "Resize", "Concat", "Conv", "Add"])


def test_conv_of_a_concat_of_resized_parts_only_is_split() -> None:
    source = joined(
        "r, t",
        weight("w", 6, 68, 1, 1),
        f"m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(q) t = Resize<{RESIZE}>(m,, z)",
    )
    source = source.replace("float[4] s =", "float[4] z = {1, 1, 2, 2}, float[4] s =")
    moved(check, commute_resize.conv_of_concat, source, ["MaxPool", "Conv", "Resize", "Conv", "Resize", "Add"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (joined("q, p", weight("w", 6, 8, 1, 1)), "no part is resized"),
        (joined(w=weight("w", 6, 34, 1, 1), out="y = Conv<group = 2>(c, w, b)"), "groups"),
        (joined(w=weight("w", 6, 68, 3, 3), out="y = Conv<pads = [1,1,1,1]>(c, w, b)"), "larger than 1"),
        (joined(out="v = Conv(c, w, b) u = Conv(c, w, b) y = Add(u, v)"), "consumers"),
        (joined(w=weight("w", 400, 68, 1, 1), out="y = Conv(c, w)"), "costs as much"),
    ],
)
def test_other_convs_of_a_concat_stay(source: str, reason: str) -> None:
    unchanged(commute_resize.conv_of_concat, source, reason=reason, ctx=cpu())


def test_a_weight_that_others_use_is_not_split() -> None:
    source = graph(
        f"r = Resize<{RESIZE}>(x,, s) c = Concat<axis = 1>(r, q) u = Conv(c, w) v = Conv(p, w) y = Add(u, v)",
        "(float[2,64,8,8] x, float[2,4,32,32] q, float[2,68,32,32] p) => (float[e,f,g,h] y)",
        f"{weight('w', 6, 68, 1, 1)}, float[4] s = {{1, 1, 4, 4}}",
    )
    unchanged(commute_resize.conv_of_concat, source, reason="used elsewhere", ctx=cpu())


# --- linear maps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["", "b = Add(a, v)", "b = Add(v, a)"])
def test_products_in_a_row_become_one(bias: str) -> None:
    source = graph(
        f"a = MatMul(x, w) {bias} y = MatMul({'b' if bias else 'a'}, u)",
        "(float[2,5,4] x) => (float[a,b,c] y)",
        f"{weight('w', 4, 16)}, {weight('v', 16)}, {weight('u', 16, 3)}",
    )
    moved(check, commute_linear.matmul_of_matmul, source, ["MatMul", "Add"] if bias else ["MatMul"])


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("a = MatMul(x, w) y = MatMul(a, u)", f"{weight('w', 16, 2)}, {weight('u', 2, 16)}", "the larger one"),
        (
            "a = MatMul(x, w) y = MatMul(a, u) z = MatMul(x, w)",
            f"{weight('w', 16, 16)}, {weight('u', 16, 4)}",
            "used elsewhere",
        ),
        ("a = MatMul(x, w) y = MatMul(a, u)", f"{weight('w', 2, 16, 16)}, {weight('u', 16, 4)}", "no matrices"),
        ("a = MatMul(x, w) b = Add(a, v) y = MatMul(b, u)", None, "one value per column"),
    ],
)
def test_other_products_stay(body: str, weights: str | None, reason: str) -> None:
    weights = weights or f"{weight('w', 16, 16)}, {weight('v', 5, 16)}, {weight('u', 16, 4)}"
    outputs = ", float[d,e,f] z" if "z =" in body else ""
    source = graph(body, f"(float[2,5,16] x) => (float[a,b,c] y{outputs})", weights)
    unchanged(commute_linear.matmul_of_matmul, source, reason=reason, ctx=cpu())


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("biases", ["neither", "first", "second", "both"])
def test_convs_in_a_row_become_one(kernel: int, biases: str) -> None:
    first, second = (", v" if biases in ("first", "both") else ""), (", b" if biases in ("second", "both") else "")
    source = graph(
        f"a = Conv<pads = [{kernel // 2},{kernel // 2},0,0], strides = [2,1]>(x, w{first}) y = Conv(a, u{second})",
        "(float[2,4,9,9] x) => (float[e,f,g,h] y)",
        f"{weight('w', 16, 4, kernel, kernel)}, {weight('v', 16)}, {weight('u', 3, 16, 1, 1)}, {weight('b', 3)}",
    )
    moved(check, commute_linear.conv_of_conv, source, ["Conv"])


@pytest.mark.parametrize(
    ("end", "u", "reason"),
    [
        ("y = Conv(a, u)", weight("u", 64, 2, 1, 1), "the larger one"),
        ("y = Conv<group = 2>(a, u)", weight("u", 4, 8, 1, 1), "groups"),
        ("y = Conv(a, u)", weight("u", 3, 16, 3, 3), "larger than 1"),
        ("y = Conv<pads = [1,1,1,1]>(a, u)", weight("u", 3, 16, 1, 1), "it pads"),
        ("r = Relu(a) y = Conv(r, u)", weight("u", 3, 16, 1, 1), "wants Conv before it"),
    ],
)
def test_other_convs_stay(end: str, u: str, reason: str) -> None:
    w = weight("w", 2 if "64, 2" in u or "[64,2" in u else 16, 4, 1, 1)
    source = graph(f"a = Conv(x, w) {end}", "(float[2,4,9,9] x) => (float[e,f,g,h] y)", f"{w}, {u}")
    unchanged(commute_linear.conv_of_conv, source, reason=reason, ctx=cpu())


def tokens(out: str = "0, 6, 8, 5", flat: str = "0, 4, 40", bias: str = weight("b", 6), size: str = "2,4,8,5") -> str:
    return graph(
        "f = Reshape(x, s) t = Transpose<perm = [0,2,1]>(f) m = MatMul(t, w) a = Add(m, b) "
        "u = Transpose<perm = [0,2,1]>(a) y = Reshape(u, o)",
        f"(float[{size}] x) => (float[p,q,r,z] y)",
        f"int64[3] s = {{{flat}}}, int64[4] o = {{{out}}}, {weight('w', 4, 6)}, {bias}",
    ).replace("y = Reshape(u, o)", "v = Reshape(u, o) y = Neg(v)")


def test_a_linear_map_of_pixels_becomes_a_conv() -> None:
    moved(check, commute_linear.linear_of_pixels, tokens(), ["Conv", "Neg"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (tokens(out="0, 6, 5, 8"), "arranged"),
        (tokens(flat="1, 4, 80", out="2, 6, 8, 5"), "arranged"),
        (tokens(flat="0, 4, 40", out="0, 3, 16, 5"), "split"),
        (tokens(bias=weight("b", 40, 6)), "one value per channel"),
        (tokens(size="2,2,16,5"), "split"),
    ],
)
def test_other_maps_of_pixels_stay(source: str, reason: str) -> None:
    unchanged(commute_linear.linear_of_pixels, source, reason=reason, ctx=cpu())


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_a_mean_of_a_linear_map_is_taken_before_it(keep: int, bias: bool) -> None:
    source = graph(
        f"m = MatMul(x, w) {'a = Add(m, b)' if bias else 'a = Identity(m)'} y = ReduceMean<keepdims = {keep}>(a, n)",
        "(float[2,5,4] x) => (float y)".replace("float y", "float[p,q,r] y" if keep else "float[p,q] y"),
        f"int64[1] n = {{1}}, {weight('w', 4, 6)}, {weight('b', 6)}",
    )
    if not bias:
        source = source.replace("a = Identity(m)", "").replace("(a, n)", "(m, n)")
    moved(check, commute_linear.mean_of_linear, source, ["ReduceMean", "MatMul", *["Add"] * bias])


@pytest.mark.parametrize(
    ("axis", "bias", "reason"),
    [("-1", weight("b", 6), "the last axis"), ("1", weight("b", 5, 6), "varies")],
)
def test_other_means_stay(axis: str, bias: str, reason: str) -> None:
    source = graph(
        "m = MatMul(x, w) a = Add(m, b) y = ReduceMean(a, n)",
        "(float[2,5,4] x) => (float[p,q,r] y)",
        f"int64[1] n = {{{axis}}}, {weight('w', 4, 6)}, {bias}",
    )
    unchanged(commute_linear.mean_of_linear, source, reason=reason, ctx=cpu())


def test_a_mean_that_may_be_empty_stays_after_a_bias() -> None:
    source = graph(
        "m = MatMul(x, w) a = Add(m, b) y = ReduceMean(a, n)",
        "(float[2,N,4] x) => (float[p,q,r] y)",
        f"int64[1] n = {{1}}, {weight('w', 4, 6)}, {weight('b', 6)}",
    )
    unchanged(commute_linear.mean_of_linear, source, reason="the mean of nothing", ctx=cpu())
    source = graph(
        "c = Conv(x, w, b) y = GlobalAveragePool(c)",
        "(float[2,4,H,W] x) => (float[p,q,r,s] y)",
        f"{weight('w', 6, 4, 1, 1)}, {weight('b', 6)}",
    )
    unchanged(commute_linear.mean_of_conv, source, reason="the mean of nothing", ctx=cpu())


@pytest.mark.parametrize("pool", ["y = GlobalAveragePool(c)", "y = ReduceMean(c, n)"])
def test_a_mean_over_pixels_is_taken_before_a_conv(pool: str) -> None:
    source = graph(
        f"c = Conv(x, w, b) {pool}",
        "(float[2,4,8,8] x) => (float[p,q,r,s] y)",
        f"int64[2] n = {{2, 3}}, {weight('w', 6, 4, 1, 1)}, {weight('b', 6)}",
    )
    moved(
        check, commute_linear.mean_of_conv, source, ["Conv", "GlobalAveragePool" if "Global" in pool else "ReduceMean"]
    )


def test_a_mean_over_pixels_stays_after_a_conv_that_is_larger() -> None:
    for w, attrs, reason in (
        (weight("w", 6, 4, 3, 3), "", "larger than 1"),
        (weight("w", 6, 4, 1, 1), "<pads = [1,1,1,1]>", "it pads"),
    ):
        source = graph(f"c = Conv{attrs}(x, w) y = GlobalAveragePool(c)", "(float[2,4,8,8] x) => (float[p,q,r,s] y)", w)
        unchanged(commute_linear.mean_of_conv, source, reason=reason, ctx=cpu())


# --- selections ------------------------------------------------------------------------------------------------------

BODY = (
    "a = MatMul(x, w) b = Add(a, v) g = Gelu(b) c = MatMul(g, u) d = Add(c, x) "
    "n = LayerNormalization<epsilon = 1e-5>(d, s, v2) "
)
WEIGHTS = f"{weight('w', 64, 128)}, {weight('v', 128)}, {weight('u', 128, 64)}, {weight('s', 64)}, {weight('v2', 64)}"
ALL = ["MatMul", "Add", "Gelu", "MatMul", "Add", "LayerNormalization"]


def selected(end: str, batch: str = "2", more: str = "int64[1] at = {0}, int64 i = {0}", body: str = BODY) -> str:
    rank = "p,q" if "i)" in end and "Gather" in end else "p,q,r"
    return graph(body + end, f"(float[{batch},197,64] x) => (float[{rank}] y)", f"{WEIGHTS}, {more}")


def test_the_first_token_is_selected_first() -> None:
    model = moved(
        check, commute_select.gather_earlier, selected("y = Gather<axis = 1>(n, i)"), [*ALL, "Slice", "Squeeze"]
    )
    assert model.graph[0].op_type == "Slice"


def test_the_last_token_and_a_symbolic_batch() -> None:
    source = selected("y = Gather<axis = -2>(n, i)", "N", "int64 i = {-1}")
    moved(check, commute_select.gather_earlier, source, [*ALL, "Slice", "Squeeze"])


def test_several_tokens_are_selected_first() -> None:
    source = selected("y = Gather<axis = 1>(n, at)", more="int64[3] at = {3, 196, 0}")
    moved(check, commute_select.gather_earlier, source, [*ALL, "Gather"])
    source = selected(
        "y = Slice(n, lo, hi, ax, st)",
        more="int64[1] lo = {-20}, int64[1] hi = {9223372036854775807}, int64[1] ax = {1}, int64[1] st = {3}",
    )
    moved(check, commute_select.slice_earlier, source, [*ALL, "Slice"])


ATTENTION = (
    "q0 = MatMul(x, wq) q1 = Reshape(q0, hs) q = Transpose<perm = [0,2,1,3]>(q1) "
    "k0 = MatMul(x, wk) k1 = Reshape(k0, hs) k = Transpose<perm = [0,2,3,1]>(k1) "
    "v0 = MatMul(x, wv) v1 = Reshape(v0, hs) v = Transpose<perm = [0,2,1,3]>(v1) "
    "r = MatMul(q, k) e = Add(r, mask) p = Softmax(e) o = MatMul(p, v) "
    "o1 = Transpose<perm = [0,2,1,3]>(o) o2 = Reshape(o1, fs) z = Add(o2, x) "
)


@pytest.mark.parametrize("rows", [1, 50])
@pytest.mark.parametrize("shape", ["0, 0", "2, 50", "0, 50"])
def test_a_selection_goes_through_attention(rows: int, shape: str) -> None:
    source = graph(
        ATTENTION + "y = Gather<axis = 1>(z, i)",
        "(float[2,50,64] x) => (float[a,b] y)",
        ", ".join([*(weight(f"w{name}", 64, 64) for name in "qkv"), weight("mask", 1, 1, rows, 50)])
        + f", int64[4] hs = {{{shape}, 4, 16}}, int64[3] fs = {{{shape}, 64}}, int64 i = {{0}}",
    )
    model = check(
        commute_select.gather_earlier,
        source,
        [node.op_type for node in _after_attention(rows, source)],
        ctx=cpu(),
        **plain(source),
    )
    scores = next(node for node in model.graph if node.op_type == "Softmax").outputs[0]
    assert (ir.dims(scores) or ())[-2] == 1


def _after_attention(rows: int, source: str) -> list[ir.Node]:
    """The operators that must be left: those of before, the selections instead of Gather."""
    model = ir.parse(source)
    left = [node for node in model.graph if node.op_type != "Gather"]
    kinds = ["Slice"] * (2 if rows > 1 else 1) + ["Squeeze"]
    return [*left, *(ir.new_node(kind, []) for kind in kinds)]


@pytest.mark.parametrize(
    ("source", "rule", "reason"),
    [
        (selected("y = Gather<axis = 2>(n, i)"), commute_select.gather_earlier, "computed as a whole"),
        (
            selected("y = Gather<axis = 1>(n, i)", "2", "int64 i = {500}"),
            commute_select.gather_earlier,
            "out of range",
        ),
        (
            selected("t = Softmax<axis = 1>(n) y = Gather<axis = 1>(t, i)"),
            commute_select.gather_earlier,
            "computed as a whole",
        ),
        (
            selected("y0 = Gather<axis = 1>(n, i) m = ReduceMax<keepdims = 0>(n, at) y = Add(y0, m)").replace(
                "[p,q]", "[p,q]"
            ),
            commute_select.gather_earlier,
            "consumers",
        ),
        (
            selected(
                "y = Slice(n, lo, hi, ax, st)",
                more="int64[1] lo = {-1}, int64[1] hi = {-9223372036854775807}, int64[1] ax = {1}, int64[1] st = {-1}",
            ),
            commute_select.slice_earlier,
            "around",
        ),
        (
            selected("y = Slice(n, lo, hi)", more="int64[3] lo = {0, 0, 0}, int64[3] hi = {1, 2, 3}"),
            commute_select.slice_earlier,
            "several axes",
        ),
        (
            selected("y = Slice(n, lo, hi, ax)", more="int64[1] lo = {0}, int64[1] hi = {500}, int64[1] ax = {1}"),
            commute_select.slice_earlier,
            "selects everything",
        ),
    ],
)
def test_other_selections_stay(source: str, rule: Rule, reason: str) -> None:
    source = source.replace("(float[p,q,r] y)", "(float[p,q] y)") if "y0" in source else source
    unchanged(rule, source, reason="" if reason == "consumers" else reason, ctx=cpu())


def test_a_selection_stops_where_a_value_is_needed_as_a_whole() -> None:
    source = selected(
        "e = ReduceMax<keepdims = 0>(d, at) y0 = Gather<axis = 1>(n, i) y = Add(y0, e)",
        more="int64[1] at = {1}, int64 i = {0}",
    )
    source = source.replace("(float[p,q,r] y)", "(float[p,q] y)")
    model = moved(check, commute_select.gather_earlier, source, [*ALL, "Slice", "Squeeze", "ReduceMax", "Add"])
    cuts = [node for node in model.graph if node.op_type == "Slice"]
    assert len(cuts) == 1
    source_of_cut = cuts[0].inputs[0]
    assert source_of_cut is not None
    assert source_of_cut.producer() is not None


# --- the pass --------------------------------------------------------------------------------------------------------


def head(batch: str) -> str:
    """A decoder head as of SegFormer: tokens of two sizes, mapped, resized to the larger, joined and convolved."""
    branch = (
        "f{i} = Reshape(x{i}, s{i}) t{i} = Transpose<perm = [0,2,1]>(f{i}) m{i} = MatMul(t{i}, w{i}) "
        "a{i} = Add(m{i}, b{i}) u{i} = Transpose<perm = [0,2,1]>(a{i}) v{i} = Reshape(u{i}, o{i}) "
    )
    body = branch.replace("{i}", "0") + branch.replace("{i}", "1")
    body += f"n = Shape(v0) r0 = Resize<{RESIZE}>(v0,,, n) r1 = Resize<{RESIZE}>(v1,,, n) "
    body += "c = Concat<axis = 1>(r1, r0) d = Conv(c, w, b) e = Relu(d) y = Conv(e, l)"
    sizes = ((4, 32), (6, 16))
    weights = [
        f"int64[3] s{i} = {{0, {c}, {p * p}}}, int64[4] o{i} = {{0, 64, {p}, {p}}}" for i, (c, p) in enumerate(sizes)
    ]
    weights += [f"{weight(f'w{i}', c, 64)}, {weight(f'b{i}', 64)}" for i, (c, _) in enumerate(sizes)]
    weights += [weight("w", 64, 128, 1, 1), weight("b", 64), weight("l", 5, 64, 1, 1)]
    return graph(
        body,
        f"(float[{batch},4,32,32] x0, float[{batch},6,16,16] x1) => (float[{batch},5,32,32] y)",
        ", ".join(weights),
    )


@pytest.mark.parametrize("batch", ["2", "N"])
def test_a_head_of_several_scales(batch: str) -> None:
    source = head(batch)
    model = ir.parse(source)
    infer_model(model)
    original = ir.to_proto(model).SerializeToString()
    ctx = cpu()
    Pipeline.parse("O1, commute, O1").run(model, ctx)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Conv", "Conv", "Conv", "Relu", "Resize"]
    assert max(each.const_value.size for each in model.graph.initializers.values() if each.const_value) == 6 * 64
    same_numbers(original, ir.to_proto(model).SerializeToString(), plain(source), exact=False)
    before = shape_of(model)
    assert Pipeline.parse("commute").run(model, ctx)[0].changes == 0
    assert shape_of(model) == before


def test_an_unknown_size_is_left_alone() -> None:
    source = graph(
        f"n = Shape(q) r = Resize<{RESIZE}>(x,,, n) c = Concat<axis = 1>(r, q) y = Conv(c, w)",
        "(float[2,8,h,w0] x, float[2,8,H,W] q) => (float[e,f,g,z] y)",
        weight("w", 8, 16, 1, 1),
    ).replace("float[8,16,1,1] w", "float[8,16,1,1] w")
    model = ir.parse(source)
    infer_model(model)
    count = Commute().run(model, cpu()).changes
    assert count == 0


def test_measured_alternatives_take_the_same_inputs() -> None:
    seen: dict[str, onnx.ModelProto] = {}
    ctx = cpu()

    def decide(rule: str, case: str, default: str, build: Any, **_: Any) -> str:
        seen.update(build())
        assert (rule, default) == ("conv_of_concat", "moved")
        assert case
        return "plain"

    ctx.decide = decide  # type: ignore[method-assign]
    model = ir.parse(joined())
    infer_model(model)
    estimate.annotate(model, ctx)
    assert Commute().run(model, ctx).changes == 0
    assert list(seen) == ["plain", "moved"]
    feeds = [{each.name for each in small.graph.input} for small in seen.values()]
    assert feeds[0] == feeds[1]
    rng = np.random.default_rng(0)
    values = {
        each.name: rng.standard_normal([dim.dim_value for dim in each.type.tensor_type.shape.dim]).astype(np.float32)
        for each in seen["plain"].graph.input
    }
    plain_, moved_ = (run(small.SerializeToString(), values)[0] for small in seen.values())
    np.testing.assert_allclose(moved_, plain_, atol=1e-5)
