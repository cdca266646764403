import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantized_graphs import Array, model_of, normal, operators, outputs

from accelc import ir, measure
from accelc.backends import kernels
from accelc.backends.cpu import CpuBackend
from accelc.context import Context, Fuel, Settings
from accelc.data import Feed, Sample
from accelc.errors import UsageError
from accelc.infer import infer_model
from accelc.pass_base import PassResult, make_pass, run_pass
from accelc.passes.quantization.emit import quantize_layers
from accelc.passes.quantization.layers import find_layers
from accelc.passes.quantization.numbers import Scheme, dynamic_quantize, quantize_rows, quantize_weight, smoothing
from accelc.passes.quantization.trial import Trial
from accelc.passes.quantize import METADATA, Quantize
from accelc.runner import Runner
from accelc.target import Target

pytestmark = pytest.mark.usefixtures("own_cache")

MODELS = Path(__file__).parents[2] / "models"
AVX2 = Target.cpu(isa={"avx2", "avx", "fma"}, kernels=kernels.table("CPUExecutionProvider"))
VNNI = Target.cpu(isa={"avx2", "avx512", "avx512_vnni"}, kernels=kernels.table("CPUExecutionProvider"))
CUDA = Target("cuda", "CUDAExecutionProvider", kernels=kernels.table("CUDAExecutionProvider"))


def quantized(
    model: ir.Model,
    runner: Runner,
    feeds: Sequence[Mapping[str, Array]],
    *,
    target: Target | None = None,
    settings: Settings | None = None,
    fuel: Fuel | None = None,
    **options: Any,
) -> PassResult:
    samples = [Sample(Feed(feed, "test"), outputs(model, feed)) for feed in feeds]
    ctx = Context(
        target or CpuBackend().target(),
        settings or Settings(measure=True),
        backend=CpuBackend(),
        runner=runner,
        samples=lambda: samples,
        fuel=fuel,
    )
    return run_pass(make_pass(Quantize, {"measure": False, **options}), model, ctx)


def reference(a: Array, weight: Array, bias: Array | float = 0.0, *, top: int | None = 127) -> Array:
    """a @ weight + bias with a in u8 per tensor (DynamicQuantizeLinear-11) and the weight symmetric per column.

    top: the largest weight; None where no two neighbours may add up to more than 127, before they are rounded.
    """
    low, high = min(float(a.min()), 0.0), max(float(a.max()), 0.0)
    a_scale = np.float32((high - low) / 255)
    a_zero = np.clip(np.rint(-low / a_scale), 0, 255)
    a_int = np.clip(np.rint(a / a_scale) + a_zero, 0, 255).astype(np.int64) - int(a_zero)
    w_scale = np.abs(weight).max(axis=0) / np.float32(top or 127)
    if top is None:
        w_scale = np.maximum(w_scale, np.abs(weight[1:] + weight[:-1]).max(axis=0) / np.float32(127))
    w_int = np.rint(weight / w_scale).astype(np.int64)
    return ((a_int @ w_int) * (a_scale * w_scale) + bias).astype(np.float32)


MATMUL = "(float[n,64] x) => (float[n,48] y) { t = MatMul(x, w)  y = Add(t, b) }"


@pytest.mark.parametrize(
    ("target", "options", "portable", "top"),
    [
        (VNNI, {}, False, 127),
        (VNNI, {}, True, 127),
        (VNNI, {"bits": 7}, False, 63),
        (AVX2, {}, False, None),
        (AVX2, {}, True, None),
        (AVX2, {"bits": 7}, False, 63),
        (AVX2, {"bits": 8}, False, 127),
        (AVX2, {"bits": 8}, True, 127),
    ],
    ids=[
        "vnni",
        "vnni portable",
        "vnni 7 bits",
        "avx2",
        "avx2 portable",
        "avx2 7 bits",
        "avx2 u8",
        "avx2 u8 portable",
    ],
)
def test_numbers_are_those_of_the_definition(
    runner: Runner, target: Target, options: dict[str, Any], portable: bool, top: int | None
) -> None:
    weights = {"w": normal(64, 48) * np.linspace(0.1, 5, 48, dtype=np.float32), "b": normal(48, seed=1)}
    model, x = model_of(MATMUL, weights), normal(9, 64, seed=2) + 0.5
    result = quantized(model, runner, [{"x": x}], target=target, settings=Settings(portable=portable), **options)
    assert result.changes == 1
    wanted = reference(x, weights["w"], weights["b"], top=top)
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-4)
    if portable:
        assert all(not node.domain for node in ir.walk(model))
        assert "MatMulInteger" in operators(model)
    else:
        assert operators(model) == ["DynamicQuantizeMatMul"]


