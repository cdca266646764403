import platform
import re
from collections import Counter

import numpy as np
import onnx
import pytest

from accelc import ir
from accelc.context import Fuel
from accelc.infer import infer_model
from accelc.pass_base import run_pass
from accelc.passes.qdq import Qdq
from accelc.pipeline import Pipeline
from accelc.readback import Readback, read_back
from accelc.target import Target, isa_of
from accelc.testing import check, context, same_numbers, unchanged

VNNI, AVX2, ARM = (Target.cpu(isa_of(name)) for name in ("avx512_vnni", "avx2", "neon_dot"))

SHARED = """(float[4] x) => (float[4] y, float[4] z) <float s = {0.5}, int8 o = {-3}> {
    q = QuantizeLinear(x, s, o)  a = DequantizeLinear(q, s, o)  b = DequantizeLinear(q, s, o)
    y = Neg(a)  z = Abs(b) }"""
UNSIGNED = """(float[4] x) => (float[4] y, float[4] z) <float s = {0.5}, uint8 o = {125}> {
    q = QuantizeLinear(x, s, o)  a = DequantizeLinear(q, s, o)  b = DequantizeLinear(q, s, o)
    y = Neg(a)  z = Abs(b) }"""


def on(target, **settings):
    return context(target=target, **settings)


WEIGHTS = {
    "s": "float s = {0.5}",
    "t": "float t = {0.25}",
    "o": "int8 o = {-3}",
    "p": "int8 p = {7}",
    "half": "int64[2] half = {1, 1}",
    "flat": "int64[2] flat = {2, 16}",
    "w": "int8[1,2,4,4] w = {" + ", ".join("1" * 32) + "}",
    "v": "float[4] v = {1, 2, 3, 4}",
}


def graph(body):
    """A graph that rounds x to q, with those of WEIGHTS that it reads."""
    body = f"q = QuantizeLinear(x, s, o)  {body}"
    read = set(re.findall(r"\w+", body))
    weights = ", ".join(text for name, text in WEIGHTS.items() if name in read)
    return f"(float[1,2,4,4] x) => (float y) <{weights}> {{ {body} }}"


def test_all_readers_change_together():
    check(Qdq(), SHARED, UNSIGNED, ctx=on(VNNI))


@pytest.mark.parametrize("target", [ARM, Target("cuda", "CUDAExecutionProvider", VNNI.isa), Target.cpu([])])
def test_other_targets_keep_signed_activations(target):
    unchanged(Qdq(), SHARED, ctx=on(target))


def test_unsigned_activations_stay():
    unchanged(Qdq(), UNSIGNED, ctx=on(VNNI))


@pytest.mark.parametrize(
    "body",
    [
        "r = Reshape(q, flat)  y = DequantizeLinear(r, s, o)",
        "r = Transpose<perm = [0, 2, 3, 1]>(q)  y = DequantizeLinear(r, s, p)",
        "r = MaxPool<kernel_shape = [2, 2], pads = [1, 1, 1, 1]>(q)  y = DequantizeLinear(r, t, o)",
        "a, b = Split<axis = 1>(q, half)  c = DequantizeLinear(a, s, o)  d = DequantizeLinear(b, s, o)  y = Add(c, d)",
        "y = DequantizeLinear(q, s)",
    ],
    ids=["reshape", "transpose, another zero point", "pool", "split", "no zero point"],
)
def test_integers_may_be_moved_on_the_way(body):
    model = check(Qdq(), graph(body), [node.op_type for node in ir.parse(graph(body)).graph], ctx=on(VNNI))
    integers = [value for node in model.graph for value in node.outputs if value.dtype != ir.DataType.FLOAT]
    assert {value.dtype for value in integers} == {ir.DataType.UINT8}


