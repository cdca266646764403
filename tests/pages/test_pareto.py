"""The curve of speed and quality as files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from page_reports import curve, point

from accelc.errors import UsageError
from accelc.pareto import SCHEMA, write_pareto
from accelc.pass_base import PassRecord
from accelc.report import Refusal, Report
from accelc.size import Size

POINTS = curve("static <all> & more")


def report(*points: dict[str, Any], **more: Any) -> Report:
    size = Size(nodes=1, parameters=1, weight_bytes=4, bytes=100, operators={"Add": 1}, opset=17)
    details = {"curve": list(points)} if points else {}
    record = PassRecord("quantize", "quantize", 3, 0.1, 1, 1, details=details, **more)
    return Report("a <model>.onnx", "out.onnx", None, "quantize", "cpu (avx2)", {}, size, size, passes=[record])


def drawn(page: str, kind: str) -> list[dict[str, float]]:
    """Where the elements of a class stand, in percent from the left and from the bottom."""
    styles = re.findall(rf'<span class="{kind}" style="([^"]*)"', page)
    return [{side: float(at) for side, at in re.findall(r"(left|bottom|height):([\d.]+)%", style)} for style in styles]


def test_json_has_every_point(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    write_pareto(path, [report(*POINTS)], 0.01)
    found = json.loads(path.read_text())
    assert found["schema"] == SCHEMA
    (curve,) = found["curves"]
    assert (curve["target"], curve["budget"], curve["reason"]) == ("cpu (avx2)", 0.01, "")
    assert [each["label"] for each in curve["points"]] == [each["label"] for each in POINTS]
    assert curve["points"][-1]["drop"] is None
    assert [each.name for each in tmp_path.iterdir()] == ["curve.json"]


def test_page_stands_alone_and_holds_names_as_text(tmp_path: Path) -> None:
    path = tmp_path / "curve.html"
    write_pareto(path, [report(*POINTS)], 0.01)
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|href=|<script|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "a &lt;model&gt;.onnx" in page
    assert "static &lt;all&gt; &amp; more" in page
    assert page.count("<tr") == 1 + len(POINTS)


def test_drawing_shows_front_budget_and_chosen(tmp_path: Path) -> None:
    path = tmp_path / "curve.html"
    write_pareto(path, [report(*POINTS)], 0.01)
    page = path.read_text(encoding="utf-8")
    known = [each for each in POINTS if each["ratio"] is not None and each["drop"] != float("inf")]
    points = drawn(page, 'point[^"]*')
    assert len(points) == len(known)
    assert len(drawn(page, 'point[^"]* chosen')) == 1
    assert len(drawn(page, "point hollow")) == 1
    assert len(drawn(page, "whisker")) == 2
    assert len(re.findall(r'<path [^>]*class="front"', page)) == 1
    assert "budget 1 %" in page
    places = {each["left"]: each["bottom"] for each in points}
    assert places[min(places)] == min(places.values()), "float loses least, and nothing is slower"
    assert places[max(places)] == max(places.values()), "the one that loses most is the fastest"
    assert all(0 <= left <= 100 and 0 <= bottom <= 100 for left, bottom in places.items())


@pytest.mark.parametrize("points", [POINTS[:1], [point("a", -0.01, 1.5), point("b", 0.0, 1.0)]])
def test_few_points_and_gains_in_quality_are_drawn(tmp_path: Path, points: list[dict[str, Any]]) -> None:
    path = tmp_path / "curve.html"
    write_pareto(path, [report(*points)])
    assert len(drawn(path.read_text(), 'point[^"]*')) == len(points)


def test_without_a_curve_the_reason_is_given(tmp_path: Path) -> None:
    skipped = report(skipped="no MatMul at all")
    bare = report()
    bare.passes = []
    undone = report()
    undone.refused = [Refusal("pass", "quantize", "latency", "it ran at half the speed")]
    reports = [skipped, bare, undone]
    write_pareto(tmp_path / "curve.json", reports)
    reasons = [each["reason"] for each in json.loads((tmp_path / "curve.json").read_text())["curves"]]
    assert reasons[0] == "no MatMul at all"
    assert "does not run pass quantize" in reasons[1]
    assert "half the speed" in reasons[2]
    write_pareto(tmp_path / "curve.html", reports)
    assert (tmp_path / "curve.html").read_text().count("There is no curve: ") == 3


@pytest.mark.parametrize("name", ["curve.txt", "curve", "missing/curve.html"])
def test_a_file_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="the curve cannot be written"):
        write_pareto(tmp_path / name, [report(*POINTS)])
    assert not list(tmp_path.iterdir())
