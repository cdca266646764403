from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantized_graphs import Array, model_of, normal, operators, outputs
from static_graphs import conv_by_definition, optimized, quantized, ranges_of, steps

from accelc import ir
from accelc.infer import infer_model
from accelc.passes.quantization.static import StaticScheme, find_static, quantize_static
from accelc.passes.quantization.static_numbers import params_of, quantize_weight
from accelc.target import Target

AVX2 = StaticScheme.of(Target.cpu(isa={"avx", "avx2", "fma"}))
VNNI = StaticScheme.of(Target.cpu(isa={"avx2", "avx512", "avx512_vnni"}))
AMX = StaticScheme.of(Target.cpu(isa={"avx2", "avx512", "avx512_vnni", "amx_int8"}))

CONV = "(float[n,8,9,9] x) => (float[n,16,9,9] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }"
RESIDUAL = (
    "(float[n,8,9,9] x) => (float[n,8,9,9] y) { a = Conv <pads = [1, 1, 1, 1]> (x, w, b)  r = Relu(a) "
    "c = Conv <pads = [1, 1, 1, 1]> (r, v)  s = Add(c, r)  y = Relu(s) }"
)


def wide(seed: int = 0) -> Array:
    """Weights of 16 channels whose sizes differ a hundredfold."""
    return normal(16, 8, 3, 3, seed=seed) * np.logspace(-1, 1, 16, dtype=np.float32)[:, None, None, None]


def residual() -> ir.Model:
    weights = {"w": normal(8, 8, 3, 3), "v": normal(8, 8, 3, 3, seed=1), "b": normal(8, seed=2)}
    return model_of(RESIDUAL, weights)


def near(got: Array, wanted: Array, share: float) -> None:
    """Root mean square of the difference, as a share of what is wanted."""
    assert np.linalg.norm(got - wanted) <= share * np.linalg.norm(wanted)


# --- numbers


@pytest.mark.parametrize("scheme", [VNNI, AMX], ids=["vnni", "amx"])
def test_numbers_are_those_of_the_definition(tmp_path: Path, scheme: StaticScheme) -> None:
    weights = {"w": wide(), "b": normal(16, seed=1)}
    model, x = model_of(CONV, weights), normal(2, 8, 9, 9, seed=2) + 0.5
    ranges = ranges_of(model, [{"x": x}])
    wanted = conv_by_definition(x, weights["w"], weights["b"], [ranges["x"], ranges["y"]], pads=(1, 1, 1, 1))
    quantized(model, [{"x": x}], scheme)
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert "QLinearConv" in ran
    assert "Conv" not in ran
    step = steps(ranges["y"])[0]
    for result in (got, outputs(model, {"x": x})["y"]):
        assert np.abs(result - wanted).max() <= 1.01 * step
        assert (np.abs(result - wanted) > 0.5 * step).mean() < 0.01  # ties of rounding


def test_channels_have_scales_of_their_own() -> None:
    """With one scale, channels a hundred times smaller than others would be lost."""
    weights = {"w": wide(), "b": normal(16, seed=1) * 0.01}
    x = normal(2, 8, 9, 9, seed=2)
    integers = quantize_weight(weights["w"], weights["b"], np.float32(0.02), VNNI)
    for channel, floats in zip(integers.floats(), weights["w"], strict=True):
        near(channel, floats, 0.01)
    one = quantize_weight(weights["w"], None, np.float32(0.02), StaticScheme(per_channel=False))
    assert one.scales.shape == ()
    assert not one.values[0].any(axis=(1, 2)).all()
    model = model_of(CONV, weights)
    quantized(model, [{"x": x}], StaticScheme(per_channel=False))
    assert outputs(model, {"x": x})["y"].shape == (2, 16, 9, 9)


@pytest.mark.parametrize(
    ("bounds", "scale", "zero"),
    [
        ((-1.0, 1.55), 0.01, 100),
        ((0.0, 2.55), 0.01, 0),
        ((1.0, 2.55), 0.01, 0),
        ((-2.55, -1.0), 0.01, 255),
        ((2.0, 2.0), 2 / 255, 0),
        ((0.0, 0.0), 1.0, 0),
        ((-3e38, 3e38), 6e38 / 255, 128),
        ((0.0, 1e-44), 1.0, 0),
    ],
    ids=["both", "relu", "above", "below", "constant", "zero", "huge", "denormal"],
)
def test_zero_is_always_an_integer(bounds: tuple[float, float], scale: float, zero: int) -> None:
    params = params_of(*bounds, VNNI)
    assert params.scale == pytest.approx(scale)
    assert params.scale > 0
    assert params.zero == zero