def test_tensors_that_are_joined_change_together():
    body = "r = QuantizeLinear(x, t, p)  c = Concat<axis = 1>(q, r)  y = DequantizeLinear(c, s, o)"
    check(Qdq(), graph(body), ["QuantizeLinear"] * 2 + ["Concat", "DequantizeLinear"], ctx=on(VNNI))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("d = DequantizeLinear(q, s, o)  c = Cast<to = 1>(q)  y = Add(c, d)", "Cast reads it"),
        ("r = Relu(q)  y = DequantizeLinear(r, s, o)", "Relu reads it"),
        ("r = Concat<axis = 1>(q, w)  y = DequantizeLinear(r, s, o)", "it comes from outside"),
        ("d = DequantizeLinear(q, s, o)  r = Gather(v, q)  y = Add(d, r)", "Gather reads it for something else"),
    ],
    ids=["numbers", "zero", "weight", "index"],
)
def test_what_would_change_meaning_stays(body, reason):
    model = ir.parse(graph(body))
    infer_model(model)
    result = run_pass(Qdq(), model, on(VNNI))
    assert result.changes == 0
    assert any(reason in said for said in result.details["kept"])


def test_an_output_keeps_its_type():
    unchanged(
        Qdq(),
        "(float[4] x) => (int8[4] q, float[4] y) <float s = {0.5}, int8 o = {3}> {"
        " q = QuantizeLinear(x, s, o)  y = DequantizeLinear(q, s, o) }",
        ctx=on(VNNI),
    )


def test_a_reader_in_a_subgraph_holds_it():
    unchanged(
        Qdq(),
        "(float[4] x, bool c) => (float[4] y) <float s = {0.5}, int8 o = {3}> { q = QuantizeLinear(x, s, o)"
        " y = If(c) <then_branch = g () => (float[4] a) { a = DequantizeLinear(q, s, o) }, "
        "else_branch = h () => (float[4] b) { b = Neg(x) }> }",
        ctx=on(VNNI),
    )


def test_the_type_of_an_attribute_follows():
    before = (
        '<ir_version: 10, opset_import: ["": 21]> g (float[4] x) => (float[4] y) <float s = {0.5}> {'
        " q = QuantizeLinear<output_dtype = 3>(x, s)  y = DequantizeLinear(q, s) }"
    )
    after = (
        '<ir_version: 10, opset_import: ["": 21]> g (float[4] x) => (float[4] y) <float s = {0.5}, uint8 o = {128}> {'
        " q = QuantizeLinear<output_dtype = 2>(x, s, o)  y = DequantizeLinear(q, s, o) }"
    )
    check(Qdq(), before, after, ctx=on(VNNI))


# --- constants -------------------------------------------------------------------------------------------------------

BIAS = """(float[3] x) => (float[3] y) <float s = {{0.5}}, {0} o = {{{1}}}, {0}[3] w = {{{2}}}> {{
    q = QuantizeLinear(x, s, o)  a = DequantizeLinear(q, s, o)  b = DequantizeLinear(w, s, o)
    c = Add(a, b)  d = QuantizeLinear(c, s, o)  y = DequantizeLinear(d, s, o) }}"""


def test_what_is_added_follows():
    check(
        Qdq(), BIAS.format("int8", 2, "-128, 0, 127"), BIAS.format("uint8", 130, "0, 128, 255"), fires=3, ctx=on(VNNI)
    )


def test_weights_of_products_stay_signed():
    model = ir.parse(BIAS.format("int8", 2, "-128, 0, 127").replace("Add", "MatMul").replace("[3] y", " y"))
    infer_model(model)
    run_pass(Qdq(), model, on(VNNI))
    assert model.graph.initializers["w"].dtype == ir.DataType.INT8


def test_a_weight_that_is_rounded_in_the_graph_stays_signed():
    unchanged(
        Qdq(),
        "(float[2,4] x) => (float[2,1] y) <float s = {0.5}, int8 o = {0}, float[4,1] w = {1, 2, 3, 4}> {"
        " q = QuantizeLinear(w, s, o)  v = DequantizeLinear(q, s, o)  y = MatMul(x, v) }",
        ctx=on(VNNI),
    )


# --- products that overflow ------------------------------------------------------------------------------------------

PRODUCT = """(float[2,2] x) => (float[2,1] y) <float s = {{0.5}}, int8 o = {{0}}, int8[2,1] w = {{{0}, -64}}> {{
    q = QuantizeLinear(x, s, o)  a = DequantizeLinear(q, s, o)  b = DequantizeLinear(w, s, o)
    c = MatMul(a, b)  d = QuantizeLinear(c, s, o)  y = DequantizeLinear(d, s, o) }}"""


