"""The CUDA execution provider."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from accelc.backend_base import Backend
from accelc.errors import UsageError
from accelc.runner import Provider
from accelc.target import Target

from . import kernels

_PROVIDER = "CUDAExecutionProvider"
_WINDOWS = sys.platform == "win32"
_DRIVER = "nvcuda.dll" if _WINDOWS else "libcuda.so.1"
_PROVIDER_LIBRARY = "onnxruntime_providers_cuda.dll" if _WINDOWS else "libonnxruntime_providers_cuda.so"
_QUERY = ["--query-gpu=name,compute_cap,memory.total,driver_version", "--format=csv,noheader"]


@dataclass(frozen=True)
class CudaBackend(Backend):
    """ONNX Runtime on an NVIDIA GPU. Options are those of the provider, and cpu_fallback.

    cpu_fallback=0 makes it an error when a part of the model has no CUDA kernel; by default such parts run on the
    CPU. That the whole provider is missing is an error in either case.
    """

    name = "cuda"
    summary = "ONNX Runtime on an NVIDIA GPU"
    option_names = (
        "arena_extend_strategy",
        "cpu_fallback",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "device_id",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "enable_skip_layer_norm_strict_mode",
        "fuse_conv_bias",
        "gpu_mem_limit",
        "prefer_nhwc",
        "sdpa_kernel",
        "tunable_op_enable",
        "tunable_op_max_tuning_duration_ms",
        "tunable_op_tuning_enable",
        "use_ep_level_unified_stream",
        "use_tf32",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if dict(self.options).get("cpu_fallback", "1") not in ("0", "1"):
            raise UsageError("cpu_fallback is 0 or 1")

    def target(self) -> Target:
        """The kernels of the CUDA provider; isa is the compute capability, such as sm_90, when a GPU is there."""
        return Target(
            name="cuda",
            provider=_PROVIDER,
            isa=frozenset(f"sm_{gpu[1].replace('.', '')}" for gpu in self._gpus()[:1]),
            kernels=kernels.table(_PROVIDER),
            opsets=kernels.opsets(),
            ir_version=kernels.ir_version(),
        )

    def providers(self) -> list[Provider]:
        """CUDA, then the CPU unless fallback is switched off."""
        options = {key: value for key, value in self.options if key != "cpu_fallback"}
        cuda: list[Provider] = [(_PROVIDER, options)]
        return cuda if self._strict else [*cuda, ("CPUExecutionProvider", {})]

    def config(self) -> dict[str, str]:
        """The runtime's own refusal of nodes on the CPU, when asked for."""
        return {"session.disable_cpu_ep_fallback": "1"} if self._strict else {}

    def missing(self) -> str:
        """The installed package has no CUDA provider, or there is no NVIDIA driver."""
        spec = find_spec("onnxruntime")
        if spec is None or spec.origin is None:
            return "onnxruntime is not installed; pip install onnxruntime-gpu"
        if not (Path(spec.origin).parent / "capi" / _PROVIDER_LIBRARY).exists():
            return "the installed onnxruntime has no CUDA provider; pip install onnxruntime-gpu"
        try:
            ctypes.CDLL(_DRIVER)
        except OSError:
            return f"no NVIDIA driver: {_DRIVER} cannot be loaded; install the driver of your GPU"
        return ""

    def details(self) -> dict[str, str]:
        """The GPU, its driver, and the kernel table."""
        shown = {f"GPU {index}": ", ".join(gpu) for index, gpu in enumerate(self._gpus())}
        return {**shown, "kernels": kernels.describe(_PROVIDER)}

    def explain(self, failure: str) -> str:
        """Say how to get a library that is missing."""
        if "cannot be loaded" in failure:
            return f"{failure}; pip install 'onnxruntime-gpu[cuda,cudnn]' nvidia-cublas"
        return failure

    @property
    def _strict(self) -> bool:
        return dict(self.options).get("cpu_fallback") == "0"

    @staticmethod
    def _gpus() -> list[list[str]]:
        """(name, compute capability, memory, driver) of every GPU that nvidia-smi lists."""
        tool = shutil.which("nvidia-smi")
        if tool is None:
            return []
        try:
            found = subprocess.run([tool, *_QUERY], capture_output=True, text=True, check=False, timeout=30)
        except subprocess.TimeoutExpired:
            return []  # a driver that hangs; the probe tells what the runtime makes of it
        rows = [[part.strip() for part in line.split(",")] for line in found.stdout.splitlines()]
        return [row for row in rows if len(row) == 4] if found.returncode == 0 else []
