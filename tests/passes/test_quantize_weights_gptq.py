"""The search rounds weights in blocks by calibration data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from quantized_graphs import Array, Samples, normal, output

from accelc import ir
from accelc.backends.cpu import CpuBackend
from accelc.calibration import Calibration
from accelc.context import Context, Settings
from accelc.data import Feed, Sample
from accelc.infer import infer_model
from accelc.pass_base import PassResult, make_pass, run_pass
from accelc.passes.gptq import Gptq
from accelc.passes.quantization.gains import Gains
from accelc.passes.quantization.gptq_numbers import Grid, blocks_on
from accelc.passes.quantization.prepare import Wishes, prepare
from accelc.passes.quantization.trial import Trial
from accelc.passes.quantization.weights import BlockScheme
from accelc.passes.quantization.weights_gptq import round_by_data
from accelc.passes.quantization.weights_numbers import quantize_blocks
from accelc.passes.quantize import Quantize
from accelc.runner import Runner

pytestmark = pytest.mark.usefixtures("own_cache")

GRAPH = "(float[n,96] x) => (float[n,64] y) { t = MatMul(x, w)  u = Add(t, b)  v = Relu(u)  y = Gemm(v, r) }"


def inputs(rows: int, seed: int) -> dict[str, Array]:
    """Most of their variance is in few directions, as it is in activations."""
    mixed = normal(rows, 24, seed=seed) @ normal(24, 96, seed=99)
    return {"x": np.asarray(mixed + 0.1 * normal(rows, 96, seed=seed + 1), np.float32)}


def chain() -> ir.Model:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> main {GRAPH}')
    weights = {"w": normal(96, 80), "b": normal(80, seed=1), "r": normal(80, 64, seed=2)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{index}"
    model = ir.from_proto(proto)
    infer_model(model)
    return model


def quantized(
    model: ir.Model,
    runner: Runner,
    data: Sequence[Mapping[str, Any]],
    first: str = "",
    told: list[str] | None = None,
    **options: Any,
) -> PassResult:
    held_out = inputs(50, 7)
    samples = [Sample(Feed(held_out, "test"), {"y": output(model, held_out)})]
    calibration = Calibration(Samples(data), lambda: runner) if data else None
    settings = Settings(measure=True, max_drop=0.5)
    ctx = Context(
        CpuBackend().target(),
        settings,
        backend=CpuBackend(),
        runner=runner,
        samples=lambda: samples,
        calibration=calibration,
    )
    if first:
        run_pass(make_pass(Gptq, {"block_size": 16}), model, ctx)
    result = run_pass(make_pass(Quantize, {"measure": False, "scheme": "weights", **options}), model, ctx)
    if told is not None:
        told += ctx.notes
    return result


def error(model: ir.Model) -> float:
    feed = inputs(50, 7)
    return float(np.square(output(model, feed) - output(chain(), feed)).sum())


def test_data_makes_four_bits_more_accurate(runner: Runner) -> None:
    plain, better = chain(), chain()
    quantized(plain, runner, [], bits=4)
    result = quantized(better, runner, [inputs(400, 3)], bits=4)
    assert "weights of 2 layers rounded by GPTQ" in result.notes
    assert [node.op_type for node in ir.walk(better)].count("MatMulNBits") == 2
    assert error(better) < 0.5 * error(plain)


def test_weights_that_are_rounded_already_stay(runner: Runner) -> None:
    model, calibration = chain(), [inputs(400, 3)]
    result = quantized(model, runner, calibration, first="gptq", bits=4, block_size=16)
    assert not any("GPTQ" in note for note in result.notes)
    assert result.changes == 2


def test_the_opset_that_a_form_needs_is_told(runner: Runner) -> None:
    model, told = chain(), list[str]()
    model.graph.opset_imports[""] = 11
    quantized(model, runner, [inputs(400, 3)], told=told, scheme="static")
    assert model.graph.opset_imports[""] == 13
    assert any(note.startswith("opset raised from 11 to 13 for static u8 x s8") for note in told)


def test_eight_bits_are_rounded_to_nearest(runner: Runner) -> None:
    result = quantized(chain(), runner, [inputs(400, 3)], bits=8)
    assert not any("GPTQ" in note for note in result.notes)


def test_without_speed_to_win_nothing_is_rounded(runner: Runner) -> None:
    """Weights alone bring no speed to products with many rows, so a search for speed does not look at them."""
    calibration = Calibration(Samples([inputs(400, 3)]), lambda: runner)
    model, held_out = chain(), inputs(50, 7)
    samples = [Sample(Feed(held_out, "test"), {"y": output(model, held_out)})]
    ctx = Context(
        CpuBackend().target(), backend=CpuBackend(), runner=runner, samples=lambda: samples, calibration=calibration
    )
    wishes = Wishes(("weight4",), None, None, True, True, "u8", [], embeddings=False)
    gains = Gains(Trial(model, ctx), prepare(model, ctx, wishes).parts)
    assert round_by_data(ctx, gains, 9.0, all_rows=False) == {}
    assert sorted(index for index, _ in round_by_data(ctx, gains, 9.0, all_rows=True)) == [0, 1]
    assert round_by_data(ctx, gains, -1.0, all_rows=True) == {}


@pytest.mark.parametrize("k", [96, 100])
@pytest.mark.parametrize("symmetric", [True, False])
def test_integers_of_a_weight_on_a_grid(k: int, symmetric: bool) -> None:
    scheme = BlockScheme(4, 32, symmetric, clip=True)
    weight = normal(k, 20)
    grid, wanted = Grid.of(weight, scheme), quantize_blocks(weight, scheme)
    found = blocks_on(grid, grid.nearest(weight, np.arange(k)), scheme)
    np.testing.assert_array_equal(found.values, wanted.values)
    np.testing.assert_array_equal(found.scales, wanted.scales)
    assert (found.zeros is None) is symmetric
    np.testing.assert_array_equal(found.packed_zeros(), wanted.packed_zeros())
