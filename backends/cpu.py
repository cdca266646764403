"""The CPU execution provider."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from accelc.backend_base import Backend
from accelc.errors import UsageError
from accelc.runner import CPU, Provider
from accelc.target import Target

from . import kernels


@dataclass(frozen=True)
class CpuBackend(Backend):
    """ONNX Runtime on the processor. threads=N sets the threads of one operator; the default is the runtime's."""

    name = "cpu"
    summary = "ONNX Runtime on the processor of this machine"
    option_names = ("threads",)

    def __post_init__(self) -> None:
        super().__post_init__()
        text = dict(self.options).get("threads", "1")
        if not text.isdecimal() or not 1 <= int(text) <= 4096:
            raise UsageError(f"threads={text} is out of range", hint="give a number from 1 to 4096")

    def target(self) -> Target:
        """This machine's instruction sets with the kernels of the CPU provider."""
        return Target.cpu(
            threads=self.threads(),
            kernels=kernels.table("CPUExecutionProvider"),
            opsets=kernels.opsets(),
            ir_version=kernels.ir_version(),
        )

    def providers(self) -> list[Provider]:
        """Only the CPU provider."""
        return list(CPU)

    def threads(self) -> int | None:
        """What the user asked for."""
        text = dict(self.options).get("threads")
        return None if text is None else int(text)

    def missing(self) -> str:
        """Whether the runtime is installed at all."""
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed; pip install onnxruntime"

    def details(self) -> dict[str, str]:
        """Instruction sets, threads, int8 arithmetic, kernel table."""
        target = self.target()
        return {
            "instruction sets": ", ".join(sorted(target.isa)) or "unknown",
            "threads": str(target.threads),
            "int8": "exact in 8 bits" if target.int8_dot_exact else "u8 x s8 saturates: weights are kept to 7 bits",
            "kernels": kernels.describe(target.provider),
        }
