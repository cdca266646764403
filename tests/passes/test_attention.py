"""Attention blocks in every form: fused, with the same numbers for rows masked in part, wholly or not at all."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from attention_graphs import WIDTH, Form, text

from accelc import ir
from accelc.context import Context
from accelc.passes import attention as a
from accelc.pipeline import Pipeline
from accelc.plugins import find_backend
from accelc.rewrite import Driver
from accelc.testing import check, context, unchanged

LOWEST = str(float(np.finfo(np.float32).min))
LEVEL = Pipeline.parse("dce, O1, attention, O1")


def fused(form: Form, ctx: Context | None = None) -> tuple[ir.Model, Counter[str]]:
    """The block after the passes, and how often each operator is left."""
    model = ir.parse(text(form))
    LEVEL.run(model, ctx or context())
    return model, Counter(node.op_type for node in model.graph)


def run(model: ir.Model, feed: dict[str, Any], *, optimize: bool) -> np.ndarray[Any, Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, feed)
    return np.asarray(y)


def masks(form: Form, batch: int, length: int) -> list[dict[str, Any]]:
    """What a mask may hold: everything, padding at the end, at the beginning, and one sample without any position."""
    if form.mask == "bias":
        rng = np.random.default_rng(1)
        bias = rng.standard_normal((batch, 1, length, length)).astype(np.float32)
        hidden = np.where(rng.random(bias.shape) < 0.3, np.float32(-1e9), bias)
        return [{"mask": bias}, {"mask": hidden}]
    if form.mask not in ("bool", "chosen", "two"):
        return [{}]
    whole = np.ones((batch, 1, 1, length), bool)
    end, start, empty = whole.copy(), whole.copy(), whole.copy()
    end[0, ..., length // 2 :] = False
    start[-1, ..., : length // 2] = False
    empty[0] = False
    return [{"mask": each} for each in (whole, end, start, empty)]


def same_numbers(form: Form, model: ir.Model) -> None:
    """The fused block computes what the original does, NaN where that has NaN, on several sizes and masks."""
    original = ir.parse(text(form))
    sizes = [(int(form.batch), int(form.length))] if form.batch.isdigit() else [(1, 1), (1, 7), (3, 5), (2, 64)]
    for batch, length in sizes:
        x = np.random.default_rng(batch + length).standard_normal((batch, length, WIDTH)).astype(np.float32)
        for extra in masks(form, batch, length):
            wanted = run(original, {"x": x, **extra}, optimize=False)
            for optimize in (False, True):
                got = run(model, {"x": x, **extra}, optimize=optimize)
                scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0.1)
                np.testing.assert_allclose(got / scale, wanted / scale, atol=3e-6, rtol=0)


FORMS = {
    "scores scaled": Form(),
    "scores divided": Form(scale="divided"),
    "q scaled": Form(scale="q"),
    "q and k scaled": Form(scale="both"),
    "not scaled": Form(scale="none"),
    "keys transposed twice": Form(keys="twice"),
    "padding, guarded": Form(mask="bool", guard=True),
    "padding by the lowest number": Form(mask="bool", low=LOWEST),
    "padding by the lowest number, guarded": Form(mask="bool", low=LOWEST, guard=True),
    "padding by -1e9": Form(mask="bool", low="-1e9"),
    "scores replaced, guarded": Form(mask="chosen", guard=True),
    "scores replaced by the lowest number": Form(mask="chosen", low=LOWEST),
    "scores replaced by -1e4": Form(mask="chosen", low="-10000.0"),
    "a bias": Form(mask="bias"),
    "causal, guarded": Form(mask="causal", guard=True),
    "causal by the lowest number": Form(mask="causal", low=LOWEST),
    "causal and padding, guarded": Form(mask="two", guard=True),
    "causal and padding by the lowest number": Form(mask="two", low=LOWEST),
    "no mask, guarded": Form(guard=True),
    "keys merged": Form(keys="merged", batch="2", length="5"),
    "all merged": Form(merged=True, batch="2", length="5"),
    "all merged, padding": Form(merged=True, batch="2", length="5", mask="bool", guard=True),
    "opset 13": Form(mask="bool", guard=True, opset=13),
    "opset 21": Form(mask="two", guard=True, opset=21),
    "opset 23": Form(mask="two", guard=True, opset=23),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_every_form_is_fused_and_computes_the_same(form: Form) -> None:
    if form.opset < 15 and form.mask in ("causal", "two"):
        pytest.skip("Shape has no start before opset 15")
    model, left = fused(form)
    assert left["Attention"] + left["MultiHeadAttention"] == 1, left
    assert not left["Softmax"]
    assert not left["IsNaN"]
    same_numbers(form, model)


@pytest.mark.parametrize("form", [FORMS[name] for name in ("scores scaled", "q and k scaled", "padding, guarded")])
def test_heads_need_no_transpose(form: Form) -> None:
    _, left = fused(form)
    assert left["Attention"] == 1
    assert not left["Transpose"]


def test_rows_of_minus_infinity_stay_nan() -> None:
    """Without a guard a fully masked row is NaN, which only the kernels that add masks keep."""
    form = Form(mask="bool")
    model, _ = fused(form)
    assert ("com.microsoft", "Attention") in {(node.domain, node.op_type) for node in model.graph}
    same_numbers(form, model)


def test_portable_leaves_what_only_a_vendor_operator_keeps() -> None:
    form = Form(mask="bool")
    model, left = fused(form, context(portable=True))
    assert left["Softmax"] == 1
    assert not left["MultiHeadAttention"]
    same_numbers(form, model)


def test_scores_replaced_by_a_small_number_stay() -> None:
    """A score of -5 in the place of another is not that score minus 5."""
    form = Form(mask="chosen", low="-5.0")
    model, left = fused(form)
    assert left["Softmax"] == 1
    same_numbers(form, model)


def test_long_sequences_without_mask_take_the_blockwise_kernel() -> None:
    _, left = fused(Form(batch="1", length="1024"))
    assert left["MultiHeadAttention"] == 1


def test_cuda_takes_multi_head_attention() -> None:
    """Its mask must add zeros or a number, and rows without any position are put to zero afterwards."""
    form = Form(mask="bool", guard=True)
    model, left = fused(form, context(target=find_backend("cuda")().target()))
    assert left["MultiHeadAttention"] == 1
    same_numbers(form, model)


WEIGHTS_USED = text(Form()).replace("p = Softmax <axis = -1> (z)", "p = Softmax <axis = -1> (z)\n  w = Identity(p)")


def test_weights_that_are_an_output_stay() -> None:
    source = WEIGHTS_USED.replace(f"float[B,S,{WIDTH}] y)", f"float[B,S,{WIDTH}] y, float[B,2,S,S] w)")
    model = ir.parse(source)
    LEVEL.run(model, context())
    assert "Softmax" in {node.op_type for node in model.graph}


def test_another_axis_stays() -> None:
    model = ir.parse(text(Form()).replace("Softmax <axis = -1>", "Softmax <axis = 1>"))
    LEVEL.run(model, context())
    assert "Softmax" in {node.op_type for node in model.graph}


def test_a_scale_after_the_mask_stays() -> None:
    source = text(Form(mask="bool", low="-1e9")).replace("z = Add(s, bias)", "z0 = Add(s, bias)\n  z = Mul(z0, half)")
    model = ir.parse(source)
    LEVEL.run(model, context())
    assert "Softmax" in {node.op_type for node in model.graph}


# --- k and v with fewer heads, past keys -----------------------------------------------------------------------------

GROUPED = """<ir_version: 8, opset_import: ["": 17]>
grouped (float[B,4,S,8] q, float[B,2,T,8] k, float[B,2,T,8] v) => (float[B,4,S,8] y)
<int64[1] two = {2}, int64[5] wide = {1, 1, 2, 1, 1}, int64[4] heads = {0, 4, -1, 8}, float scale = {0.35}> {
  k5 = Unsqueeze(k, two)   ke = Expand(k5, wide)   kr = Reshape(ke, heads)
  v5 = Unsqueeze(v, two)   ve = Expand(v5, wide)   vr = Reshape(ve, heads)
  kt = Transpose <perm = [0, 1, 3, 2]> (kr)
  s0 = MatMul(q, kt)   s = Mul(s0, scale)   p = Softmax <axis = -1> (s)   y = MatMul(p, vr)
}"""

PAST = """<ir_version: 8, opset_import: ["": 17]>
past (float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v, float[B,2,P,4] pk, float[B,2,P,4] pv)
=> (float[B,2,S,4] y, float[B,2,R,4] all_k, float[B,2,R,4] all_v) <float scale = {0.5}> {
  all_k = Concat <axis = 2> (pk, k)   all_v = Concat <axis = 2> (pv, v)
  kt = Transpose <perm = [0, 1, 3, 2]> (all_k)
  s0 = MatMul(q, kt)   s = Mul(s0, scale)   p = Softmax <axis = -1> (s)   y = MatMul(p, all_v)
}"""


@pytest.mark.parametrize(("source", "sizes"), [(GROUPED, (4, 2)), (PAST, (2, 2))], ids=["grouped", "past"])
def test_kernels_take_fewer_heads_and_past_keys(source: str, sizes: tuple[int, int]) -> None:
    import onnxruntime as ort

    model, original = ir.parse(source), ir.parse(source)
    LEVEL.run(model, context())
    left = Counter(node.op_type for node in model.graph)
    assert left["Attention"] == 1
    assert not left["Softmax"]
    rng = np.random.default_rng(0)
    lengths = {"B": 2, "S": 3, "T": 5, "P": 4}
    feed = {
        str(value.name): rng.standard_normal(
            [lengths[dim] if isinstance(dim, str) else dim for dim in ir.dims(value) or ()]  # type: ignore[misc]
        ).astype(np.float32)
        for value in original.graph.inputs
    }
    results = [
        ort.InferenceSession(ir.to_proto(each).SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        for each in (original, model)
    ]
    for wanted, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, wanted, atol=3e-6)


# --- blocks that are one operator already ----------------------------------------------------------------------------

HEADS_FIRST = """<ir_version: 10, opset_import: ["": 23]>
rows (float[B,S,8] x, bool[S,S] mask) => (float[B,S,8] y)
<int64[4] split = {0, 0, 2, 4}, int64[3] flat = {0, 0, 8}> {
  x4 = Reshape(x, split)   q = Transpose <perm = [0, 2, 1, 3]> (x4)
  o4 = Attention <scale = 0.4> (q, q, q, mask)
  o = Transpose <perm = [0, 2, 1, 3]> (o4)   y = Reshape(o, flat)
}"""


def test_an_attention_between_transposes_takes_rows() -> None:
    model = ir.parse(HEADS_FIRST)
    LEVEL.run(model, context())
    assert [node.op_type for node in model.graph] == ["Attention"]
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
    feed = {"x": x, "mask": np.tri(5, dtype=bool)}
    wanted = run(ir.parse(HEADS_FIRST), feed, optimize=False)
    np.testing.assert_allclose(run(model, feed, optimize=False), wanted, atol=1e-6)


def test_an_attention_whose_heads_stay_in_front_is_left() -> None:
    source = HEADS_FIRST.replace("o = Transpose <perm = [0, 2, 1, 3]> (o4)", "o = Transpose <perm = [0, 2, 3, 1]> (o4)")
    model = ir.parse(source)
    LEVEL.run(model, context())
    assert "Transpose" in {node.op_type for node in model.graph}


# --- one rule at a time ----------------------------------------------------------------------------------------------

PRODUCTS = """<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]>
block (float[2,2,5,4] q, float[2,2,4,5] k, float[2,2,5,4] v, float[2,1,5,5] mask) => (float[2,2,5,4] y)
<float scale = {0.5}> {
  s0 = MatMul(q, k)   s1 = Mul(s0, scale)   z = Add(s1, mask)   p = Softmax <axis = -1> (z)   y = MatMul(p, v)
}"""
UNMASKED = PRODUCTS.replace("z = Add(s1, mask)", "z = Identity(s1)").replace(", float[2,1,5,5] mask", "")
GUARDED = UNMASKED.replace("float scale = {0.5}", "float scale = {0.5}, float zero = {0}").replace(
    "z = Identity(s1)   p = Softmax <axis = -1> (z)   y = MatMul(p, v)",
    "p = Softmax <axis = -1> (s1)   n = IsNaN(p)   g = Where(n, zero, p)   y = MatMul(g, v)",
)
PLAIN = UNMASKED.replace("z = Identity(s1)   p = Softmax <axis = -1> (z)", "p = Softmax <axis = -1> (s1)")
ROWS = """<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
rows (float[2,5,8] x, float[2,1,5,5] mask) => (float[2,2,5,4] y)
<int64[4] split = {0, 0, 2, 4}, float scale = {0.5}, float[8,8] wq = {@}, float[8,8] wk = {@}, float[8,8] wv = {@}> {
  q0 = MatMul(x, wq)   q4 = Reshape(q0, split)   q = Transpose <perm = [0, 2, 1, 3]> (q4)
  k0 = MatMul(x, wk)   k4 = Reshape(k0, split)   k = Transpose <perm = [0, 2, 3, 1]> (k4)
  v0 = MatMul(x, wv)   v4 = Reshape(v0, split)   v = Transpose <perm = [0, 2, 1, 3]> (v4)
  s0 = MatMul(q, k)   s1 = Mul(s0, scale)   z = Add(s1, mask)   p = Softmax <axis = -1> (z)   y = MatMul(p, v)
}"""
WEIGHTS = ", ".join(f"{(i * 7 % 11 - 5) / 8}" for i in range(64))


def test_attention_of_products() -> None:
    check(a.attention, PLAIN, ["Transpose", "Attention"])


def test_attention_keeps_a_bias_that_may_mask_whole_rows() -> None:
    unchanged(a.attention, PRODUCTS, reason="may mask whole rows")


def test_multi_head_attention_adds_any_bias() -> None:
    check(
        a.multi_head_attention,
        PRODUCTS,
        ["Transpose", "Transpose", "Reshape", "MultiHeadAttention", "Reshape", "Transpose"],
    )


def test_multi_head_attention_needs_sizes() -> None:
    unchanged(
        a.multi_head_attention, PRODUCTS.replace("2,2,5,4]", "2,N,5,4]").replace("2,2,4,5]", "2,N,4,5]"), reason="heads"
    )


def test_attention_of_three_projections() -> None:
    left = ["Attention", "Reshape", "Transpose"]
    check(a.attention_of_projections, ROWS.replace("@", WEIGHTS), left)


def test_projections_of_several_values_stay_apart() -> None:
    source = ROWS.replace("@", WEIGHTS).replace("k0 = MatMul(x, wk)", "x2 = Relu(x)   k0 = MatMul(x2, wk)")
    unchanged(a.attention_of_projections, source, reason="several values")


def test_a_guard_without_masks_goes() -> None:
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 2, 5, 4), "k": (2, 2, 4, 5), "v": (2, 2, 5, 4)}
    finite = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    check(a.softmax_guard, GUARDED, ["MatMul", "Mul", "Softmax", "MatMul"], **finite)


def test_a_guard_behind_an_unknown_bias_stays() -> None:
    source = GUARDED.replace("k, float[2,2,5,4] v", "k, float[2,2,5,4] v, float[2,1,5,5] mask").replace(
        "p = Softmax <axis = -1> (s1)", "z = Add(s1, mask)   p = Softmax <axis = -1> (z)"
    )
    unchanged(a.softmax_guard, source, reason="fully masked")


def test_rows_instead_of_heads() -> None:
    check(
        a.attention_of_rows,
        HEADS_FIRST,
        ["Reshape", "Reshape", "Reshape", "Reshape", "Attention", "Reshape", "Transpose", "Transpose", "Reshape"],
        fires=1,
    )


def test_rows_need_transposes() -> None:
    unchanged(
        a.attention_of_rows,
        HEADS_FIRST.replace("perm = [0, 2, 1, 3]> (x4)", "perm = [2, 0, 1, 3]> (x4)")
        .replace("bool[S,S] mask", "bool[B,B] mask")
        .replace("=> (float[B,S,8] y)", "=> (float[2,S,8] y)"),
        reason="not transposed",
    )


def test_batches_that_are_broadcast_stay() -> None:
    source = PLAIN.replace("float[2,2,4,5] k, float[2,2,5,4] v", "float[1,2,4,5] k, float[1,2,5,4] v")
    for each in (a.attention, a.multi_head_attention):
        unchanged(each, source, reason="batch and heads")


def test_a_mask_that_widens_the_scores_stays() -> None:
    source = PRODUCTS.replace("float[2,2,4,5] k", "float[2,2,4,1] k")
    unchanged(a.multi_head_attention, source, reason="by a mask")


def test_two_masks_that_may_overflow_together_stay() -> None:
    """Two masks of the lowest number add up to -inf, so rows that both mask are zeros behind a guard."""
    form = Form(mask="bool", low=LOWEST, guard=True)
    source = text(form).replace(
        "z = Add(s, bias)", "z0 = Add(s, bias)\n  bias2 = Where(mask, zero, low)\n  z = Add(z0, bias2)"
    )
    model = ir.parse(source)
    LEVEL.run(model, context())
    assert "Softmax" in {node.op_type for node in model.graph}


def test_the_search_for_the_product_ends_early() -> None:
    """Sums of sums before the softmax: every operand could lead to the product, in 2^30 ways."""
    chain = "\n".join(f"e{i} = Mul(d{i}, scale)  d{i + 1} = Add(d{i}, e{i})" for i in range(30))
    source = PLAIN.replace("p = Softmax <axis = -1> (s1)", f"d0 = Identity(s1)\n{chain}\np = Softmax <axis = -1> (d30)")
    unchanged(a.attention, source)


def test_a_guard_stays_behind_two_masks_that_may_overflow_together() -> None:
    source = GUARDED.replace("float[2,2,5,4] v", "float[2,2,5,4] v, bool[5,5] c").replace(
        "float zero = {0}", f"float zero = {{0}}, float low = {{{LOWEST}}}"
    )
    for masks in (1, 2):
        sums = "  ".join(f"b{i} = Where(c, zero, low)  z{i + 1} = Add(z{i}, b{i})" for i in range(masks))
        softmax = f"z0 = Identity(s1)  {sums}  p = Softmax <axis = -1> (z{masks})"
        model = ir.parse(source.replace("p = Softmax <axis = -1> (s1)", softmax))
        Pipeline.parse("O1").run(model, context())
        assert Driver([a.softmax_guard]).run(model, context()) == (masks == 1)