def test_one_scale_for_the_whole_weight(runner: Runner) -> None:
    weights = {"w": normal(64, 48), "b": normal(48, seed=1)}
    model, x = model_of(MATMUL, weights), normal(9, 64, seed=2)
    quantized(model, runner, [{"x": x}], per_channel=False)
    (scale,) = (value for name, value in model.graph.initializers.items() if "scale" in name)
    assert ir.dims(scale) == ()
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], x @ weights["w"] + weights["b"], atol=0.4)


def test_seven_bits_cannot_saturate_in_pairs() -> None:
    """vpmaddubsw adds two products of u8 x s8 in 16 bits; 255 * 127 * 2 does not fit."""
    extreme = np.array([[1.0, -1.0], [1.0, -1.0]], np.float32)
    for bits, fits in ((7, True), (8, False)):
        values = quantize_weight(extreme, Scheme(bits=bits)).values.astype(np.int64)
        pairs = 255 * values.sum(axis=0)
        assert bool((np.abs(pairs) <= 2**15 - 1).all()) is fits
    chosen = Scheme.of(AVX2, bits=None, per_channel=True, vendor=True)
    assert (chosen.bits, chosen.unsigned) == (7, False)
    insisted = Scheme.of(AVX2, bits=8, per_channel=True, vendor=True)
    assert (insisted.bits, insisted.unsigned) == (8, True)
    exact = Scheme.of(VNNI, bits=None, per_channel=True, vendor=True)
    assert (exact.bits, exact.unsigned) == (8, False)


@pytest.mark.parametrize("per_channel", [True, False])
def test_columns_have_the_bits_that_their_neighbours_leave(per_channel: bool) -> None:
    """Between 7 and 8, and no two products with the largest activation overflow 16 bits."""
    scheme = Scheme.of(AVX2, bits=None, per_channel=per_channel, vendor=True)
    weight = normal(384, 300)
    weight[:, 7] = np.linspace(0.99, 1, 384)
    weight[::2, 8] *= 1e-3
    int8 = quantize_weight(weight, scheme)
    values = int8.values.astype(np.int64)
    assert np.abs(255 * (values[1:] + values[:-1])).max() <= 2**15 - 1
    assert (np.abs(int8.floats() - weight) <= int8.scales * 0.5001).all()
    if per_channel:
        tops = np.abs(values).max(axis=0)
        assert tops.min() >= 63
        assert list(tops[7:9]) == [64, 127]
        assert np.mean(tops) > 80
    plain = quantize_weight(weight, Scheme(bits=7, per_channel=per_channel))
    errors = [float(np.square(each.floats() - weight).sum()) for each in (int8, plain)]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("scheme", [Scheme(), Scheme(bits=7), Scheme(unsigned=True), Scheme(per_channel=False)])
def test_weights_round_to_the_nearest_step(scheme: Scheme) -> None:
    weight = normal(32, 8)
    weight[:, 3] = 0
    weight[:, 4] = 1e-42
    int8 = quantize_weight(weight, scheme)
    assert int8.values.dtype == (np.uint8 if scheme.unsigned else np.int8)
    assert np.isfinite(int8.scales).all()
    assert (np.abs(int8.floats() - weight) <= int8.scales * 0.5001).all()
    assert np.abs(int8.values.astype(int) - scheme.zero_point).max() == scheme.top


def test_rows_of_a_table_round_to_the_nearest_step() -> None:
    table = normal(10, 16) * np.logspace(-3, 3, 10, dtype=np.float32)[:, None]
    rows = quantize_rows(table)
    assert rows.values.dtype == np.int8
    assert (np.abs(rows.floats() - table) <= rows.scales * 0.5001).all()


