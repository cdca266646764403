"""The CoreML execution provider."""

from __future__ import annotations

from dataclasses import dataclass

from accelc.backend_base import ANY, FLAG, one_of

from .accelerator import FALLBACK, Accelerator, is_on

_FLAGS = {
    "AllowLowPrecisionAccumulationOnGPU": FLAG,
    "EnableOnSubgraphs": FLAG,
    "ProfileComputePlan": FLAG,
    "RequireStaticInputShapes": FLAG,
}


@dataclass(frozen=True)
class CoremlBackend(Accelerator):
    """ONNX Runtime with Apple's CoreML. Options are those of the provider, and cpu_fallback.

    MLComputeUnits says what may be used: the processor, its GPU, its neural engine. The neural engine and the GPU
    compute in half precision.
    """

    name = "coreml"
    summary = "ONNX Runtime with Apple CoreML on macOS"
    provider = "CoreMLExecutionProvider"
    package = "onnxruntime"
    systems = ("darwin",)
    option_names = {
        **FALLBACK,
        **_FLAGS,
        "MLComputeUnits": one_of("ALL", "CPUOnly", "CPUAndGPU", "CPUAndNeuralEngine"),
        "ModelCacheDirectory": ANY,
        "ModelFormat": one_of("MLProgram", "NeuralNetwork"),
        "SpecializationStrategy": one_of("Default", "FastPrediction"),
    }

    def provider_options(self) -> dict[str, str]:
        """As the provider spells them."""
        own = super().provider_options()
        return {key: str(int(is_on(value))) if key in _FLAGS else value for key, value in own.items()}
