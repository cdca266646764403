"""Weights alone in 4 or 8 bits: numbers against a numpy reference, graphs against the runtime."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from quantized_graphs import Array, model_of, normal, operators

from accelc import ir
from accelc.backends import kernels
from accelc.backends.cpu import CpuBackend
from accelc.context import Context, Fuel, Settings
from accelc.infer import infer_model
from accelc.passes.quantization.layers import find_layers
from accelc.passes.quantization.weights import BlockScheme, quantize_weights, raise_opset, refusal
from accelc.passes.quantization.weights_numbers import BlockWeight, grid_of, in_blocks, quantize_blocks
from accelc.target import Target
from accelc.testing import run

_ACTIVATION = 0.02
"""Relative error that the rounding of activations to int8 may cause."""


def yes(_rule: str, _node: str) -> bool:
    return True


def changed(model: ir.Model, scheme: BlockScheme) -> int:
    """Everything in its weight-only form; how many layers."""
    layers = find_layers(model, embeddings=True, portable=not scheme.vendor).layers
    count = len(quantize_weights(model, layers, scheme, yes))
    onnx.checker.check_model(ir.to_proto(model))
    return count


def outputs(model: ir.Model, *feeds: Array) -> Array:
    names = [str(value.name) for value in model.graph.inputs]
    (out,) = run(ir.to_proto(model).SerializeToString(), dict(zip(names, feeds, strict=True)))
    return np.asarray(out)


def held(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Shapes of the large weights."""
    return {
        name: tuple(int(dim) for dim in value.const_value.shape.numpy())
        for graph in ir.all_graphs(model)
        for name, value in graph.initializers.items()
        if value.const_value is not None and value.const_value.nbytes > 1000
    }


def close(got: Array, wanted: Array, tolerance: float = 1e-5) -> None:
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=tolerance * float(np.abs(wanted).max()), rtol=0)


def reference(weight: Array, scheme: BlockScheme) -> Array:
    """The rounded weight [K, N], one block at a time."""
    k, n = weight.shape
    result = np.zeros_like(weight)
    for start in range(0, k, scheme.block_size):
        for column in range(n):
            block = weight[start : start + scheme.block_size, column]
            padded = np.append(block, 0) if start + scheme.block_size > k else block
            result[start : start + scheme.block_size, column] = _reference_block(block, padded, scheme)
    return result


def _reference_block(block: Array, padded: Array, scheme: BlockScheme) -> Array:
    top = 2**scheme.bits - 1
    if not scheme.symmetric:
        low, high = min(padded.min(), 0), max(padded.max(), 0)
        scale = np.float32((high - low) / np.float32(top))
        zero = np.clip(np.rint(-low / scale), 0, top)
        return ((np.clip(np.rint(block / scale) + zero, 0, top) - zero) * scale).astype(np.float32)
    if scheme.bits == 8:
        scale = np.float32(np.abs(block).max() / np.float32(127))
        return (np.clip(np.rint(block / scale), -127, 127) * scale).astype(np.float32)
    extreme = padded[np.abs(padded).argmax()]
    scale = np.float32(extreme / np.float32(-8))
    return (np.clip(np.rint(block / scale), -8, 7) * scale).astype(np.float32)


SCHEMES = [
    BlockScheme(bits, size, symmetric)
    for bits, size, symmetric in ((4, 16, True), (4, 32, False), (8, 32, True), (8, 64, False))
]


# --- numbers


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("k", [64, 50])
def test_blocks_round_as_the_reference(scheme: BlockScheme, k: int) -> None:
    weight = normal(k, 9)
    np.testing.assert_allclose(quantize_blocks(weight, scheme).floats(), reference(weight, scheme), atol=1e-6)


def test_columns_of_zeros_stay_zero() -> None:
    weight = normal(32, 4)
    weight[:, 2] = 0
    for scheme in SCHEMES:
        assert not quantize_blocks(weight, scheme).floats()[:, 2].any()


@pytest.mark.parametrize("symmetric", [True, False])
def test_clipping_lowers_the_squared_error(symmetric: bool) -> None:
    weight = np.random.default_rng(0).standard_t(3, (256, 40)).astype(np.float32)
    errors = [
        float(np.square(quantize_blocks(weight, BlockScheme(4, 128, symmetric, clip=clip)).floats() - weight).sum())
        for clip in (False, True)
    ]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("k", [128, 100])