def test_dynamic_quantize_is_the_runtimes_operator() -> None:
    graph = "(float[n,8] x) => (uint8[n,8] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }"
    for x in (normal(4, 8), np.abs(normal(4, 8)) + 1, -np.abs(normal(4, 8)) - 1):
        values, scale, zero = dynamic_quantize(x)
        wanted = outputs(model_of(graph, {}), {"x": x})
        assert (values == wanted["q"]).all()
        assert (scale, zero) == (wanted["s"], wanted["z"])


@pytest.mark.parametrize(
    ("attrs", "w_shape", "c_shape", "expected"),
    [
        ("", (64, 48), None, ["DynamicQuantizeMatMul"]),
        ("<transB = 1>", (48, 64), (48,), ["DynamicQuantizeMatMul"]),
        ("<alpha = 0.5, beta = 2.0, transB = 1>", (48, 64), (1, 48), ["DynamicQuantizeMatMul"]),
        ("<beta = 0.25>", (64, 48), (1,), ["DynamicQuantizeMatMul"]),
        ("<beta = 0.0>", (64, 48), (48,), ["DynamicQuantizeMatMul"]),
        ("<alpha = -1.5>", (64, 48), (9, 48), ["Add", "DynamicQuantizeMatMul"]),
        ("<beta = 3.0>", (64, 48), (9, 1), ["Add", "DynamicQuantizeMatMul", "Mul"]),
    ],
)
def test_gemm_forms(
    runner: Runner, attrs: str, w_shape: tuple[int, ...], c_shape: tuple[int, ...] | None, expected: list[str]
) -> None:
    weights = {"w": normal(*w_shape)} | ({} if c_shape is None else {"c": normal(*c_shape, seed=1)})
    inputs = "x, w" if c_shape is None else "x, w, c"
    model = model_of(f"(float[9,64] x) => (float[9,48] y) {{ y = Gemm {attrs} ({inputs}) }}", weights)
    x = normal(9, 64, seed=2)
    wanted = outputs(model, {"x": x})["y"]
    assert quantized(model, runner, [{"x": x}]).changes == 1
    assert operators(model) == expected
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], wanted, atol=0.02 * np.abs(wanted).max())


def test_gemm_with_a_computed_term(runner: Runner) -> None:
    graph = "(float[9,64] x, float[9,48] c) => (float[9,48] y) { d = Relu(c)  y = Gemm <beta = 2.0> (x, w, d) }"
    model, feed = model_of(graph, {"w": normal(64, 48)}), {"x": normal(9, 64, seed=2), "c": normal(9, 48, seed=3)}
    wanted = outputs(model, feed)["y"]
    assert quantized(model, runner, [feed]).changes == 1
    np.testing.assert_allclose(outputs(model, feed)["y"], wanted, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("graph", "weights", "reason"),
    [
        ("(float[64,9] x) => (float[9,48] y) { y = Gemm <transA = 1> (x, w) }", {"w": normal(64, 48)}, "transA"),
        ("(double[9,64] x) => (double[9,48] y) { y = MatMul(x, w) }", {"w": normal(64, 48).astype(float)}, "double"),
        ("(float[2,9,64] x) => (float[2,9,48] y) { y = MatMul(x, w) }", {"w": normal(2, 64, 48)}, "rank 3"),
        ("(float[64] x) => (float[48] y) { y = MatMul(x, w) }", {"w": normal(64, 48)}, "rank 1"),
        ("(float[9,8] x) => (float[9,8] y) { y = MatMul(x, w) }", {"w": normal(8, 8)}, "too small"),
        ("(float[9,64] x) => (float[9,48] y) { y = MatMul(x, w) }", {"w": normal(64, 48) * np.inf}, "not finite"),
        (
            "(float[9,64] x) => (float[9,48] y, float[64,48] z) { y = MatMul(x, w)  z = Relu(w) }",
            {"w": normal(64, 48)},
            "also used by node Relu1",
        ),
    ],
    ids=["transA", "double", "rank 3", "vector", "small", "infinite", "used elsewhere"],
)
def test_what_is_refused_says_why(graph: str, weights: dict[str, Array], reason: str) -> None:
    found = find_layers(model_of(graph, weights), embeddings=True, portable=False)
    assert not found.layers
    assert reason in next(iter(found.refused.values()))


