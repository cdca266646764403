"""`accelc optimize`: what it writes, prints and reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_helpers import LEAN, one_line_error, plugin, run, write

from accelc import plugins


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write(tmp_path / "model.onnx")


def files(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_writes_beside_the_model_and_reports(model: Path) -> None:
    result = run("optimize", model, "--no-measure")
    assert result.exit_code == 0, result.stderr
    assert files(model.parent) == {"model.onnx", "model.O2.cpu.onnx"}
    nodes = [node.op_type for node in onnx.load(str(model.parent / "model.O2.cpu.onnx")).graph.node]
    assert nodes == ["Add", "Relu"]
    assert "nodes" in result.stdout
    assert "identity" in result.stdout
    assert "equal to those of the original" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80 + len(str(model))
    assert result.stderr == ""


@pytest.mark.parametrize("spelling", [("-O1",), ("-O", "1"), ("--level", "1"), ("--level=1",)])
def test_level_spellings(model: Path, spelling: tuple[str, ...]) -> None:
    result = run("optimize", model, *spelling, "--no-measure", "--verify", "off")
    assert result.exit_code == 0, result.stderr
    assert "model.O1.cpu.onnx" in files(model.parent)
    assert "not compared: verification is off" in result.stdout


def test_quiet_prints_nothing(model: Path) -> None:
    result = run("optimize", model, "-q", "--no-measure", "-o", model.parent / "out.onnx")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert files(model.parent) == {"model.onnx", "out.onnx"}


def test_verbose_lists_passes_without_changes(model: Path) -> None:
    quiet, verbose = (run("optimize", model, "-O1", "--no-measure", *more).stdout for more in ((), ("-v",)))
    assert "transpose" not in quiet
    assert "transpose" in verbose


def test_level_that_finds_nothing_says_so(tmp_path: Path) -> None:
    result = run("optimize", write(tmp_path / "lean.onnx", LEAN), "-O1")
    assert "-O1 finds nothing to change" in result.stdout


def test_model_may_be_replaced_when_named(model: Path) -> None:
    result = run("optimize", model, "-o", model, "--no-measure")
    assert result.exit_code == 0, result.stderr
    assert files(model.parent) == {"model.onnx"}
    assert len(onnx.load(str(model)).graph.node) == 2


def test_json_report(model: Path) -> None:
    target = model.parent / "report.json"
    assert run("optimize", model, "--no-measure", "--report", target).exit_code == 0
    report = json.loads(target.read_text())
    assert report["schema"] == "accelc.report/1"
    expected = {
        "schema", "source", "output", "level", "pipeline", "target", "versions", "before", "after", "repairs", "passes",
        "refused", "notes", "verdict", "latency", "latency_note", "seconds", "patches",
    }  # fmt: skip
    assert expected <= report.keys()
    assert report["before"]["nodes"] == 4
    assert report["after"]["nodes"] == 2
    assert report["verdict"]["status"] == "same"
    printed = run("optimize", model, "--no-measure", "--report", "-")
    assert json.loads(printed.stdout)["after"] == report["after"]


def test_labels_give_accuracy(tmp_path: Path, model: Path) -> None:
    x = np.eye(4, dtype=np.float32) * 9 - 8
    np.savez(tmp_path / "data.npz", x=x, labels=np.arange(4))
    result = run("optimize", model, "--no-measure", "--inputs", tmp_path / "data.npz")
    assert "accuracy" in result.stdout
    assert "on 4 labels" in result.stdout


def test_measured_latency_has_an_interval(model: Path) -> None:
    result = run("optimize", model, "--measure")
    assert result.exit_code == 0, result.stderr
    shown = " ".join(result.stdout.split())
    assert "95 % interval" in shown or "the original is kept" in shown, "on a busy machine chance may say slower"


def test_latency_is_measured_when_asked_for(model: Path) -> None:
    shown = " ".join(run("optimize", model).stdout.split())
    assert "not measured; --measure does" in shown
    assert "95 % interval" not in shown


def test_shape_is_fixed(model: Path) -> None:
    out = model.parent / "out.onnx"
    result = run("optimize", model, "--no-measure", "--shape", "x=3x4", "-o", out)
    assert result.exit_code == 0, result.stderr
    assert [dim.dim_value for dim in onnx.load(str(out)).graph.input[0].type.tensor_type.shape.dim] == [3, 4]


def test_disable_and_pipeline(model: Path) -> None:
    out = model.parent / "out.onnx"
    run("optimize", model, "--no-measure", "-O1", "--disable", "times-one,Identity", "-o", out)
    assert [node.op_type for node in onnx.load(str(out)).graph.node][:2] == ["Identity", "Mul"]
    toml = model.parent / "pipeline.toml"
    toml.write_text('pipeline = "identity"\n')
    result = run("optimize", model, "--no-measure", "--pipeline", toml, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert [node.op_type for node in onnx.load(str(out)).graph.node] == ["Add", "Relu"]


def test_disable_takes_the_names_that_the_report_gives(model: Path) -> None:
    from accelc.catalog import all_passes, written
    from accelc.context import fold

    passes, out = all_passes(), model.parent / "out.onnx"
    for each in passes:
        for name in each.rule_names:
            shown = name.replace("*", "Cast")
            assert written(shown, passes) == shown
            assert fold(written(shown.swapcase().translate(str.maketrans("-_", "_-")), passes)) == fold(shown)
    result = run("optimize", model, "--no-measure", "-O1", "--disable", "Dead-Node,fold_Cast", "-o", out)
    assert result.exit_code == 0, result.stderr
    for wrong in ("fold_", "fold_*", "dead_nodes"):
        assert "no pass or rule named" in one_line_error(run("optimize", model, "--disable", wrong), 2)


def test_debugging_aids(model: Path) -> None:
    folder = model.parent / "dump"
    result = run(
        "optimize", model, "-O1", "--no-measure", "--time-passes", "--rule-stats", "--print-after", "identity",
        "--dump-dir", folder, "--why", "times-one",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "after identity" in result.stderr
    assert "fixpoint" in result.stdout
    assert "passes/identity.py:" in result.stdout
    assert "times_one of pass identity" in result.stdout
    assert "fired 1 times" in result.stdout
    names = sorted(files(folder))
    assert names[0] == "000_input.onnx"
    assert names[1].startswith("001_")
    onnx.checker.check_model(str(folder / names[-1]))


def test_why_names_the_place_where_a_rule_stops(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[2,4] x) => (float[2,4] y)
        <float two = {2.0}> { a = Mul(x, two)  y = Relu(a) }"""
    result = run("optimize", write(tmp_path / "m.onnx", text), "-q", "--no-measure", "--why", "times_one")
    assert "it stops because" in result.stdout
    assert "(Mul)" in result.stdout


