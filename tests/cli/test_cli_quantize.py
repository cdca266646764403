"""`accelc quantize`: what it writes and says, and that every mistake is one line that leaves no file behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import one_line_error, run

import accelc
from accelc import gates
from accelc.cli import why_layers
from accelc.errors import UsageError
from accelc.measure import Comparison
from accelc.pipeline import Pipeline
from accelc.quantize_api import METHODS, quantize_pipeline

MODELS = Path(__file__).parents[2] / "models"
MLP = MODELS / "digits_mlp.onnx"
EVAL = MODELS / "digits_mlp.eval.npz"
QUICK = ("--no-measure", "-O0")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with good data and bad data for the model, which lies there too."""
    folder = tmp_path / "data"
    folder.mkdir()
    images = np.load(MODELS / "digits_mlp.calibration.npz")["image"][:32]
    spoiled = images.copy()
    spoiled[3, 0, 2, 2] = np.nan
    arrays = {
        "good": {"image": images},
        "names": {"picture": images},
        "shape": {"image": images[:, :, :7]},
        "words": {"image": np.full(images.shape, "a")},
        "nan": {"image": spoiled},
        "empty": {"image": images[:0]},
        "nothing": {},
        "labels": {"image": images, "labels": np.zeros(31, np.int64)},
        "one": {"image": images[:1]},
        "constant": {"image": np.full_like(images, 0.5)},
    }
    for name, each in arrays.items():
        np.savez(folder / f"{name}.npz", **each)
    (folder / "junk.npz").write_text("no archive at all")
    (folder / "broken.onnx").write_text("no model at all")
    (folder / "model.onnx").write_bytes(MLP.read_bytes())
    return folder


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(str(path)).graph.node}


# --- results