@pytest.mark.parametrize(("target", "largest", "changes"), [(VNNI, 127, 2), (AVX2, 64, 2), (AVX2, 65, 0)])
def test_wide_weights_need_exact_sums(target, largest, changes):
    model = ir.parse(PRODUCT.format(largest))
    infer_model(model)
    result = run_pass(Qdq(), model, on(target))
    assert result.changes == changes
    assert bool(result.skipped) == (not changes)


def test_a_factor_that_stays_signed_needs_exact_sums():
    text = (
        PRODUCT.format(1)
        .replace("(float[2,2] x)", "(float[2,2] x, int8[2,1] w)")
        .replace(", int8[2,1] w = {1, -64}", "")
    )
    unchanged(Qdq(), text, ctx=on(AVX2))


def test_fuel_limits_the_changes():
    model = ir.parse(PRODUCT.format(1))
    infer_model(model)
    before = ir.to_proto(model).SerializeToString()
    ctx = on(VNNI)
    ctx.fuel = Fuel(1)
    assert run_pass(Qdq(), model, ctx).changes == 1
    same_numbers(before, ir.to_proto(model).SerializeToString(), {"x": np.ones((2, 2), np.float32)}, exact=True)


# --- what the runtime makes of it ------------------------------------------------------------------------------------

X86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the runtime differs elsewhere")


def residual(kind, *, padded=False):
    """Conv, and Conv again with a connection around it; padded: with a Pad that adds nothing, between integers."""
    zero, rng = {"int8": 0, "uint8": 128}[kind], np.random.default_rng(0)
    between = (
        "p = Pad(b, none)  pq = QuantizeLinear(p, s, o)  e = DequantizeLinear(pq, s, o)"
        if padded
        else "e = Identity(b)"
    )
    none = ", int64[8] none = {0, 0, 0, 0, 0, 0, 0, 0}" if padded else ""
    text = f"""<ir_version: 8, opset_import: ["": 17]> g (float[1,8,6,6] x) => (float[1,8,6,6] y)
        <float s = {{0.05}}, {kind} o = {{{zero}}}, float t = {{0.01}}, int8 n = {{0}}{none}> {{
        q = QuantizeLinear(x, s, o)  a = DequantizeLinear(q, s, o)  v = DequantizeLinear(w, t, n)
        c = Conv<pads = [1, 1, 1, 1]>(a, v)  cq = QuantizeLinear(c, s, o)  b = DequantizeLinear(cq, s, o)
        {between}
        f = Conv<pads = [1, 1, 1, 1]>(e, v)  fq = QuantizeLinear(f, s, o)  h = DequantizeLinear(fq, s, o)
        r = Add(b, h)  rq = QuantizeLinear(r, s, o)  y = DequantizeLinear(rq, s, o) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(rng.integers(-60, 60, (8, 8, 3, 3), np.int8), "w"))
    return ir.from_proto(proto)


def kernels(runner, model) -> Readback:
    return read_back(runner, None, ir.to_proto(model).SerializeToString())


@X86
@pytest.mark.parametrize("padded", [False, True])
def test_all_operators_run_as_integers(runner, padded):
    model = residual("int8", padded=padded)
    infer_model(model)
    before = kernels(runner, model)
    assert run_pass(Qdq(), model, on(VNNI)).changes
    after = kernels(runner, model)
    assert after.integer == kernels(runner, residual("uint8", padded=padded)).integer
    assert sum(after.integer.values()) > sum(before.integer.values())
    assert not after.fallen


@X86
@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("kind", ["int8", "uint8"])
@pytest.mark.parametrize("padded", [False, True])
def test_no_level_loses_integer_kernels(runner, level, kind, padded):
    model = residual(kind, padded=padded)
    infer_model(model)
    before = Counter(kernels(runner, model).integer)
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 6, 6)).astype(np.float32)}
    original = ir.to_proto(model).SerializeToString()
    Pipeline.level(level).run(model, on(VNNI))
    after = kernels(runner, model)
    assert before <= Counter(after.integer)
    assert after.integer == {"QLinearConv": 2, "QLinearAdd": 1}
    same_numbers(original, ir.to_proto(model).SerializeToString(), feeds, exact=True)