def test_an_add_that_is_no_bias_stays(runner: Runner) -> None:
    graph = (
        "(float[2,9,64] x) => (float[2,9,48] y, float[2,9,48] z, float[2,9,48] u) "
        "{ s = MatMul(x, w)  y = Add(b, s)  t = MatMul(x, v)  z = Add(t, c)  u = Relu(t) }"
    )
    weights = {"w": normal(64, 48), "v": normal(64, 48, seed=1), "b": normal(9, 48), "c": normal(48)}
    model, x = model_of(graph, weights), normal(2, 9, 64, seed=2)
    wanted = outputs(model, {"x": x})
    assert quantized(model, runner, [{"x": x}]).changes == 2
    assert operators(model).count("Add") == 2
    for name, value in outputs(model, {"x": x}).items():
        np.testing.assert_allclose(value, wanted[name], atol=0.02 * np.abs(wanted[name]).max())


def test_bias_on_the_left_with_leading_ones_is_absorbed(runner: Runner) -> None:
    graph = "(float[2,9,64] x) => (float[2,9,48] y) { s = MatMul(x, w)  y = Add(b, s) }"
    model, x = model_of(graph, {"w": normal(64, 48), "b": normal(1, 48, seed=1)}), normal(2, 9, 64, seed=2)
    wanted = outputs(model, {"x": x})["y"]
    quantized(model, runner, [{"x": x}])
    assert operators(model) == ["DynamicQuantizeMatMul"]
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], wanted, atol=0.02 * np.abs(wanted).max())


QKV = (
    "(float[n,64] x) => (float[n,64] q, float[n,64] k, float[n,64] v) "
    "{ q = MatMul(x, wq)  k = MatMul(x, wk)  t = MatMul(x, wv)  v = Add(t, b) }"
)


@pytest.mark.parametrize("portable", [False, True])
def test_layers_with_one_input_quantize_it_once(runner: Runner, portable: bool) -> None:
    weights = {name: normal(64, 64, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))} | {"b": normal(64)}
    model, x = model_of(QKV, weights), normal(9, 64, seed=5)
    result = quantized(model, runner, [{"x": x}], settings=Settings(portable=portable), bits=8, target=VNNI)
    assert result.changes == 3
    assert operators(model).count("DynamicQuantizeLinear") == 1
    assert operators(model).count("MatMulInteger" if portable else "MatMulIntegerToFloat") == 3
    found = outputs(model, {"x": x})
    for name, bias in (("q", 0), ("k", 0), ("v", weights["b"])):
        wanted = reference(x, weights[f"w{name}"], bias)
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-4)


def test_shared_weights_are_stored_once(runner: Runner) -> None:
    graph = "(float[n,64] x) => (float[n,64] y) { s = MatMul(x, w)  t = Relu(s)  y = MatMul(t, w) }"
    model, x = model_of(graph, {"w": normal(64, 64)}), normal(9, 64, seed=5)
    wanted = outputs(model, {"x": x})["y"]
    assert quantized(model, runner, [{"x": x}]).changes == 2
    assert [ir.const(v).dtype.name for v in model.graph.initializers.values()] == ["int8", "float32"]  # type: ignore[union-attr]
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], wanted, atol=0.05 * np.abs(wanted).max())


def test_a_chain_without_anything_between(runner: Runner) -> None:
    graph = "(float[n,64] x) => (float[n,32] y) { s = MatMul(x, w)  t = Add(s, b)  y = Gemm(t, v) }"
    model = model_of(graph, {"w": normal(64, 64), "v": normal(64, 32, seed=1), "b": normal(64)})
    x = normal(9, 64, seed=5)
    wanted = outputs(model, {"x": x})["y"]
    assert quantized(model, runner, [{"x": x}]).changes == 2
    assert operators(model) == ["DynamicQuantizeMatMul"] * 2
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], wanted, atol=0.05 * np.abs(wanted).max())


