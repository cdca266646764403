"""Every mistake is one line on stderr with the promised exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import one_line_error, run, write

from accelc.cli import app, system


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("optimise", "x.onnx"), "did you mean optimize?"),
        (("model.onnx",), "did you mean accelc optimize model.onnx?"),
        (("optimize",), "missing argument 'MODEL'"),
        (("optimize", "MODEL", "--portabel"), "did you mean --portable?"),
        (("optimize", "MODEL", "-O7"), "there is no level 7"),
        (("optimize", "MODEL", "-Ox"), "not a valid integer"),
        (("optimize", "MODEL", "-O1", "--passes", "fold"), "exclude each other"),
        (("optimize", "MODEL", "--passes", "fold, foldd"), "did you mean fold?"),
        (("optimize", "MODEL", "--passes", "fold{"), "pipeline 'fold{'"),
        (("optimize", "MODEL", "--disable", "times_two"), "did you mean times_one?"),
        (("optimize", "MODEL", "--why", "times_two"), "did you mean times_one"),
        (("optimize", "MODEL", "--print-after", "identty"), "did you mean identity?"),
        (("optimize", "MODEL", "--shape", "x"), "write name=1x128"),
        (("optimize", "MODEL", "--shape", "x=1x4", "--shape", "x=2x4"), "twice for one input"),
        (("optimize", "MODEL", "--max-drop", "150%"), "write 1% or 0.01"),
        (("optimize", "MODEL", "--ep", "cpu", "--ep", "cpu"), "target cpu is given twice"),
        (("optimize", "MODEL", "--ep", "cpu", "--ep", "cuda", "-o", "x.onnx"), "x.{ep}.onnx"),
        (("optimize", "MODEL", "--ep", "cp"), "no backend named 'cp'"),
        (("optimize", "MODEL", "--ep", "cpu:wings=2"), "no option 'wings'"),
        (("optimize", "MODEL", "--inputs", "none.npz"), "none.npz"),
        (("optimize", "MODEL", "-o", "no/such/folder/x.onnx"), "cannot write"),
        (("optimize", "MODEL", "--report", "no/such/folder/x.json"), "report cannot be written"),
        (("optimize", "MODEL", "-q", "-v"), "-q and -v"),
        (("optimize", "MODEL", "--verify", "maybe"), "maybe"),
        (("inspect", "MODEL", "--size", "batch=many"), "write batch=8"),
        (("passes", "identty"), "did you mean identity?"),
        (("reproduce", "."), "holds no reproducer"),
        (("diff", "MODEL", "MODEL", "--exact", "--max-drop", "1%"), "exclude each other"),
    ],
)
def test_usage_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "model.onnx")
    given = ["model.onnx" if each == "MODEL" else each for each in arguments]
    assert said in one_line_error(run(*given), 2)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def test_a_missing_model_suggests_one_of_a_similar_name(tmp_path: Path) -> None:
    write(tmp_path / "encoder.onnx")
    assert f"did you mean {tmp_path / 'encoder.onnx'}?" in one_line_error(run("inspect", tmp_path / "encodr.onnx"), 2)


@pytest.mark.parametrize("command", ["optimize", "inspect"])
def test_a_broken_model_is_refused(tmp_path: Path, command: str) -> None:
    path = tmp_path / "broken.onnx"
    path.write_text("this is no model, it is a line of text\n")
    assert "not an ONNX model" in one_line_error(run(command, path), 3)
    assert [each.name for each in tmp_path.iterdir()] == ["broken.onnx"]


def test_a_plugin_that_cannot_be_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    assert "no such file" in one_line_error(run("optimize", path, "--plugin", tmp_path / "none.py"), 6)
    (tmp_path / "bad.py").write_text("import no_such_module_at_all\n")
    assert "no_such_module_at_all" in one_line_error(run("passes", "--plugin", tmp_path / "bad.py"), 6)


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr("accelc.doctor.diagnose", fail)
    line = one_line_error(run("doctor"), 1)
    assert "internal error: ZeroDivisionError" in line
    assert "--debug" in line
    traced = run("doctor", "--debug")
    assert "Traceback" in traced.stderr


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("accelc.doctor.diagnose", stop)
    assert one_line_error(run("doctor"), 130) == "accelc: interrupted"


def test_help_teaches() -> None:
    for arguments in ([], ["--help"], ["-h"]):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "Exit codes:" in result.stdout
    for name in app.program.commands:
        text = run(name, "--help").stdout
        assert "Examples:" in text, name
        assert "--debug" in text, name
    assert next(iter(app.program.commands)) == "optimize"
    assert system.doctor.name == "doctor"
