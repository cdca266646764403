"""The built-in backends: what they say of this machine, of one without their needs, and of wrong options."""

from __future__ import annotations

import gzip
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accelc import doctor
from accelc.backend_base import Availability, BackendSpec
from accelc.backends import accelerator, kernels
from accelc.backends.cpu import CpuBackend
from accelc.backends.cuda import CudaBackend
from accelc.errors import BackendError, UsageError
from accelc.runner import Runner, RuntimeFailure

CUDA_HERE = not CudaBackend().missing()
no_cuda = pytest.mark.skipif(CUDA_HERE, reason="this machine has an NVIDIA driver")


class PretendDriver(CudaBackend):
    """The CUDA backend on a machine whose driver loads."""

    def missing(self) -> str:
        return ""


class Refusing:
    """A runner that fails as the runtime does on some machine."""

    version = "1"

    def __init__(self, failure: RuntimeFailure) -> None:
        self.failure = failure

    def load(self, *arguments: Any, **options: Any) -> Any:
        raise self.failure


@pytest.fixture(scope="module")
def runner() -> Any:
    with Runner() as made:
        yield made


# --- the text of a request


@pytest.mark.parametrize(
    "text", ["cpu", "cuda:enable_cuda_graph=1", "cuda:enable_cuda_graph=1,device_id=0", "x:path=/a/b c"]
)
def test_spec_round_trip(text: str) -> None:
    assert str(BackendSpec.parse(text)) == text
    assert BackendSpec.parse(f" {text} ") == BackendSpec.parse(text)


@pytest.mark.parametrize("text", ["", ":", "cuda:", "cuda:a", "cuda:a=1,", "cuda:=1", "a b", "cuda:a=1,a=2", "1x"])
def test_spec_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        BackendSpec.parse(text)


@pytest.mark.parametrize("backend", [CpuBackend, CudaBackend])
def test_unknown_option_lists_the_known(backend: type[CpuBackend] | type[CudaBackend]) -> None:
    with pytest.raises(UsageError, match=next(iter(backend.option_names))):
        backend((("nonsense", "2"),))


@pytest.mark.parametrize("value", ["0", "-1", "two", "", "99999"])
def test_threads_out_of_range(value: str) -> None:
    with pytest.raises(UsageError, match="threads"):
        CpuBackend((("threads", value),))


# --- cpu


def test_cpu_is_available(runner: Runner) -> None:
    found = CpuBackend().probe(runner)
    assert found.available, found.reason
    assert found.details["onnxruntime"] == runner.version
    assert {"instruction sets", "threads", "int8", "kernels"} <= set(found.details)
    CpuBackend().require(runner)


def test_cpu_probe_without_a_runner_leaves_no_process() -> None:
    assert CpuBackend().probe().available


def test_cpu_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.backends.cpu.find_spec", lambda name: None)
    found = CpuBackend().probe()
    assert (found.available, "not installed" in found.reason) == (False, True)
    with pytest.raises(BackendError, match="not installed"):
        CpuBackend().require()


def test_cpu_target() -> None:
    target = CpuBackend((("threads", "3"),)).target()
    assert (target.provider, target.threads) == ("CPUExecutionProvider", 3)
    assert target.has_kernel("", "MatMul", 13, {"T": "float"})
    assert target.has_kernel("com.microsoft", "MatMulNBits", 1, {"T1": "float"})
    assert not target.has_kernel("", "Conv", 11, {"T": "float16"})
    assert not target.has_kernel("", "Relu", 14, {"T": "bfloat16"})
    assert (target.max_opset() or 0) >= 23
    assert target.ir_version >= 11