def test_ranges_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        params_of(0.0, float("inf"), VNNI)


def test_bias_of_a_channel_without_weights_is_kept() -> None:
    weight, bias = normal(4, 8, 1, 1), np.array([1, 1e-4, -1e6, 0], np.float32)
    weight[1] = 0
    weight[2] = 1e-20
    weight[3] = 0
    integers = quantize_weight(weight, bias, np.float32(0.02), VNNI)
    assert integers.bias is not None
    np.testing.assert_allclose(integers.bias * integers.scales * 0.02, bias, rtol=1e-2)
    assert not integers.values[1].any()
    assert (integers.scales > 0).all()


def test_weights_on_a_grid_are_stored_exactly() -> None:
    steps_of = np.random.default_rng(0).integers(-40, 41, (6, 32)).astype(np.float32)
    weight = steps_of * np.linspace(0.1, 0.7, 6, dtype=np.float32)[:, None]
    near(quantize_weight(weight, None, np.float32(1), VNNI).floats(), weight, 1e-6)


# --- saturation


def test_pairs_cannot_overflow_without_exact_products() -> None:
    """vpmaddubsw adds two products of u8 x s8 in 16 bits; without it nothing is lost by using 8 bits."""
    for weight in (np.full((4, 8, 3, 3), 2.0, np.float32), normal(4, 8, 3, 3), -np.abs(normal(4, 64))):
        values = quantize_weight(weight, None, np.float32(1), AVX2).values
        rows = np.moveaxis(values, 1, -1).reshape(len(values), -1).astype(np.int64)
        low, high = np.minimum(rows, 0), np.maximum(rows, 0)
        assert (255 * (high[:, :-1] + high[:, 1:])).max() < 2**15
        assert (255 * (low[:, :-1] + low[:, 1:])).min() >= -(2**15)
    assert np.abs(quantize_weight(normal(4, 64), None, np.float32(1), VNNI).values).max() == 127
    single = normal(1, 64)
    single[0, ::2] = 0
    assert quantize_weight(single, None, np.float32(1), AVX2).values.max() == 127


def test_depthwise_weights_keep_all_bits() -> None:
    graph = "(float[1,8,9,9] x) => (float[1,8,7,7] y) { y = Conv <group = 8> (x, w) }"
    model = model_of(graph, {"w": np.abs(normal(8, 1, 3, 3))})
    quantized(model, [{"x": normal(1, 8, 9, 9)}], AVX2)
    (weight,) = (ir.const(v) for v in model.graph.initializers.values() if ir.dims(v) == (8, 1, 3, 3))
    assert weight is not None
    assert weight.max() == 127


def test_tiles_get_long_sums() -> None:
    """The runtime takes its matrix kernel where zero points of weights are not zero."""
    graph = "(float[1,128,7,7] x) => (float[1,16,7,7] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    x = normal(1, 128, 7, 7)
    wanted: list[Array] = []
    for scheme, zero in ((AMX, -1), (VNNI, 0)):
        model = model_of(graph, {"w": normal(16, 128, 3, 3)})
        quantized(model, [{"x": x}], scheme)
        node = next(node for node in model.graph if node.op_type == "Conv")
        maker = node.inputs[1].producer() if node.inputs[1] is not None else None
        assert maker is not None
        zeros = ir.const(maker.inputs[2])
        assert zeros is not None
        assert (zeros == zero).all()
        wanted.append(outputs(model, {"x": x})["y"])
    np.testing.assert_array_equal(wanted[0], wanted[1])


# --- structure


def test_a_residual_block_has_one_scale_for_each_tensor(tmp_path: Path) -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    wanted = outputs(model, {"x": x})["y"]
    done, refused = quantized(model, [{"x": x}])
    assert (len(done), refused) == (3, {})
    assert [node.name for node in model.graph if not node.op_type.endswith("Linear")] == ["Conv0", "Conv2", "Add3"]
    found = operators(model)
    assert found.count("QuantizeLinear") == 4  # x, r, c, y
    assert found.count("DequantizeLinear") == 4 + 3  # and two weights, one bias
    assert "Relu" not in found
    near(outputs(model, {"x": x})["y"], wanted, 0.02)
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert {"QLinearConv", "QLinearAdd"} <= set(ran)
    assert set(ran) <= {"QLinearConv", "QLinearAdd", "QuantizeLinear", "DequantizeLinear", "Transpose"}
    assert (ran.count("QuantizeLinear"), ran.count("DequantizeLinear")) == (1, 1)
    near(got, wanted, 0.02)


