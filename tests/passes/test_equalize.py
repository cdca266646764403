from typing import Any

import numpy as np
import pytest
from quality_graphs import accuracy, calibrated, distance, logits, outputs, round_weights, shipped
from quantized_graphs import Array, model_of, normal

from accelc import ir, structure
from accelc.context import Context, Fuel
from accelc.pass_base import PassResult, run_pass
from accelc.passes.equalize import Equalize
from accelc.passes.quantization.channels import find_groups
from accelc.passes.quantization.linear import find_linear
from accelc.runner import Runner
from accelc.testing import context


def uneven(count: int, seed: int = 0) -> Array:
    """Factors from 1/30 to 30."""
    return np.exp(np.random.default_rng(seed).uniform(-3.4, 3.4, count)).astype(np.float32)


def equalized(model: ir.Model, ctx: Context | None = None, **options: Any) -> PassResult:
    result = run_pass(Equalize(**options), model, ctx or context())
    structure.check(model)
    return result


def same(graph: str, weights: dict[str, Array], x: Array, changes: int, **options: Any) -> ir.Model:
    """Equalize a model and assert that it computes the same and has nothing left to do."""
    model = model_of(graph, weights)
    wanted = outputs(model, {"x": x})[0]
    assert equalized(model, **options).changes == changes
    np.testing.assert_allclose(outputs(model, {"x": x})[0], wanted, rtol=1e-4, atol=1e-5 * float(np.abs(wanted).max()))
    assert equalized(model, **options).changes == 0
    return model


def ranges(model: ir.Model, name: str, axis: int) -> Array:
    array = ir.const(model.graph.initializers[name])
    assert array is not None
    found: Array = np.abs(array).max(axis=tuple(i for i in range(array.ndim) if i != axis))
    return found


CHAIN = """(float[n,3,8,8] x) => (float[n,10] y) {
    a = Conv<pads = [1,1,1,1]>(x, w1, b1)  r = Relu(a)
    d = Conv<group = 16, pads = [1,1,1,1]>(r, w2, b2)  p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(d)
    c = Conv(p, w3)  l = LeakyRelu(c)  g = GlobalAveragePool(l)  f = Flatten(g)  y = Gemm<transB = 1>(f, w4, b4)
}"""


def chain_weights() -> dict[str, Array]:
    s = [uneven(16, 1), uneven(16, 2), uneven(24, 3)]
    return {
        "w1": normal(16, 3, 3, 3) * s[0][:, None, None, None],
        "b1": normal(16) * s[0],
        "w2": normal(16, 1, 3, 3, seed=1) * (s[1] / s[0])[:, None, None, None],
        "b2": normal(16, seed=5) * s[1],
        "w3": normal(24, 16, 1, 1, seed=2) * s[2][:, None, None, None] / s[1][:, None, None],
        "w4": normal(10, 24, seed=3) / s[2],
        "b4": normal(10, seed=4),
    }


def test_a_chain_with_a_depthwise_convolution() -> None:
    weights = chain_weights()
    model = same(CHAIN, weights, normal(2, 3, 8, 8, seed=9), changes=3)
    for name, axis in (("w1", 0), ("w2", 0), ("w3", 1), ("w4", 1)):
        before = np.abs(weights[name]).max(axis=tuple(i for i in range(weights[name].ndim) if i != axis))
        after = ranges(model, name, axis)
        assert after.max() / after.min() < 0.2 * before.max() / before.min(), name


def test_both_sides_share_the_burden() -> None:
    graph = "(float[n,64] x) => (float[n,10] y) { h = Gemm(x, w, b)  r = Relu(h)  y = Gemm(r, v) }"
    factors = uneven(32)
    weights = {"w": normal(64, 32) * factors, "b": normal(32), "v": normal(32, 10, seed=1)}
    model = same(graph, weights, normal(5, 64, seed=2), changes=1)
    made, taken = ranges(model, "w", 1), ranges(model, "v", 0)
    np.testing.assert_allclose(made / made.max(), taken / taken.max(), rtol=0.05)


