import hashlib
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest

from accelc import ir
from accelc.context import Fuel
from accelc.errors import UsageError
from accelc.infer import infer_model
from accelc.pass_base import PassResult, make_pass, run_pass
from accelc.passes.prune import METADATA, Prune
from accelc.testing import context, run

MODELS = Path(__file__).parents[2] / "models"
NUMPY = {"float": np.float32, "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def layers(
    rng: np.random.Generator, dtype: type = np.float32, scales: tuple[float, ...] = (1.0, 10.0, 0.1)
) -> ir.Model:
    """Conv, Gemm and MatMul with a bias each, and a Gather from a table."""
    shapes = {"conv": (4, 3, 3, 3), "gemm": (4, 6), "matmul": (6, 8)}
    weights = {
        name: (rng.standard_normal(shape) * scale).astype(dtype)
        for (name, shape), scale in zip(shapes.items(), scales, strict=True)
    }
    weights |= {"conv_bias": np.full(4, 1e-3, dtype), "gemm_bias": np.full(6, 1e-3, dtype)}
    weights["table"] = np.full((5, 8), 1e-3, dtype)
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["x", "conv", "conv_bias"], ["c"], "conv", pads=[1, 1, 1, 1]),
            node("ReduceMean", ["c"], ["r"], "mean", axes=[2, 3], keepdims=0),
            node("Gemm", ["r", "gemm", "gemm_bias"], ["g"], "gemm"),
            node("MatMul", ["g", "matmul"], ["m"], "matmul"),
            node("Gather", ["table", "i"], ["e"], "gather"),
            node("Add", ["m", "e"], ["y"], "add"),
        ],
        "layers",
        [info("x", kind, ["n", 3, 5, 5]), info("i", onnx.TensorProto.INT64, [1])],
        [info("y", kind, ["n", 8])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    model = ir.from_proto(proto)
    infer_model(model)
    return model


def weight(model: ir.Model, name: str) -> np.ndarray:
    array = ir.const(model.graph.initializers[name])
    assert array is not None
    return array


def pruned(model: ir.Model, *, seed: int = 0, **options: object) -> PassResult:
    return run_pass(make_pass(Prune, options), model, context(seed=seed))


@pytest.mark.parametrize("dtype", NUMPY.values(), ids=NUMPY)
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.93])
def test_each_layer_loses_exactly_its_smallest_weights(dtype: type, sparsity: float) -> None:
    model = layers(np.random.default_rng(0), dtype)
    before = {name: weight(model, name).copy() for name in ("conv", "gemm", "matmul", "conv_bias", "table")}
    result = pruned(model, sparsity=sparsity)
    assert result.changes == 3
    for name in ("conv", "gemm", "matmul"):
        after = weight(model, name)
        assert after.dtype == before[name].dtype
        assert np.count_nonzero(after == 0) == int(sparsity * after.size + 1e-9)
        kept = after != 0
        assert (after[kept] == before[name][kept]).all()
        assert np.abs(before[name][~kept].astype(float)).max() <= np.abs(before[name][kept].astype(float)).min()
    for name in ("conv_bias", "table"):
        assert (weight(model, name) == before[name]).all()


@pytest.mark.parametrize("dtype", NUMPY.values(), ids=NUMPY)
def test_global_threshold_is_that_of_all_magnitudes_together(dtype: type) -> None:
    model = layers(np.random.default_rng(1), dtype)
    names = ("conv", "gemm", "matmul")
    before = np.concatenate([weight(model, name).reshape(-1).astype(float) for name in names])
    pruned(model, sparsity=0.4, scope="global")
    after = np.concatenate([weight(model, name).reshape(-1).astype(float) for name in names])
    count = int(0.4 * before.size)
    assert np.count_nonzero(after == 0) == count
    assert np.abs(before[after == 0]).max() <= np.sort(np.abs(before))[count]
    shares = [np.mean(weight(model, name) == 0) for name in names]
    assert shares[2] > 0.8 > shares[0] > shares[1]  # the scales of the tensors are 1, 10 and 0.1


