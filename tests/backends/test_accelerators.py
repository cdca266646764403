"""The backends of providers beside that of the processor, most of which do not exist on the machine that tests."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest

import accelc
from accelc.backend_base import ASKED, BackendSpec
from accelc.backends import accelerator, tensorrt
from accelc.backends.accelerator import Accelerator
from accelc.backends.coreml import CoremlBackend
from accelc.backends.cuda import CudaBackend
from accelc.backends.directml import DirectmlBackend
from accelc.backends.openvino import OpenvinoBackend
from accelc.backends.tensorrt import TensorrtBackend
from accelc.errors import BackendError, UsageError
from accelc.plugins import find_backend
from accelc.runner import Runner

ALL: tuple[type[Accelerator], ...] = (CoremlBackend, CudaBackend, DirectmlBackend, OpenvinoBackend, TensorrtBackend)
WITHOUT_TABLE = [each for each in ALL if each is not CudaBackend]
CPU = ("CPUExecutionProvider", {})
MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.onnx"


def made(text: str) -> Accelerator:
    spec = BackendSpec.parse(text)
    found: Accelerator = find_backend(spec.name)(spec.options)  # type: ignore[assignment]
    return found


class Spec:
    """The runtime as installed in a folder."""

    def __init__(self, folder: Path) -> None:
        self.origin = str(folder / "__init__.py")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the libraries of an installed runtime, which has none so far."""
    folder = tmp_path / "capi"
    folder.mkdir()
    monkeypatch.setattr(accelerator, "find_spec", lambda name: Spec(tmp_path))
    monkeypatch.setattr(accelerator, "runtimes", lambda: {"onnxruntime": "1.31.1"})
    return folder


# --- what they load sessions with


@pytest.mark.parametrize("backend", ALL)
def test_the_provider_comes_first_and_the_processor_last(backend: type[Accelerator]) -> None:
    names = [name for name, _ in backend().providers()]
    assert names[0] == backend.provider
    assert names[-1] == "CPUExecutionProvider"
    assert backend().config() == {}
    assert find_backend(backend.name) is backend


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("off", ["0", "false"])
def test_without_fallback_the_runtime_refuses_nodes_on_the_processor(backend: type[Accelerator], off: str) -> None:
    strict = backend((("cpu_fallback", off),))
    assert "CPUExecutionProvider" not in [name for name, _ in strict.providers()]
    assert all("cpu_fallback" not in options for _, options in strict.providers())
    assert strict.session_options()["config"] == {"session.disable_cpu_ep_fallback": "1"}
    assert backend((("cpu_fallback", "1"),)).providers() == backend().providers()


def test_tensorrt_falls_back_to_cuda_on_the_same_gpu() -> None:
    assert made("tensorrt:device_id=1,trt_fp16_enable=1").providers() == [
        ("TensorrtExecutionProvider", {"device_id": "1", "trt_fp16_enable": "1"}),
        ("CUDAExecutionProvider", {"device_id": "1"}),
        CPU,
    ]
    assert made("tensorrt").providers()[1] == ("CUDAExecutionProvider", {})


def test_openvino_options_are_spelt_as_the_provider_wants_them() -> None:
    backend = made("openvino:device_type=AUTO:GPU.1+CPU,enable_qdq_optimizer=1,disable_dynamic_shapes=false")
    assert backend.providers() == [
        (
            "OpenVINOExecutionProvider",
            {"device_type": "AUTO:GPU.1,CPU", "enable_qdq_optimizer": "True", "disable_dynamic_shapes": "False"},
        ),
        CPU,
    ]


def test_directml_plans_no_memory_ahead() -> None:
    backend = made("directml:device_id=1,disable_metacommands=1")
    assert backend.providers()[0] == ("DmlExecutionProvider", {"device_id": "1", "disable_metacommands": "True"})
    assert backend.session_options()["memory_pattern"] is False
    assert "memory_pattern" not in made("openvino").session_options()


def test_coreml_options_are_spelt_as_the_provider_wants_them() -> None:
    backend = made("coreml:ModelFormat=MLProgram,RequireStaticInputShapes=true")
    assert backend.providers()[0] == (
        "CoreMLExecutionProvider",
        {"ModelFormat": "MLProgram", "RequireStaticInputShapes": "1"},
    )


