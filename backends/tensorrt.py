"""The TensorRT execution provider."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from accelc.backend_base import ANY, FLAG, NUMBER, WHOLE
from accelc.runner import CPU, Provider

from .accelerator import FALLBACK, Accelerator
from .cuda import CudaBackend, explain_cuda, no_driver, shown_gpus

_PATH = "PATH" if sys.platform == "win32" else "LD_LIBRARY_PATH"


@dataclass(frozen=True)
class TensorrtBackend(Accelerator):
    """ONNX Runtime with NVIDIA TensorRT; what TensorRT does not take runs on CUDA, the rest on the processor.

    Options are those of the provider, and cpu_fallback. TensorRT builds its engines while a model is loaded, or at the
    first run of new shapes; trt_engine_cache_enable=1 keeps them. Integers it takes as QuantizeLinear and
    DequantizeLinear, which accelc leaves as they are.
    """

    name = "tensorrt"
    summary = "ONNX Runtime with NVIDIA TensorRT"
    provider = "TensorrtExecutionProvider"
    package = "onnxruntime-gpu"
    libraries = {"linux": "libonnxruntime_providers_tensorrt.so", "win32": "onnxruntime_providers_tensorrt.dll"}
    option_names = {
        **FALLBACK,
        "device_id": WHOLE,
        "trt_auxiliary_streams": NUMBER,
        "trt_bf16_enable": FLAG,
        "trt_build_heuristics_enable": FLAG,
        "trt_builder_optimization_level": WHOLE,
        "trt_context_memory_sharing_enable": FLAG,
        "trt_cuda_graph_enable": FLAG,
        "trt_detailed_build_log": FLAG,
        "trt_dla_core": WHOLE,
        "trt_dla_enable": FLAG,
        "trt_dump_subgraphs": FLAG,
        "trt_engine_cache_enable": FLAG,
        "trt_engine_cache_path": ANY,
        "trt_engine_cache_prefix": ANY,
        "trt_engine_hw_compatible": FLAG,
        "trt_extra_plugin_lib_paths": ANY,
        "trt_force_sequential_engine_build": FLAG,
        "trt_force_timing_cache": FLAG,
        "trt_fp16_enable": FLAG,
        "trt_int8_calibration_table_name": ANY,
        "trt_int8_enable": FLAG,
        "trt_int8_use_native_calibration_table": FLAG,
        "trt_layer_norm_fp32_fallback": FLAG,
        "trt_max_partition_iterations": WHOLE,
        "trt_max_workspace_size": WHOLE,
        "trt_min_subgraph_size": WHOLE,
        "trt_op_types_to_exclude": ANY,
        "trt_preview_features": ANY,
        "trt_profile_max_shapes": ANY,
        "trt_profile_min_shapes": ANY,
        "trt_profile_opt_shapes": ANY,
        "trt_sparsity_enable": FLAG,
        "trt_tactic_sources": ANY,
        "trt_timing_cache_enable": FLAG,
        "trt_timing_cache_path": ANY,
    }

    def providers(self) -> list[Provider]:
        """TensorRT, then CUDA on the same GPU, then the processor unless fallback is switched off."""
        device = self.option("device_id")
        cuda: Provider = (CudaBackend.provider, {"device_id": device} if device else {})
        own: list[Provider] = [(self.provider, self.provider_options()), cuda]
        return own if self.strict else [*own, *CPU]

    def missing(self) -> str:
        """Also: there is no NVIDIA driver."""
        return super().missing() or no_driver()

    def memories(self) -> tuple[Literal["host", "device"], ...]:
        """Either."""
        return ("host", "device")

    def device(self) -> str:
        """The GPU that device_id names, in the words of CUDA."""
        return f"cuda:{self.option('device_id', '0')}"

    def details(self) -> dict[str, str]:
        """The GPU and its driver."""
        return shown_gpus()

    def explain(self, failure: str) -> str:
        """Say how to get a library that is missing."""
        if "cannot be loaded" in failure and "nv" in failure and ("infer" in failure or "parser" in failure):
            return f"{failure}; install NVIDIA TensorRT (pip install tensorrt) and add its folder to {_PATH}"
        return explain_cuda(failure)