def test_branches_that_are_added_are_scaled_alike() -> None:
    graph = """(float[n,4,6,6] x) => (float[n,8,6,6] y) {
        a = Conv(x, w1, b)  b1 = Relu(a)  c = Conv(b1, w2)  s = Add(c, b1)  t = Relu(s)  y = Conv(t, w3) }"""
    factors = uneven(16)[:, None, None, None]
    weights = {"w1": normal(16, 4, 1, 1) * factors, "b": normal(16), "w2": normal(16, 16, 1, 1) * factors}
    weights["w3"] = normal(8, 16, 1, 1, seed=3)
    same(graph, weights, normal(2, 4, 6, 6, seed=2), changes=1)


def test_flatten_spreads_a_channel_over_many_rows() -> None:
    graph = """(float[n,3,4,4] x) => (float[n,5] y) {
        a = Conv(x, w, b)  r = Relu(a)  f = Flatten(r)  y = Gemm(f, v) }"""
    weights = {"w": normal(6, 3, 1, 1) * uneven(6)[:, None, None, None], "b": normal(6), "v": normal(96, 5)}
    same(graph, weights, normal(3, 3, 4, 4, seed=2), changes=1)


def test_products_of_sequences_with_added_biases() -> None:
    graph = """(float[n,t,24] x) => (float[n,t,8] y) {
        m = MatMul(x, w)  a = Add(b, m)  r = PRelu(a, slope)  s = Mul(r, c)  k = MatMul(s, v)  y = Add(k, d) }"""
    weights = {"w": normal(24, 40) * uneven(40), "b": normal(40), "slope": normal(40), "c": normal(40, seed=8)}
    weights |= {"v": normal(40, 8), "d": normal(8)}
    same(graph, weights, normal(2, 3, 24, seed=2), changes=1)


def test_clip_gets_a_bound_per_channel_when_wanted() -> None:
    graph = """(float[n,3,5,5] x) => (float[n,7,5,5] y) <float low = {0}, float high = {6}> {
        a = Conv(x, w, b)  r = Clip(a, low, high)  y = Conv(r, v) }"""
    weights = {"w": normal(12, 3, 1, 1) * uneven(12)[:, None, None, None], "b": normal(12), "v": normal(7, 12, 1, 1)}
    x = 3 * normal(2, 3, 5, 5, seed=2)
    plain = model_of(graph, weights)
    result = equalized(plain)
    assert result.changes == 0
    assert "Clip" in str(result.details["refused"])
    model = same(graph, weights, x, changes=1, relu6=True)
    assert [node.op_type for node in model.graph] == ["Conv", "Relu", "Min", "Conv"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("a = Conv(x, w)  r = Sigmoid(a)  y = Conv(r, v)", "used by node Sigmoid1"),
        ("a = Conv(x, w)  r = Add(a, c)  y = Conv(r, v)", "used by node Add1"),
        ("a = Conv(x, w)  r = Relu(a)  z = Identity(r)  y = Conv(r, v)", "an output of the model"),
        ("a = Conv(x, w)  t = Add(a, x)  y = Conv(t, v)", "x is an input of the model"),
        ("a = Conv(x, w)  b = Relu(a)  z = Softmax(b)  y = Conv(b, v)", "used by node Softmax"),
    ],
)
def test_what_a_factor_does_not_pass_is_refused(graph: str, reason: str) -> None:
    further = ", float[n,4,5,5] z" if "z =" in graph else ""
    weights = {"w": normal(4, 4, 1, 1) * uneven(4)[:, None, None, None], "v": normal(4, 4, 1, 1), "c": normal(4, 1, 1)}
    if "c)" not in graph:
        del weights["c"]
    model = model_of(f"(float[n,4,5,5] x) => (float[n,4,5,5] y{further}) {{ {graph} }}", weights)
    result = equalized(model)
    assert result.changes == 0
    assert reason in str(result.details["refused"])


