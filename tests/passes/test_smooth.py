import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from quality_graphs import calibrated, outputs, shipped, shipped_feeds
from quantized_graphs import Array, model_of, normal

from accelc import ir, structure
from accelc.context import Context, Fuel
from accelc.data import Feed, Sample
from accelc.errors import UsageError
from accelc.pass_base import PassResult, make_pass, run_pass
from accelc.passes.quantization.linear import find_linear
from accelc.passes.quantization.migrate_into import Migration
from accelc.passes.quantization.migration import Product, capped, cautious, divisors
from accelc.passes.smooth import Smooth
from accelc.plugins import find_pass
from accelc.runner import Runner
from accelc.testing import context


def smoothed(model: ir.Model, ctx: Context, **options: Any) -> PassResult:
    result = run_pass(make_pass(Smooth, options), model, ctx)
    structure.check(model)
    return result


def outlying(count: int, seed: int = 0) -> Array:
    """Factors of which a few are large."""
    factors = np.ones(count, np.float32)
    factors[np.random.default_rng(seed).choice(count, 3, replace=False)] = (40, 25, 60)
    return factors


def static_error(model: ir.Model, feeds: Mapping[str, Array], wanted: Array) -> float:
    """The error of the output when the inputs of all products have one scale and weights one per channel."""
    model = ir.from_proto(ir.to_proto(model))
    names, scope = ir.names(model), ir.Scope(model.graph, model.graph, model.graph)
    for linear in find_linear(model)[0]:
        columns = linear.columns()
        steps = np.abs(columns).max(axis=0) / 127
        linear.store(np.rint(columns / steps) * steps)
        quantize = ir.new_node("DynamicQuantizeLinear", [linear.a], outputs=3, name=names.fresh("q"))
        back = ir.new_node("DequantizeLinear", quantize.outputs, name=names.fresh("dq"))
        for value in (*quantize.outputs, *back.outputs):
            value.name = names.fresh("v")
        scope.graph.insert_before(linear.node, [quantize, back])
        linear.node.replace_input_with(0, back.outputs[0])
    return float(np.linalg.norm(outputs(model, feeds)[0] - wanted) / np.linalg.norm(wanted))


LAYER_NORM = """(float[n,t,48] x) => (float[n,t,32] y) {
    l = LayerNormalization(x, g, c)  y = MatMul(l, w) }"""
GLU = """(float[n,t,48] x) => (float[n,t,32] y) {
    a = MatMul(x, w1)  g = Sigmoid(a)  u = MatMul(x, w2)  b = Add(u, c)  m = Mul(g, b)  y = MatMul(m, w) }"""
HALVED = """(float[n,t,48] x) => (float[n,t,32] y) <float half = {0.5}> {
    e = Mul(x, k)  f = Tanh(e)  i = Mul(f, e)  m = Mul(half, i)  y = MatMul(m, w) }"""
HEADS = """(float[n,t,48] x) => (float[n,t,32] y) <int64[4] apart = {0, 0, 4, 12}, int64[3] together = {0, 0, 48}> {
    p = MatMul(x, w1)  q = Reshape(p, apart)  qt = Transpose<perm = [0,2,1,3]>(q)
    kt = Transpose<perm = [0,2,3,1]>(q)  s = MatMul(qt, kt)  z = Softmax(s)
    v = MatMul(x, w2)  vb = Add(v, c)  vr = Reshape(vb, apart)  vt = Transpose<perm = [0,2,1,3]>(vr)
    o = MatMul(z, vt)  ot = Transpose<perm = [0,2,1,3]>(o)  j = Reshape(ot, together)  y = MatMul(j, w) }"""
VENDOR = """(float[n,t,48] x) => (float[n,t,32] y) <float[n,t,48] a> {
    a = com.microsoft.Attention<num_heads = 4>(x, w3, b3)  y = MatMul(a, w) }"""
PACKED = """(float[n,t,48] x) => (float[n,t,32] y) <float[n,t,48] a> {
    v = MatMul(x, w2)  a = com.microsoft.MultiHeadAttention<num_heads = 4>(x, x, v)  y = MatMul(a, w) }"""


def weights_of(graph: str) -> dict[str, Array]:
    factors = outlying(48)
    every = {
        "g": factors,
        "c": normal(48, seed=1) * factors,
        "k": factors,
        "w1": 0.2 * normal(48, 48, seed=2),
        "w2": normal(48, 48, seed=3) * factors,
        "w3": normal(48, 144, seed=4) * np.concatenate([np.full(96, 0.1, np.float32), factors]),
        "b3": normal(144, seed=5),
        "w": normal(48, 32, seed=6),
    }
    return {name: array for name, array in every.items() if re.search(rf", {name}\b", graph)}


