"""GPTQ: the numbers alone, and as a pass on shipped models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantized_graphs import Array, Samples, normal, output

from accelc import ir
from accelc.backends.cpu import CpuBackend
from accelc.calibration import Calibration
from accelc.context import Context, Fuel
from accelc.errors import UsageError
from accelc.infer import infer_model
from accelc.pass_base import PassResult, make_pass, run_pass
from accelc.passes.gptq import Gptq
from accelc.passes.quantization.gptq_numbers import Grid, column_errors, gptq
from accelc.passes.quantization.layers import find_layers
from accelc.passes.quantization.weights import BlockScheme, quantize_weights
from accelc.passes.quantization.weights_numbers import quantize_blocks
from accelc.runner import Runner
from accelc.source import Source

MODELS = Path(__file__).parents[2] / "models"
SCHEMES = [BlockScheme(4, 32), BlockScheme(4, 32, False), BlockScheme(8, 64), BlockScheme(4, 64, clip=True)]


def correlated(rows: int, columns: int, seed: int = 0) -> Array:
    """Inputs that mostly lie in a space of fewer dimensions, as activations do."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((rows, columns // 4)) @ random.standard_normal((columns // 4, columns))
    return (mixed + 0.1 * random.standard_normal((rows, columns))).astype(np.float32)


# --- numbers


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("k", [128, 100])
def test_the_grid_is_that_of_plain_rounding(scheme: BlockScheme, k: int) -> None:
    weight = normal(k, 20)
    plain = Grid.of(weight, scheme).nearest(weight, np.arange(k))
    np.testing.assert_allclose(plain, quantize_blocks(weight, scheme).floats(), atol=1e-6)


@pytest.mark.parametrize("order", [True, False])
def test_inputs_that_do_not_depend_on_each_other_give_plain_rounding(order: bool) -> None:
    weight = normal(100, 20)
    grid = Grid.of(weight, BlockScheme(4, 32))
    found = gptq(weight, np.diag(np.linspace(1, 5, 100)), grid, order=order)
    np.testing.assert_array_equal(found, grid.nearest(weight, np.arange(100)))


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_errors_fall_and_never_rise(scheme: BlockScheme, order: bool) -> None:
    weight, x = normal(200, 40), correlated(1000, 200)
    gram = x.T @ x
    grid = Grid.of(weight, scheme)
    found, plain = gptq(weight, gram, grid, order=order), grid.nearest(weight, np.arange(200))
    after, before = (np.square(x @ (each - weight)).sum(axis=0) for each in (found, plain))
    assert (after <= before * 1.001).all()
    assert after.sum() < 0.4 * before.sum()
    np.testing.assert_allclose(column_errors(plain - weight, gram), before, rtol=0.01)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_what_comes_out_lies_on_the_grid(scheme: BlockScheme) -> None:
    weight, x = normal(200, 40), correlated(1000, 200)
    found = gptq(weight, x.T @ x, Grid.of(weight, scheme))
    np.testing.assert_allclose(quantize_blocks(found, scheme).floats(), found, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "gram",
    [np.zeros((64, 64)), np.ones((64, 64)), np.diag(np.r_[np.ones(32), np.zeros(32)])],
    ids=["nothing seen", "one direction", "half never seen"],
)
def test_data_that_says_little_does_no_harm(gram: Array) -> None:
    weight = normal(64, 20)
    grid = Grid.of(weight, BlockScheme(4, 32))
    found, plain = gptq(weight, gram, grid), grid.nearest(weight, np.arange(64))
    assert np.isfinite(found).all()
    assert (column_errors(found - weight, gram) <= column_errors(plain - weight, gram)).all()


# --- the pass


def rounded(
    model: ir.Model, runner: Runner, feeds: Sequence[Mapping[str, Any]], fuel: Fuel | None = None, **options: Any
) -> PassResult:
    calibration = Calibration(Samples(feeds), lambda: runner)
    ctx = Context(CpuBackend().target(), backend=CpuBackend(), runner=runner, calibration=calibration, fuel=fuel)
    return run_pass(make_pass(Gptq, options), model, ctx)


def stored(model: ir.Model, scheme: BlockScheme) -> ir.Model:
    """The products of a model with weights in blocks."""
    layers = find_layers(model, embeddings=False, portable=False).layers
    quantize_weights(model, layers, scheme, lambda *_: True)
    return model


