"""What the execution providers beside that of the processor have in common."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from accelc.backend_base import FLAG, Backend, Values
from accelc.doctor import runtimes
from accelc.runner import CPU, Provider
from accelc.target import Target

from . import kernels

FALLBACK: Mapping[str, Values] = {"cpu_fallback": FLAG}
_SYSTEM = sys.platform
_SYSTEMS = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}


@dataclass(frozen=True)
class Accelerator(Backend):
    """A provider of the runtime that takes what it can of a model; the processor runs the rest.

    cpu_fallback=0 makes it an error when there is a rest. That the whole provider is missing is always one. provider:
    the runtime's name of it. package: what pip installs for it. systems: values of sys.platform that it exists for.
    libraries: by system the file beside the runtime without which the provider is not in the installed package.
    """

    provider: ClassVar[str]
    package: ClassVar[str]
    systems: ClassVar[tuple[str, ...]] = ("linux", "win32")
    libraries: ClassVar[Mapping[str, str]] = {}

    def target(self) -> Target:
        """Standard operators only: accelc has no kernel table of the provider, and so adds no other ones."""
        return Target(self.name, self.provider, opsets=kernels.opsets(), ir_version=kernels.ir_version())

    def provider_options(self) -> dict[str, str]:
        """The options of the provider itself."""
        return {key: value for key, value in self.options if key not in FALLBACK}

    def providers(self) -> list[Provider]:
        """The provider, then the processor unless fallback is switched off."""
        own: list[Provider] = [(self.provider, self.provider_options())]
        return own if self.strict else [*own, *CPU]

    def config(self) -> dict[str, str]:
        """The runtime's own refusal of nodes on the processor, when asked for."""
        return {"session.disable_cpu_ep_fallback": "1"} if self.strict else {}

    def missing(self) -> str:
        """The system is another one, or the installed package has no such provider."""
        if _SYSTEM not in self.systems:
            names = " and ".join(_SYSTEMS[system] for system in self.systems)
            return f"{self.name} exists for {names} only"
        spec = find_spec("onnxruntime")
        if spec is None or spec.origin is None:
            return f"onnxruntime is not installed; pip install {self.package}"
        library = self.libraries.get(_SYSTEM)
        if library and not (Path(spec.origin).parent / "capi" / library).exists():
            kind = self.provider.removesuffix("ExecutionProvider")
            others = [name for name in runtimes() if name != self.package]
            first = f"pip uninstall {' '.join(others)}, then " if others else ""
            return f"the installed onnxruntime has no {kind} provider; {first}pip install {self.package}"
        return ""

    @property
    def strict(self) -> bool:
        """Whether it is an error when a part of the model must run on the processor."""
        return not is_on(self.option("cpu_fallback", "1"))


def is_on(flag: str) -> bool:
    """What a value of FLAG says."""
    return flag.lower() in ("1", "true")


def word_of(flag: str) -> str:
    """A value of FLAG as the providers that want words want it."""
    return "True" if is_on(flag) else "False"
