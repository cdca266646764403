"""What can run where: provider, instruction set, operator kernels with their types, opset limits."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from accelc.errors import UsageError

_CPUINFO = Path("/proc/cpuinfo")
# What Linux prints -> our name.
_LINUX_NAMES = {
    "sse4_1": "sse4_1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "neon_dot",
    "asimdhp": "neon_fp16",
    "i8mm": "neon_i8mm",
    "bf16": "neon_bf16",
    "sve": "sve",
}
# The last part of the names under hw.optional of macOS -> our name.
_MACOS_NAMES = {
    "sse4_1": "sse4_1",
    "avx1_0": "avx",
    "avx2_0": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512",
    "avx512vnni": "avx512_vnni",
    "AdvSIMD": "neon",
    "neon": "neon",
    "FEAT_DotProd": "neon_dot",
    "FEAT_FP16": "neon_fp16",
    "FEAT_I8MM": "neon_i8mm",
    "FEAT_BF16": "neon_bf16",
}
# Numbers of IsProcessorFeaturePresent of Windows -> our name. It does not tell about VNNI.
_WINDOWS_FEATURES = {37: "sse4_1", 39: "avx", 40: "avx2", 41: "avx512", 19: "neon", 43: "neon_dot"}

_AVX2 = frozenset({"sse4_1", "avx", "avx2", "fma", "f16c"})
_AVX512 = _AVX2 | {"avx512"}
_IMPLIED: Mapping[str, frozenset[str]] = {
    "sse4_1": frozenset({"sse4_1"}),
    "avx": frozenset({"sse4_1", "avx"}),
    "avx2": _AVX2,
    "avx_vnni": _AVX2 | {"avx_vnni"},
    "avx512": _AVX512,
    "avx512_vnni": _AVX512 | {"avx512_vnni"},
    "avx512_bf16": _AVX512 | {"avx512_vnni", "avx512_bf16"},
    "avx512_fp16": _AVX512 | {"avx512_vnni", "avx512_bf16", "avx512_fp16"},
    "amx_int8": _AVX512 | {"avx512_vnni", "avx512_bf16", "amx_int8"},
    "amx_bf16": _AVX512 | {"avx512_vnni", "avx512_bf16", "amx_bf16"},
    "neon": frozenset({"neon"}),
    "neon_fp16": frozenset({"neon", "neon_fp16"}),
    "neon_dot": frozenset({"neon", "neon_fp16", "neon_dot"}),
    "neon_i8mm": frozenset({"neon", "neon_fp16", "neon_dot", "neon_i8mm"}),
    "neon_bf16": frozenset({"neon", "neon_fp16", "neon_dot", "neon_bf16"}),
    "sve": frozenset({"neon", "neon_fp16", "neon_dot", "sve"}),
}
"""Instruction set -> what processors that have it also have."""
_ALIASES = {"vnni": "avx512_vnni", "dot": "neon_dot", "i8mm": "neon_i8mm", "bf16": "neon_bf16"}
_AMX = _IMPLIED["amx_int8"] | _IMPLIED["amx_bf16"]
_NATIVE = "native"

_EXACT_INT8 = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "neon", "neon_dot", "neon_i8mm"})
_TYPE_ALIASES = {"float32": "float", "float64": "double"}
_NO_LIMIT = 2**31 - 1


class Kernel(NamedTuple):
    """One kernel: the operator versions it serves, and the types that each parameter may have."""

    first: int
    last: int
    types: Mapping[str, frozenset[str]]


class KernelTable:
    """The kernels of one execution provider of one release of the runtime."""

    def __init__(self, runtime: str, kernels: Iterable[tuple[str, str, int, int, Mapping[str, Iterable[str]]]]) -> None:
        """kernels: (domain, operator, first version, last version, parameter -> type strings)."""
        self.runtime = runtime
        self._kernels: dict[tuple[str, str], list[Kernel]] = {}
        for domain, op_type, first, last, types in kernels:
            entry = Kernel(first, last, {name: frozenset(map(type_name, allowed)) for name, allowed in types.items()})
            self._kernels.setdefault((domain_name(domain), op_type), []).append(entry)

    def __len__(self) -> int:
        return sum(map(len, self._kernels.values()))

    def find(self, domain: str, op_type: str, opset: int, types: Mapping[str, str]) -> list[Kernel]:
        """The kernels that serve an operator of an opset with these types.

        A kernel without a last version serves only the version of the operator that it was made for. A parameter that
        is not given may be anything, and so may one that the kernel does not restrict.
        """
        wanted = {name: type_name(given) for name, given in types.items()}
        version = operator_version(domain_name(domain), op_type, opset)
        return [
            kernel
            for kernel in self._kernels.get((domain_name(domain), op_type), ())
            if (kernel.first == version or kernel.first <= version <= kernel.last < _NO_LIMIT)
            and all(name not in kernel.types or given in kernel.types[name] for name, given in wanted.items())
        ]


@dataclass(frozen=True)
class Target:
    """Where the result is to run.

    isa: instruction sets under the names of this module. threads: processors that this process may use. opsets:
    (domain, highest version) that the runtime accepts; "" is ai.onnx. ir_version: the highest it accepts.
    """

    name: str
    provider: str
    isa: frozenset[str] = frozenset()
    threads: int = 1
    kernels: KernelTable | None = None
    opsets: tuple[tuple[str, int], ...] = ()
    ir_version: int = 10

    @classmethod
    def cpu(
        cls,
        isa: Iterable[str] | None = None,
        *,
        threads: int | None = None,
        kernels: KernelTable | None = None,
        opsets: tuple[tuple[str, int], ...] = (),
        ir_version: int = 10,
    ) -> Target:
        """The CPU provider; isa and threads default to those of this machine."""
        return cls(
            "cpu",
            "CPUExecutionProvider",
            frozenset(detect_isa() if isa is None else isa),
            usable_processors() if threads is None else threads,
            kernels,
            opsets,
            ir_version,
        )

    @property
    def int8_dot_exact(self) -> bool:
        """Whether u8 x s8 products are summed exactly.

        x86 without VNNI or AMX adds them in pairs that saturate at 16 bits (vpmaddubsw), so there the weights must
        stay within 7 bits. An unknown processor counts as one of those.
        """
        return bool(self.isa & _EXACT_INT8)

    def has_kernel(self, domain: str, op_type: str, opset: int, types: Mapping[str, str] | None = None) -> bool:
        """Whether the provider has a kernel of its own for an operator (of a domain at an opset) on these types.

        types: type parameter of the operator -> type, as tensor(float), float or float32. False without a kernel
        table, and for an operator that the runtime only decomposes into others.
        """
        return self.kernels is not None and bool(self.kernels.find(domain, op_type, opset, types or {}))

    def max_opset(self, domain: str = "") -> int | None:
        """The highest version of a domain that the runtime accepts, or None when it is not known."""
        return dict(self.opsets).get(domain_name(domain))

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(sorted(self.isa))})" if self.isa else self.name


@lru_cache(maxsize=4096)
def operator_version(domain: str, op_type: str, opset: int) -> int:
    """The opset since which an operator is what it is in this opset; the opset itself where onnx does not know it."""
    from onnx import defs

    try:
        return int(defs.get_schema(op_type, opset, domain).since_version)
    except defs.SchemaError:
        return opset


def domain_name(domain: str) -> str:
    """The canonical name of a domain; ai.onnx is empty."""
    return "" if domain == "ai.onnx" else domain


def type_name(name: str) -> str:
    """The canonical form of a type string: tensor(float) for FLOAT, float, float32 and tensor(float)."""
    text = name.strip()
    if "(" in text:
        return text
    text = text.lower()
    return f"tensor({_TYPE_ALIASES.get(text, text)})"


def usable_processors() -> int:
    """How many processors this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def isa_of(text: str) -> frozenset[str]:
    """Instruction sets from the names of users, such as `avx512_vnni`, `avx2+avx_vnni`, `amx`, `neon_dot` or `native`.

    Each name brings what it builds on. Raises UsageError for an unknown name and for names of different families.
    """
    found: frozenset[str] = frozenset()
    for part in re.split(r"[+,\s]+", text.strip()):
        name = part.lower().replace("-", "_")
        name = _ALIASES.get(name, name)
        if name == _NATIVE:
            found |= detect_isa()
        elif name == "amx":
            found |= _AMX
        elif name in _IMPLIED:
            found |= _IMPLIED[name]
        else:
            known = ", ".join((_NATIVE, "amx", *_IMPLIED))
            raise UsageError(f"{part!r} is no instruction set", where="--isa", hint=f"known are {known}")
    if "neon" in found and "sse4_1" in found:
        raise UsageError(f"{text!r} mixes instruction sets of x86 and of ARM", where="--isa")
    return found


