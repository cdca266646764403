"""The options for data, metrics and calibration: mistakes are one line and leave no file; scores reach the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import one_line_error, plugin, run, write

from accelc import plugins

MODELS = Path(__file__).parents[2] / "models"
USER = """
import numpy as np

def feeds():
    for place in range(3):
        yield {"x": np.full((2, 4), place, np.float32)}

def broken():
    yield {"x": np.zeros((1, 4), np.float32)}
    raise RuntimeError("disk is gone")

def strict(outputs, labels, reference):
    return float(all((o[n] == r[n]).all() for o, r in zip(outputs, reference) for n in r))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with data that fits the model and data that does not."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.onnx")
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    good = np.ones((3, 4), np.float32)
    arrays: dict[str, dict[str, Any]] = {
        "good": {"x": good},
        "name": {"z": good},
        "shape": {"x": np.ones((3, 5), np.float32)},
        "type": {"x": np.full((3, 4), 0.1)},
        "nan": {"x": good * np.nan},
        "empty": {"x": np.zeros((0, 4), np.float32)},
        "labels": {"x": good, "labels": np.arange(2)},
        "text": {"x": good, "labels": np.array(["a", "b", "c"])},
    }
    for name, each in arrays.items():
        np.savez(tmp_path / f"{name}.npz", **each)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--calibration", "none.npz"), "none.npz: no such file or folder"),
        (("--calibration", "name.npz"), "array z is not an input of the model"),
        (("--calibration", "shape.npz"), "input x wants shape batchx4, got 1x5"),
        (("--calibration", "type.npz"), "input x wants float32, got float64"),
        (("--calibration", "nan.npz"), "input x holds NaN or Inf"),
        (("--calibration", "empty.npz"), "holds no samples"),
        (("--calibration", "user.py:broken"), "user.py:broken: fails at sample 1: RuntimeError: disk is gone"),
        (("--calibration", "user.py:gone"), "user.py has no gone"),
        (("--eval", "labels.npz"), "there are 2 labels for 3 samples"),
        (("--eval", "text.npz"), "labels are <U1, not numbers"),
        (("--eval", "name.npz"), "array z is not an input of the model"),
        (("--metric", "best"), "there is no metric 'best'"),
        (("--metric", "user.py:gone"), "the metric cannot be loaded"),
        (("--metric", "top1", "--metric-output", "z"), "the model has no output z; its outputs are y"),
        (("--metric-output", "y"), "no metric; name one with --metric"),
        (("--max-drop", "some"), "write 1% or 0.01"),
        (("--max-drop", "2"), "max_drop 2 is out of range"),
        (("--eval", "nan.npz"), "nan.npz: input x holds NaN or Inf: the original's output y is not finite either"),
        (("--preprocess", "size=3"), "preprocessing has no size"),
        (("--preprocess", "crop=4"), "--preprocess is for folders of images: no data is given"),
        (("--preprocess", "crop=4", "--eval", "good.npz"), "for folders of images: good.npz holds none"),
        (("--calibration-method", "best"), "there is no calibration method"),
        (("--ranges", "none.json"), "none.json: no such file; accelc calibrate makes one"),
        (("--search-time", "soon"), "'soon' is no time; give seconds, or as 60s, 5min, 1h"),
        (("--isa", "avx3"), "'avx3' is no instruction set"),
        (("--pareto", "curve.txt"), "curve.txt: the curve cannot be written; name a file in .html or .json"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    before = sorted(each.name for each in folder.iterdir() if each.name != "__pycache__")
    assert said in one_line_error(run("optimize", "model.onnx", *arguments), 2)
    assert sorted(each.name for each in folder.iterdir() if each.name != "__pycache__") == before


def report(*arguments: object) -> dict[str, Any]:
    done = run("optimize", *arguments, "--report", "-")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_calibration_that_nothing_uses_is_said(folder: Path) -> None:
    found = report("model.onnx", "--calibration", "good.npz")
    assert any("no pass of this pipeline lowers precision; -O3 does" in note for note in found["notes"])
    assert not any("calibration" in note for note in report("model.onnx", "-O2")["notes"])


def test_calibration_data_serves_to_verify_on(folder: Path) -> None:
    found = report("model.onnx", "--calibration", "good.npz")
    assert found["verdict"]["descriptions"] == [f"good.npz[{place}]" for place in range(3)]
    assert any("checked on samples of the calibration data; --eval names others" in note for note in found["notes"])
    found = report("model.onnx", "--calibration", "good.npz", "--eval", "user.py:feeds")
    assert found["verdict"]["descriptions"] == [f"user.py:feeds[{place}]" for place in range(3)]
    assert not any("--eval" in note for note in found["notes"])


def test_data_comes_from_a_function(folder: Path) -> None:
    found = report("model.onnx", "--eval", "user.py:feeds")
    assert found["verdict"]["descriptions"] == [f"user.py:feeds[{place}]" for place in range(3)]
    same = report("model.onnx", "--inputs", "user.py:feeds")
    assert same["verdict"] == found["verdict"]


def test_a_metric_judges_by_labels(tmp_path: Path) -> None:
    model, data = MODELS / "digits_mlp.onnx", MODELS / "digits_mlp.eval.npz"
    output = tmp_path / "out.onnx"
    found = report(model, "-O3", "--no-measure", "--eval", data, "--metric", "top1", "--max-drop", "0.01", "-o", output)
    score = found["verdict"]["score"]
    assert (score["metric"], score["output"], score["against"], score["relative"]) == (
        "top1",
        "logits",
        "labels",
        False,
    )
    assert score["count"] == 450
    assert score["before"] - score["after"] == pytest.approx(score["drop"])
    assert score["drop"] <= 0.01
    assert (found["verdict"]["limit"], found["verdict"]["accuracy"]) == ("0.01", None)
    assert any(each["name"] == "quantize" and each["changes"] for each in found["passes"])
    shown = run("optimize", model, "-O1", "--eval", data, "--metric", "top5", "-o", output)
    assert "top5 of logits 1 before, 1 after, on 450 labels; lost 0 % of 1%" in " ".join(shown.stdout.split())


def test_a_metric_of_ones_own_keeps_int8_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    model = MODELS / "digits_mlp.onnx"
    found = report(model, "-O3", "--no-measure", "--metric", "user.py:strict", "--max-drop", "0.5", "-o", "out.onnx")
    assert not any(each["name"] == "quantize" and each["changes"] for each in found["passes"])
    assert found["verdict"]["score"]["metric"] == "user.py:strict"


def test_a_recorded_failure_takes_data_and_metric_along(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path_factory.mktemp("kept") / "failure"
    options = ["--passes", "crash", "--plugin", plugin(folder), "--reproducer", kept, "--eval", "user.py:feeds"]
    data = ["--calibration", "good.npz", "--metric", "user.py:strict", "--max-drop", "0.5%"]
    assert run("optimize", "model.onnx", *options, *data).exit_code == 5
    for file in ("user.py", "good.npz"):
        (folder / file).unlink()
    assert (kept / "inputs" / "user.py").exists()
    monkeypatch.chdir(kept)
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})
    done = run("reproduce", ".")
    assert (done.exit_code, "KeyError" in done.stdout + done.stderr) == (1, True)


def test_infinite_data_that_the_model_is_made_for(folder: Path) -> None:
    masked = folder / "masked.onnx"
    graph = "(float[N,4] x) => (float[N,4] y) { a = Softmax(x)  y = Identity(a) }"
    write(masked, f'<ir_version: 10, opset_import: ["": 18]> g {graph}')
    np.savez("mask.npz", x=np.array([[0, 1, 2, -np.inf]], np.float32))
    done = run("optimize", masked, "--eval", "mask.npz", "-o", "a.onnx", "--report", "-")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"]["status"] == "same"
    assert any("NaN or Inf, which hide differences" in note for note in found["notes"])
