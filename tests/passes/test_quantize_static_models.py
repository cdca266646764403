"""Static int8 on the shipped models: accuracy, and what each layer costs."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from quantized_graphs import Array, model_of, normal
from static_graphs import optimized, quantized, ranges_of

from accelc import ir
from accelc.backends.cpu import CpuBackend
from accelc.context import Context
from accelc.data import Feed, Sample
from accelc.infer import infer_model
from accelc.passes.quantization.static import StaticScheme, find_static, layer_errors
from accelc.passes.quantization.trial import Trial
from accelc.pipeline import LEVELS, Pipeline
from accelc.runner import Runner
from accelc.target import Target
from accelc.testing import context

MODELS = Path(__file__).parents[2] / "models"
SAMPLES = 128
INTEGER = {
    "digits_cnn": ["QLinearAdd", "QLinearConv", "QLinearGlobalAveragePool"],
    "digits_mlp": ["QGemm"],
}


def optimized_float(name: str) -> ir.Model:
    model = ir.from_proto(onnx.load(MODELS / f"{name}.onnx"))
    infer_model(model)
    Pipeline.parse(LEVELS[1] + ", fixpoint(batchnorm, conv, gemm), dce").run(model, context())
    return model


@pytest.mark.parametrize("isa", [{"avx2"}, {"avx2", "avx512_vnni"}, {"avx2", "avx512_vnni", "amx_int8"}])
@pytest.mark.parametrize("name", INTEGER)
def test_digits_are_read_as_well_as_before(name: str, isa: set[str], tmp_path: Path) -> None:
    images = np.load(MODELS / f"{name}.calibration.npz")["image"][:SAMPLES]
    data = np.load(MODELS / f"{name}.eval.npz")
    model = optimized_float(name)
    before = _accuracy(optimized(model, tmp_path, {"image": data["image"]})[1][0], data["labels"])
    done, refused = quantized(model, [{"image": images}], StaticScheme.of(Target.cpu(isa=isa)))
    assert not refused
    assert len(done) >= 4
    ran, (logits,) = optimized(model, tmp_path, {"image": data["image"]})
    assert set(INTEGER[name]) <= set(ran)
    assert not {"Conv", "Gemm", "MatMul", "Add", "Relu"} & set(ran)
    assert _accuracy(logits, data["labels"]) >= before - 0.003


def _accuracy(logits: Array, labels: Array) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def trial_of(model: ir.Model, runner: Runner, image: Array) -> Trial:
    sample = Sample(Feed({"image": image}, "test"), {})
    return Trial(model, Context(CpuBackend().target(), backend=CpuBackend(), runner=runner, samples=lambda: [sample]))


def test_errors_of_layers_come_in_one_pass(runner: Runner) -> None:
    model = optimized_float("digits_cnn")
    image = np.load(MODELS / "digits_cnn.calibration.npz")["image"][:16]
    found, ranges = find_static(model), ranges_of(model, [{"image": image}])
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    trial = trial_of(model, runner, image)
    fine = layer_errors(trial, found, ranges, StaticScheme())
    coarse = layer_errors(trial, found, ranges, StaticScheme(bits=7, per_channel=False))
    assert list(fine) == [each.index for each in found.nodes if each.role == "product"]
    assert all(0 < error < 0.03 for error in fine.values())
    assert all(coarse[index] > fine[index] for index in fine)
    some = list(fine)[:2]
    assert list(layer_errors(trial, found, ranges, StaticScheme(), some)) == some
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_error_of_a_layer_is_what_it_does_alone(runner: Runner, tmp_path: Path) -> None:
    graph = "(float[n,8,9,9] image) => (float[n,4,9,9] y) { a = Conv(image, w)  y = Relu(a) }"
    model, image = model_of(graph, {"w": normal(4, 8, 1, 1)}), normal(2, 8, 9, 9, seed=3)
    wanted = optimized(model, tmp_path, {"image": image})[1][0]
    ranges = ranges_of(model, [{"image": image}])
    (error,) = layer_errors(trial_of(model, runner, image), find_static(model), ranges, StaticScheme()).values()
    quantized(model, [{"image": image}])
    got = optimized(model, tmp_path, {"image": image})[1][0]
    assert error == pytest.approx(np.linalg.norm(got - wanted) / np.linalg.norm(wanted), rel=0.02)


def test_layers_without_ranges_have_no_errors(runner: Runner) -> None:
    graph = "(float[n,8,9,9] image) => (float[n,4,9,9] y) { a = Conv(image, w)  y = Relu(a) }"
    model, image = model_of(graph, {"w": normal(4, 8, 1, 1)}), normal(2, 8, 9, 9, seed=3)
    trial = trial_of(model, runner, image)
    assert layer_errors(trial, find_static(model), {"image": (-1, 1)}, StaticScheme()) == {}
