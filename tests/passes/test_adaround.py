import numpy as np
import pytest
from quality_graphs import calibrated, distance, logits, outputs, round_weights, shipped, shipped_feeds
from quantized_graphs import model_of, normal

from accelc import ir, structure
from accelc.context import Context, Fuel
from accelc.errors import UsageError
from accelc.pass_base import make_pass, run_pass
from accelc.passes.adaround import AdaRound
from accelc.passes.quantization.grid import on_grid
from accelc.passes.quantization.linear import find_linear
from accelc.passes.quantization.observed import moments
from accelc.passes.quantization.rounding import output_error, round_for_output
from accelc.passes.quantization.snap import Grid
from accelc.runner import Runner
from accelc.testing import context


def correlated(rows: int, count: int, seed: int = 0) -> np.ndarray:
    return np.maximum(normal(rows, 8, seed=seed) @ normal(8, count, seed=seed + 1) + 0.3 * normal(rows, count), 0)


@pytest.mark.parametrize("grid", [Grid.of(4, True), Grid.of(4, False), Grid.of(3, True, 32), Grid.of(8, True)])
def test_rounding_beats_the_nearest_and_stays_between_neighbours(grid: Grid) -> None:
    x, weights = correlated(400, 80), normal(80, 24, seed=3)
    gram = (x.T @ x / len(x))[None]
    found, plain = round_for_output(weights, gram, grid, 8), grid.plain(weights)
    errors, before = output_error(found - weights, gram), output_error(plain - weights, gram)
    assert errors.sum() < 0.5 * before.sum()
    if grid.per_channel:
        assert (errors <= before).all()
    columns = found.reshape(-1, 1) if not grid.per_channel else found[:32] if grid.block else found
    scales = on_grid(columns, grid.top)
    assert not np.isnan(scales).any()


def test_groups_are_rounded_by_their_own_inputs() -> None:
    grid, weights = Grid.of(4, True), normal(9, 12, seed=3)
    xs = [correlated(200, 9, seed) for seed in (0, 5, 9)]
    gram = np.stack([x.T @ x / len(x) for x in xs])
    found = round_for_output(weights, gram, grid, 8)
    for group in range(3):
        part = slice(4 * group, 4 * group + 4)
        alone = round_for_output(weights[:, part], gram[group : group + 1], grid, 8)
        np.testing.assert_array_equal(found[:, part], alone)


def test_patches_are_what_a_convolution_multiplies(runner: Runner) -> None:
    graph = """(float[n,6,7,7] x) => (float[n,8,a,b] y, float[n,6,c,d] z) {
        y = Conv<pads = [1,0,1,2], strides = [2,1], dilations = [1,2]>(x, w)
        z = Conv<group = 6, auto_pad = "SAME_UPPER", strides = [2,2]>(x, v) }"""
    model = model_of(graph, {"w": normal(8, 6, 3, 3), "v": normal(6, 1, 3, 3)})
    feeds = [{"x": normal(2, 6, 7, 7, seed=seed) + 1} for seed in range(3)]
    linears = find_linear(model)[0]
    seen = moments(calibrated(runner, feeds).calibration, model, linears)  # type: ignore[arg-type]
    for index, linear in enumerate(linears):
        made = np.concatenate([outputs(model, feed)[index] for feed in feeds])
        squares = output_error(linear.columns(), seen[linear].gram)
        np.testing.assert_allclose(squares, (made.astype(np.float64) ** 2).mean(axis=(0, 2, 3)), rtol=1e-3)
        np.testing.assert_allclose(seen[linear].output_mean(linear.columns()), made.mean(axis=(0, 2, 3)), atol=1e-3)


@pytest.mark.parametrize("name", ["digits_cnn", "digits_mlp"])
def test_few_bits_cost_less_on_a_shipped_model(runner: Runner, name: str) -> None:
    wanted, labels = logits(shipped(name), name)
    plain = distance(round_weights(shipped(name), 3), name, wanted)
    model = shipped(name)
    result = run_pass(AdaRound(bits=3, iterations=3), model, calibrated(runner, shipped_feeds(name)))
    structure.check(model)
    assert all(layer["after"] <= layer["before"] for layer in result.details["layers"])
    assert distance(model, name, wanted) < 0.6 * plain
    found, _ = logits(model, name)
    assert (found.argmax(axis=1) == labels).mean() > (wanted.argmax(axis=1) == labels).mean() - 0.025
    again = run_pass(AdaRound(bits=3), model, calibrated(runner, shipped_feeds(name, 8)))
    assert "no layer is left" in again.skipped
    for linear in find_linear(model)[0]:
        assert not np.isnan(on_grid(np.ascontiguousarray(linear.columns()), 3)).any()


def test_without_data_it_says_so() -> None:
    model = shipped("digits_mlp")
    before = ir.to_proto(model).SerializeToString()
    result = run_pass(AdaRound(), model, context())
    assert "calibration data" in result.skipped
    assert ir.to_proto(model).SerializeToString() == before


def test_fuel_and_blocks(runner: Runner) -> None:
    graph = "(float[n,64] x) => (float[n,8] y) { a = MatMul(x, w)  r = Relu(a)  b = Gemm(r, v)  y = MatMul(b, u) }"
    model = model_of(graph, {"w": normal(64, 48), "v": normal(48, 16), "u": normal(16, 8)})
    ctx = calibrated(runner, [{"x": correlated(64, 64)}])
    limited = Context(ctx.target, fuel=Fuel(2), calibration=ctx.calibration)
    result = run_pass(AdaRound(bits=4, block=16), model, limited)
    assert result.changes == 2
    arrays = [ir.const(model.graph.initializers[name]) for name in ("w", "v", "u")]
    on = []
    for array in arrays:
        assert array is not None
        on.append(not np.isnan(on_grid(array[:16], 7)).any())
    assert on == [True, True, False]
    assert len(model.graph.node(2).inputs) == 3, "the Gemm takes up the mean error"
    assert ir.node_path(model.graph.node(3)) == "node MatMul3 (MatMul)"


@pytest.mark.parametrize("text", ["bits=1", "bits=9", "block=17", "iterations=0"])
def test_options_are_checked(text: str) -> None:
    key, value = text.split("=")
    with pytest.raises(UsageError, match=text):
        make_pass(AdaRound, {key: value})
