"""The example package, installed as a user would install it, and used from the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

EXAMPLE = Path(__file__).parents[1] / "plugin_example"

MODEL = """<ir_version: 8, opset_import: ["": 17, "acme.debug": 1]>
main (float[N, 4] x) => (float[N, 4] y) <float two = {2}> {
    [square] p = Pow(x, two)
    [watch] q = acme.debug.Probe(p)
    [last] y = Tanh(q)
}
<domain: "acme.debug", opset_import: ["": 17]>
Probe (value) => (same) { same = Identity(value) }"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the package is installed."""
    folder = tmp_path_factory.mktemp("plugin")
    source, site = folder / "source", folder / "site"
    shutil.copytree(EXAMPLE, source)
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, cwd=folder)
    return {**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1", "COLUMNS": "100"}


def accelc(environment: dict[str, str], folder: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-W", "error", "-c", "from accelc.cli import main; main()", *arguments]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    return tmp_path


def test_its_own_tests_pass(environment: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 passed" in done.stdout


def test_it_is_listed_with_its_origin(environment: dict[str, str], folder: Path) -> None:
    listed = accelc(environment, folder, "passes", "drop-probes")
    assert "acme-passes 1.0" in listed
    assert "acme.debug" in listed
    assert "pow_two" in accelc(environment, folder, "rules", "square")


def test_it_runs_by_name_with_options(environment: dict[str, str], folder: Path) -> None:
    passes = "square, drop-probes{domain=acme.debug}, dce"
    more = ["--no-measure", "--report", "report.json"]
    accelc(environment, folder, "optimize", "model.onnx", "--passes", passes, "-o", "out.onnx", *more)
    result = onnx.load(folder / "out.onnx")
    assert [node.op_type for node in result.graph.node] == ["Mul", "Tanh"]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["pipeline"] == "square, drop-probes, dce"
    assert report["verdict"]["status"] == "same"
    assert report["refused"] == []


def test_its_backend_is_a_target(environment: dict[str, str], folder: Path) -> None:
    arguments = ["model.onnx", "--ep", "single", "--passes", "square", "--report", "report.json"]
    accelc(environment, folder, "optimize", *arguments)
    assert (folder / "model.custom.single.onnx").exists()
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert report["latency"] is not None or report["latency_note"]
    assert "single" in accelc(environment, folder, "doctor")


def test_options_of_its_backend_are_checked(environment: dict[str, str], folder: Path) -> None:
    said = accelc(environment, folder, "optimize", "model.onnx", "--ep", "paced:pause_ms=long", code=2)
    assert "option pause_ms of paced cannot be 'long'; it is a whole number" in said


def test_a_file_of_it_clashes_with_the_installed_package(environment: dict[str, str], folder: Path) -> None:
    plugin = EXAMPLE / "acme_passes" / "square.py"
    arguments = ["model.onnx", "--plugin", str(plugin), "--passes", "square", "--no-measure"]
    said = accelc(environment, folder, "optimize", *arguments, code=6)
    assert "both acme-passes 1.0 and" in said
    assert "bring a pass named square" in said
    assert "Traceback" not in said