def test_weights_on_the_grid_are_stored_as_they_are(scheme: BlockScheme, k: int) -> None:
    """Also where a clipping left out the ends of the range."""
    weight = np.random.default_rng(0).standard_t(3, (k, 33)).astype(np.float32)
    once = quantize_blocks(weight, BlockScheme(scheme.bits, scheme.block_size, scheme.symmetric, clip=True)).floats()
    np.testing.assert_allclose(quantize_blocks(once, scheme).floats(), once, rtol=1e-6)


def test_weights_off_the_grid_are_not_taken_for_rounded() -> None:
    scales, _ = grid_of(in_blocks(normal(64, 20), 32).reshape(-1, 32), BlockScheme(4, 32))
    assert np.isnan(scales).all()


@pytest.mark.parametrize(("bits", "k", "size"), [(8, 768, 128), (8, 96, 32), (4, 96, 32), (8, 100, 128), (4, 50, 64)])
def test_blocks_are_as_small_as_the_rows_need(bits: Any, k: int, size: int) -> None:
    """An odd number of rows does not fill up half of a file."""
    scheme = BlockScheme(bits, 128)
    assert scheme.size_for(k) == size
    weight, a = normal(k, 33), normal(3, k, seed=1)
    model = model_of(f"(float[3, {k}] a) => (float[3, 33] y) {{ y = MatMul(a, w) }}", {"w": weight})
    changed(model, BlockScheme(bits, 128, accuracy_level=0))
    close(outputs(model, a), a @ reference(weight, BlockScheme(bits, size)))


def test_two_integers_share_a_byte_the_first_in_the_lower_half() -> None:
    values = np.arange(16, dtype=np.uint8).reshape(1, 1, 16)
    weight = BlockWeight(values, np.ones((1, 1), np.float32), np.array([[5]], np.uint8), 4, 16)
    assert weight.packed().tolist() == [[[0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE]]]
    assert weight.packed_zeros() is not None
    assert np.asarray(weight.packed_zeros()).tolist() == [[5]]


@pytest.mark.parametrize("size", [0, 8, 24, 512])
def test_block_sizes_that_no_kernel_has_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"block_size={size} must be a power of two"):
        BlockScheme(4, size)


# --- products


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("k", [64, 50])
def test_the_runtime_multiplies_by_what_was_stored(scheme: BlockScheme, k: int) -> None:
    """accuracy_level 0 leaves the activation alone, so only the layout of the weight is tested."""
    weight, bias, a = normal(k, 33), normal(33, seed=1), normal(2, 3, k, seed=2)
    model = model_of(
        f"(float[2, 3, {k}] a) => (float[2, 3, 33] y) {{ t = MatMul(a, w)  y = Add(t, b) }}", {"w": weight, "b": bias}
    )
    exact = BlockScheme(scheme.bits, scheme.block_size, scheme.symmetric, accuracy_level=0)
    assert changed(model, exact) == 1
    assert operators(model) == ["MatMulNBits"]
    assert "w" not in model.graph.initializers
    close(outputs(model, a), a @ reference(weight, scheme) + bias)


@pytest.mark.parametrize("bits", [4, 8])
def test_the_default_rounds_the_activation_as_well(bits: Any) -> None:
    weight, a = normal(64, 33), normal(3, 64, seed=2)
    model = model_of("(float[3, 64] a) => (float[3, 33] y) { y = MatMul(a, w) }", {"w": weight})
    changed(model, BlockScheme(bits))
    close(outputs(model, a), a @ reference(weight, BlockScheme(bits)), _ACTIVATION)


GEMMS: dict[str, tuple[str, bool, Callable[[Array, Array, Array, Array], Array]]] = {
    "bias": ("y = Gemm(a, w, b)", False, lambda a, w, b, c: a @ w + b),
    "transposed": ("y = Gemm<transB: int = 1>(a, w, b)", True, lambda a, w, b, c: a @ w + b),
    "factors": (
        "y = Gemm<alpha: float = 0.5, beta: float = 2.0>(a, w, b)",
        False,
        lambda a, w, b, c: a @ w / 2 + b * 2,
    ),
    "none": ("y = Gemm(a, w)", False, lambda a, w, b, c: a @ w),
    "late": ("y = Gemm<beta: float = 2.0>(a, w, c)", False, lambda a, w, b, c: a @ w + 2 * c),
}