def test_no_float_weight_is_left() -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    quantized(model, [{"x": x}])
    for value in model.graph.initializers.values():
        assert value.dtype != ir.DataType.FLOAT or len(ir.dims(value) or ()) < 2
        assert value.uses()


def test_islands_stay_float_with_one_border_each() -> None:
    graph = (
        "(float[1,8,9,9] x) => (float[1,8,9,9] y, float[1,8,9,9] z) "
        "{ a = Conv(x, w)  b = Conv(a, w2)  c = Relu(b)  d = Conv(c, w3)  y = Conv(d, w4)  z = Neg(a) }"
    )
    weights = {name: normal(8, 8, 1, 1, seed=seed) for seed, name in enumerate(("w", "w2", "w3", "w4"))}
    model, x = model_of(graph, weights), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})
    quantized(model, [{"x": x}], products=lambda found: [0, 2, 3])
    assert operators(model).count("QuantizeLinear") == 5  # x a, c d y
    by_output = {value.name: node for node in model.graph for value in node.outputs}
    island = next(
        node
        for node in model.graph
        if node.op_type == "Conv" and ir.is_constant(node.inputs[1]) and "DequantizeLinear" not in str(node.inputs[1])
    )
    assert island.name == "Conv1"
    assert by_output["y"].op_type == "DequantizeLinear"
    for name, value in outputs(model, {"x": x}).items():
        near(value, wanted[name], 0.03)


def test_graph_outputs_keep_names_and_types() -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    quantized(model, [{"x": x}])
    (out,) = model.graph.outputs
    assert (out.name, out.dtype, ir.dims(out)) == ("y", ir.DataType.FLOAT, ("n", 8, 9, 9))


@pytest.mark.parametrize(
    ("clamp", "constants", "absorbed"),
    [
        ("Relu(a)", {}, True),
        ("Clip(a, lo, hi)", {"lo": 0.0, "hi": 1.5}, True),
        ("Clip(a, lo, hi)", {"lo": -0.5, "hi": 0.5}, True),
        ("Clip(a, lo, hi)", {"lo": 0.5, "hi": 1.5}, False),
    ],
    ids=["relu", "relu6", "both sides", "without zero"],
)
def test_clamps_are_absorbed_by_the_range(clamp: str, constants: dict[str, float], absorbed: bool) -> None:
    graph = f"(float[1,8,9,9] x) => (float[1,8,9,9] y) {{ a = Conv(x, w)  y = {clamp} }}"
    weights = {"w": normal(8, 8, 1, 1)} | {name: np.array(value, np.float32) for name, value in constants.items()}
    model, x = model_of(graph, weights), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x * 2}], ranges=ranges_of(model, [{"x": x * 3}]))
    assert ("Relu" in operators(model) or "Clip" in operators(model)) is not absorbed
    got = outputs(model, {"x": x})["y"]
    scale = steps((float(constants.get("lo", 0)), float(constants.get("hi", wanted.max()))))[0]
    low, high = constants.get("lo", 0.0), constants.get("hi", np.inf)
    assert low - scale / 2 <= got.min()
    assert got.max() <= high + scale / 2
    if low == 0:
        assert (got[wanted == 0] == 0).mean() > 0.95
        assert got.min() == 0
    near(got, wanted, 0.04)


def test_a_clamp_beside_another_reader_becomes_integer() -> None:
    graph = (
        "(float[1,8,9,9] x) => (float[1,8,9,9] y) "
        "{ a = Conv(x, w)  r = Relu(a)  b = Conv(r, v)  c = Conv(a, v)  y = Add(b, c) }"
    )
    model, x = model_of(graph, {"w": normal(8, 8, 1, 1), "v": normal(8, 8, 1, 1, seed=1)}), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    (clip,) = (node for node in model.graph if node.op_type == "Clip")
    assert clip.outputs[0].dtype == ir.DataType.UINT8
    near(outputs(model, {"x": x})["y"], wanted, 0.03)


CONCAT = (
    "(float[1,8,9,9] x) => (float[1,8,9,9] y) "
    "{ a = Conv(x, w)  b = Conv(x, v)  r = Relu(b)  c = Concat <axis = 1> (a, r, x)  y = Conv(c, u) }"
)


