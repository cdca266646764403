"""Targets with fake processors and small kernel tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accelc import ir
from accelc import target as module
from accelc.context import Context
from accelc.errors import UsageError
from accelc.target import (
    KernelTable,
    Target,
    detect_isa,
    isa_from_cpuinfo,
    isa_from_sysctl,
    isa_of,
    other_than_here,
    type_name,
)

ZEN3 = 2 * "processor\t: 0\nflags\t\t: fpu sse4_1 avx avx2 fma f16c\n\n"
SAPPHIRE = "flags\t: avx avx2 fma f16c avx512f avx512_vnni avx_vnni avx512_bf16 amx_int8 amx_bf16 sse4_1\n"
ALDER_LAKE = "flags\t: avx avx2 fma avx_vnni\n"
SKYLAKE_X = "flags\t: avx avx2 fma avx512f avx512bw\n"
GRAVITON3 = "Features\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp asimddp sve i8mm bf16\n"
PI4 = "Features\t: fp asimd evtstrm crc32 cpuid\n"
M2 = "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_BF16: 1\nhw.optional.AdvSIMD: 1\nhw.optional.sha3: 0\n"
INTEL_MAC = "hw.optional.avx2_0: 1\nhw.optional.avx512f: 0\nhw.optional.fma: 1\n"

TABLE = KernelTable(
    "1.0",
    [
        ("", "Relu", 6, 12, {"T": ["tensor(float)"]}),
        ("ai.onnx", "Relu", 13, 2**31 - 1, {"T": ["tensor(float)", "tensor(int8)"]}),
        ("", "Erf", 9, 12, {"T": ["tensor(float)"]}),
        ("", "Erf", 13, 2**31 - 1, {"T": ["tensor(float)"]}),
        ("com.microsoft", "MatMulNBits", 1, 2**31 - 1, {"T1": ["tensor(float)"], "T2": ["tensor(uint8)"]}),
    ],
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ZEN3, {"sse4_1", "avx", "avx2", "fma", "f16c"}),
        (ALDER_LAKE, {"avx", "avx2", "fma", "avx_vnni"}),
        (SKYLAKE_X, {"avx", "avx2", "fma", "avx512"}),
        (GRAVITON3, {"neon", "neon_fp16", "neon_dot", "neon_i8mm", "neon_bf16", "sve"}),
        (PI4, {"neon"}),
        ("model name: nothing else\n", set()),
        ("", set()),
    ],
)
def test_linux(text: str, expected: set[str]) -> None:
    assert isa_from_cpuinfo(text) == expected


def test_linux_takes_what_all_processors_have() -> None:
    assert isa_from_cpuinfo("flags: avx avx2 avx512f\nflags: avx avx2\n") == {"avx", "avx2"}


def test_macos() -> None:
    assert isa_from_sysctl(M2) == {"neon", "neon_dot", "neon_bf16"}
    assert isa_from_sysctl(INTEL_MAC) == {"avx2", "fma"}


@pytest.mark.parametrize(
    ("text", "exact"),
    [
        (ZEN3, False),
        (SKYLAKE_X, False),
        (ALDER_LAKE, True),
        (SAPPHIRE, True),
        (GRAVITON3, True),
        (PI4, True),
        ("", False),
    ],
)
def test_exact_int8(text: str, exact: bool) -> None:
    assert Target.cpu(isa_from_cpuinfo(text)).int8_dot_exact is exact


def test_detection_reads_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(SAPPHIRE)
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("accelc.target.platform.machine", lambda: "x86_64")
    assert {"avx512", "avx512_vnni", "amx_int8"} <= detect_isa()
    monkeypatch.setattr(module, "_CPUINFO", tmp_path / "none")
    assert detect_isa() == frozenset()
    monkeypatch.setattr("accelc.target.platform.machine", lambda: "aarch64")
    assert detect_isa() == {"neon"}


def test_detection_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[0] == "sysctl"
        return subprocess.CompletedProcess(command, 0, M2, "")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("accelc.target.platform.machine", lambda: "arm64")
    monkeypatch.setattr("accelc.target.subprocess.run", fake)
    assert detect_isa() == {"neon", "neon_dot", "neon_bf16"}


def test_detection_on_an_unknown_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "freebsd14")
    monkeypatch.setattr("accelc.target.platform.machine", lambda: "amd64")
    assert detect_isa() == frozenset()


def test_this_machine() -> None:
    here = Target.cpu()
    assert (here.name, here.provider) == ("cpu", "CPUExecutionProvider")
    assert here.threads >= 1
    assert here.isa == detect_isa()
    assert Target.cpu(["avx2"], threads=3) == Target("cpu", "CPUExecutionProvider", frozenset({"avx2"}), 3)


@pytest.mark.parametrize("given", ["float", "FLOAT", "float32", "tensor(float)"])
def test_type_names(given: str) -> None:
    assert type_name(given) == "tensor(float)"
    assert type_name("seq(tensor(float))") == "seq(tensor(float))"


@pytest.mark.parametrize(
    ("domain", "op_type", "opset", "types", "found"),
    [
        ("", "Relu", 12, {"T": "float"}, True),
        ("ai.onnx", "Relu", 12, {"T": "tensor(float)"}, True),
        ("", "Relu", 12, {"T": "int8"}, False),
        ("", "Relu", 13, {"T": "int8"}, True),
        ("", "Relu", 5, {}, False),
        ("", "Relu", 14, {}, False),
        ("", "Relu", 25, {}, False),
        ("", "Erf", 8, {}, False),
        ("", "Erf", 9, {}, True),
        ("", "Erf", 12, {}, True),
        ("", "Erf", 25, {}, True),
        ("com.microsoft", "Relu", 13, {}, False),
        ("com.microsoft", "MatMulNBits", 1, {"T1": "float"}, True),
        ("com.microsoft", "MatMulNBits", 1, {"T1": "float16", "T2": "uint8"}, False),
        ("com.microsoft", "MatMulNBits", 1, {"T1": "float", "T9": "string"}, True),
    ],
)
def test_kernels(domain: str, op_type: str, opset: int, types: dict[str, str], found: bool) -> None:
    assert Target.cpu([], kernels=TABLE).has_kernel(domain, op_type, opset, types) is found


def test_rules_ask_for_the_version_that_the_opset_has() -> None:
    ctx = Context(Target.cpu([], kernels=TABLE))
    assert ctx.allows("", "Relu", 13, {"T": ir.DataType.FLOAT}) is True
    assert ctx.allows("", "Relu", 14, {"T": ir.DataType.FLOAT}) == "cpu has no kernel for Relu with T=tensor(float)"
    assert ctx.allows("com.microsoft", "MatMulNBits", 21, {"T1": ir.DataType.FLOAT}) is True


def test_target_without_a_table_knows_no_kernel() -> None:
    assert not Target.cpu([]).has_kernel("", "Relu", 13)


def test_limits() -> None:
    limited = Target.cpu([], opsets=(("", 23), ("ai.onnx.ml", 5)), ir_version=11)
    assert (limited.max_opset(), limited.max_opset("ai.onnx"), limited.max_opset("ai.onnx.ml")) == (23, 23, 5)
    assert limited.max_opset("corp") is None


def test_text() -> None:
    assert str(Target.cpu(["avx2", "avx"])) == "cpu (avx, avx2)"
    assert str(Target.cpu([])) == "cpu"


@pytest.mark.parametrize(
    ("text", "members", "exact"),
    [
        ("avx2", {"avx", "avx2", "fma"}, False),
        ("AVX512", {"avx2", "avx512"}, False),
        ("avx2+avx_vnni", {"avx2", "avx_vnni"}, True),
        ("avx-vnni", {"avx2", "avx_vnni"}, True),
        ("vnni", {"avx512", "avx512_vnni"}, True),
        ("avx512_vnni", {"avx512", "avx512_vnni"}, True),
        ("amx", {"avx512_vnni", "amx_int8", "amx_bf16"}, True),
        ("neon", {"neon"}, True),
        ("neon_dot, i8mm", {"neon", "neon_dot", "neon_i8mm"}, True),
    ],
)
def test_names_of_users(text: str, members: set[str], exact: bool) -> None:
    isa = isa_of(text)
    assert members <= isa
    assert Target.cpu(isa=isa).int8_dot_exact is exact


def test_native_and_what_differs_from_it() -> None:
    assert isa_of("native") == detect_isa()
    assert other_than_here(detect_isa()) == ""
    if detect_isa():
        assert "compiled for another processor" in other_than_here({*detect_isa(), "sve9"})


@pytest.mark.parametrize(("text", "part"), [("avx3", "known are native, amx"), ("", "known"), ("avx2+neon", "mixes")])
def test_names_that_are_none(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        isa_of(text)