def test_why_where_the_pipeline_leaves_a_rule_out(model: Path) -> None:
    result = run("optimize", model, "-O0", "-q", "--why", "times_one")
    assert "the pipeline does not run pass identity" in result.stdout
    assert "it would fire at" in result.stdout


def test_bisect_limit(model: Path) -> None:
    for limit, left in ((0, 4), (1, 3)):
        out = model.parent / f"{limit}.onnx"
        run("optimize", model, "-O1", "--no-measure", "--bisect-limit", limit, "-o", out)
        assert len(onnx.load(str(out)).graph.node) == left


def test_wrong_rule_is_refused_named_and_recorded(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "failure"
    result = run(
        "optimize", model, "--plugin", plugin(tmp_path), "--passes", "identity, wrong", "--no-measure",
        "--reproducer", folder, "-o", tmp_path / "out.onnx",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "rule relu_is_nothing (numbers)" in " ".join(result.stdout.split())
    assert "accelc reproduce" in result.stdout
    assert [node.op_type for node in onnx.load(str(tmp_path / "out.onnx")).graph.node] == ["Add", "Relu"]
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})
    again = run("reproduce", folder)
    assert again.exit_code == 1, again.stderr
    assert "the same failure occurs" in again.stdout
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})
    code = folder / "broken_plugin.py"
    code.write_text(code.read_text(encoding="utf-8").replace("op.Relu(x), x", "op.Identity(x), x"), encoding="utf-8")
    mended = run("reproduce", folder)
    assert mended.exit_code == 0, mended.stderr
    assert "it no longer occurs" in mended.stdout


