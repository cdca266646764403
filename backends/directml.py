"""The DirectML execution provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelc.backend_base import FLAG, WHOLE, one_of

from .accelerator import FALLBACK, Accelerator, word_of


@dataclass(frozen=True)
class DirectmlBackend(Accelerator):
    """ONNX Runtime with DirectML, on any GPU with DirectX 12. Options are those of the provider, and cpu_fallback.

    device_id is the number of the adapter; without it, performance_preference and device_filter choose one.
    """

    name = "directml"
    summary = "ONNX Runtime with DirectML on Windows"
    provider = "DmlExecutionProvider"
    package = "onnxruntime-directml"
    systems = ("win32",)
    libraries = {"win32": "DirectML.dll"}
    option_names = {
        **FALLBACK,
        "device_filter": one_of("gpu", "npu", "any"),
        "device_id": WHOLE,
        "disable_metacommands": FLAG,
        "performance_preference": one_of("default", "high_performance", "minimum_power"),
    }

    def provider_options(self) -> dict[str, str]:
        """As the provider spells them."""
        own = super().provider_options()
        return {key: word_of(value) if key == "disable_metacommands" else value for key, value in own.items()}

    def session_options(self) -> dict[str, Any]:
        """The provider takes no memory pattern; operators run one after the other, as everywhere in accelc."""
        return {**super().session_options(), "memory_pattern": False}
