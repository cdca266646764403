"""What figures depend on besides the models: processor, runtime, drivers, and what this process is allowed to use."""

from __future__ import annotations

import datetime
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelc.backend_base import Backend
from accelc.doctor import processor_name, runtimes, versions
from accelc.runner import Runner, RuntimeFailure
from accelc.target import detect_isa, usable_processors

_VARIABLES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "MALLOC_ARENA_MAX")
_POLICY = Path("/sys/devices/system/cpu")
_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUP = Path("/proc/self/cgroup")
_UNLIMITED = 2**60


def environment(backends: Sequence[Backend], runner: Runner) -> dict[str, Any]:
    """Facts by name, only those that this system tells. backends: those measured on. runner: a child with the runtime.

    processor, cores (usable by this process), features (instruction sets), architecture, memory (bytes), system,
    governor and turbo (of the processor's frequency), limits (cores and bytes that a container allows), python, accelc,
    onnxruntime with its build, packages, providers (facts by backend, such as GPU and driver), variables (of the
    environment, that change how fast a model runs), date (UTC).
    """
    installed = versions()
    facts: dict[str, Any] = {
        "processor": processor_name() or platform.machine(),
        "cores": usable_processors(),
        "features": sorted(detect_isa()),
        "architecture": platform.machine(),
        "memory": memory(),
        "system": f"{platform.system()} {platform.release()}",
        "governor": _line(_POLICY / "cpu0" / "cpufreq" / "scaling_governor"),
        "turbo": _turbo(),
        "limits": limits(),
        "python": installed.pop("python"),
        "accelc": installed.pop("accelc"),
        **_runtime(runner),
        "packages": {name: version for name, version in installed.items() if version},
        "providers": {str(each.name): each.details() for each in backends},
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", {}, [])}


def _runtime(runner: Runner) -> dict[str, str]:
    """The runtime as it names itself; what is installed where it does not start."""
    try:
        if not runner.version:
            runner.memory()  # any request makes the child say what it runs
    except RuntimeFailure:
        return {"onnxruntime": next(iter(runtimes().values()), "")}
    return {"onnxruntime": runner.version, "build": runner.build}


def memory() -> int | None:
    """Bytes of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None  # Windows has no sysconf, and other systems not these names


def _turbo() -> bool | None:
    """Whether the processor may exceed its base frequency; None where that is not known."""
    boost, no_turbo = _line(_POLICY / "cpufreq" / "boost"), _line(_POLICY / "intel_pstate" / "no_turbo")
    return boost == "1" if boost else no_turbo == "0" if no_turbo else None


def limits(groups: Path = _GROUPS, own: Path = _OWN_GROUP) -> dict[str, float]:
    """cores and memory (bytes) that control groups allow this process; without those that allow everything."""
    found: dict[str, list[float]] = {"cores": [], "memory": []}
    for folder in _own_groups(groups, own) if sys.platform == "linux" else ():
        quota, _, period = _line(folder / "cpu.max").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            found["cores"].append(int(quota) / int(period))
        most = _line(folder / "memory.max")
        if most.isdecimal() and int(most) < _UNLIMITED:
            found["memory"].append(float(most))
    return {name: min(values) for name, values in found.items() if values}


def _own_groups(groups: Path, own: Path) -> Iterator[Path]:
    """The control group of this process and those around it."""
    entry = next((line for line in _text(own).splitlines() if line.startswith("0::")), "0::/")
    inner = groups / entry[3:].strip("/")
    for folder in (inner, *inner.parents):
        if folder == groups or groups in folder.parents:
            yield folder


def _line(path: Path) -> str:
    return _text(path).strip()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