@pytest.mark.parametrize("factor", [1.0, 0.3], ids=["alike", "different"])
def test_concat_has_one_scale_where_parts_are_alike_and_clamps_hold(factor: float, tmp_path: Path) -> None:
    graph = CONCAT.replace("r = Relu(b)", "r = Identity(b)")
    weights = {"w": normal(8, 8, 1, 1) / 2, "v": normal(8, 8, 1, 1, seed=1) / 2 * factor, "u": normal(8, 24, 1, 1)}
    model, x = model_of(graph, weights), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    (concat,) = (node for node in model.graph if node.op_type == "Concat")
    assert (concat.outputs[0].dtype == ir.DataType.UINT8) is (factor == 1.0)
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert ("QLinearConcat" in ran) is (factor != 1.0)
    assert ran.count("DequantizeLinear") == 1
    near(got, wanted, 0.03)


def test_a_result_joined_of_very_different_ranges_stays_in_float() -> None:
    graph = "(float[1,8,9,9] x) => (float[1,16,9,9] y) { a = Conv(x, w)  b = Conv(x, v)  y = Concat <axis = 1> (a, b) }"
    weights = {"w": normal(8, 8, 1, 1), "v": normal(8, 8, 1, 1, seed=1) / 500}
    model, x = model_of(graph, weights), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    found = find_static(model)
    every = [each.index for each in found.nodes]
    _, refused = quantize_static(
        model, found, every, ranges_of(model, [{"x": x}]), StaticScheme(), lambda rule, node: True
    )
    assert any("it joins values of ranges" in reason for reason in refused.values())
    for part in (slice(0, 8), slice(8, 16)):
        near(outputs(model, {"x": x})["y"][:, part], wanted[:, part], 0.03)


CLAMPED_PARTS = [
    CONCAT,
    CONCAT.replace("Concat <axis = 1> (a, r, x)", "Concat <axis = 1> (a, b, x)")
    .replace("r = Relu(b)", "")
    .replace("y = Conv(c, u)", "d = Relu(c)  y = Conv(d, u)"),
    CONCAT.replace("r = Relu(b)", "r = Relu(b)  s = Relu(a2)  t = Concat <axis = 1> (r, s)")
    .replace("a = Conv(x, w)", "a = Conv(x, w)  a2 = Conv(x, w)")
    .replace("(a, r, x)", "(t, a)"),
]


@pytest.mark.parametrize("graph", CLAMPED_PARTS, ids=["part", "whole", "part of a part"])
def test_a_common_range_never_undoes_a_clamp(graph: str, tmp_path: Path) -> None:
    weights = {"w": normal(8, 8, 1, 1) / 2, "v": normal(8, 8, 1, 1, seed=1) / 2, "u": normal(8, 24, 1, 1)}
    model, x = model_of(graph, weights), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    _, (got,) = optimized(model, tmp_path, {"x": x})
    near(got, wanted, 0.03)


MOVERS = {
    "MaxPool <kernel_shape = [2, 2]> (a)": 1,
    "Transpose <perm = [0, 1, 3, 2]> (a)": 1,
    "Pad (a, pads)": 1,
    "Slice (a, starts, ends)": 1,
    "DepthToSpace <blocksize = 2> (a)": 1,
    'Resize <mode = "nearest"> (a, , twice)': 1,
}
MOVED = {
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "starts": np.array([0, 0, 1]),
    "ends": np.array([1, 8, 5]),
    "twice": np.array([1, 1, 2, 2], np.float32),
}


