"""`--report FILE.html` of the commands that compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from page_markup import read, texts

from accelc.cli.app import program

MODEL = Path(__file__).parents[2] / "models" / "digits_mlp.onnx"


@pytest.mark.parametrize("name", ["report.html", "REPORT.HTML"])
def test_a_page_for_names_in_html(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    arguments = ["optimize", MODEL, "-O1", "-q", "-o", tmp_path / "out.onnx", "--report", path]
    result = CliRunner().invoke(program, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    root = read(path.read_text(encoding="utf-8"))
    assert texts(root, ".//h1")[0].startswith("digits_mlp.onnx")
    assert list(root.iter("figure"))


def test_several_targets_share_a_page_and_other_names_hold_json(tmp_path: Path) -> None:
    both = ["--ep", "cpu", "--ep", "cpu:threads=1"]
    for name in ("report.html", "report.txt"):
        arguments = ["optimize", MODEL, "-O1", "-q", *both, "-o", tmp_path, "--report", tmp_path / name]
        result = CliRunner().invoke(program, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
    root = read((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(texts(root, ".//main/section/h2")) == 3
    assert json.loads((tmp_path / "report.txt").read_text(encoding="utf-8"))["schema"] == "accelc.reports/1"


def test_a_page_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "report.html"
    output = tmp_path / "out.onnx"
    result = CliRunner().invoke(program, ["optimize", str(MODEL), "-o", str(output), "--report", str(missing)])
    assert result.exit_code == 2
    assert not output.exists()