def test_layers_in_a_branch_use_weights_from_outside(runner: Runner) -> None:
    graph = (
        "(float[n,64] x, bool c) => (float[n,48] y) "
        "{ y = If (c) <then_branch = g () => (float[n,48] s) { s = MatMul(x, w) }, "
        "else_branch = h () => (float[n,48] t) { r = MatMul(x, w)  t = Relu(r) }> }"
    )
    model = model_of(graph, {"w": normal(64, 48)})
    feeds = [{"x": normal(9, 64), "c": np.array(flag)} for flag in (True, False)]
    wanted = [outputs(model, feed)["y"] for feed in feeds]
    assert quantized(model, runner, feeds).changes == 2
    assert operators(model) == ["DynamicQuantizeMatMul"] * 2 + ["If", "Relu"]
    for feed, value in zip(feeds, wanted, strict=True):
        np.testing.assert_allclose(outputs(model, feed)["y"], value, atol=0.02 * np.abs(value).max())


TABLE = "(int64[n,5] i) => (float[n,5,48] y) { x = Gather(table, i)  y = MatMul(x, w) }"


@pytest.mark.parametrize("form", ["vendor", "portable", "float"])
def test_tables_become_rows_with_scales(runner: Runner, form: str) -> None:
    table = normal(2000, 64) * np.logspace(-2, 2, 2000, dtype=np.float32)[:, None]
    model = model_of(TABLE, {"table": table, "w": normal(64, 48)})
    i = np.array([[0, 5, 1999, -1, -2000], [7, 7, 3, 2, 1]])
    wanted = outputs(model, {"i": i})["y"]
    before = ir.initializer_bytes(model)
    embeddings = form != "float"
    settings = Settings(portable=form == "portable")
    assert quantized(model, runner, [{"i": i}], embeddings=embeddings, settings=settings).changes == 1 + embeddings
    assert operators(model).count("Gather") == {"vendor": 0, "portable": 2, "float": 1}[form]
    assert operators(model).count("GatherBlockQuantized") == (form == "vendor")
    assert (ir.initializer_bytes(model) < before / 3) is embeddings
    error = np.abs(outputs(model, {"i": i})["y"] - wanted)
    assert error.max() < 0.02 * np.abs(wanted).max()


@pytest.mark.parametrize("columns", [8, 16, 100])
def test_both_forms_of_a_table_give_the_same_numbers(columns: int) -> None:
    i, found = np.array([3, 0, -1]), []
    for vendor in (True, False):
        model = model_of(
            f"(int64[3] i) => (float[3,{columns}] y) {{ y = Gather(table, i) }}", {"table": normal(40000, columns)}
        )
        layers = find_layers(model, embeddings=True, portable=not vendor).layers
        assert len(quantize_layers(model, layers, Scheme(vendor=vendor), lambda *_: True)) == 1
        found.append(outputs(model, {"i": i})["y"])
    np.testing.assert_array_equal(*found)


def test_a_tied_table_goes_with_its_product_or_stays(runner: Runner) -> None:
    graph = "(int64[n] i) => (float[n,2000] y) { x = Gather(table, i)  y = Gemm <transB = 1> (x, table) }"
    for embeddings in (True, False):
        model = model_of(graph, {"table": normal(2000, 64)})
        result = quantized(model, runner, [{"i": np.arange(9)}], embeddings=embeddings)
        assert result.changes == (2 if embeddings else 0)
        dtypes = {value.dtype for value in model.graph.initializers.values() if len(ir.dims(value) or ()) == 2}
        assert (ir.DataType.INT8 in dtypes) is embeddings


@pytest.mark.parametrize("bits", [4, 8])
def test_a_table_and_its_product_share_blocks(runner: Runner, bits: int) -> None:
    graph = "(int64[1] i) => (float[1,2000] y) { x = Gather(table, i)  y = Gemm <transB = 1> (x, table) }"
    model = model_of(graph, {"table": normal(2000, 128)})
    before = ir.initializer_bytes(model)
    options = {"scheme": "weights", "bits": bits, "islands": False}
    result = quantized(model, runner, [{"i": np.array([7])}], settings=Settings(max_drop=0.5), **options)
    assert result.changes == 2
    assert {"GatherBlockQuantized", "MatMulNBits"} <= set(operators(model))
    assert ir.initializer_bytes(model) < before * (bits + 2) / 32