@pytest.mark.parametrize("mover", MOVERS, ids=[text.split(" ")[0] for text in MOVERS])
def test_movers_move_integers(mover: str, tmp_path: Path) -> None:
    graph = f"(float[1,8,8,8] x) => (float[1,8,h,w2] y) {{ a = Conv(x, w)  m = {mover}  y = Conv(m, v) }}"
    channels = 2 if "Depth" in mover else 8
    weights = {"w": normal(8, 8, 1, 1), "v": normal(8, channels, 1, 1, seed=1)}
    used = {name: array for name, array in MOVED.items() if name in mover}
    model, x = model_of(graph, weights | used), normal(1, 8, 8, 8, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    done, _ = quantized(model, [{"x": x}])
    assert len(done) == 3
    (node,) = (node for node in model.graph if node.op_type == mover.split(" ")[0])
    assert node.outputs[0].dtype == ir.DataType.UINT8
    assert operators(model).count("QuantizeLinear") == 3
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert (ran.count("QuantizeLinear"), ran.count("DequantizeLinear")) == (1, 1)
    near(got, wanted, 0.03)


def test_means_become_pools_and_pools_integers(tmp_path: Path) -> None:
    graph = (
        "(float[1,8,8,8] x) => (float[1,5] y) { a = Conv(x, w)  p = AveragePool <kernel_shape = [2, 2]> (a) "
        "s = Sigmoid(p)  t = Mul(p, s)  m = ReduceMean <axes = [2, 3], keepdims = 0> (t)  y = Gemm(m, v, b) }"
    )
    weights = {"w": normal(8, 8, 1, 1), "v": normal(8, 5), "b": normal(5)}
    model, x = model_of(graph, weights), normal(1, 8, 8, 8, seed=9) + 1
    wanted = outputs(model, {"x": x})["y"]
    done, refused = quantized(model, [{"x": x}])
    assert (len(done), refused) == (6, {})
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    integer = {"QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearSigmoid", "QLinearMul", "QLinearConv"}
    assert integer <= set(ran)
    assert "DequantizeLinear" not in ran
    near(got, wanted, 0.05)


# --- products


@pytest.mark.parametrize("qoperator", [True, False], ids=["operators", "portable"])
@pytest.mark.parametrize(
    ("graph", "shape"),
    [
        ("(float[n,3,32] x) => (float[n,3,16] y) { t = MatMul(x, w)  y = Add(t, b) }", (2, 3, 32)),
        ("(float[n,32] x) => (float[n,16] y) { y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b) }", (4, 32)),
        ("(float[n,32] x) => (float[n,16] y) { t = Gemm(x, w, b)  y = Relu(t) }", (4, 32)),
    ],
    ids=["matmul", "gemm", "relu"],
)
def test_products_before_floats_stay_float(graph: str, shape: tuple[int, ...], qoperator: bool, tmp_path: Path) -> None:
    model = model_of(graph, {"w": normal(32, 16), "b": normal(16, seed=1)})
    x = normal(*shape, seed=2)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}], StaticScheme(qoperator=qoperator, vendor=qoperator))
    assert operators(model).count("QuantizeLinear") == 1
    assert all(not node.domain for node in model.graph) is not qoperator
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert {"MatMulIntegerToFloat", "QGemm"} & set(ran)
    assert not {"MatMul", "Gemm"} & set(ran)
    near(got, wanted, 0.02)
    near(outputs(model, {"x": x})["y"], wanted, 0.02)


def test_a_chain_of_products_stays_integer(tmp_path: Path) -> None:
    graph = (
        "(float[n,64] x) => (float[n,10] y) "
        "{ a = Gemm(x, w, b)  r = Relu(a)  c = Gemm <transB = 1> (r, v, d)  s = Relu(c)  y = Gemm(s, u) }"
    )
    weights = {"w": normal(64, 32), "b": normal(32), "v": normal(32, 32), "d": normal(32), "u": normal(32, 10)}
    model, x = model_of(graph, weights), normal(5, 64, seed=2)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    assert operators(model).count("QuantizeLinear") == 3
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert ran == sorted(["MatMulIntegerToFloat", "QGemm", "QGemm", "QuantizeLinear"])
    near(got, wanted, 0.03)


def test_products_of_two_activations(tmp_path: Path) -> None:
    graph = "(float[2,8,16] x, float[2,16,8] z) => (float[2,8,8] y) { y = MatMul(x, z) }"
    model, feeds = model_of(graph, {}), {"x": normal(2, 8, 16), "z": normal(2, 16, 8, seed=1)}
    wanted = outputs(model, feeds)["y"]
    quantized(model, [feeds])
    ran, (got,) = optimized(model, tmp_path, feeds)
    assert ran == sorted(["MatMulIntegerToFloat", "QuantizeLinear", "QuantizeLinear"])
    near(got, wanted, 0.02)


def test_shared_weights_are_stored_once() -> None:
    graph = "(float[1,8,9,9] x) => (float[1,8,9,9] y) { a = Conv(x, w)  y = Conv(a, w) }"
    model, x = model_of(graph, {"w": normal(8, 8, 1, 1)}), normal(1, 8, 9, 9, seed=9)
    assert find_static(model).units == ((0, 1),)
    quantized(model, [{"x": x}])
    assert [ir.dims(value) for value in model.graph.initializers.values()].count((8, 8, 1, 1)) == 1


