import numpy as np
import pytest
from quality_graphs import calibrated, distance, logits, outputs, round_weights, shipped
from quantized_graphs import Array, model_of, normal

from accelc import ir, structure
from accelc.context import Context, Fuel
from accelc.errors import UsageError
from accelc.pass_base import make_pass, run_pass
from accelc.passes.clip import Clip
from accelc.passes.quantization.grid import on_grid
from accelc.passes.quantization.linear import find_linear
from accelc.plugins import find_pass
from accelc.runner import Runner
from accelc.testing import context

GRAPH = "(float[n,256] x) => (float[n,32] y) { y = MatMul(x, w) }"


def with_outliers() -> Array:
    weights = normal(256, 32)
    weights[7, ::2] = 6
    return weights


@pytest.mark.parametrize("options", [{}, {"method": "percentile", "percentile": 99.5}, {"block": 64}])
def test_outlying_weights_are_clipped(options: dict[str, object]) -> None:
    weights, x = with_outliers(), normal(64, 256, seed=2)
    model = model_of(GRAPH, {"w": weights})
    wanted = outputs(model, {"x": x})[0]
    plain = np.linalg.norm(outputs(round_weights(model_of(GRAPH, {"w": weights}), 4), {"x": x})[0] - wanted)
    result = run_pass(make_pass(Clip, {"bits": 4, **options}), model, context())
    structure.check(model)
    assert result.changes == 1
    assert np.linalg.norm(outputs(model, {"x": x})[0] - wanted) < 0.98 * plain
    columns = find_linear(model)[0][0].columns()
    assert not np.isnan(on_grid(columns[:64], 7)).any()
    assert run_pass(make_pass(Clip, {"bits": 4, **options}), model, context()).changes == 0


def test_even_weights_stay() -> None:
    weights = np.random.default_rng(0).uniform(-1, 1, (256, 32)).astype(np.float32)
    model = model_of(GRAPH, {"w": weights})
    result = run_pass(Clip(), model, context())
    assert "no weights" in result.skipped
    assert "does not lower" in str(result.details["refused"])
    np.testing.assert_array_equal(find_linear(model)[0][0].columns(), weights)


def test_few_bits_cost_less_on_a_shipped_model() -> None:
    name = "digits_cnn"
    wanted, _ = logits(shipped(name), name)
    plain = distance(round_weights(shipped(name), 4), name, wanted)
    model = shipped(name)
    assert run_pass(Clip(bits=4), model, context()).changes >= 5
    assert distance(round_weights(model, 4), name, wanted) < 0.9 * plain


def test_with_data_the_outputs_are_judged(runner: Runner) -> None:
    """Large weights that meet large inputs must not be clipped, whatever the weights' own error says."""
    x = normal(64, 256, seed=2)
    x[:, 7] *= 50
    model, blind = (model_of(GRAPH, {"w": with_outliers()}) for _ in range(2))
    wanted = outputs(model, {"x": x})[0]
    ctx = calibrated(runner, [{"x": x}])
    run_pass(Clip(bits=4), blind, context())
    run_pass(Clip(bits=4), model, ctx)
    errors = [np.linalg.norm(outputs(round_weights(each, 4), {"x": x})[0] - wanted) for each in (model, blind)]
    assert errors[0] < 0.5 * errors[1]


def test_fuel() -> None:
    model = shipped("digits_cnn")
    assert run_pass(Clip(bits=4), model, Context(context().target, fuel=Fuel(2))).changes == 2


@pytest.mark.parametrize(
    "options", [{"method": "kl"}, {"percentile": 20}, {"bits": 16}, {"block": 32, "per_channel": False}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        make_pass(Clip, options)


@pytest.mark.parametrize("name", ["clip", "adaround", "bias-correct", "gptq"])
def test_kept_layers_stay_as_they_are(name: str, runner: Runner) -> None:
    graph = "(float[n,256] x) => (float[n,32] y) { m = MatMul(x, w)  y = Gemm(m, v, b) }"
    weights = {"w": with_outliers(), "v": normal(32, 32, seed=3), "b": normal(32, seed=4)}
    model = model_of(graph, weights)
    ctx = calibrated(runner, [{"x": normal(64, 256, seed=2)}])
    result = run_pass(make_pass(find_pass(name), {"bits": 4, "keep": "nothing|MatMul*"}), model, ctx)
    assert result.changes
    assert result.details["refused"]["node MatMul0 (MatMul)"] == "kept by keep=MatMul*"
    np.testing.assert_array_equal(np.asarray(ir.const(model.graph.initializers["w"])), weights["w"])


@pytest.mark.parametrize("size", [1e-36, 1e25])
def test_weights_of_sizes_that_no_scale_can_hold_stay(size: float) -> None:
    model = model_of(GRAPH, {"w": with_outliers() * np.float32(size)})
    (reason,) = run_pass(make_pass(Clip, {"bits": 4}), model, context()).details["refused"].values()
    assert "for scales in float32" in reason