def test_shared_weights_are_left_alone() -> None:
    graph = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w) }"
    result = equalized(model_of(graph, {"w": normal(8, 8) * uneven(8)}))
    assert result.changes == 0
    assert "used elsewhere" in str(result.details["refused"])


def test_a_shared_bias_keeps_its_other_user() -> None:
    graph = """(float[n,8] x) => (float[n,8] y) {
        a = Gemm(x, w, b)  r = Relu(a)  c = Gemm(r, v, b)  y = Sigmoid(c) }"""
    same(graph, {"w": normal(8, 8) * uneven(8), "v": normal(8, 8, seed=1), "b": normal(8)}, normal(3, 8), changes=1)


def test_fuel_stops_it_and_the_function_stays() -> None:
    model, x = model_of(CHAIN, chain_weights()), normal(2, 3, 8, 8, seed=9)
    wanted = outputs(model, {"x": x})[0]
    plain = context()
    assert equalized(model, Context(plain.target, fuel=Fuel(2))).changes == 2
    np.testing.assert_allclose(outputs(model, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))


def test_outlying_activations_count_when_there_is_data(runner: Runner) -> None:
    graph = "(float[n,16] x) => (float[n,4] y) { a = Gemm(x, w, b)  r = Relu(a)  y = Gemm(r, v) }"
    bias = np.zeros(16, np.float32)
    bias[3] = 200
    weights = {"w": normal(16, 16), "b": bias, "v": normal(16, 4)}
    x = normal(8, 16, seed=3)
    model = model_of(graph, weights)
    wanted = outputs(model, {"x": x})[0]
    assert equalized(model, calibrated(runner, [{"x": x}])).changes == 1
    np.testing.assert_allclose(outputs(model, {"x": x})[0], wanted, rtol=1e-3, atol=1e-2)
    shares = []
    for w, b in ((weights["w"], weights["b"]), (ir.const(model.graph.initializers["w"]), ir.const(bias_of(model)))):
        largest = np.maximum(x @ np.asarray(w) + b, 0).max(axis=0)
        shares.append(np.median(largest) / largest.max())
    assert shares[1] > 1.8 * shares[0]


def bias_of(model: ir.Model) -> ir.Value | None:
    return find_linear(model)[0][0].bias


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_it_undoes_uneven_channels_of_a_shipped_model(name: str) -> None:
    """One scale for a whole weight tensor is useless when channels differ, though the function is the same."""
    model = shipped(name)
    wanted, _ = logits(model, name)
    for index, group in enumerate(find_groups(find_linear(model)[0], clips=False)):
        if not group.reason:
            factors = uneven(group.channels, index)
            for maker in group.makers:
                maker.scale_outputs(factors)
            for taker, repeat in group.takers:
                taker.scale_inputs((1 / factors).repeat(repeat))
    assert distance(model, name, wanted) < 1e-4
    without = ir.from_proto(ir.to_proto(model))
    worse = distance(round_weights(without, 8, per_channel=False), name, wanted)
    assert equalized(model).changes >= 3
    assert distance(model, name, wanted) < 1e-4
    better = distance(round_weights(model, 8, per_channel=False), name, wanted)
    assert better < 0.1 * worse
    assert accuracy(model, name) > accuracy(without, name) + 0.05


def test_a_bias_that_is_not_constant_cannot_be_scaled() -> None:
    graph = "(float[n,8,6,6] x, float[16] b) => (float[n,4,6,6] y) { t = Conv(x, w, b)  r = Relu(t)  y = Conv(r, v) }"
    weights = {"w": normal(16, 8, 1, 1) * uneven(16)[:, None, None, None], "v": normal(4, 16, 1, 1)}
    model = model_of(graph, weights)
    result = equalized(model)
    assert not result.changes
    assert "makes more than its weights" in str(result.details)