# --- stems


@pytest.mark.parametrize(
    ("channels", "kernel", "how"),
    [
        (3, (7, 7), {"stride": 2, "pads": (3, 3, 3, 3)}),
        (3, (3, 3), {"stride": 2, "pads": (0, 0, 1, 1)}),
        (3, (4, 4), {"stride": 4}),
        (3, (3, 3), {"pads": (1, 1, 1, 1)}),
        (1, (3, 3), {"stride": 2, "pads": (1, 1, 1, 1)}),
        (6, (5, 5), {"stride": 3, "pads": (2, 2, 2, 2)}),
        (3, (2, 2), {"stride": 2, "pads": (0, 5, 0, 3)}),
    ],
)
def test_stems_compute_the_same(channels: int, kernel: tuple[int, int], how: dict[str, Any], tmp_path: Path) -> None:
    pads, stride = list(how.get("pads", (0, 0, 0, 0))), how.get("stride", 1)
    attributes = f"pads = {pads}, strides = [{stride}, {stride}]"
    graph = f"(float[n,{channels},24,24] x) => (float[n,16,h,v] y) {{ y = Conv <{attributes}> (x, w, b) }}"
    weights = {"w": normal(16, channels, *kernel), "b": normal(16, seed=1)}
    model, x = model_of(graph, weights), normal(2, channels, 24, 24, seed=2)
    ranges = ranges_of(model, [{"x": x}])
    wanted = conv_by_definition(x, weights["w"], weights["b"], [ranges["x"], ranges["y"]], **how)
    quantized(model, [{"x": x}])
    ran, (got,) = optimized(model, tmp_path, {"x": x})
    assert "QLinearConv" in ran
    assert np.abs(got - wanted).max() <= 1.01 * steps(ranges["y"])[0]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_stems_with_automatic_padding(mode: str, tmp_path: Path) -> None:
    graph = f'(float[1,3,24,24] x) => (float[1,16,h,v] y) {{ y = Conv <auto_pad = "{mode}", strides = [2, 2]> (x, w) }}'
    model, x = model_of(graph, {"w": normal(16, 3, 3, 3)}), normal(1, 3, 24, 24, seed=2)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    assert "Reshape" in operators(model)
    _, (got,) = optimized(model, tmp_path, {"x": x})
    near(got, wanted, 0.02)


# --- refusals and limits


BRANCHES = (
    "(float[9,64] x, bool c) => (float[9,8] y) { y = If (c) <then_branch = g () => (float[9,8] s) "
    "{ s = MatMul(x, w) }, else_branch = h () => (float[9,8] t) { t = MatMul(x, w) }> }"
)


@pytest.mark.parametrize(
    ("graph", "weights", "reason"),
    [
        (
            "(float[1,8,9,9] x, float[8,8,1,1] w) => (float[1,8,9,9] y) { y = Conv(x, w) }",
            {},
            "its weight is not constant",
        ),
        ("(float[1,4,5] x) => (float[1,4,8] y) { y = ConvTranspose(x, w) }", {"w": normal(4, 4, 4)}, "ConvTranspose"),
        ("(float[64,9] x) => (float[9,8] y) { y = Gemm <transA = 1> (x, w) }", {"w": normal(64, 8)}, "transA"),
        ("(float[2,9,64] x) => (float[2,9,8] y) { y = MatMul(x, w) }", {"w": normal(2, 64, 8)}, "rank 3"),
        ("(float[9,64] x) => (float[9,8] y) { y = MatMul(x, w) }", {"w": normal(64, 8) * np.inf}, "not finite"),
        ("(double[9,64] x) => (double[9,8] y) { y = MatMul(x, w) }", {"w": normal(64, 8).astype(float)}, "not float"),
        (
            BRANCHES,
            {"w": normal(64, 8)},
            "inside a subgraph",
        ),
    ],
    ids=["weight", "transposed", "transA", "rank", "infinite", "double", "branch"],
)
def test_what_is_refused_says_why(graph: str, weights: dict[str, Array], reason: str) -> None:
    found = find_static(model_of(graph, weights))
    assert not [each for each in found.nodes if each.role == "product"]
    assert reason in next(iter(found.refused.values()))


