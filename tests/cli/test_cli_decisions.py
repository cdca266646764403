"""`accelc decisions`: what was measured, as a table and as JSON, and forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import one_line_error, run

from accelc.decision_store import Decision, Store

ENVIRONMENT = {"backend": "cpu", "processor": "Model T", "runtime": "onnxruntime 1.0", "threads": 4}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, with three decisions."""
    monkeypatch.setenv("ACCELC_CACHE", str(tmp_path))
    store = Store(tmp_path / "decisions", ENVIRONMENT, print)
    more = ("2026-01-02T03:04:05Z", ("conv", "winograd"))
    store.put(Decision("winograd", "[1, 256, 28, 28]", "winograd", "measured", "winograd", 1.44, 1.4, 1.47, 30, *more))
    store.put(Decision("winograd", "[1, 64, 56, 56]", "conv", "measured", "winograd", 0.6, 0.58, 0.63, 30, *more))
    store.put(Decision("merge", "case", "conv", "measured", date=more[0], names=more[1], out={"winograd": "no kernel"}))
    return tmp_path / "decisions"


@pytest.mark.parametrize("command", [("decisions",), ("decisions", "list")])
def test_the_list(folder: Path, command: tuple[str, ...]) -> None:
    result = run(*command, COLUMNS="120")
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[0] == "cpu, Model T, onnxruntime 1.0, threads 4"
    assert "winograd [1, 256, 28, 28] winograd 1.44 [1.40, 1.47] 2026-01-02" in lines
    assert "winograd [1, 64, 56, 56] conv winograd 0.60 [0.58, 0.63] 2026-01-02" in lines
    assert "merge case conv no alternative can be used 2026-01-02" in lines
    assert lines[-1] == f"3 decisions in {folder}"


def test_the_list_as_json(folder: Path) -> None:
    body = json.loads(run("decisions", "list", "--json").stdout)
    assert (body["schema"], body["folder"]) == ("accelc.decisions/1", str(folder))
    (found,) = body["environments"]
    assert (found["environment"], found["problem"]) == (ENVIRONMENT, "")
    assert [(each["rule"], each["choice"], each["ratio"]) for each in found["decisions"]] == [
        ("merge", "conv", None), ("winograd", "winograd", 1.44), ("winograd", "conv", 0.6),
    ]  # fmt: skip
    assert found["decisions"][0]["out"] == {"winograd": "no kernel"}


def test_nothing_is_kept_yet(tmp_path: Path) -> None:
    result = run("decisions", "list", ACCELC_CACHE=str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (0, f"no decisions in {tmp_path / 'none' / 'decisions'}\n")
    assert not (tmp_path / "none").exists()


def test_clearing(folder: Path) -> None:
    assert run("decisions", "clear", "Winograd").stdout == "2 decisions of winograd forgotten\n"
    assert run("decisions", "clear").stdout == "1 decision forgotten\n"
    assert run("decisions", "clear").stdout == "0 decisions forgotten\n"
    assert list(folder.iterdir()) == []


def test_a_damaged_file_is_shown_and_goes(folder: Path) -> None:
    (folder / "cpu-0.json").write_text("{", encoding="utf-8")
    assert "damaged" in run("decisions", "list").stdout
    assert run("decisions", "clear").exit_code == 0
    assert list(folder.iterdir()) == []


def test_where(folder: Path) -> None:
    assert run("decisions", "where").stdout == f"{folder}\n"


def test_errors_are_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "did you mean winograd?" in one_line_error(run("decisions", "clear", "vinograd"), 2)
    assert "see accelc decisions list" in one_line_error(run("decisions", "clear", "xyz"), 2)
    assert "'forget'" in one_line_error(run("decisions", "forget"), 2)
    monkeypatch.setattr("accelc.decision_store.folder", lambda: None)
    assert "set ACCELC_CACHE to a folder" in one_line_error(run("decisions", "where"), 2)


def test_every_command_teaches() -> None:
    for name in ("list", "clear", "where"):
        text = run("decisions", name, "--help").stdout
        assert "Examples:" in text, name
        assert "--debug" in text, name