def other_than_here(isa: Iterable[str]) -> str:
    """Why figures measured on this machine do not hold for other instruction sets; empty where they are its own."""
    wanted, here = frozenset(isa), detect_isa()
    if wanted == here or not here:
        return ""
    more, fewer = sorted(wanted - here), sorted(here - wanted)
    parts = [f"this one lacks {', '.join(more)}"] if more else []
    parts += [f"this one also has {', '.join(fewer)}"] if fewer else []
    return f"compiled for another processor ({'; '.join(parts)}), so what is measured here does not hold there"


def detect_isa() -> frozenset[str]:
    """The instruction sets of this machine; empty when the system does not tell."""
    machine = platform.machine().lower()
    base = frozenset({"neon"}) if machine in ("arm64", "aarch64") else frozenset[str]()
    if sys.platform == "linux":
        return base | isa_from_cpuinfo(_CPUINFO.read_text("utf-8", "replace") if _CPUINFO.exists() else "")
    if sys.platform == "darwin":
        found = subprocess.run(["sysctl", "hw.optional"], capture_output=True, text=True, check=False)
        return base | isa_from_sysctl(found.stdout)
    if sys.platform == "win32":
        import ctypes

        present: Any = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return base | frozenset(name for number, name in _WINDOWS_FEATURES.items() if present(number))
    return base


def isa_from_cpuinfo(text: str) -> frozenset[str]:
    """Instruction sets from the text of /proc/cpuinfo: those that every processor in it has."""
    lines = [line.partition(":") for line in text.splitlines()]
    sets = [set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")]
    common = set.intersection(*sets) if sets else set()
    return frozenset(name for flag, name in _LINUX_NAMES.items() if flag in common)


def isa_from_sysctl(text: str) -> frozenset[str]:
    """Instruction sets from what `sysctl hw.optional` prints."""
    lines = [line.partition(":") for line in text.splitlines()]
    flags = {key.strip().rpartition(".")[2] for key, _, value in lines if value.strip() == "1"}
    return frozenset(name for flag, name in _MACOS_NAMES.items() if flag in flags)