def test_crashing_pass_is_one_line_and_leaves_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # no compiled form of the plugin either
    code = plugin(tmp_path)
    before = files(tmp_path)
    error = one_line_error(run("optimize", model, "--plugin", code, "--passes", "crash"), 5)
    assert "pass crash" in error
    assert files(tmp_path) == before
    traced = run("optimize", model, "--plugin", code, "--passes", "crash", "--debug")
    assert "Traceback" in traced.stderr
    assert traced.exit_code == 5


def test_names_of_a_model_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    proto = onnx.load(str(path))
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "x\x1b[31m[bold]"
    onnx.save(proto, str(path))
    for command in (("optimize", path, "--no-measure", "-v"), ("inspect", path)):
        result = run(*command)
        assert result.exit_code == 0, result.stderr
        assert "\x1b" not in result.stdout
    assert "x\\x1b[31m[bold]" in run("inspect", path).stdout


# --- several targets


def test_each_target_gets_a_file_a_report_and_a_line(model: Path) -> None:
    report = model.with_name("report.json")
    result = run("optimize", model, "--ep", "cpu", "--ep", "cuda", "--no-measure", "-O1", "--report", report)
    assert result.exit_code == 0, result.stderr
    assert {"model.O1.cpu.onnx", "model.O1.cuda.onnx"} <= files(model.parent)
    assert "-O1 on cpu" in result.stdout
    assert "-O1 on cuda" in result.stdout
    assert "2 of 2 nodes on cuda" in result.stdout
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["schema"] == "accelc.reports/1"
    assert [each["schema"] for each in found["reports"]] == ["accelc.report/1"] * 2
    assert [each["target"].partition(" ")[0] for each in found["reports"]] == ["cpu", "cuda"]
    assert found["failures"] == []
    assert found["reports"][1]["placement"]["text"] == "2 of 2 nodes on cuda"


@pytest.mark.parametrize(("output", "wanted"), [("there", "there/model.O1.cuda.onnx"), ("x.{ep}.onnx", "x.cuda.onnx")])
def test_outputs_for_several_targets(model: Path, output: str, wanted: str) -> None:
    (model.parent / "there").mkdir()
    where = model.parent / output
    result = run("optimize", model, "--ep", "cpu", "--ep", "cuda", "--no-measure", "-O1", "-q", "-o", where)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    assert (model.parent / wanted).exists()
    assert (model.parent / wanted.replace("cuda", "cpu")).exists()


def test_one_failed_target_is_an_exit_code_and_the_other_is_written(model: Path) -> None:
    model.with_name("model.O1.cuda.onnx").mkdir()
    report = model.with_name("report.json")
    result = run("optimize", model, "--ep", "cuda", "--ep", "cpu", "--no-measure", "-O1", "--report", report)
    assert result.exit_code == 2
    assert result.stderr.startswith("accelc: error: cuda: ")
    assert "is a folder" in result.stderr
    assert "model.O1.cpu.onnx" in files(model.parent)
    found = json.loads(report.read_text(encoding="utf-8"))
    assert [each["target"] for each in found["failures"]] == ["cuda"]
    assert len(found["reports"]) == 1


def test_dumps_of_several_targets_go_into_folders_of_their_own(model: Path) -> None:
    folder = model.with_name("dump")
    run("optimize", model, "--ep", "cpu", "--ep", "cuda", "--no-measure", "-O1", "-q", "--dump-dir", folder)
    assert files(folder) == {"cpu", "cuda"}
    assert files(folder / "cpu") == files(folder / "cuda") != set()
