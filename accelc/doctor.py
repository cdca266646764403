"""What this machine and this installation can do, and why not where they cannot."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from accelc.backend_base import Backend
from accelc.errors import AccelcError
from accelc.int8 import profile_of
from accelc.plugins import GROUPS, entries
from accelc.runner import Runner
from accelc.target import Target, usable_processors

SCHEMA = "accelc.doctor/1"
_PACKAGES = ("accelc", "onnx", "onnx-ir", "numpy", "networkx", "click", "rich")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml", "onnxruntime-openvino")


@dataclass(frozen=True)
class Provider:
    """An execution provider: its backend in accelc and who brings it, or why it cannot be used.

    runtime_name: the runtime's name of it, such as CPUExecutionProvider. capabilities: where the knowledge of what it
    runs comes from.
    """

    name: str
    available: bool
    reason: str = ""
    origin: str = ""
    details: Mapping[str, str] | None = None
    runtime_name: str = ""
    capabilities: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """versions: by package. machine: facts by name. int8_exact: whether products of u8 and s8 are exact in 8 bits.

    int8_speed: what int8 can win on this processor, a sentence each. plugins: (kind, name, who brings it) of what
    is not built in. problems: what a user should know, one sentence each.
    """

    versions: Mapping[str, str]
    machine: Mapping[str, str]
    int8_exact: bool
    int8: str
    providers: tuple[Provider, ...]
    plugins: tuple[tuple[str, str, str], ...]
    problems: tuple[str, ...]
    int8_speed: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether at least one provider works."""
        return any(provider.available for provider in self.providers)


def diagnose() -> Diagnosis:
    """Look at everything; each provider runs a small model in a child process."""
    target = Target.cpu()
    first, *speed = profile_of(target.isa).lines()
    with Runner() as runner:
        providers = [_provider(name, runner) for name in entries("backend")]
        known = {provider.runtime_name for provider in providers}
        others = [name for name in runner.available if name not in known]
    nobody = "accelc has no backend for it"
    providers += [Provider(_short(name), False, nobody, "onnxruntime", runtime_name=name) for name in others]
    return Diagnosis(
        versions=versions(),
        machine={
            "system": f"{platform.system()} {platform.release()}",
            "processor": processor_name() or platform.machine(),
            "architecture": platform.machine(),
            "instruction sets": ", ".join(sorted(target.isa)) or "unknown",
            "usable processors": str(usable_processors()),
        },
        int8_exact=target.int8_dot_exact,
        int8=first,
        int8_speed=tuple(speed),
        providers=tuple(providers),
        plugins=tuple(_plugins()),
        problems=tuple(_problems(runtimes())),
    )


def versions() -> dict[str, str]:
    """Versions of the packages that accelc stands on, of the runtime, and of Python."""
    return {**{name: _version(name) for name in _PACKAGES}, **runtimes(), "python": platform.python_version()}


def runtimes() -> dict[str, str]:
    """The installed packages that bring ONNX Runtime, with their versions."""
    return {name: version for name in _RUNTIMES if (version := _version(name))}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _short(provider: str) -> str:
    """cpu for CPUExecutionProvider."""
    return provider.removesuffix("ExecutionProvider").lower()


def _provider(name: str, runner: Runner) -> Provider:
    entry = entries("backend")[name]
    try:
        backend: Backend = entry.load()()
        found = backend.probe(runner)
        runs = backend.target().provider, backend.capability_source()
    except AccelcError as error:
        return Provider(name, False, str(error), entry.origin)
    return Provider(name, found.available, found.reason, entry.origin, dict(found.details), *runs)


def _plugins() -> list[tuple[str, str, str]]:
    own = f"accelc {_version('accelc')}"
    return [
        (kind, entry.name, entry.origin) for kind in GROUPS for entry in entries(kind).values() if entry.origin != own
    ]


def _problems(installed: Mapping[str, str]) -> list[str]:
    found = []
    if not installed:
        found.append("onnxruntime is not installed; pip install onnxruntime")
    if len(installed) > 1:
        names = " and ".join(installed)
        found.append(f"{names} are both installed and overwrite each other; uninstall all of them, then install one")
    return found


def processor_name() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if sys.platform == "linux" and info.exists():
        for line in info.read_text("utf-8", "replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor()