@pytest.mark.parametrize(("weights", "kind"), [(np.int8, "int8"), (np.uint8, "uint8")])
def test_int8_claim_holds_in_the_runtime(runner: Runner, weights: type[Any], kind: str) -> None:
    # 255 * 127 twice overflows 16 bits, which is where the inexact instructions saturate.
    if kind == "int8" and not CpuBackend().target().int8_dot_exact:
        pytest.skip("the target does not claim u8 x s8 to be exact")
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        g (uint8[M, 64] a, {kind}[64, N] b) => (int32[M, N] y) {{ y = MatMulInteger(a, b) }}"""
    feeds = {"a": np.full((4, 64), 255, np.uint8), "b": np.full((64, 32), 127, weights)}
    result = runner.evaluate(onnx.parser.parse_model(text).SerializeToString(), feeds)["y"]
    assert (result == 64 * 255 * 127).all()


# --- cuda


@no_cuda
def test_cuda_without_cuda_gives_one_clear_line(capfd: pytest.CaptureFixture[str]) -> None:
    found = CudaBackend().probe()
    assert not found.available
    assert "\n" not in found.reason
    assert any(part in found.reason for part in ("libcuda.so.1", "nvcuda.dll", "no CUDA provider", "not installed"))
    assert capfd.readouterr() == ("", "")


@no_cuda
@pytest.mark.parametrize("options", [(), (("cpu_fallback", "0"),)])
def test_cuda_names_the_library_that_is_missing(
    options: tuple[tuple[str, str], ...], capfd: pytest.CaptureFixture[str]
) -> None:
    if "no CUDA provider" in CudaBackend().missing() or sys.platform != "linux":
        pytest.skip("the installed onnxruntime has no CUDA provider")
    found = PretendDriver(options).probe()
    assert not found.available
    assert "cannot be loaded" in found.reason
    assert ".so" in found.reason
    assert "pip install" in found.reason
    assert capfd.readouterr() == ("", "")


def test_cuda_without_a_gpu_says_what_the_runtime_says() -> None:
    failure = RuntimeFailure(
        "load", "the runtime cannot load the model", why="CUDA failure 100: no CUDA-capable device"
    )
    fake: Any = Refusing(failure)
    assert PretendDriver().probe(fake).reason.endswith("no CUDA-capable device")


def test_provider_that_computes_nonsense_is_not_available() -> None:
    class Wrong:
        version = "1"

        def load(self, *arguments: Any, **options: Any) -> None: ...

        def run(self, session: Any, feeds: dict[str, Any]) -> dict[str, Any]:
            return {"y": feeds["x"]}

        def close(self, session: Any) -> None: ...

    fake: Any = Wrong()
    found = PretendDriver().probe(fake)
    assert (found.available, "wrong results" in found.reason) == (False, True)


def test_cuda_in_a_package_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Spec:
        origin = str(tmp_path / "__init__.py")

    monkeypatch.setattr(accelerator, "find_spec", lambda name: Spec)
    assert "no CUDA provider" in CudaBackend().missing()
    monkeypatch.setattr(accelerator, "find_spec", lambda name: None)
    assert "not installed" in CudaBackend().missing()


def test_cuda_fallback_is_chosen_by_option() -> None:
    relaxed = CudaBackend((("device_id", "1"),))
    assert relaxed.providers() == [("CUDAExecutionProvider", {"device_id": "1"}), ("CPUExecutionProvider", {})]
    assert relaxed.config() == {}
    strict = CudaBackend((("cpu_fallback", "0"),))
    assert strict.providers() == [("CUDAExecutionProvider", {})]
    assert strict.config() == {"session.disable_cpu_ep_fallback": "1"}
    with pytest.raises(UsageError):
        CudaBackend((("cpu_fallback", "no"),))


def test_cuda_target_knows_its_kernels() -> None:
    target = CudaBackend().target()
    assert target.has_kernel("", "MatMul", 13, {"T": "float16"})
    assert not target.has_kernel("", "QLinearConv", 10)
    assert not target.has_kernel("com.microsoft", "GroupQueryAttention", 1, {"T": "float"})
    assert target.has_kernel("com.microsoft", "GroupQueryAttention", 1, {"T": "float16"})


def test_cuda_reads_the_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("the fake tool is a shell script")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 9.0, 81559 MiB, 580.1'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert CudaBackend().target().isa == {"sm_90"}
    assert CudaBackend().details()["GPU 0"] == "NVIDIA H100, 9.0, 81559 MiB, 580.1"
    tool.write_text("#!/bin/sh\necho 'has failed because it could not communicate with the driver'\nexit 9\n")
    assert CudaBackend().target().isa == frozenset()


# --- the kernel data


def test_table_of_an_unknown_provider() -> None:
    with pytest.raises(BackendError, match="NoProvider"):
        kernels.table("NoProvider")


def test_limits_are_cautious_for_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "installed", lambda: "1.23.0")
    assert dict(kernels.opsets())[""] == 23
    assert kernels.ir_version() == 11
    assert "installed: 1.23.0" in kernels.describe("CPUExecutionProvider")


def test_installed_is_the_version_that_runs(runner: Runner) -> None:
    runner.start()
    assert CpuBackend().probe(runner).available
    assert kernels.installed() == runner.version


def test_installed_without_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(doctor.metadata, "version", absent)
    assert kernels.installed() == ""


def test_limits_come_from_the_runtime(runner: Runner) -> None:
    limits, ir = kernels._limits(runner)
    if runner.version == kernels._data()["runtime"]:
        assert (limits, ir) == (kernels._data()["opsets"], kernels._data()["ir_version"])
    assert limits[""] >= 23


def test_writing_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = kernels._FILE.read_bytes()
    monkeypatch.setattr(kernels, "_FILE", tmp_path / "kernels.json.gz")
    kernels.write(json.loads(gzip.decompress(original)))
    assert json.loads(gzip.decompress((tmp_path / "kernels.json.gz").read_bytes())) == json.loads(
        gzip.decompress(original)
    )
    first = (tmp_path / "kernels.json.gz").read_bytes()
    kernels.write(json.loads(gzip.decompress(original)))
    assert (tmp_path / "kernels.json.gz").read_bytes() == first


def test_availability_is_plain() -> None:
    assert Availability(True).reason == ""
