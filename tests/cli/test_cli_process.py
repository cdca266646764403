"""The command as a process: start-up, signals, pipes, encodings, what is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import write

ACCELC = [sys.executable, "-m", "accelc"]


def accelc(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", **environment}
    return subprocess.run(
        [*ACCELC, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=120, check=False
    )


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    heavy = ["onnx", "onnx_ir", "onnxruntime", "numpy", "rich", "sympy", "networkx", "google.protobuf"]
    code = (
        "import sys, json, accelc, accelc.cli, accelc.cli.app, accelc.errors\n"
        f"print(json.dumps([name for name in {heavy!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_optimize_never_imports_the_runtime_in_this_process(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    code = (
        "import sys\nfrom accelc.cli.app import program\n"
        f"try:\n    program.main(['optimize', {str(path)!r}, '-q', '--no-measure'])\n"
        "except SystemExit as end:\n    print(end.code, [n for n in ('onnxruntime', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_version() -> None:
    done = accelc("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("accelc ")


def test_exit_codes_and_streams(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    good = accelc("optimize", path, "--no-measure")
    assert (good.returncode, good.stderr) == (0, "")
    bad = accelc("optimize", tmp_path / "none.onnx")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert len(bad.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"NO_COLOR": "1", "FORCE_COLOR": "1", "COLUMNS": "20"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "COLUMNS": "500"},
    ],
)
def test_any_terminal(tmp_path: Path, environment: dict[str, str]) -> None:
    path = write(tmp_path / "model.onnx")
    for command in (("optimize", path, "-O1", "--no-measure", "--time-passes", "--rule-stats"), ("rules", "norm")):
        done = accelc(*command, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\x1b" not in done.stdout
        assert not any(line.endswith(" ") for line in done.stdout.splitlines())
        if "PYTHONIOENCODING" in environment:
            assert done.stdout.isascii()


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen([*ACCELC, "rules"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    model, scratch = _slow_model(tmp_path / "slow.onnx"), tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        [*ACCELC, "optimize", str(model), "-O1", "--measure"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not any(tmp_path.glob(".accelc-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert any(tmp_path.glob(".accelc-*")), "the work did not start"
        process.send_signal(number)
        out, error = process.communicate(timeout=30)
    finally:
        if process.poll() is None:  # a failure here must not become one of a later test
            process.kill()
            process.communicate()
    assert process.returncode == 130
    assert (out, error) == ("", "accelc: interrupted\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["scratch", "slow.onnx"]
    assert list(scratch.iterdir()) == []


def _slow_model(path: Path) -> Path:
    """Work for several seconds: a chain of large products, measured."""
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((1024, 1024), np.float32) / 32, "w")
    nodes = [onnx.helper.make_node("Identity", ["x"], ["v0"])]
    nodes += [onnx.helper.make_node("MatMul", [f"v{index}", "w"], [f"v{index + 1}"]) for index in range(40)]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1024, 1024]) for name in ("x", "v40")]
    graph = onnx.helper.make_graph(nodes, "slow", info[:1], info[1:], [weight])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