@pytest.mark.parametrize(
    "graph", [LAYER_NORM, GLU, HALVED, HEADS, VENDOR, PACKED], ids=["norm", "glu", "half", "heads", "packed", "values"]
)
def test_divisors_go_into_what_makes_the_activation(runner: Runner, graph: str) -> None:
    model, x = model_of(graph, weights_of(graph)), normal(2, 6, 48, seed=9)
    wanted = outputs(model, {"x": x})[0]
    before, operators = static_error(model, {"x": x}, wanted), [node.op_type for node in model.graph]
    result = smoothed(model, calibrated(runner, [{"x": x}]), insert=False)
    assert result.changes == 1
    assert [node.op_type for node in model.graph] == operators
    np.testing.assert_allclose(outputs(model, {"x": x})[0], wanted, rtol=1e-3, atol=1e-4 * float(np.abs(wanted).max()))
    assert static_error(model, {"x": x}, wanted) < 0.7 * before


SHARED = """(float[n,t,48] x) => (float[n,t,32] y, float[n,t,48] r) {
    l = LayerNormalization(x, g, c)  s = MatMul(l, w)  q = MatMul(l, u)  y = Sub(s, q)  r = Relu(l) }"""


def test_an_activation_with_other_users_gets_one_mul(runner: Runner) -> None:
    weights = weights_of(LAYER_NORM) | {"u": normal(48, 32, seed=8)}
    model, x = model_of(SHARED, weights), normal(2, 6, 48, seed=9)
    wanted = outputs(model, {"x": x})
    refused = smoothed(model, calibrated(runner, [{"x": x}]), insert=False)
    assert "insert is off" in str(refused.details["refused"])
    before = static_error(model, {"x": x}, wanted[0])
    assert smoothed(model, calibrated(runner, [{"x": x}])).changes == 1
    assert [node.op_type for node in model.graph].count("Mul") == 1
    found = outputs(model, {"x": x})
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert static_error(model, {"x": x}, wanted[0]) < 0.6 * before


def test_even_activations_stay(runner: Runner) -> None:
    model = model_of("(float[n,t,48] x) => (float[n,t,32] y) { y = MatMul(x, w) }", {"w": normal(48, 32)})
    x = np.random.default_rng(0).uniform(-1, 1, (4, 9, 48)).astype(np.float32)
    result = smoothed(model, calibrated(runner, [{"x": x}]))
    assert "no products would gain" in result.skipped
    assert "not gain enough" in str(result.details["refused"])


def test_without_calibration_only_outliers_shrink(runner: Runner) -> None:
    model, x = model_of(LAYER_NORM, weights_of(LAYER_NORM)), normal(2, 6, 48, seed=9)
    wanted = outputs(model, {"x": x})[0]
    samples = [Sample(Feed({"x": x}, "test"), {"y": wanted})]
    ctx = Context(context().target, runner=runner, samples=lambda: samples)
    result = smoothed(model, ctx)
    assert result.changes == 1
    assert result.details["groups"][0]["by"] == "outliers"
    assert result.details["groups"][0]["divisors"][0] == 1
    assert "without calibration data" in result.notes[0]
    np.testing.assert_allclose(outputs(model, {"x": x})[0], wanted, rtol=1e-3, atol=1e-3)


def test_a_shipped_transformer_with_outliers(runner: Runner) -> None:
    """Columns before the second product of each layer are made uneven, as training does in larger models."""
    name, model = "text_encoder", shipped("text_encoder")
    for node in list(model.graph):
        if node.op_type in ("Gelu", "BiasGelu"):
            user = ir.only_user(node.outputs[0])
            (linear,) = (each for each in find_linear(model)[0] if each.node is user)
            factors = outlying(linear.cin, linear.cin)
            names = ir.names(model)
            scale = ir.new_constant(linear.scope, names, "uneven", ir.array_tensor(factors))
            mul = ir.new_node("Mul", [node.outputs[0], scale], name=names.fresh("uneven"))
            value = mul.outputs[0]
            value.name, value.type, value.shape = names.fresh("uneven_out"), node.outputs[0].type, node.outputs[0].shape
            model.graph.insert_before(linear.node, mul)
            linear.node.replace_input_with(0, value)
            linear.scale_inputs(1 / factors)
    feeds = shipped_feeds(name, 32)
    held = {key: array[:16] for key, array in shipped_feeds(name, 64)[-1].items()}
    wanted = outputs(model, held)[0]
    before = static_error(model, held, wanted)
    result = smoothed(model, calibrated(runner, feeds), insert=False)
    assert result.changes >= 3
    assert all(group["after"] < group["before"] for group in result.details["groups"])
    np.testing.assert_allclose(outputs(model, held)[0], wanted, rtol=1e-2, atol=1e-3)
    assert static_error(model, held, wanted) < 0.5 * before