def test_nodes_without_ranges_stay_float() -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    ranges = ranges_of(model, [{"x": x}])
    wanted = outputs(model, {"x": x})["y"]
    del ranges["r"]
    done, refused = quantized(model, [], ranges=ranges)
    assert done == []
    assert "no range is known for r" in next(iter(refused.values()))
    np.testing.assert_array_equal(outputs(model, {"x": x})["y"], wanted)


def test_glue_between_floats_stays_float() -> None:
    graph = "(float[1,8,9,9] x) => (float[1,8,9,9] y) { a = Add(x, x)  b = Sigmoid(a)  y = Conv(b, w) }"
    found = find_static(model_of(graph, {"w": normal(8, 8, 1, 1)}))
    assert [found.nodes[index].node.op_type for index in found.with_glue([2])] == ["Conv"]
    assert found.with_glue([]) == frozenset()


def test_fuel_ends_the_work() -> None:
    wanted = outputs(residual(), {"x": normal(2, 8, 9, 9, seed=3)})["y"]
    for limit in range(4):
        model, x, spent = residual(), normal(2, 8, 9, 9, seed=3), []

        def spend(rule: str, node: str, spent: list[str] = spent, limit: int = limit) -> bool:
            spent.append(node)
            return len(spent) <= limit

        done, _ = quantized(model, [{"x": x}], spend=spend)
        assert len(done) == min(limit, 3)
        near(outputs(model, {"x": x})["y"], wanted, 0.03)


def test_the_opset_is_raised_for_scales_per_channel() -> None:
    model, x = model_of(CONV, {"w": wide(), "b": normal(16)}, opset=11), normal(2, 8, 9, 9)
    quantized(model, [{"x": x}])
    assert model.graph.opset_imports[""] == 13
    old = model_of(CONV, {"w": wide(), "b": normal(16)}, opset=6)
    found = find_static(old)
    done, refused = quantize_static(old, found, [0], {"x": (-1, 1), "y": (-1, 1)}, VNNI, lambda rule, node: True)
    assert not done
    assert "needs opset 13" in next(iter(refused.values()))


def test_constant_activations(tmp_path: Path) -> None:
    model, x = residual(), np.full((2, 8, 9, 9), 0.25, np.float32)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    near(optimized(model, tmp_path, {"x": x})[1][0], wanted, 0.03)
    model, x = residual(), np.zeros((2, 8, 9, 9), np.float32)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}])
    near(optimized(model, tmp_path, {"x": x})[1][0], wanted, 0.03)


@pytest.mark.parametrize("vendor", [True, False])
def test_sixteen_bits_are_nearly_float(vendor: bool) -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}], StaticScheme(activation="u16", vendor=vendor, qoperator=vendor))
    assert model.graph.opset_imports[""] == (17 if vendor else 21)
    near(outputs(model, {"x": x})["y"], wanted, 0.01)


def test_signed_activations() -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, [{"x": x}], StaticScheme(activation="s8"))
    integers = [node.outputs[0] for node in model.graph if node.op_type == "QuantizeLinear"]
    assert {value.dtype for value in integers} == {ir.DataType.INT8}
    near(outputs(model, {"x": x})["y"], wanted, 0.02)


def test_portable_models_have_standard_operators_only() -> None:
    model, x = residual(), normal(2, 8, 9, 9, seed=3)
    quantized(model, [{"x": x}], StaticScheme.of(Target.cpu(isa={"avx2"}), vendor=False))
    assert all(not node.domain for node in model.graph)


@pytest.mark.parametrize("scheme", [StaticScheme(), StaticScheme("u16")])
@pytest.mark.parametrize(
    "reader", ["y = Conv(a, v)", "y = Conv(b, v)", "c = Conv(a, v)  d = Conv(b, v)  y = Add(c, d)"]
)
def test_every_used_part_of_a_split_is_there(scheme: StaticScheme, reader: str) -> None:
    graph = (
        f"(float[n,8,9,9] x) => (float[n,4,7,7] y) {{ t = Conv(x, w)  a, b = Split <axis = 1> (t, sizes)  {reader} }}"
    )
    weights = {"w": normal(16, 8, 3, 3), "v": normal(4, 8, 1, 1), "sizes": np.array([8, 8])}
    model, feeds = model_of(graph, weights), {"x": normal(2, 8, 9, 9, seed=1)}
    wanted = outputs(model, feeds)["y"]
    quantized(model, [feeds], scheme)
    assert "Split" in operators(model)
    np.testing.assert_allclose(outputs(model, feeds)["y"], wanted, atol=0.05 * np.abs(wanted).max())