def shipped(name: str) -> tuple[ir.Model, list[dict[str, Array]], dict[str, Array], Array]:
    """A model, 128 calibration samples, and evaluation data with labels."""
    calibration, held_out = (dict(np.load(MODELS / f"{name}.{kind}.npz")) for kind in ("calibration", "eval"))
    labels = held_out.pop("labels")
    feeds = [{key: array[i : i + 32] for key, array in calibration.items()} for i in range(0, 128, 32)]
    return Source.of(MODELS / f"{name}.onnx").fresh(), feeds, held_out, labels


@pytest.mark.parametrize("name", ["digits_mlp", "text_encoder"])
def test_four_bits_on_shipped_models(name: str, runner: Runner) -> None:
    """Outputs are several times closer than by plain rounding, and accuracy stays."""
    original, feeds, held_out, labels = shipped(name)
    wanted = output(original, held_out)
    plain = output(stored(shipped(name)[0], BlockScheme(4, 32)), held_out)
    model = shipped(name)[0]
    result = rounded(model, runner, feeds)
    assert result.changes == len(find_layers(model, embeddings=False, portable=False).layers)
    assert all(layer["after"] <= layer["before"] for layer in result.details["layers"])
    got = output(stored(model, BlockScheme(4, 32)), held_out)
    assert np.square(got - wanted).sum() < 0.4 * np.square(plain - wanted).sum()
    accuracy = [float((each.argmax(axis=-1) == labels).mean()) for each in (wanted, got)]
    assert accuracy[1] >= accuracy[0] - 0.01


def products() -> ir.Model:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> main (float[N, 64] a) => (float[N, 40] y, float[N, 40] z) {
            b = Relu(a)
            y = Gemm<transB: int = 1, alpha: float = 0.5>(b, w, c)
            z = MatMul(b, v)
        }"""
    )
    weights = {"w": normal(40, 64, seed=1), "c": normal(40, seed=2), "v": normal(64, 40, seed=3)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    model = ir.from_proto(proto)
    infer_model(model)
    return model


def test_a_transposed_weight_with_a_factor(runner: Runner) -> None:
    feeds = [{"a": correlated(256, 64)}]
    model = products()
    wanted = output(model, feeds[0])
    assert rounded(model, runner, feeds, block_size=16).changes == 2
    snapped = output(model, feeds[0])
    blocks = BlockScheme(4, 16, accuracy_level=0)
    np.testing.assert_allclose(output(stored(model, blocks), feeds[0]), snapped, atol=1e-4)
    plain = output(stored(products(), blocks), feeds[0])
    assert np.square(snapped - wanted).sum() < 0.5 * np.square(plain - wanted).sum()


def test_layers_whose_matrices_are_too_many_are_observed_in_turn(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelc.passes.quantization.grams._BYTES", 1)
    original, feeds, _, _ = shipped("digits_mlp")
    result = rounded(original, runner, feeds)
    assert len(result.details["layers"]) == result.changes == 4
    assert all(layer["after"] < layer["before"] for layer in result.details["layers"])


def test_fuel_stops_it_between_layers(runner: Runner) -> None:
    feeds = [{"a": correlated(64, 64)}]
    assert rounded(products(), runner, feeds, Fuel(1)).changes == 1
    assert rounded(products(), runner, feeds, Fuel(0)).skipped == "out of fuel"


def test_without_data_it_says_what_it_needs() -> None:
    result = run_pass(Gptq(), products(), Context(CpuBackend().target()))
    assert result.skipped == "it needs calibration data (--calibration)"


def test_a_weight_that_is_a_table_too_is_left_alone(runner: Runner) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> main (int64[N] i) => (float[N, 2000] y) {
            e = Gather(w, i)
            t = Transpose<perm = [1, 0]>(w)
            y = MatMul(e, t)
        }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(normal(2000, 64), "w"))
    model = ir.from_proto(proto)
    infer_model(model)
    result = rounded(model, runner, [{"i": np.arange(8)}])
    assert result.changes == 0
    assert list(result.details["refused"].values()) == ["its weight is also a table"]


@pytest.mark.parametrize("options", [{"bits": 5}, {"block_size": 20}, {"damping": 0.0}])
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        make_pass(Gptq, options)
