"""The OpenVINO execution provider."""

from __future__ import annotations

from dataclasses import dataclass

from accelc.backend_base import ANY, FLAG, WHOLE, Values, one_of

from .accelerator import FALLBACK, Accelerator, word_of

_DEVICE = r"(CPU|GPU|NPU)(\.\d+)?(_FP32|_FP16)?"
_FLAGS = {"disable_dynamic_shapes": FLAG, "enable_opencl_throttling": FLAG, "enable_qdq_optimizer": FLAG}


@dataclass(frozen=True)
class OpenvinoBackend(Accelerator):
    """ONNX Runtime with Intel's OpenVINO. Options are those of the provider, and cpu_fallback.

    device_type is CPU, GPU, GPU.1 or NPU, or several in order of preference as AUTO:GPU+CPU: a + stands for the comma,
    which ends an option.
    """

    name = "openvino"
    summary = "ONNX Runtime with Intel OpenVINO"
    provider = "OpenVINOExecutionProvider"
    package = "onnxruntime-openvino"
    libraries = {"linux": "libonnxruntime_providers_openvino.so", "win32": "onnxruntime_providers_openvino.dll"}
    option_names = {
        **FALLBACK,
        **_FLAGS,
        "cache_dir": ANY,
        "device_type": Values(
            rf"{_DEVICE}|(AUTO|HETERO|MULTI):{_DEVICE}(\+{_DEVICE})*", "CPU, GPU, GPU.1, NPU or such as AUTO:GPU+CPU"
        ),
        "load_config": ANY,
        "model_priority": one_of("LOW", "MEDIUM", "HIGH", "DEFAULT"),
        "num_of_threads": WHOLE,
        "num_streams": WHOLE,
        "precision": one_of("FP32", "FP16", "ACCURACY"),
    }

    def provider_options(self) -> dict[str, str]:
        """As the provider spells them."""
        own = {key: word_of(value) if key in _FLAGS else value for key, value in super().provider_options().items()}
        if "device_type" in own:
            own["device_type"] = own["device_type"].replace("+", ",")
        return own