def test_dynamic_is_written_beside_the_model(data: Path) -> None:
    result = run("quantize", data / "model.onnx", "--scheme", "dynamic", *QUICK)
    assert result.exit_code == 0, result.stderr
    made = data / "model.quantized.cpu.onnx"
    assert made.exists()
    assert made.stat().st_size < 0.4 * MLP.stat().st_size
    assert operators(made) & {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger"}
    assert "quantize{scheme=dynamic}" in result.stdout
    assert "inside the quality budget" in result.stdout


def test_static_with_labels_and_a_metric(data: Path) -> None:
    report = data / "report.json"
    result = run(
        *("quantize", data / "model.onnx", "--scheme", "static", "--calibration", data / "good.npz", "--eval", EVAL),
        *("--metric", "top1", "--max-drop", "0.5%", "-o", data / "out.onnx", "--report", report, *QUICK),
    )
    assert result.exit_code == 0, result.stderr
    assert "top1" in result.stdout
    found = json.loads(report.read_text())
    assert found["verdict"]["status"] == "within budget"
    assert found["verdict"]["score"]["after"] >= found["verdict"]["score"]["before"] - 0.005
    assert found["after"]["bytes"] < 0.4 * found["before"]["bytes"]


def test_four_bits_and_the_curve(data: Path) -> None:
    curve, page = data / "curve.json", data / "curve.html"
    options = ("--scheme", "weights", "--bits", "4", "--eval", EVAL, *QUICK, "-o", data / "out.onnx", "-q")
    for path in (curve, page):
        result = run("quantize", data / "model.onnx", *options, "--pareto", path)
        assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert operators(data / "out.onnx") & {"MatMulNBits"}
    (found,) = json.loads(curve.read_text())["curves"]
    assert [each["label"] for each in found["points"] if each["chosen"]]
    assert "<svg" in page.read_text()


def test_a_scheme_that_was_asked_for_is_kept_outside_the_budget(data: Path) -> None:
    options = (
        "--scheme",
        "static",
        "--no-islands",
        "--calibration",
        data / "constant.npz",
        "--eval",
        data / "good.npz",
    )
    result = run("quantize", data / "model.onnx", *options, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "over budget" in result.stdout
    assert "outside the quality budget" in result.stdout
    assert "always held one number" in " ".join(result.stdout.split())
    assert "QuantizeLinear" in operators(data / "model.quantized.cpu.onnx")


def test_a_scheme_that_was_asked_for_is_kept_where_it_is_slower(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = Comparison(0.5, 0.49, 0.51, "slower", 1.0, 1.0, 2.0, 2.0, 20, 0.01)
    monkeypatch.setattr(gates.Timing, "compare", lambda self, results, seconds: [half for _ in results])
    result = run("quantize", data / "model.onnx", "--scheme", "dynamic", "--measure", "-O0")
    assert result.exit_code == 0, result.stderr
    assert "kept because quantize was asked for" in " ".join(result.stdout.split())
    assert "refused" not in result.stdout
    assert (data / "model.quantized.cpu.onnx").stat().st_size < 0.4 * MLP.stat().st_size


def test_auto_keeps_the_budget(data: Path) -> None:
    options = ("--calibration", data / "constant.npz", "--eval", data / "good.npz", "--report", "-")
    result = run("quantize", data / "model.onnx", *options, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["verdict"]["status"] in ("within budget", "same")


def test_the_pipeline_of_the_report_makes_the_same(data: Path) -> None:
    report = data / "report.json"
    first = run("quantize", data / "model.onnx", "--scheme", "dynamic", *QUICK, "-q", "--report", report)
    text = json.loads(report.read_text())["pipeline"]
    second = run("optimize", data / "model.onnx", "--passes", text, "--no-measure", "-q", "-o", data / "again.onnx")
    assert (first.exit_code, second.exit_code) == (0, 0), second.stderr
    assert (data / "again.onnx").read_bytes() == (data / "model.quantized.cpu.onnx").read_bytes()


def test_one_sample_is_mentioned(data: Path) -> None:
    result = run("quantize", data / "model.onnx", "--scheme", "static", "--calibration", data / "one.npz", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "one sample" in result.stdout


def test_a_model_is_quantized_anew(data: Path) -> None:
    options = ("--calibration", data / "good.npz", *QUICK, "-q")
    assert run("quantize", data / "model.onnx", "--scheme", "static", *options, "-o", data / "a.onnx").exit_code == 0
    again = run("quantize", data / "a.onnx", "--scheme", "weights", "--requantize", *options, "-o", data / "b.onnx")
    assert again.exit_code == 0, again.stderr
    assert "MatMulNBits" in operators(data / "b.onnx")
    assert "QuantizeLinear" not in operators(data / "b.onnx")


def test_ranges_of_two_shards(data: Path) -> None:
    parts = [data / "1.cal", data / "2.cal"]
    for number, part in enumerate(parts, 1):
        given = ("--calibration", data / "good.npz", "--shard", f"{number}/2", "-q", "-o", part)
        assert run("calibrate", data / "model.onnx", *given).exit_code == 0
    assert run("calibrate", "--merge", *parts, "-q", "-o", data / "all.cal").exit_code == 0
    options = ("--scheme", "static", "--ranges", data / "all.cal", "--eval", EVAL, "--no-measure", "-q")
    result = run("quantize", data / "model.onnx", *options, "-o", data / "out.onnx")
    assert result.exit_code == 0, result.stderr
    assert "QuantizeLinear" in operators(data / "out.onnx")


def test_from_python(tmp_path: Path) -> None:
    result = accelc.quantize(MLP, scheme="weights", bits=8, level=0, measure=False, output=tmp_path)
    assert result.path == tmp_path / "digits_mlp.quantized.cpu.onnx"
    assert result.report.after.bytes < 0.4 * result.report.before.bytes
    with pytest.raises(UsageError, match="needs calibration data"):
        accelc.quantize(MLP, scheme="static", output=tmp_path)


# --- why


def test_why_names_the_layers_in_float_and_the_way_in(data: Path) -> None:
    options = ("--scheme", "dynamic", "--keep", "/1/*", "--keep", "nowhere*", *QUICK)
    result = run("quantize", data / "model.onnx", *options, "--why", "quantize")
    assert result.exit_code == 0, result.stderr
    assert "quantize: 4 layers: 3 dynamic, 1 in float:" in result.stdout
    assert "/1/Gemm (Gemm): kept by keep=/1/*" in result.stdout
    assert "to get it in: leave out --keep" in result.stdout
    assert "keep=nowhere* names no layer" in result.stdout


def test_why_without_the_pass(data: Path) -> None:
    result = run("optimize", data / "model.onnx", "-O1", "-q", "--no-measure", "--why", "quantize")
    assert result.stdout == "quantize: the pipeline does not run it; -O3 does, and accelc quantize\n"


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("too sensitive: relative error 0.2 of its own", "--method smooth"),
        ("float is faster alone: 0.71", "--scheme dynamic"),
        ("its weight is also used by node b (Add)", ""),
    ],
)
def test_advice_goes_by_the_reason(reason: str, advice: str) -> None:
    found = why_layers._advice({"node": "node a (MatMul)", "reason": reason}, "")
    assert (advice in found) if advice else not found


# --- pipelines


def test_methods_run_in_their_order_before_quantize() -> None:
    names = [each.name for each in quantize_pipeline(level=0, methods=list(reversed(METHODS)), scheme="weights")]
    assert names == [*METHODS, "quantize"]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_pipeline_is_that_of_the_level(level: int) -> None:
    made = quantize_pipeline(level=level, scheme="dynamic", methods=["smooth"], requantize=True)
    assert Pipeline.parse(str(made)) == made
    names = [each.name for each in made]
    assert names[0] == "strip-qdq"
    assert names.index("smooth") == names.index("quantize") - 1
    rest = [each for each in names if each not in ("strip-qdq", "smooth", "quantize")]
    wanted = [each.name for each in Pipeline.level(3 if level == 2 else level) if each.name != "quantize"]
    assert rest[: len(wanted)] == wanted


def test_methods_round_to_the_grid_of_quantize() -> None:
    texts = [
        str(each)
        for each in quantize_pipeline(
            level=0, scheme="weights", block_size=64, methods=["gptq", "bias-correct", "clip{bits=3}"]
        )
    ]
    assert texts[0] == "clip{bits=3, block=64}"
    assert texts[1] == "gptq{block_size=64}"
    assert texts[2] == "bias-correct{bits=4, block=64}"


# --- mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--calibration", "missing.npz"), "no such file"),
        (("--calibration", "names.npz"), "picture is not an input of the model"),
        (("--calibration", "shape.npz"), "wants shape"),
        (("--calibration", "words.npz"), "image"),
        (("--calibration", "nan.npz"), "NaN or Inf"),
        (("--calibration", "empty.npz"), "no samples"),
        (("--calibration", "nothing.npz"), "no array for input image"),
        (("--calibration", "junk.npz"), "not an .npz file"),
        (("--calibration", "no_module:feeds"), "cannot be imported"),
        (("--calibration", "good.npz", "--eval", "names.npz"), "picture is not an input of the model"),
        (("--calibration", "good.npz", "--eval", "empty.npz"), "no samples"),
        (("--calibration", "good.npz", "--eval", "labels.npz"), "31 labels for 32 samples"),
        (("--calibration", "good.npz", "--metric", "nope"), "there is no metric"),
        (("--calibration", "good.npz", "--max-drop", "200%"), "write 1% or 0.01"),
        (("--calibration", "good.npz", "--bits", "4"), "bits=4 does not go with scheme=static"),
        (("--calibration", "good.npz", "--bits", "3"), "'3' is not one of"),
        (("--calibration", "good.npz", "--block-size", "7"), "block_size=7"),
        (("--calibration", "good.npz", "--method", "magic"), "methods are equalize, smooth"),
        (("--calibration", "good.npz", "--method", "smooth{beta=1}"), "unknown option 'beta'"),
        (("--calibration", "good.npz", "--method", "clip", "--method", "clip"), "twice"),
        (("--calibration", "good.npz", "--method", "gptq"), "choose --scheme weights"),
        (("--calibration", "good.npz", "--calibration-method", "kl"), "they are minmax"),
        (("--calibration", "good.npz", "--isa", "z80"), "no instruction set"),
        (("--calibration", "good.npz", "--search-time", "soon"), "no time"),
        (("--calibration", "good.npz", "--pareto", "curve.txt"), ".html or .json"),
        (("--calibration", "good.npz", "--pareto", "none/curve.html"), "folder that exists"),
        (("--calibration", "good.npz", "--keep", "a|b"), "no pattern of node names"),
        (("--calibration", "good.npz", "-O3"), "no level 3 to quantize at"),
        (("--calibration", "good.npz", "--shceme", "static"), "did you mean --scheme?"),
        (("--ranges", "missing.cal"), "accelc calibrate makes one"),
        ((), "static int8 needs calibration data"),
    ],
)
def test_mistakes(data: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(data)
    before = {each.name for each in data.iterdir()}
    assert said in one_line_error(run("quantize", "model.onnx", "--scheme", "static", "--no-measure", *options), 2)
    assert {each.name for each in data.iterdir()} == before


@pytest.mark.parametrize(
    ("model", "code", "said"), [("broken.onnx", 3, "not an ONNX model"), ("modle.onnx", 2, "model.onnx?")]
)
def test_models_that_are_none(data: Path, model: str, code: int, said: str) -> None:
    before = {each.name for each in data.iterdir()}
    assert said in one_line_error(run("quantize", data / model), code)
    assert {each.name for each in data.iterdir()} == before


def test_labels_may_be_missing_and_that_is_said(data: Path) -> None:
    options = ("--scheme", "dynamic", "--eval", data / "good.npz", "--metric", "top1", *QUICK)
    result = run("quantize", data / "model.onnx", *options)
    assert result.exit_code == 0, result.stderr
    assert "there are no labels" in result.stdout
