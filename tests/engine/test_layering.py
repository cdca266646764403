"""Who may import whom. The engine knows no pass and no backend; onnx_ir has one door; the runtime is loaded late."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = sorted((ROOT / "accelc").rglob("*.py"))
ALL = [*ENGINE, *sorted((ROOT / "passes").rglob("*.py")), *sorted((ROOT / "backends").rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported as soon as this file is) for every import in a file; TYPE_CHECKING left out."""
    package = "accelc" if path.is_relative_to(ROOT / "accelc") else f"accelc.{path.relative_to(ROOT).parts[0]}"

    def visit(node: ast.AST, early: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((each.name, early) for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}.{node.module or ''}".rstrip(".") if node.level else str(node.module)
            yield base, early
            yield from ((f"{base}.{each.name}", early) for each in node.names)
        inside = early and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", ENGINE, ids=name_of)
def test_the_engine_imports_no_pass_and_no_backend(path: Path) -> None:
    found = [name for name, _ in imports(path) if within(name, "accelc.passes") or within(name, "accelc.backends")]
    assert found == []


def test_the_engine_imports_the_command_line_nowhere_but_there() -> None:
    outside = [path for path in ALL if not path.is_relative_to(ROOT / "accelc" / "cli")]
    found = [name_of(path) for path in outside for name, _ in imports(path) if within(name, "accelc.cli")]
    assert [name for name in found if name != "accelc/__main__.py"] == []


def test_passes_and_backends_do_not_import_each_other() -> None:
    for path in ALL:
        here = path.relative_to(ROOT).parts[0]
        other = {"passes": "accelc.backends", "backends": "accelc.passes"}.get(here)
        if other is not None:
            assert [name for name, _ in imports(path) if within(name, other)] == [], name_of(path)


def test_onnx_ir_has_one_door() -> None:
    users = {name_of(path) for path in ALL if any(within(name, "onnx_ir") for name, _ in imports(path))}
    assert users == {f"accelc/ir/{name}.py" for name in ("__init__", "build", "graphs", "proto", "values")}


@pytest.mark.parametrize("package", ["onnxruntime", "sympy", "networkx", "torch"])
def test_heavy_packages_are_imported_late(package: str) -> None:
    found = {name_of(path) for path in ALL for name, early in imports(path) if early and within(name, package)}
    assert found == set()


def test_importing_accelc_loads_nothing_heavy() -> None:
    program = "import sys, accelc; print(sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", program], text=True))
    heavy = {"onnx", "onnx_ir", "onnxruntime", "numpy", "sympy", "networkx", "rich", "click", "torch"}
    assert heavy & set(loaded) == set()
    more = subprocess.check_output(
        [sys.executable, "-c", "import sys, accelc; accelc.optimize, accelc.Pass, accelc.Target; " + program[12:]],
        text=True,
    )
    assert {"onnxruntime", "torch"} & set(ast.literal_eval(more)) == set()


def test_every_public_name_can_be_had() -> None:
    program = "import accelc; [getattr(accelc, name) for name in accelc.__all__]; print(accelc.__version__)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip()
