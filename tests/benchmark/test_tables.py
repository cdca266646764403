"""CSV and Markdown hold every row, and text from models cannot break them."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from bench_results import comparison, failed, latency, result, row, versus

from accelc.benchmark.results import BenchResult, Error, Fallen, Figure, Placed
from accelc.benchmark.tables import check_report
from accelc.errors import UsageError


def csv_rows(found: BenchResult) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(found.to_csv())))


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each Markdown table."""
    parts = [part for part in text.split("\n\n") if part.startswith("|")]
    return [[line.strip("| ").split(" | ") for line in part.splitlines()] for part in parts]


def test_csv_has_every_row_and_full_figures() -> None:
    found = comparison()
    rows = csv_rows(found)
    assert [each["model"] for each in rows] == ["base", "fast", "broken", "base", "fast"]
    timed = found.rows[1].latency
    assert timed is not None
    assert float(rows[1]["p50_low_ms"]) == timed.p50_ms.low
    assert (rows[1]["ratio"], rows[1]["verdict"]) == ("1.6", "faster")
    assert rows[1]["p90_ms"] == ""
    assert rows[0]["ratio"] == ""
    assert (rows[2]["failure"], rows[2]["p50_ms"]) == ("broken.onnx: not an ONNX model", "")
    assert [each["shape"] for each in rows] == ["batch=1"] * 3 + ["batch=8"] * 2


def test_csv_keeps_text_in_its_cell() -> None:
    found = result(failed('a "b", c', "x.onnx: line one\nline two, and more"), row())
    rows = csv_rows(found)
    assert rows[0]["model"] == 'a "b", c'
    assert rows[0]["failure"] == "x.onnx: line one\nline two, and more"
    assert len(rows) == 2


@pytest.mark.parametrize("label", ["=1+2", "+x", "-x", "@x", " =x"])
def test_csv_has_no_formulas(label: str) -> None:
    (only,) = csv_rows(result(row(label)))
    assert only["model"] == f"'{label}"
    (smaller,) = csv_rows(result(row(error=Error(0, -0.5, 0.1))))
    assert smaller["error_cosine"] == "-0.5"


def test_markdown_says_what_a_reader_must_know() -> None:
    fallen = (Fallen("/a", "NonZero", "CPUExecutionProvider", "no kernel"),)
    placed = Placed({"CUDAExecutionProvider": 3, "CPUExecutionProvider": 1}, 0, fallen, 2)
    two = (row(provider="cuda", placed=placed, notes=["mind this"]), row("b", notes=["mind this"]))
    text = result(*two).to_markdown()
    assert text.count("mind this") == 1
    assert "/a (NonZero) runs on CPU: no kernel" in text
    assert "2 copies between devices in each run" in text


def test_csv_leaves_bounds_out_that_are_not_finite() -> None:
    timed = replace(latency(2.0), p50_ms=Figure(2.0, 0.0, math.inf))
    (only,) = csv_rows(result(row(timed=timed)))
    assert only["p50_high_ms"] == ""


def test_markdown_has_a_table_for_each_shape() -> None:
    text = comparison().to_markdown()
    first, second = tables(text)
    assert first[0][:4] == ["model", "on", "p50 ms", "per second"]
    assert [line[0] for line in first[2:]] == ["base", "fast", "broken"]
    assert first[3][4] == r"1.60 x \[1.58, 1.62\] faster"
    assert first[4][2] == "failed"
    assert second[3][4].endswith(" same")
    assert len({len(line) for line in first}) == 1
    assert "**batch=8**" in text
    assert "- broken on cpu: broken.onnx: not an ONNX model" in text
    assert text.count("p90 needs 23,886 runs, p99 262,742; there are 250") == 1
    assert "40 interleaved rounds" in text
    assert "Example CPU 3000, 2 cores" in text
    assert "another process used 40 % of the processor" in text


def test_markdown_shows_what_there_is() -> None:
    plain = result(row())
    assert "against" not in plain.to_markdown()
    assert "p90 ms" not in plain.to_markdown()
    many = result(row(timed=latency(2.0, runs=300_000)))
    head = tables(many.to_markdown())[0][0]
    assert {"p90 ms", "p99 ms"} <= set(head)
    assert "needs" not in many.to_markdown()
    providers = result(row(), row(provider="cuda", versus=(versus(0, 2.0, kind="provider"),)))
    assert "against the first setting" in tables(providers.to_markdown())[0][0]


def test_markdown_takes_names_for_text() -> None:
    found = result(row("a|b_*c*_<script>"), failed("x", "one\n\ntwo | three"))
    text = found.to_markdown()
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert len({len(line) for line in tables(text.replace(r"\|", ""))[0]}) == 1
    assert r"- x on cpu: one two \| three" in text


@pytest.mark.parametrize("form", ["json", "csv", "md", "html"])
def test_the_name_says_the_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"out.{form}"
    found = comparison()
    found.write(path)
    text = path.read_text(encoding="utf-8")
    starts = {"json": "{", "csv": "model,", "md": "**batch=1**", "html": "<!DOCTYPE html>"}
    assert text.startswith(starts[form])
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    if form == "json":
        assert json.loads(text)["schema"] == "accelc.bench/1"


def test_other_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end its name in \.json, \.csv, \.md or \.html"):
        comparison().write(tmp_path / "out.txt")
    with pytest.raises(UsageError, match="cannot be written"):
        check_report(tmp_path / "none" / "out.csv")
    check_report(tmp_path / "out.CSV")
