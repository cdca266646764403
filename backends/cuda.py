"""The CUDA execution provider."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

from accelc.backend_base import ANY, FLAG, WHOLE, one_of
from accelc.target import Target

from . import kernels
from .accelerator import FALLBACK, Accelerator, is_on

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@dataclass(frozen=True)
class CudaBackend(Accelerator):
    """ONNX Runtime on an NVIDIA GPU. Options are those of the provider, and cpu_fallback."""

    name = "cuda"
    summary = "ONNX Runtime on an NVIDIA GPU"
    provider = "CUDAExecutionProvider"
    package = "onnxruntime-gpu"
    libraries = {"linux": "libonnxruntime_providers_cuda.so", "win32": "onnxruntime_providers_cuda.dll"}
    option_names = {
        **FALLBACK,
        "arena_extend_strategy": one_of("kNextPowerOfTwo", "kSameAsRequested"),
        "cudnn_conv1d_pad_to_nc1d": FLAG,
        "cudnn_conv_algo_search": one_of("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
        "cudnn_conv_use_max_workspace": FLAG,
        "device_id": WHOLE,
        "do_copy_in_default_stream": FLAG,
        "enable_cuda_graph": FLAG,
        "enable_skip_layer_norm_strict_mode": FLAG,
        "fuse_conv_bias": FLAG,
        "gpu_mem_limit": WHOLE,
        "prefer_nhwc": FLAG,
        "sdpa_kernel": ANY,
        "tunable_op_enable": FLAG,
        "tunable_op_max_tuning_duration_ms": WHOLE,
        "tunable_op_tuning_enable": FLAG,
        "use_ep_level_unified_stream": FLAG,
        "use_tf32": FLAG,
    }

    def target(self) -> Target:
        """The kernels of the CUDA provider; isa is the compute capability, such as sm_90, when a GPU is there."""
        return Target(
            name=self.name,
            provider=self.provider,
            isa=frozenset(f"sm_{gpu[1].replace('.', '')}" for gpu in gpus()[:1]),
            kernels=kernels.table(self.provider),
            opsets=kernels.opsets(),
            ir_version=kernels.ir_version(),
        )

    def missing(self) -> str:
        """Also: there is no NVIDIA driver."""
        return super().missing() or no_driver()

    def memories(self) -> tuple[Literal["host", "device"], ...]:
        """Either; CUDA graphs read and write at fixed places on the device only."""
        return ("device",) if is_on(self.option("enable_cuda_graph")) else ("host", "device")

    def device(self) -> str:
        """The GPU that device_id names."""
        return f"cuda:{self.option('device_id', '0')}"

    def device_bytes(self) -> int | None:
        """Memory in use as nvidia-smi tells it, in whole MiB."""
        index = self.option("device_id", "0")
        used = next((row[1] for row in _query("index", "memory.used") if row[0] == index), "")
        number = used.removesuffix(" MiB")
        return int(number) * 2**20 if number.isdecimal() else None

    def details(self) -> dict[str, str]:
        """The GPU, its driver, and the kernel table."""
        return {**shown_gpus(), "kernels": kernels.describe(self.provider)}

    def explain(self, failure: str) -> str:
        """Say how to get a library that is missing."""
        return explain_cuda(failure)


def no_driver() -> str:
    """That no NVIDIA driver can be loaded; empty when one can."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return f"no NVIDIA driver: {_DRIVER} cannot be loaded; install the driver of your GPU"
    return ""


def explain_cuda(failure: str) -> str:
    """A failure, with how to get the libraries of CUDA when one of them is missing."""
    if "cannot be loaded" in failure:
        return f"{failure}; pip install 'onnxruntime-gpu[cuda,cudnn]' nvidia-cublas"
    return failure


def shown_gpus() -> dict[str, str]:
    """The GPUs as facts to show."""
    return {f"GPU {index}": ", ".join(gpu) for index, gpu in enumerate(gpus())}


def gpus() -> list[list[str]]:
    """(name, compute capability, memory, driver) of every GPU that nvidia-smi lists."""
    return _query("name", "compute_cap", "memory.total", "driver_version")


def _query(*columns: str) -> list[list[str]]:
    """What nvidia-smi says, a row for every GPU; nothing where it does not work."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    asked = [f"--query-gpu={','.join(columns)}", "--format=csv,noheader"]
    try:
        found = subprocess.run([tool, *asked], capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return []  # a driver that hangs; the probe tells what the runtime makes of it
    rows = [[part.strip() for part in line.split(",")] for line in found.stdout.splitlines()]
    return [row for row in rows if len(row) == len(columns)] if found.returncode == 0 else []