@pytest.mark.parametrize("vendor", [True, False])
@pytest.mark.parametrize("case", GEMMS)
def test_forms_of_gemm(case: str, vendor: bool) -> None:
    text, transposed, wanted = GEMMS[case]
    weight, bias, a, c = normal(64, 40), normal(40, seed=1), normal(3, 64, seed=2), normal(3, 40, seed=3)
    model = model_of(
        f"(float[3, 64] a, float[3, 40] c) => (float[3, 40] y) {{ {text} }}",
        {"w": np.ascontiguousarray(weight.T) if transposed else weight, "b": bias},
        21,
    )
    scheme = BlockScheme(4, 16, accuracy_level=0, vendor=vendor)
    assert changed(model, scheme) == 1
    assert "Gemm" not in operators(model)
    got = outputs(model, a, c)
    close(got, wanted(a, reference(weight, scheme), bias, c))


def test_a_weight_behind_a_transpose() -> None:
    weight, a = normal(40, 64), normal(3, 64, seed=1)
    model = model_of(
        "(float[3, 64] a) => (float[3, 40] y) { t = Transpose<perm = [1, 0]>(w)  y = MatMul(a, t) }", {"w": weight}
    )
    scheme = BlockScheme(8, 32, accuracy_level=0)
    assert changed(model, scheme) == 1
    assert operators(model) == ["MatMulNBits"]
    assert "w" not in model.graph.initializers
    close(outputs(model, a), a @ reference(weight.T, scheme))


@pytest.mark.parametrize(
    "other", ["z = Neg(t)", "z = Neg(w)", "z = MatMul(t, w)"], ids=["of the transpose", "of the weight", "as a factor"]
)
def test_a_transpose_that_somebody_else_needs_stays(other: str) -> None:
    model = model_of(
        f"""(float[3, 64] a) => (float[3, 40] y, float[M, K] z) {{
            t = Transpose<perm = [1, 0]>(w)
            y = MatMul(a, t)
            {other}
        }}""",
        {"w": normal(40, 64)},
    )
    assert find_layers(model, embeddings=True, portable=False).layers == ()


def test_a_shared_weight_is_stored_once() -> None:
    weight, a = normal(64, 64), normal(3, 64, seed=1)
    model = model_of("(float[3, 64] a) => (float[3, 64] y) { t = MatMul(a, w)  y = MatMul(t, w) }", {"w": weight})
    scheme = BlockScheme(4, 32, accuracy_level=0)
    assert changed(model, scheme) == 2
    assert list(held(model).values()) == [(64, 2, 16)]
    rounded = reference(weight, scheme)
    close(outputs(model, a), a @ rounded @ rounded, 1e-4)


def test_a_layer_in_a_subgraph() -> None:
    weight, a = normal(64, 40), normal(3, 64, seed=1)
    model = model_of(
        """(bool c, float[3, 64] a) => (float[3, 40] y) {
            y = If (c) <then_branch = t () => (float[3, 40] p) { p = MatMul(a, w) },
                        else_branch = e () => (float[3, 40] q) { m = MatMul(a, w)  q = Neg(m) }>
        }""",
        {"w": weight},
    )
    scheme = BlockScheme(4, 32, accuracy_level=0)
    assert changed(model, scheme) == 2
    assert list(held(model).values()) == [(40, 2, 16)]
    wanted = a @ reference(weight, scheme)
    close(outputs(model, np.array(True), a), wanted)
    close(outputs(model, np.array(False), a), -wanted)


def test_without_fuel_layers_stay_and_no_weight_is_left_over() -> None:
    weights = {"w": normal(64, 64), "v": normal(64, 64, seed=1)}
    text = "(float[3, 64] a) => (float[3, 64] y) { t = MatMul(a, w)  y = MatMul(t, v) }"
    model = model_of(text, weights)
    fuel = Fuel(1)
    layers = find_layers(model, embeddings=True, portable=False).layers
    done = quantize_weights(model, layers, BlockScheme(4), lambda rule, node: fuel.spend("p", rule, node) is not None)
    assert [layer.weight.name for layer in done] == ["w"]
    assert operators(model) == ["MatMul", "MatMulNBits"]
    assert sorted(model.graph.initializers) == ["v", "w_blocks", "w_scale"]


