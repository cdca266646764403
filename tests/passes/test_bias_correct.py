import numpy as np
import pytest
from quality_graphs import calibrated, distance, logits, outputs, round_weights, shipped, shipped_feeds
from quantized_graphs import model_of, normal

from accelc import ir, structure
from accelc.context import Context, Fuel
from accelc.pass_base import run_pass
from accelc.passes.adaround import AdaRound
from accelc.passes.bias_correct import BiasCorrect
from accelc.runner import Runner
from accelc.testing import context


@pytest.mark.parametrize(
    ("graph", "shapes"),
    [
        ("(float[n,32] x) => (float[n,24] y) { y = Gemm<alpha = -0.5, beta = 2.0, transB = 1>(x, w, b) }", [(24, 32)]),
        ("(float[n,32] x) => (float[n,24] y) { y = Gemm(x, w) }", [(32, 24)]),
        ("(float[n,32] x) => (float[n,24] y) { m = MatMul(x, w)  y = Add(b, m) }", [(32, 24)]),
        ("(float[n,32] x) => (float[n,24] y) { m = MatMul(x, w)  y = com.microsoft.BiasGelu(m, b) }", [(32, 24)]),
        ("(float[n,4,9,9] x) => (float[n,24,9,9] y) { y = Conv<pads = [1,1,1,1]>(x, w, b) }", [(24, 4, 3, 3)]),
        ("(float[n,4,9,9] x) => (float[n,24,4,4] y) { y = Conv<group = 2, strides = [2,2]>(x, w) }", [(24, 2, 3, 3)]),
    ],
    ids=["gemm", "gemm without", "matmul", "gelu", "conv", "grouped without"],
)
def test_the_mean_of_the_output_is_that_of_float_weights(
    runner: Runner, graph: str, shapes: list[tuple[int, ...]]
) -> None:
    weights = {"w": normal(*shapes[0])} | ({"b": normal(24, seed=1)} if "b)" in graph or "(b" in graph else {})
    model = model_of(graph, weights)
    dims = [int(dim) if isinstance(dim, int) else 40 for dim in ir.dims(model.graph.inputs[0]) or ()]
    x = np.maximum(normal(*dims, seed=4) + 0.5, 0)
    wanted = outputs(model, {"x": x})[0]
    plain = outputs(round_weights(model_of(graph, weights), 3), {"x": x})[0]
    result = run_pass(BiasCorrect(bits=3), model, calibrated(runner, [{"x": x[:20]}, {"x": x[20:]}]))
    structure.check(model)
    assert result.changes == 1
    found = outputs(round_weights(model, 3), {"x": x})[0]
    axes = (0, 2, 3) if wanted.ndim == 4 else (0,)
    before, after = (np.abs((each - wanted).mean(axis=axes)).max() for each in (plain, found))
    assert after < (0.5 if "Gelu" in graph else 1e-3) * before


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_few_bits_cost_less_on_a_shipped_model(runner: Runner, name: str) -> None:
    wanted, _ = logits(shipped(name), name)
    plain = distance(round_weights(shipped(name), 3), name, wanted)
    model = shipped(name)
    run_pass(BiasCorrect(bits=3), model, calibrated(runner, shipped_feeds(name)))
    assert distance(round_weights(model, 3), name, wanted) < 0.8 * plain


def test_weights_on_a_grid_need_nothing(runner: Runner) -> None:
    model, ctx = shipped("digits_mlp"), calibrated(runner, shipped_feeds("digits_mlp", 16))
    run_pass(AdaRound(bits=4), model, ctx)
    result = run_pass(BiasCorrect(bits=8), model, ctx)
    assert "no mean error" in result.skipped


def test_a_product_without_a_place_for_a_bias_is_left_alone(runner: Runner) -> None:
    model = model_of("(float[n,32] x) => (float[n,24] y) { y = MatMul(x, w) }", {"w": normal(32, 24)})
    result = run_pass(BiasCorrect(), model, calibrated(runner, [{"x": normal(4, 32)}]))
    assert "place for a bias" in result.skipped
    assert "no place" in str(result.details["refused"])


def test_without_data_or_fuel(runner: Runner) -> None:
    model = shipped("digits_mlp")
    assert "calibration data" in run_pass(BiasCorrect(), model, context()).skipped
    ctx = calibrated(runner, shipped_feeds("digits_mlp", 16))
    limited = Context(ctx.target, fuel=Fuel(1), calibration=ctx.calibration)
    assert run_pass(BiasCorrect(bits=4), model, limited).changes == 1
