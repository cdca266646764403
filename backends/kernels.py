"""The kernels of the runtime as data: kernels.json.gz beside this file, read at need.

`python -m accelc.backends.kernels` writes the file again from the installed runtime. The package onnxruntime lists
its CPU kernels; onnxruntime-gpu lists those of all its providers, but only where the libraries of CUDA and TensorRT
can be loaded (it dies otherwise). Providers that the installed runtime does not list keep the entries they have.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from accelc.doctor import runtimes
from accelc.errors import AccelcError, BackendError
from accelc.runner import Runner, RuntimeFailure
from accelc.runtime_text import clean, missing_library
from accelc.target import KernelTable, domain_name

_FILE = Path(__file__).with_name("kernels.json.gz")
# What every release that accelc may be installed with accepts, for releases that the file does not describe.
_LOWEST_OPSETS = {"": 23, "ai.onnx.ml": 5}
_LOWEST_IR = 11


@cache
def _data() -> dict[str, Any]:
    with gzip.open(_FILE, "rt", encoding="utf-8") as file:
        data: dict[str, Any] = json.load(file)
    return data


@cache
def table(provider: str) -> KernelTable:
    """The kernels of a provider, such as CPUExecutionProvider. Raises BackendError when the file has none."""
    found = _data()["providers"].get(provider)
    if found is None:
        raise BackendError(f"no kernel table for {provider}")
    return KernelTable(found["runtime"], (tuple(entry) for entry in found["kernels"]))


def installed() -> str:
    """Version of the installed runtime, or an empty text."""
    return next(iter(runtimes().values()), "")


def opsets() -> tuple[tuple[str, int], ...]:
    """(domain, highest version) that the installed runtime accepts; cautious for one that the file does not know."""
    limits: dict[str, int] = _data()["opsets"]
    if installed() != _data()["runtime"]:
        limits = {domain: min(limit, _LOWEST_OPSETS.get(domain, limit)) for domain, limit in limits.items()}
    return tuple(sorted(limits.items()))


def ir_version() -> int:
    """The highest IR version that the installed runtime accepts; cautious for one that the file does not know."""
    limit: int = _data()["ir_version"]
    return limit if installed() == _data()["runtime"] else min(limit, _LOWEST_IR)


def describe(provider: str) -> str:
    """Which release the kernel table is of, and whether that is the installed one."""
    runtime = table(provider).runtime
    return f"{len(table(provider))} kernels of onnxruntime {runtime}" + (
        "" if runtime == installed() else f" (installed: {installed() or 'none'})"
    )


def _list_kernels() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    rows: dict[str, list[Any]] = {}
    for kernel in state.get_all_opkernel_def():
        types = {name: sorted(allowed) for name, allowed in sorted(kernel.type_constraints.items())}
        first, last = kernel.version_range
        rows.setdefault(kernel.provider, []).append([domain_name(kernel.domain), kernel.op_name, first, last, types])
    json.dump(rows, sys.stdout)


def _limits(runner: Runner) -> tuple[dict[str, int], int]:
    """The opset and IR limits, which the runtime tells only when it refuses a model beyond them."""
    import onnx

    def refusal(domain: str, opset: int, ir: int) -> str:
        imports = [onnx.helper.make_opsetid("", 13)] * bool(domain) + [onnx.helper.make_opsetid(domain, opset)]
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir)
        try:
            runner.load(model.SerializeToString())
        except RuntimeFailure as failure:
            return str(failure)
        raise BackendError(f"the runtime accepts opset {opset} of {domain or 'ai.onnx'} with IR version {ir}")

    def number(pattern: str, text: str) -> int:
        found = re.search(pattern, text)
        if found is None:
            raise BackendError("the runtime no longer tells its limits", why=text)
        return int(found[1])

    domains = ("", "ai.onnx.ml")
    limits = {domain: number(r"till opset (\d+)", refusal(domain, 9999, 8)) for domain in domains}
    return limits, number(r"max supported IR version: (\d+)", refusal("", 13, 9999))


def main() -> None:
    """Write the data file again from the installed runtime. Raises BackendError."""
    script = [sys.executable, "-m", "accelc.backends.kernels", "--list"]
    listed = subprocess.run(script, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        library = missing_library(listed.stderr)
        why = f"{library} cannot be loaded" if library else clean(listed.stderr)
        raise BackendError("the runtime cannot list its kernels", why=why, hint="install onnxruntime without CUDA")
    rows: dict[str, list[Any]] = json.loads(listed.stdout)
    with Runner() as runner:
        limits, ir = _limits(runner)
        version = runner.version
    old: dict[str, Any] = _data()["providers"] if _FILE.exists() else {}
    new = {name: {"runtime": version, "kernels": sorted(kernels, key=json.dumps)} for name, kernels in rows.items()}
    write({"runtime": version, "opsets": limits, "ir_version": ir, "providers": {**old, **new}})
    print(f"{_FILE.name}: " + ", ".join(f"{name} {len(kernels)}" for name, kernels in sorted(rows.items())))


def write(data: dict[str, Any]) -> None:
    """Replace the data file; the same data give the same bytes."""
    text = json.dumps(data, separators=(",", ":"), sort_keys=True)
    _FILE.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        _list_kernels()
    else:
        try:
            main()
        except AccelcError as error:
            sys.exit(f"error: {error}")