def test_a_graph_output_keeps_its_name_and_shape() -> None:
    model = model_of("(float[N, 64] a) => (float[N, 40] result) { result = MatMul(a, w) }", {"w": normal(64, 40)})
    changed(model, BlockScheme())
    assert [(value.name, ir.dims(value)) for value in model.graph.outputs] == [("result", ("N", 40))]


# --- tables


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("rows", "columns"), [(3000, 96), (3000, 90), (2000, 129)])
def test_a_table_is_gathered_from_rows(bits: Any, rows: int, columns: int) -> None:
    table, chosen = normal(rows, columns), np.array([[0, rows - 1, -3]])
    text = f"(int64[1, 3] i) => (float[1, 3, {columns}] y) {{ y = Gather(w, i) }}"
    model = model_of(text, {"w": table})
    assert changed(model, BlockScheme(4, table_bits=bits)) == 1
    assert operators(model) == ["GatherBlockQuantized"]
    by_row = bits == 8 or columns % 2
    most = 0.51 / 127 if by_row else 1.01 / 8  # the side of the lesser extreme has a level less
    error = np.abs(outputs(model, chosen) - table[chosen])
    assert (error <= most * np.abs(table[chosen]).max(axis=-1, keepdims=True)).all()
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    assert size <= rows * columns * (1.05 if by_row else 0.63) + 4 * rows


TIED = """(int64[2, 3] i) => (float[2, 3, 2000] y) {
    e = Gather(w, i)
    t = Transpose<perm = [1, 0]>(w)
    y = MatMul(e, t)
}"""


@pytest.mark.parametrize("bits", [4, 8])
def test_a_tied_embedding_is_stored_once(bits: Any) -> None:
    table, chosen = normal(2000, 64), np.array([[0, 5, 1999], [7, -1, 3]])
    model = model_of(TIED, {"w": table})
    scheme = BlockScheme(bits, 32, accuracy_level=0)
    assert changed(model, scheme) == 2
    assert list(held(model).values()) == [(2000, 2, 4 * bits), (4000,)]
    rounded = reference(table.T, scheme).T
    close(outputs(model, chosen), rounded[chosen] @ rounded.T)


@pytest.mark.parametrize(
    ("scheme", "columns"), [(BlockScheme(4, 32, False, 0), 64), (BlockScheme(4, 64, accuracy_level=0), 90)]
)
def test_a_tied_embedding_that_cannot_be_shared_is_still_smaller(scheme: BlockScheme, columns: int) -> None:
    table, chosen = normal(2000, columns), np.array([[0, 5, 1999], [7, -1, 3]])
    model = model_of(TIED, {"w": table})
    before = ir.initializer_bytes(model)
    assert changed(model, scheme) == 2
    assert ir.initializer_bytes(model) < 0.5 * before
    blocks = BlockScheme(4, scheme.size_for(columns), scheme.symmetric)
    wanted = table[chosen] @ reference(table.T, blocks)
    close(outputs(model, chosen), wanted, 0.02)


# --- the portable form