def test_four_bits_become_eight_where_they_are_too_few(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    options = {"scheme": "weights", "bits": 4, "block_size": 64}
    result = quantized(model, runner, [{"x": normal(9, 64)}], settings=Settings(max_drop=0.001), **options)
    assert [each["form"] for each in result.details["layers"]] == ["weight8"]


def test_nothing_in_a_batch_is_fine(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    quantized(model, runner, [{"x": normal(9, 64)}])
    assert outputs(model, {"x": np.zeros((0, 64), np.float32)})["y"].shape == (0, 48)


def test_old_opsets(runner: Runner) -> None:
    weights = {name: normal(64, 64, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))} | {"b": normal(64)}
    model, x = model_of(QKV, weights, opset=9), normal(9, 64, seed=5)
    assert quantized(model, runner, [{"x": x}]).changes == 3
    assert operators(model) == ["DynamicQuantizeMatMul"] * 3
    np.testing.assert_allclose(outputs(model, {"x": x})["q"], x @ weights["wq"], atol=0.5)
    model = model_of(QKV, weights, opset=9)
    result = quantized(model, runner, [{"x": x}], settings=Settings(portable=True))
    assert result.skipped
    assert "opset 11" in result.details["layers"][0]["reason"]


def test_the_file_shrinks_and_says_how(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    model.metadata_props["author"] = "someone"
    before = ir.to_proto(model).ByteSize()
    result = quantized(model, runner, [{"x": normal(9, 64)}], target=AVX2)
    assert ir.to_proto(model).ByteSize() < before / 2
    entry = json.loads(model.metadata_props[METADATA])
    assert entry["bits"] == 7
    assert entry["isa"] == sorted(AVX2.isa)
    assert entry["layers"] == ["MatMul0"]
    assert model.metadata_props["author"] == "someone"
    assert "1 of 1 layers in int8" in result.notes[0]
    assert "cosine" in result.notes[0]
    again = quantized(model, runner, [{"x": normal(9, 64)}]).skipped
    assert again.startswith("already quantized by accelc (dynamic u8 x s8, 7 to 8 bits")


def test_outputs_keep_their_names_and_types(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    signature = [ir.value_info(value).SerializeToString() for value in model.graph.outputs]
    quantized(model, runner, [{"x": normal(9, 64)}])
    assert [ir.value_info(value).SerializeToString() for value in model.graph.outputs] == signature


# --- the choice


def outlying_column() -> tuple[ir.Model, dict[str, Array]]:
    """The second product gets one input that is a thousand times the others, and multiplies it by almost nothing."""
    graph = "(float[9,64] x) => (float[9,64] y, float[9,64] z) { y = MatMul(x, w)  t = Mul(x, s)  z = MatMul(t, v) }"
    scales, v = np.ones(64, np.float32), normal(64, 64, seed=1)
    scales[7], v[7] = 1000.0, 1e-3
    return model_of(graph, {"w": normal(64, 64), "v": v, "s": scales}), {"x": normal(9, 64, seed=2)}


def outlying_row() -> tuple[ir.Model, dict[str, Array]]:
    """One row of the second product's input is a thousand times the others, and is made smaller afterwards."""
    graph = (
        "(float[9,64] x) => (float[9,64] y, float[9,64] z) "
        "{ y = MatMul(x, w)  t = Mul(x, s)  u = MatMul(t, v)  z = Div(u, s) }"
    )
    scales = np.ones((9, 1), np.float32)
    scales[4] = 1000.0
    weights = {"w": normal(64, 64), "v": normal(64, 64, seed=1), "s": scales}
    return model_of(graph, weights), {"x": normal(9, 64, seed=2)}


@pytest.mark.parametrize("portable", [False, True])
def test_outlying_columns_are_smoothed(runner: Runner, portable: bool) -> None:
    model, feed = outlying_column()
    wanted = outputs(model, feed)
    result = quantized(model, runner, [feed], settings=Settings(portable=portable))
    assert result.changes == 2
    assert "1 smoothed" in result.notes[0]
    assert [each["smoothed"] for each in result.details["layers"]] == [False, True]
    for name, value in outputs(model, feed).items():
        error = np.linalg.norm(value - wanted[name]) / np.linalg.norm(wanted[name])
        assert error < 0.14, name


def test_sensitive_layers_stay_in_float(runner: Runner) -> None:
    model, feed = outlying_row()
    wanted = outputs(model, feed)
    result = quantized(model, runner, [feed])
    assert result.changes == 1
    assert operators(model) == ["Div", "DynamicQuantizeMatMul", "MatMul", "Mul"]
    assert np.array_equal(outputs(model, feed)["z"], wanted["z"])
    reasons = {each["node"]: each["reason"] for each in result.details["layers"]}
    assert "too sensitive" in reasons["node MatMul2 (MatMul)"]
    assert not reasons["node MatMul0 (MatMul)"]


def test_smoothing_changes_no_product() -> None:
    model, feed = outlying_column()
    found = find_layers(model, embeddings=False, portable=False).layers[1]
    a = feed["x"] * ir.const(model.graph.initializers["s"])
    divisors = smoothing(a)
    assert divisors is not None
    assert divisors.min() >= 1
    assert divisors.argmax() == 7
    np.testing.assert_allclose(
        (a / divisors) @ replace(found, smooth=divisors).matrix(), a @ found.matrix(), rtol=1e-4, atol=1e-4
    )
    assert smoothing(normal(9, 64)) is None
    assert smoothing(np.zeros((9, 64), np.float32)) is None


def test_a_budget_that_is_too_tight_leaves_float(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    before = ir.to_proto(model).SerializeToString()
    result = quantized(model, runner, [{"x": normal(9, 64)}], settings=Settings(max_drop=1e-9))
    assert result.changes == 0
    assert "--max-drop" in result.skipped
    assert ir.to_proto(model).SerializeToString() == before


def comparison(ratio: float, verdict: measure.Verdict) -> measure.Comparison:
    return measure.Comparison(ratio, ratio * 0.98, ratio * 1.02, verdict, 1.0, 1 / ratio, 1.0, 1 / ratio, 20, 0.01)


def _alone(ratio: float) -> Callable[..., float]:
    """Let every shape be this much faster in the dynamic form, and slower in any other."""
    return lambda _gains, form, *_: ratio if form == "dynamic" else 0.5


def timed(monkeypatch: pytest.MonkeyPatch, alone: float, *whole: measure.Comparison) -> None:
    """Let every layer alone, and the whole candidates in order, be this much faster."""
    monkeypatch.setattr("accelc.passes.quantization.gains.Gains.time_alone", _alone(alone))
    monkeypatch.setattr(Trial, "compare", lambda self, candidates, seconds: list(whole[: len(candidates)]))


@pytest.mark.parametrize("verdict", ["slower", "same"])
def test_what_is_not_faster_is_undone(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, verdict: measure.Verdict
) -> None:
    timed(monkeypatch, 2.0, comparison(0.9, verdict))
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    before = ir.to_proto(model).SerializeToString()
    result = quantized(model, runner, [{"x": normal(9, 64)}], measure=True)
    assert result.changes == 0
    assert result.skipped.startswith("nothing beats float: ratio 0.90")
    assert ir.to_proto(model).SerializeToString() == before


def test_what_is_faster_is_kept_and_the_ratio_is_told(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 2.0, comparison(1.5, "faster"))
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    result = quantized(model, runner, [{"x": normal(9, 64)}], measure=True)
    assert result.changes == 1
    assert "1.50 (1.47 to 1.53) times as fast" in result.notes[0]
    assert result.details["layers"][0]["shape"] == [9, 64, 48]


def test_layers_that_are_slower_alone_are_left_out(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 0.7, comparison(1.5, "faster"))
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    result = quantized(model, runner, [{"x": normal(9, 64)}], measure=True)
    assert "every layer" in result.skipped
    assert "float is faster alone: 0.70" in result.details["layers"][0]["reason"]


@pytest.mark.parametrize("with_table", [comparison(1.2, "faster"), comparison(1.49, "same")])
def test_tables_that_cost_time_stay(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, with_table: measure.Comparison
) -> None:
    timed(monkeypatch, 2.0, with_table, comparison(1.5, "faster"))
    model = model_of(TABLE, {"table": normal(2000, 64), "w": normal(64, 48)})
    result = quantized(model, runner, [{"i": np.array([[0, 5, 1, 4, 2]])}], measure=True)
    assert result.changes == 1
    assert operators(model) == ["DynamicQuantizeMatMul", "Gather"]
    assert any("slower with it" in each["reason"] for each in result.details["layers"])


def test_a_real_measurement(runner: Runner) -> None:
    """A wide product is timed alone and in the model; whatever comes out is applied or explained."""
    model = model_of("(float[n,256] x) => (float[n,512] y) { y = MatMul(x, w) }", {"w": normal(256, 512)})
    result = quantized(model, runner, [{"x": normal(64, 256)}], measure=True, budget=1.0)
    assert (result.changes == 1) != result.skipped.startswith("nothing beats float")


# --- the circumstances


def test_no_samples_no_change(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    assert "no inputs" in quantized(model, runner, []).skipped


def test_not_on_cuda(runner: Runner) -> None:
    model = model_of(MATMUL, {"w": normal(64, 48), "b": normal(48)})
    result = quantized(model, runner, [{"x": normal(9, 64)}], target=CUDA)
    assert "CUDAExecutionProvider has no int8 kernels" in result.skipped


def test_fuel_stops_it(runner: Runner) -> None:
    weights = {name: normal(64, 64, seed=seed) for seed, name in enumerate(("wq", "wk", "wv"))} | {"b": normal(64)}
    model, x = model_of(QKV, weights), normal(9, 64, seed=5)
    fuel = Fuel(limit=2)
    assert quantized(model, runner, [{"x": x}], fuel=fuel).changes == 2
    assert [record.node for record in fuel.records] == ["node MatMul0 (MatMul)", "node MatMul1 (MatMul)"]
    assert operators(model) == ["Add", "DynamicQuantizeLinear", "MatMul"] + ["MatMulIntegerToFloat"] * 2


def test_wrong_options_are_refused() -> None:
    for options in (
        {"bits": 5},
        {"bits": 4, "scheme": "dynamic"},
        {"bits": 7, "scheme": "weights"},
        {"block_size": 24},
        {"scheme": "int8"},
        {"ranges": "guess"},
        {"budget": 0},
        {"speed": 1},
    ):
        with pytest.raises(UsageError):
            make_pass(Quantize, options)


# --- trained models


def fold_transposes(model: ir.Model) -> ir.Model:
    """Weights as the earlier passes leave them: transposed once, not at run time."""
    for node in list(model.graph):
        array = ir.const(node.inputs[0]) if node.op_type == "Transpose" else None
        if array is not None:
            value = node.outputs[0]
            new = ir.new_constant(
                next(ir.scopes(model)), ir.names(model), "w", ir.array_tensor(np.ascontiguousarray(array.T))
            )
            value.replace_all_uses_with(new)
            model.graph.remove(node, safe=True)
    for value in list(model.graph.initializers.values()):
        if not value.uses():
            del model.graph.initializers[str(value.name)]
    return model


@pytest.mark.parametrize("target", [VNNI, AVX2], ids=["8 bits", "7 bits"])
@pytest.mark.parametrize(("name", "layers"), [("digits_mlp", 4), ("text_encoder", 18)])
def test_trained_models_keep_their_accuracy(runner: Runner, name: str, layers: int, target: Target) -> None:
    data = dict(np.load(MODELS / f"{name}.eval.npz"))
    labels = data.pop("labels")
    calibration = np.load(MODELS / f"{name}.calibration.npz")
    model = ir.from_proto(onnx.load(MODELS / f"{name}.onnx"))
    infer_model(model)
    fold_transposes(model)
    before = outputs(model, data)["logits"]
    result = quantized(model, runner, [{key: calibration[key][:32] for key in data}], target=target)
    assert result.changes >= layers
    after = outputs(model, data)["logits"]
    accuracies = [float(np.mean(logits.argmax(1) == labels)) for logits in (before, after)]
    assert accuracies[0] - accuracies[1] <= 0.0031, accuracies
