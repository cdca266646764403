"""Pixels rearranged or repeated, as one operator."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_graphs import cpu, graph
from test_conv import weight

from accelc import ir
from accelc.pass_base import run_pass
from accelc.passes import resize
from accelc.testing import check, run, same_arrays, unchanged

IMAGE = "(float[2,3,4,5] x) => (float[a,b,c,d] y)"


def shapes(**lists: list[int]) -> str:
    return ", ".join(f"int64[{len(each)}] {name} = {{{', '.join(map(str, each))}}}" for name, each in lists.items())


# --- nearest neighbours


P, Q, T, R = [2, 3, 4, 1, 5, 1], [2, 3, 4, 2, 5, 3], [1, 1, 1, 2, 1, 3], [2, 3, 8, 15]


EXPAND, TILE = "b = Expand(a, q) y = Reshape(b, r)", "b = Tile(a, t) y = Reshape(b, r)"


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize(("body", "weights"), [(EXPAND, shapes(p=P, q=Q, r=R)), (TILE, shapes(p=P, t=T, r=R))])
def test_repeat(body: str, weights: str, opset: int) -> None:
    before = graph(f"a = Reshape(x, p) {body}", IMAGE, weights, opset=opset)
    check(resize.nearest_repeat, before, ["Resize"], ctx=cpu())


def test_repeat_of_unsqueezed() -> None:
    before = graph(f"a = Unsqueeze(x, axes) {EXPAND}", IMAGE, shapes(q=Q, r=R, axes=[3, 5]))
    check(resize.nearest_repeat, before, ["Resize"], ctx=cpu())
    before = graph(f"a = Unsqueeze<axes = [3,5]>(x) {EXPAND}", IMAGE, shapes(q=Q, r=R), opset=11)
    check(resize.nearest_repeat, before, ["Resize"], ctx=cpu())


def test_repeat_of_a_line() -> None:
    body = "a = Reshape(x, p) b = Tile(a, t) y = Reshape(b, r)"
    weights = shapes(p=[2, 3, 4, 1], t=[1, 1, 1, 3], r=[2, 3, -1])
    check(resize.nearest_repeat, graph(body, "(float[2,3,4] x) => (float[a,b,c] y)", weights), ["Resize"], ctx=cpu())


def test_repeat_of_an_image_of_any_size() -> None:
    body = """
        s = Shape(x) n = Gather(s, zero0) h = Gather(s, two2) w = Gather(s, three3)
        ps = Concat<axis = 0>(n, c, h, one1, w, one1) a = Reshape(x, ps) b = Tile(a, t)
        hh = Mul(h, two2) ww = Mul(w, two2) rs = Concat<axis = 0>(n, c, hh, ww) y = Reshape(b, rs)"""
    weights = shapes(zero0=[0], two2=[2], three3=[3], one1=[1], c=[3], t=[1, 1, 1, 2, 1, 2])
    model = ir.parse(graph(body, "(float[N,3,H,W] x) => (float[a,b,c0,d] y)", weights))
    before = ir.to_proto(model).SerializeToString()
    assert run_pass(resize.Resize(), model, cpu()).changes == 1
    assert "Resize" in {node.op_type for node in model.graph}
    for shape in ((1, 3, 4, 5), (2, 3, 1, 1)):
        feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        for a, b in zip(run(before, feeds), run(ir.to_proto(model).SerializeToString(), feeds), strict=True):
            same_arrays(a, b, exact=True)


@pytest.mark.parametrize(
    ("weights", "signature", "reason"),
    [
        (shapes(p=[2, 3, 1, 4, 1, 5], t=[1, 1, 2, 1, 2, 1], r=[2, 3, 8, 10]), IMAGE, "another shape|repeats the batch"),
        (shapes(p=[2, 3, 1, 4, 5], t=[1, 1, 2, 1, 1], r=[2, 6, 4, 5]), IMAGE, "repeats the batch"),
        (shapes(p=[1, 2, 3, 4, 5], t=[2, 1, 1, 1, 1], r=[4, 3, 4, 5]), IMAGE, "whole images"),
        (shapes(p=[2, 3, 4, 1, 1, 5], t=[1, 1, 1, 2, 2, 1], r=[2, 3, 16, 5]), IMAGE, "twice"),
        (shapes(p=[2, 3, 20, 1], t=[1, 1, 1, 2], r=[2, 3, 8, 5]), IMAGE, "no view"),
        (shapes(p=[2, 3, 4, 5, 1], t=[1, 1, 1, 1, 2], r=[2, 3, 8, 5]), IMAGE, "another shape"),
        (shapes(p=[2, 3, 4, 5, 1], t=[1, 1, 1, 2, 2], r=[2, 3, 4, 20]), IMAGE, "no view"),
        (
            shapes(p=[2, 3, 1, 4, 1], t=[1, 1, 1, 1, 1], r=[2, 3, 4, 1]),
            "(float[2,3,4] x) => (float[a,b,c,d] y)",
            "repeats nothing",
        ),
        (shapes(p=[2, 1, 3, 1], t=[1, 1, 1, 2], r=[2, 6]), "(float[2,3] x) => (float[a,b] y)", "three or four"),
    ],
)
def test_other_repeats_stay(weights: str, signature: str, reason: str) -> None:
    before = graph("a = Reshape(x, p) b = Tile(a, t) y = Reshape(b, r)", signature, weights)
    unchanged(resize.nearest_repeat, before, reason=reason.partition("|")[2] or reason, ctx=cpu())


def test_repeat_of_a_type_without_a_kernel_stays() -> None:
    body = "a = Reshape(x, p) b = Tile(a, t) y = Reshape(b, r)"
    before = graph(body, IMAGE.replace("float", "int64"), shapes(p=P, t=T, r=R))
    unchanged(resize.nearest_repeat, before, reason="no kernel", ctx=cpu())


SCALES = "float[4] s = {1, 1, 2, 3}"


@pytest.mark.parametrize("mode", ["round_prefer_floor", "round_prefer_ceil"])
@pytest.mark.parametrize("scales", ["{1, 1, 2, 3}", "{1, 1, 1, 5}", "{1, 1, 7, 4}", "{1, 1, 64, 33}"])
@pytest.mark.parametrize("opset", [13, 20])
def test_half_pixel(mode: str, scales: str, opset: int) -> None:
    body = (
        f'y = Resize<mode = "nearest", coordinate_transformation_mode = "half_pixel", nearest_mode = "{mode}">(x, , s)'
    )
    check(resize.nearest_half_pixel, graph(body, IMAGE, f"float[4] s = {scales}", opset=opset), ["Resize"], ctx=cpu())


def test_half_pixel_by_hand() -> None:
    after = 'y = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , s)'
    check(
        resize.nearest_half_pixel,
        graph('y = Resize<nearest_mode = "round_prefer_ceil">(x, , s)', IMAGE, SCALES),
        graph(after, IMAGE, SCALES),
        ctx=cpu(),
    )


@pytest.mark.parametrize(
    ("attributes", "scales", "reason"),
    [
        ("", "{1, 1, 1.5, 2}", "whole number"),
        ("", "{1, 1, 0.5, 2}", "whole number"),
        ('<mode = "linear">', "{1, 1, 2, 2}", "mode"),
        ('<coordinate_transformation_mode = "align_corners">', "{1, 1, 2, 2}", "other coordinates"),
        ('<nearest_mode = "ceil">', "{1, 1, 2, 2}", "rounds in another way"),
        ('<nearest_mode = "floor">', "{1, 1, 2, 2}", "rounds in another way"),
    ],
)
def test_other_resizes_stay(attributes: str, scales: str, reason: str) -> None:
    before = graph(f"y = Resize{attributes}(x, , s)", IMAGE, f"float[4] s = {scales}")
    unchanged(resize.nearest_half_pixel, before, reason=reason, ctx=cpu())


def test_resize_of_some_axes_stays() -> None:
    before = graph("y = Resize<axes = [2,3]>(x, , s)", IMAGE, "float[2] s = {2, 2}")
    unchanged(resize.nearest_half_pixel, before, reason="axes", ctx=cpu())


# --- blocks


DEPTH = "(float[2,12,3,5] x) => (float[a,b,c,d] y)"
SPACE = "(float[2,3,4,6] x) => (float[a,b,c,d] y)"
SHUFFLE = "a = Reshape(x, p) b = Transpose<perm = [{0}]>(a) y = Reshape(b, r)"
CRD, DCR, BACK = "0,1,4,2,5,3", "0,3,4,1,5,2", "0,3,5,1,2,4"


@pytest.mark.parametrize("opset", [11, 13, 20])
@pytest.mark.parametrize(("perm", "view"), [(CRD, [2, 3, 2, 2, 3, 5]), (DCR, [2, 2, 2, 3, 3, 5])])
def test_depth_to_space(perm: str, view: list[int], opset: int) -> None:
    before = graph(SHUFFLE.format(perm), DEPTH, shapes(p=view, r=[2, 3, 6, 10]), opset=opset)
    check(resize.depth_to_space, before, ["DepthToSpace"], ctx=cpu())


def test_depth_to_space_by_hand() -> None:
    before = graph(SHUFFLE.format(DCR), DEPTH, shapes(p=[2, 2, 2, 3, 3, 5], r=[2, 3, 6, 10]))
    check(resize.depth_to_space, before, graph("y = DepthToSpace<blocksize = 2>(x)", DEPTH), ctx=cpu())


@pytest.mark.parametrize(
    ("perm", "view", "result", "reason"),
    [
        ("0,1,4,3,5,2", [2, 3, 2, 2, 3, 5], [2, 3, 6, 10], "permutes"),
        (CRD, [2, 2, 3, 2, 3, 5], [2, 2, 9, 10], "not square"),
        (CRD, [2, 12, 1, 1, 3, 5], [2, 12, 3, 5], "size of a block"),
        (CRD, [2, 3, 2, 2, 5, 3], [2, 3, 10, 6], "more apart than the channels"),
        (CRD, [1, 6, 2, 2, 3, 5], [1, 6, 6, 10], "do not make up the channels"),
        (CRD, [2, 3, 2, 2, 3, 5], [2, 6, 3, 10], "another shape"),
    ],
)
def test_other_shuffles_stay(perm: str, view: list[int], result: list[int], reason: str) -> None:
    before = graph(SHUFFLE.format(perm), DEPTH, shapes(p=view, r=result))
    unchanged(resize.depth_to_space, before, reason=reason, ctx=cpu())


def test_an_old_shuffle_of_columns_stays() -> None:
    before = graph(SHUFFLE.format(CRD), DEPTH, shapes(p=[2, 3, 2, 2, 3, 5], r=[2, 3, 6, 10]), opset=9)
    unchanged(resize.depth_to_space, before, reason="permutes", ctx=cpu())


def test_space_to_depth() -> None:
    before = graph(SHUFFLE.format(BACK), SPACE, shapes(p=[2, 3, 2, 2, 3, 2], r=[2, 12, 2, 3]))
    check(resize.space_to_depth, before, graph("y = SpaceToDepth<blocksize = 2>(x)", SPACE), ctx=cpu())


def test_blocks_of_an_image_of_any_size() -> None:
    before = graph(
        SHUFFLE.format(CRD), "(float[2,12,3,W] x) => (float[a,b,c,d] y)", shapes(p=[2, 3, 2, 2, 3, -1], r=[2, 3, 6, -1])
    )
    check(resize.Resize(), before, ["DepthToSpace"], ctx=cpu())


@pytest.mark.parametrize(
    ("perm", "view", "result", "reason"),
    [
        ("0,1,3,5,2,4", [2, 3, 2, 2, 3, 2], [2, 12, 2, 3], "permutes"),
        (BACK, [2, 3, 4, 1, 6, 1], [2, 3, 4, 6], "size of a block"),
        (BACK, [2, 3, 2, 2, 2, 3], [2, 18, 2, 2], "not square"),
        (BACK, [1, 6, 2, 2, 3, 2], [1, 24, 2, 3], "takes batch or channels apart"),
        (BACK, [2, 3, 3, 2, 2, 2], [2, 12, 3, 2], "do not make up the image"),
        (BACK, [2, 3, 2, 2, 3, 2], [2, 12, 3, 2], "another shape"),
    ],
)
def test_other_blocks_stay(perm: str, view: list[int], result: list[int], reason: str) -> None:
    before = graph(SHUFFLE.format(perm), SPACE, shapes(p=view, r=result))
    unchanged(resize.space_to_depth, before, reason=reason, ctx=cpu())


# --- every other pixel


FAR = 2**63 - 1
STARTS = {"a": [0, 0], "b": [0, 1], "c": [1, 0], "d": [1, 1]}
PARTS = " ".join(f"{name} = Slice(x, s{name}, ends, axes, steps)" for name in STARTS)
BOUNDS = shapes(**{f"s{name}": start for name, start in STARTS.items()}, ends=[FAR, FAR], axes=[2, 3], steps=[2, 2])


def test_focus() -> None:
    body = f"{PARTS} y = Concat<axis = 1>(a, b, c, d)"
    check(resize.focus_space_to_depth, graph(body, SPACE, BOUNDS), ["SpaceToDepth"], ctx=cpu())
    for sizes in ("n,3,H,W", "2,3,5,6", "2,3,1,6"):
        before = graph(body, SPACE.replace("2,3,4,6", sizes), BOUNDS)
        unchanged(resize.focus_space_to_depth, before, reason="whole blocks", ctx=cpu())


def test_focus_with_ends() -> None:
    before = graph(f"{PARTS} y = Concat<axis = 1>(a, b, c, d)", SPACE, BOUNDS.replace(f"{FAR}, {FAR}", "4, 6"))
    check(resize.focus_space_to_depth, before, ["SpaceToDepth"], ctx=cpu())


@pytest.mark.parametrize(
    ("body", "weights", "reason"),
    [
        ("y = Concat<axis = 1>(a, c, b, d)", BOUNDS, "another order"),
        ("y = Concat<axis = 1>(a, b, c, c)", BOUNDS, "once"),
        ("y = Concat<axis = 2>(a, b, c, d)", BOUNDS, "does not join channels"),
        (
            "y = Concat<axis = 1>(a, b, c, d)",
            BOUNDS.replace("[1, 1]", "[1, 0]").replace("{1, 1}", "{1, 0}"),
            "every pixel once",
        ),
        ("y = Concat<axis = 1>(a, b, c, d)", BOUNDS.replace(f"{FAR}, {FAR}", "2, 6"), "every pixel of its kind"),
        ("y = Concat<axis = 1>(a, b, c, d)", BOUNDS.replace("{2, 2}", "{1, 1}"), ""),
        ("e = Relu(d) y = Concat<axis = 1>(a, b, c, e)", BOUNDS, "something else"),
        ("e = Relu(x) f = Slice(e, sd, ends, axes, steps) y = Concat<axis = 1>(a, b, c, f)", BOUNDS, "several values"),
    ],
)
def test_other_slices_stay(body: str, weights: str, reason: str) -> None:
    parts = PARTS.replace("d = Slice(x, sd, ends, axes, steps)", "") if "f = " in body or "c, c)" in body else PARTS
    before = graph(f"{parts} {body}", SPACE, weights)
    unchanged(resize.focus_space_to_depth, before, reason=reason, ctx=cpu())


W = weight("w", 4, 12, 3, 3)


@pytest.mark.parametrize("order", ["a, b, c, d", "a, c, b, d", "d, b, a, c"])
@pytest.mark.parametrize(
    "attributes", ["", "<pads = [1,1,0,1], strides = [1,2]>", '<auto_pad = "VALID", kernel_shape = [3,3]>']
)
def test_conv_of_a_focus(order: str, attributes: str) -> None:
    signature = "(float[2,3,8,10] x) => (float[a,b,c,d] y)"
    before = graph(
        f"{PARTS} f = Concat<axis = 1>({order}) y = Conv{attributes}(f, w, k)",
        signature,
        f"{BOUNDS}, {W}, {weight('k', 4)}",
    )
    check(resize.conv_of_blocks, before, ["Conv"], ctx=cpu())


def test_conv_of_a_focus_of_any_size() -> None:
    before = graph(
        f"{PARTS} f = Concat<axis = 1>(a, b, c, d) y = Conv(f, w)",
        "(float[n,3,H,W] x) => (float[e,g,h,i] y)",
        f"{BOUNDS}, {W}",
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 10)).astype(np.float32)
    check(resize.conv_of_blocks, before, ["Conv"], ctx=cpu(), x=x)


def test_conv_of_space_to_depth() -> None:
    signature = "(float[2,3,8,10] x) => (float[a,b,c,d] y)"
    before = graph("f = SpaceToDepth<blocksize = 2>(x) y = Conv<pads = [1,1,1,1]>(f, w)", signature, W)
    check(resize.conv_of_blocks, before, ["Conv"], ctx=cpu())
    one = graph(
        "f = SpaceToDepth<blocksize = 2>(x) y = Conv(f, w)",
        "(float[1,1,4,4] x) => (float[a,b,c,d] y)",
        "float[1,4,1,1] w = {1, 2, 3, 4}",
    )
    after = graph(
        "y = Conv<kernel_shape = [2,2], pads = [0,0,0,0], strides = [2,2]>(x, w)",
        "(float[1,1,4,4] x) => (float[a,b,c,d] y)",
        "float[1,1,2,2] w = {1, 2, 3, 4}",
    )
    check(resize.conv_of_blocks, one, after, ctx=cpu())


@pytest.mark.parametrize(
    ("body", "signature", "weights", "reason"),
    [
        (
            "y = Conv<group = 2>(f, w)",
            "(float[2,3,8,10] x) => (float[a,b,c,d] y)",
            weight("w", 4, 6, 3, 3),
            "does not fit",
        ),
        ("y = Conv<dilations = [2,1]>(f, w)", "(float[2,3,16,10] x) => (float[a,b,c,d] y)", W, "dilated"),
        ('y = Conv<auto_pad = "SAME_UPPER">(f, w)', "(float[2,3,8,10] x) => (float[a,b,c,d] y)", W, "auto_pad"),
        ("y = Conv(f, w)", "(float[2,5,8,10] x) => (float[a,b,c,d] y)", weight("w", 4, 20, 3, 3), "too many"),
        ("y = Conv(f, w)", "(float[2,C,8,10] x) => (float[a,b,c,d] y)", W, "channels is not known"),
    ],
)
def test_other_convolutions_of_blocks_stay(body: str, signature: str, weights: str, reason: str) -> None:
    before = graph(f"f = SpaceToDepth<blocksize = 2>(x) {body}", signature, weights)
    unchanged(resize.conv_of_blocks, before, reason=reason, ctx=cpu())


def test_a_weight_that_others_use_stays() -> None:
    signature = "(float[2,3,8,10] x, float[2,12,5,5] z) => (float[a,b,c,d] y, float[e,f,g,h] v)"
    before = graph("f = SpaceToDepth<blocksize = 2>(x) y = Conv(f, w) v = Conv(z, w)", signature, W)
    unchanged(resize.conv_of_blocks, before, reason="used elsewhere", ctx=cpu())