def test_layer_and_global_differ() -> None:
    one, two = layers(np.random.default_rng(2)), layers(np.random.default_rng(2))
    pruned(one, scope="layer")
    pruned(two, scope="global")
    assert np.mean(weight(one, "gemm") == 0) == 0.5
    assert np.mean(weight(two, "gemm") == 0) < 0.2


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_equal_magnitudes_go_in_order_and_exactly(scope: str) -> None:
    model = layers(np.random.default_rng(0))
    for name in ("conv", "gemm", "matmul"):
        value = model.graph.initializers[name]
        signs = np.where(np.arange(weight(model, name).size) % 2, 2.0, -2.0).astype(np.float32)
        value.const_value = ir.array_tensor(signs.reshape(weight(model, name).shape))
    pruned(model, sparsity=0.25, scope=scope)
    flat = np.concatenate([weight(model, name).reshape(-1) for name in ("conv", "gemm", "matmul")])
    assert np.count_nonzero(flat == 0) == flat.size // 4
    if scope == "global":
        assert (flat[: flat.size // 4] == 0).all()
    assert not np.signbit(flat[flat == 0]).any()


def test_not_a_number_stays() -> None:
    model = layers(np.random.default_rng(0))
    array = weight(model, "gemm").copy()
    array[0, 0], array[0, 1] = np.nan, -np.inf
    model.graph.initializers["gemm"].const_value = ir.array_tensor(array)
    pruned(model, sparsity=0.9)
    assert np.isnan(weight(model, "gemm")[0, 0])
    assert weight(model, "gemm")[0, 1] == -np.inf


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_random_is_exact_and_follows_the_seed(scope: str) -> None:
    masks = []
    for seed in (0, 0, 1):
        model = layers(np.random.default_rng(0))
        pruned(model, method="random", sparsity=0.3, scope=scope, seed=seed)
        masks.append(np.concatenate([weight(model, name).reshape(-1) != 0 for name in ("conv", "gemm", "matmul")]))
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()
    if scope == "global":
        assert np.count_nonzero(~masks[0]) == int(0.3 * masks[0].size)
    else:
        assert np.count_nonzero(~masks[0][:108]) == 32


def test_metadata_describes_the_mask() -> None:
    model = layers(np.random.default_rng(0))
    model.metadata_props["author"] = "someone"
    pruned(model, sparsity=0.75)
    entry = json.loads(model.metadata_props[METADATA])
    assert (entry["method"], entry["sparsity"], entry["scope"], entry["seed"]) == ("magnitude", 0.75, "layer", 0)
    assert list(entry["weights"]) == ["conv", "gemm", "matmul"]
    for name, (zeros, mask) in entry["weights"].items():
        array = weight(model, name)
        assert zeros == np.count_nonzero(array == 0)
        assert mask == hashlib.sha256(np.packbits(array != 0).tobytes()).hexdigest()[:16]
    assert model.metadata_props["author"] == "someone"
    pruned(model, sparsity=0.9)
    assert json.loads(model.metadata_props[f"{METADATA}.2"])["sparsity"] == 0.9
    assert json.loads(model.metadata_props[METADATA]) == entry


def test_the_file_does_not_grow_but_for_the_metadata() -> None:
    model = layers(np.random.default_rng(0))
    before = ir.to_proto(model).ByteSize()
    pruned(model)
    after = ir.to_proto(model)
    assert after.ByteSize() - before <= 100 + 3 * (len("matmul") + 40)
    del after.metadata_props[:]
    assert after.ByteSize() <= before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 1}, "below 1"),
        ({"sparsity": -0.1}, "at least 0"),
        ({"sparsity": "nan"}, "at least 0"),
        ({"sparsity": "half"}, "sparsity"),
        ({"method": "best"}, "magnitude|random"),
        ({"scope": "channel"}, "layer|global"),
        ({"ratio": 0.5}, "ratio"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("|", r"\|")):
        make_pass(Prune, options)


def test_a_weight_that_is_also_gathered_from_stays() -> None:
    model = ir.parse(
        "(int64[2] i, float[2,4] x) => (float[2,4] e, float[2,4] y) "
        "<float[4,4] w = {1,2,3,4, 1,2,3,4, 1,2,3,4, 1,2,3,4}> { e = Gather(w, i)  y = MatMul(x, w) }"
    )
    result = pruned(model)
    assert result.changes == 0
    assert result.skipped
    assert "Gather" in result.details["left"]["w"]


def test_a_shared_and_transposed_weight_is_pruned_once() -> None:
    model = ir.parse(
        "(float[2,2] x) => (float[2,2] y, float[2,2] z) <float[2,2] w = {4,1,3,2}> "
        "{ t = Transpose <perm = [1, 0]> (w)  y = MatMul(x, t)  z = MatMul(x, w) }"
    )
    assert pruned(model).changes == 1
    assert weight(model, "w").tolist() == [[4, 0], [3, 0]]


def test_constant_nodes_are_weights_too() -> None:
    model = ir.parse(
        "(float[1,2] x) => (float[1,2] y) { w = Constant <value = float[2,2] {4, 1, 3, 2}> ()  y = MatMul(x, w) }"
    )
    assert pruned(model).changes == 1
    (got,) = run(ir.to_proto(model).SerializeToString(), {"x": np.ones((1, 2), np.float32)})
    assert got.tolist() == [[7, 0]]


def test_nothing_to_prune_is_said() -> None:
    model = ir.parse("(float[2,2] x) => (float[2,2] y) <float[2] b = {1, 2}> { y = Add(x, b) }")
    assert "no MatMul" in pruned(model).skipped
    assert pruned(layers(np.random.default_rng(0)), sparsity=0).skipped == "nothing to set to zero"


def test_overridable_weights_stay() -> None:
    model = ir.parse(
        '<ir_version: 8, opset_import: ["": 17]> main (float[1,2] x, float[2,2] w) => (float[1,2] y) '
        "<float[2,2] w = {4, 1, 3, 2}> { y = MatMul(x, w) }"
    )
    assert pruned(model).skipped


def test_fuel_stops_it() -> None:
    model = layers(np.random.default_rng(0))
    ctx = context()
    ctx.fuel = Fuel(limit=1)
    assert run_pass(Prune(), model, ctx).changes == 1
    assert (weight(model, "conv") == 0).any()
    assert not (weight(model, "gemm") == 0).any()


def test_light_pruning_costs_little_accuracy() -> None:
    data = np.load(MODELS / "digits_mlp.eval.npz")
    scores = []
    for sparsity in (0.0, 0.5, 0.97):
        model = ir.from_proto(onnx.load(MODELS / "digits_mlp.onnx"))
        pruned(model, sparsity=sparsity)
        (logits,) = run(ir.to_proto(model).SerializeToString(), {"image": data["image"]})
        scores.append(np.mean(logits.argmax(1) == data["labels"]))
    assert scores[0] - scores[1] < 0.03
    assert scores[1] > scores[2]