def test_fuel(runner: Runner) -> None:
    model, x = model_of(LAYER_NORM, weights_of(LAYER_NORM)), normal(2, 6, 48, seed=9)
    ctx = calibrated(runner, [{"x": x}])
    result = run_pass(Smooth(), model, Context(ctx.target, fuel=Fuel(0), calibration=ctx.calibration))
    assert result.changes == 0


def test_divisors_follow_their_definition() -> None:
    a, w = np.array([8, 2, 0, 1], np.float32), np.array([1, 4, 3, 1], np.float32)
    found = divisors(a, w, 0.5)
    assert found[2] == 1
    np.testing.assert_allclose(found[[0, 1]] / found[3], [8**0.5, 2**0.5 / 4**0.5], rtol=1e-5)
    np.testing.assert_allclose(divisors(a, w, 1.0)[[0, 1]] / divisors(a, w, 1.0)[3], [8, 2], rtol=1e-5)
    assert cautious(np.array([1, 1, 2, 1], np.float32)) is None
    assert (cautious(np.array([1, 1, 20, 0.1], np.float32)) >= 1).all()  # type: ignore[operator]
    np.testing.assert_allclose(capped(a, 0.5), [2, 1, 1, 1])  # type: ignore[arg-type]
    assert capped(np.ones(4, np.float32), 0.5) is None


def test_the_judged_error_is_that_of_int8() -> None:
    rows, weights = normal(50, 16), normal(16, 8, seed=1)
    judged = Product(rows, weights, rows.min(axis=0), rows.max(axis=0), top=127)
    coarse = Product(rows, weights, 10 * rows.min(axis=0), 10 * rows.max(axis=0), top=127)
    assert 0 < judged.error(None) < 0.02
    assert coarse.error(None) > 3 * judged.error(None)


@pytest.mark.parametrize("alpha", ["1.5", "-0.1", "best"])
def test_options_are_checked(alpha: str) -> None:
    with pytest.raises(UsageError, match="alpha"):
        make_pass(Smooth, {"alpha": alpha})


@pytest.mark.parametrize(
    "graph",
    [
        "{ k = MatMul(x, v)  r = Relu(k)  y = Gemm(r, w, r) }",
        "{ k = MatMul(x, v)  r = Relu(k)  s = Relu(r)  m = Mul(r, s)  y = MatMul(m, w) }",
    ],
)
def test_a_value_that_is_read_twice_is_not_divided_for_one_reader(graph: str, runner: Runner) -> None:
    factors = outlying(48)
    weights = {"v": normal(32, 48) * factors, "w": normal(48, 48, seed=1)}
    model = model_of(f"(float[n,32] x) => (float[n,48] y) {graph}", weights)
    feeds = {"x": normal(16, 32, seed=2)}
    wanted = outputs(model, feeds)[0]
    smoothed(model, calibrated(runner, [feeds]), alpha=0.5)
    np.testing.assert_allclose(outputs(model, feeds)[0], wanted, atol=1e-5 * np.abs(wanted).max())


def test_keys_that_are_the_values_too_are_not_divided(runner: Runner) -> None:
    graph = """(float[n,5,32] x) => (float[n,5,32] y) { q = MatMul(x, u)  k = MatMul(x, v)
    a = com.microsoft.MultiHeadAttention <num_heads = 4> (q, k, k)  i = Identity(a)  y = MatMul(i, w) }"""
    weights = {"u": normal(32, 32) / 8, "v": normal(32, 32, seed=1) * outlying(32), "w": normal(32, 32, seed=2)}
    model = model_of(graph, weights)
    attention = next(node for node in model.graph if node.op_type == "MultiHeadAttention")
    made = {each.out: each for each in find_linear(model)[0]}
    migration = Migration(ir.Scope(model.graph, model.graph, model.graph), ir.names(model), made)
    keys = attention.inputs[1]
    assert keys is not None
    assert migration.into(keys, 32, {attention}) is None


def test_a_target_without_int8_gains_nothing() -> None:
    model = model_of("(float[n,32] x) => (float[n,48] y) { y = MatMul(x, w) }", {"w": normal(32, 48)})
    cuda = context(target=replace(context().target, provider="CUDAExecutionProvider"))
    for name in ("equalize", "smooth", "clip", "gptq", "adaround", "bias-correct"):
        result = run_pass(make_pass(find_pass(name), {}), model, cuda)
        assert result.skipped == "quantize writes no integers for CUDAExecutionProvider"