def test_what_a_backend_loads_with_reaches_the_runtime() -> None:
    seen: dict[str, Any] = {}

    class Recording:
        def load(self, model: bytes | Path, **settings: Any) -> None:
            seen.update(settings)

    recording: Any = Recording()
    backend = made("directml:cpu_fallback=0")
    backend.load(recording, b"", optimize=False, config={"session.x": "1"})
    assert seen == {
        "providers": [("DmlExecutionProvider", {})],
        "config": {"session.disable_cpu_ep_fallback": "1", "session.x": "1"},
        "threads": None,
        "memory_pattern": False,
        "optimize": False,
    }


def test_a_session_may_do_without_a_memory_pattern() -> None:
    with Runner() as runner:
        session = runner.load(MODEL, memory_pattern=False)
        assert session.providers == ("CPUExecutionProvider",)


# --- options that cannot be


@pytest.mark.parametrize("backend", ALL)
def test_an_unknown_option_is_refused(backend: type[Accelerator]) -> None:
    with pytest.raises(UsageError, match=rf"backend {backend.name} has no option 'qqqq'; its options: .*cpu_fallback"):
        backend((("qqqq", "1"),))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda:enable_cuda_grph=1", "did you mean enable_cuda_graph"),
        ("cuda:enable_cuda_graph=yes", "option enable_cuda_graph of cuda cannot be 'yes'; it is 0 or 1"),
        ("cuda:device_id=-1", "whole number"),
        ("cuda:gpu_mem_limit=2G", "whole number"),
        ("cuda:cudnn_conv_algo_search=FAST", "one of EXHAUSTIVE, HEURISTIC, DEFAULT"),
        ("tensorrt:trt_fp16_enable=2", "0 or 1"),
        ("tensorrt:trt_builder_optimization_level=high", "whole number"),
        ("openvino:device_type=TPU", "CPU, GPU, GPU.1, NPU"),
        ("openvino:precision=FP8", "FP32, FP16, ACCURACY"),
        ("directml:device_id=gpu", "whole number"),
        ("coreml:MLComputeUnits=cpu", "CPUAndNeuralEngine"),
        ("coreml:cpu_fallback=maybe", "0 or 1"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(text)


@pytest.mark.parametrize(
    "text", ["cuda:enable_cuda_graph=True", "tensorrt:trt_auxiliary_streams=-1", "cuda:use_tf32=0"]
)
def test_values_of_the_documentation_are_taken(text: str) -> None:
    assert str(BackendSpec(made(text).name, made(text).options)) == text


# --- why they cannot be used


@pytest.mark.parametrize(
    ("backend", "system", "names"),
    [
        (CoremlBackend, "linux", "macOS"),
        (CoremlBackend, "win32", "macOS"),
        (DirectmlBackend, "linux", "Windows"),
        (OpenvinoBackend, "darwin", "Linux and Windows"),
        (TensorrtBackend, "darwin", "Linux and Windows"),
        (CudaBackend, "darwin", "Linux and Windows"),
    ],
)
def test_another_system(backend: type[Accelerator], system: str, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_SYSTEM", system)
    assert backend().missing() == f"{backend.name} exists for {names} only"


@pytest.mark.parametrize(
    ("backend", "system", "library", "wanted"),
    [
        (CudaBackend, "linux", "libonnxruntime_providers_cuda.so", "onnxruntime-gpu"),
        (TensorrtBackend, "win32", "onnxruntime_providers_tensorrt.dll", "onnxruntime-gpu"),
        (OpenvinoBackend, "linux", "libonnxruntime_providers_openvino.so", "onnxruntime-openvino"),
        (DirectmlBackend, "win32", "DirectML.dll", "onnxruntime-directml"),
    ],
)
def test_a_package_without_the_provider(
    backend: type[Accelerator], system: str, library: str, wanted: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "_SYSTEM", system)
    for module in ("cuda", "tensorrt"):
        monkeypatch.setattr(f"accelc.backends.{module}.no_driver", lambda: "")
    reason = backend().missing()
    assert reason.endswith(f"provider; pip uninstall onnxruntime, then pip install {wanted}")
    (package / library).touch()
    assert backend().missing() == ""


@pytest.mark.parametrize("backend", ALL)
def test_no_runtime_at_all(backend: type[Accelerator], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_SYSTEM", backend.systems[0])
    monkeypatch.setattr(accelerator, "find_spec", lambda name: None)
    assert backend().missing() == f"onnxruntime is not installed; pip install {backend.package}"


@pytest.mark.parametrize("backend", ALL)
def test_what_is_missing_is_found_without_the_runtime(
    backend: type[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not backend().missing():
        pytest.skip(f"this machine may have {backend.name}")
    monkeypatch.setattr(Runner, "start", lambda self: pytest.fail("the runtime was started"))
    for dry in (False, True):
        found = backend().probe(dry=dry)
        assert (found.available, found.reason) == (False, backend().missing())
        assert "\n" not in found.reason
        with pytest.raises(BackendError, match=f"backend {backend.name} is not usable here: .*see accelc doctor"):
            backend().require(dry=dry)


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries have other names on other systems")
def test_the_library_that_tensorrt_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("onnxruntime")
    if spec is None or spec.origin is None or "no Tensorrt" in TensorrtBackend().missing():
        pytest.skip("the installed onnxruntime has no TensorRT provider")
    monkeypatch.setattr(tensorrt, "no_driver", lambda: "")
    found = TensorrtBackend().probe()
    if found.available:
        pytest.skip("this machine has TensorRT")
    assert "cannot be loaded" in found.reason
    assert "install" in found.reason


def test_tensorrt_says_what_to_install() -> None:
    backend = TensorrtBackend()
    assert "pip install tensorrt" in backend.explain("libnvinfer.so.10 cannot be loaded")
    assert "pip install tensorrt" in backend.explain("nvonnxparser_10.dll cannot be loaded")
    assert "nvidia-cublas" in backend.explain("libcublas.so.13 cannot be loaded")
    assert backend.explain("CUDA failure 100") == "CUDA failure 100"


def test_a_provider_that_the_package_lacks_is_told_by_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "darwin":
        pytest.skip("CoreML exists here")
    monkeypatch.setattr(CoremlBackend, "missing", lambda self: "")
    found = CoremlBackend().probe()
    assert not found.available
    assert "CoreMLExecutionProvider is not usable here: onnxruntime" in found.reason
    assert "as installed has only" in found.reason


# --- what models for them may contain


@pytest.mark.parametrize("backend", ALL)
def test_where_the_knowledge_of_what_runs_comes_from(backend: type[Accelerator]) -> None:
    source = backend().capability_source()
    assert source.startswith("kernel table of onnxruntime") if backend is CudaBackend else source == ASKED
    target = backend().target()
    assert (target.name, target.provider) == (backend.name, backend.provider)
    assert (target.max_opset() or 0) >= 23


@pytest.mark.parametrize("backend", WITHOUT_TABLE)
def test_without_a_kernel_table_results_stay_portable(backend: type[Accelerator], tmp_path: Path) -> None:
    # Gelu-20 and com.microsoft.FastGelu exist for this form: neither may be written.
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 8] x) => (float[2, 8] y) <float r = {1.4142135}, float one = {1}, float h = {0.5}> {
            d = Div(x, r)  e = Erf(d)  s = Add(e, one)  p = Mul(x, s)  z = Mul(p, h)  i = Identity(z)  y = Tanh(i) }"""
    model = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(text), model)
    found = accelc.optimize(model, target=backend.name, level=2, measure=False, output=tmp_path / "out.onnx")
    result = onnx.load(tmp_path / "out.onnx")
    assert {(each.domain, each.version) for each in result.opset_import} == {("", 17)}
    assert {node.op_type for node in result.graph.node} == {"Div", "Erf", "Add", "Mul", "Tanh"}
    assert found.report.verdict is not None
    assert found.report.verdict.status == "same"
    assert str(found.report.placement).startswith(f"not known: accelc has no kernel table of {backend.name}")
    on_cpu = accelc.optimize(model, level=2, measure=False, output=tmp_path / "cpu.onnx").report
    assert on_cpu.after.nodes < found.report.after.nodes


# --- with libraries that let the CUDA provider be created without a GPU


@pytest.mark.skipif(not os.environ.get("ACCELC_FAKE_CUDA"), reason="ACCELC_FAKE_CUDA names no folder")
def test_a_dry_probe_needs_no_right_numbers() -> None:
    assert CudaBackend().missing() == ""
    with Runner() as runner:
        CudaBackend().require(runner, dry=True)
        with pytest.raises(BackendError, match="cuda computes wrong results on this machine"):
            CudaBackend().require(runner)
        assert not TensorrtBackend().probe(runner, dry=True).available