def fused_operators(model: ir.Model, feeds: Mapping[str, Array], folder: Any) -> tuple[list[str], Array]:
    """What the runtime makes of a model when it loads it, and what that computes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sorted(node.op_type for node in nodes), np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("k", [64, 50])
def test_the_portable_form_becomes_the_same_kernel(scheme: BlockScheme, k: int, tmp_path: Any) -> None:
    weight, bias, a = normal(k, 33), normal(33, seed=1), normal(3, k, seed=2)
    text = f"(float[3, {k}] a) => (float[3, 33] y) {{ t = MatMul(a, w)  y = Add(t, b) }}"
    model = model_of(text, {"w": weight, "b": bias}, 21)
    assert changed(model, BlockScheme(scheme.bits, scheme.block_size, scheme.symmetric, vendor=False)) == 1
    assert operators(model) == ["Add", "DequantizeLinear", "MatMul"]
    assert "com.microsoft" not in model.graph.opset_imports
    wanted = a @ reference(weight, scheme) + bias
    close(outputs(model, a), wanted)
    operators_then, got = fused_operators(model, {"a": a}, tmp_path)
    assert operators_then == ["MatMulNBits"]
    close(got, wanted, _ACTIVATION)


def test_a_portable_table_keeps_to_the_standard() -> None:
    table, chosen = normal(3000, 90), np.array([[0, 2999]])
    model = model_of("(int64[1, 2] i) => (float[1, 2, 90] y) { y = Gather(w, i) }", {"w": table}, 21)
    assert changed(model, BlockScheme(vendor=False)) == 1
    assert operators(model) == ["Cast", "Gather", "Gather", "Mul"]
    close(outputs(model, chosen), table[chosen], 0.005)


def context(target: Target | None = None, *, portable: bool = False) -> Context:
    return Context(target or CpuBackend().target(), Settings(portable=portable))


SMALL = "(float[3, 64] a) => (float[3, 33] y) { y = MatMul(a, w) }"


def test_the_opset_is_raised_for_the_portable_form_and_that_is_said() -> None:
    model = model_of(SMALL, {"w": normal(64, 33)}, 13)
    ctx, scheme = context(portable=True), BlockScheme(vendor=False)
    assert refusal(model, ctx, scheme) == ""
    raise_opset(model, ctx, scheme)
    assert model.graph.opset_imports[""] == 21
    assert ctx.notes == ["opset raised from 13 to 21 for weights in blocks"]
    changed(model, scheme)
    assert outputs(model, normal(3, 64)).shape == (3, 33)


def test_the_vendor_form_leaves_the_opset() -> None:
    model = model_of(SMALL, {"w": normal(64, 33)}, 13)
    ctx = context()
    assert refusal(model, ctx, BlockScheme()) == ""
    raise_opset(model, ctx, BlockScheme())
    assert (model.graph.opset_imports[""], ctx.notes) == (13, [])


def test_what_the_target_lacks_is_named() -> None:
    model = model_of(SMALL, {"w": normal(64, 33)}, 13)
    assert "vendor operator and --portable is on" in refusal(model, context(portable=True), BlockScheme())
    bare = Target.cpu(isa=(), kernels=kernels.table("CPUExecutionProvider"), opsets=(("", 17),))
    assert "blocks need opset 21, and the model cannot be raised" in refusal(
        model, context(bare, portable=True), BlockScheme(vendor=False)
    )


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("scheme", [BlockScheme(8, 32), BlockScheme(8, 32, vendor=False)])
def test_products_that_were_fused_before_are_layers(turned: int, scheme: BlockScheme) -> None:
    graph = f"""<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> main (float[n,48] x) => (float[n,40] y) {{
    m = com.microsoft.FusedMatMul <alpha = 0.5, transB = {turned}> (x, w)  y = Add(m, b) }}"""
    weight, bias, x = normal(48, 40), normal(40, seed=1), normal(3, 48, seed=2)
    proto = onnx.parser.parse_model(graph)
    for name, array in {"w": np.ascontiguousarray(weight.T) if turned else weight, "b": bias}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    infer_model(model)
    assert changed(model, scheme) == 1
    close(outputs(model, x), x @ weight / 2 + bias, 0.02)


def test_a_portable_weight_lies_in_the_subgraph_that_reads_it() -> None:
    graph = """<ir_version: 10, opset_import: ["": 21]> main (float[n,48] x, bool c) => (float[n,40] y) {
    y = If (c) <then_branch = one () => (float[n,40] a) { a = MatMul(x, w) },
    else_branch = two () => (float[n,40] b) { t = Relu(x)  b = MatMul(t, w) }> }"""
    proto, weight, x = onnx.parser.parse_model(graph), normal(48, 40), normal(3, 48, seed=2)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = ir.from_proto(proto)
    infer_model(model)
    assert changed(model, BlockScheme(8, 32, vendor=False)) == 2
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    for flag, wanted in ((True, x @ weight), (False, np.maximum(x, 0) @ weight)):
        close(session.run(None, {"x": x, "c": np.array(flag)})[0], wanted, 0.05)