def test_a_crop_that_fills_with_floats_is_no_mover() -> None:
    graph = """(float[1,8,9,9] x) => (float[1,4,14,14] y) { t = Conv(x, w)  r = Resize <mode = "nearest",
    coordinate_transformation_mode = "tf_crop_and_resize"> (t, roi, scales)  y = Conv(r, v) }"""
    roi = np.array([0, 0, -0.5, -0.5, 1, 1, 1.5, 1.5], np.float32)
    weights = {"w": normal(16, 8, 3, 3), "v": normal(4, 16, 1, 1), "roi": roi}
    model = model_of(graph, {**weights, "scales": np.array([1, 1, 2, 2], np.float32)})
    feeds = {"x": normal(1, 8, 9, 9, seed=1) + 2}
    wanted = outputs(model, feeds)["y"]
    quantized(model, [feeds])
    np.testing.assert_allclose(outputs(model, feeds)["y"], wanted, atol=0.05 * np.abs(wanted).max())


def test_a_bias_that_switches_results_off_stays() -> None:
    weights = {"w": normal(48, 40), "b": np.where(np.arange(40) == 3, -np.inf, 1).astype(np.float32)}
    model = model_of("(float[n,48] x) => (float[n,40] y) { m = MatMul(x, w)  y = Add(m, b) }", weights)
    feeds = {"x": normal(5, 48, seed=1)}
    wanted = outputs(model, feeds)["y"]
    assert len(quantized(model, [feeds])[0]) == 1
    got = outputs(model, feeds)["y"]
    np.testing.assert_array_equal(got[:, 3], wanted[:, 3])
    np.testing.assert_allclose(np.delete(got, 3, 1), np.delete(wanted, 3, 1), atol=0.5)


def test_where_the_maxima_are_is_not_lost() -> None:
    graph = """(float[n,8,9,9] x) => (float[n,4,7,7] y, int64[n,16,7,7] i) { t = Conv(x, w)
    m, i = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (t)  y = Conv(m, v) }"""
    model = model_of(graph, {"w": normal(16, 8, 3, 3), "v": normal(4, 16, 1, 1)})
    feeds = {"x": normal(1, 8, 9, 9, seed=1)}
    wanted = outputs(model, feeds)
    assert {each.node.op_type for each in find_static(model).nodes} == {"Conv"}
    quantized(model, [feeds])
    got = outputs(model, feeds)
    assert got["i"].shape == wanted["i"].shape
    np.testing.assert_allclose(got["y"], wanted["y"], atol=0.05 * np.abs(wanted["y"]).max())


@pytest.mark.parametrize("turned", [0, 1])
def test_products_that_were_fused_before_are_products(turned: int) -> None:
    graph = f"""(float[n,3,48] x) => (float[n,3,40] y) {{
    m = com.microsoft.FusedMatMul <alpha = 0.5, transB = {turned}> (x, w)  y = Add(m, b) }}"""
    weights = {"w": normal(40, 48) if turned else normal(48, 40), "b": normal(40)}
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> main {graph}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    model = ir.from_proto(proto)
    infer_model(model)
    feeds = {"x": normal(2, 3, 48, seed=1)}
    wanted = outputs(model, feeds)["y"]
    assert len(quantized(model, [feeds])[0]) == 1
    assert "MatMulIntegerToFloat" in operators(model)
    np.testing.assert_allclose(outputs(model, feeds)["y"], wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "last", ["y = Sigmoid(a)", "b = Sigmoid(a)  y = Concat <axis = 1> (b, b)"], ids=["out", "joined"]
)
def test_a_bounded_result_keeps_its_whole_range(last: str) -> None:
    """Calibration that saw no clear case must not cut off the clear ones."""
    graph = f"(float[1,8,9,9] x) => (float[1,?,9,9] y) {{ a = Conv(x, w)  {last} }}".replace(
        "?", "8" if "b" not in last else "16"
    )
    weights = {"w": normal(8, 8, 1, 1)}
    model, x = model_of(graph, weights), normal(1, 8, 9, 9, seed=9)
    wanted = outputs(model, {"x": x})["y"]
    ranges = {**ranges_of(model, [{"x": x}]), "y": (0.0, 0.2), "b": (0.0, 0.2)}
    every = find_static(model)
    quantize_static(model, every, [each.index for each in every.nodes], ranges, StaticScheme(), lambda rule, node: True)
    assert wanted.max() > 0.9
    near(outputs(model, {"x": x})["y"], wanted, 0.03)
