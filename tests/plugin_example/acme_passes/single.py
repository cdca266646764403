"""The processor with one thread, as on a small device."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import Backend, Target
from accelc.runner import CPU, Provider


@dataclass(frozen=True)
class Single(Backend):
    """ONNX Runtime on one thread of this machine's processor."""

    name = "single"
    summary = "ONNX Runtime on one thread"

    def target(self) -> Target:
        return Target.cpu(threads=1)

    def providers(self) -> list[Provider]:
        return list(CPU)

    def threads(self) -> int:
        return 1
