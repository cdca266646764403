"""BENCHMARKS.md and its chart, from figures that were not measured."""

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import chart, measuring, page

    return chart, measuring, page


@pytest.fixture
def studies(parts):
    _, measuring, _ = parts
    variants = (
        measuring.Variant("accelc -O2", 1.5, 80_000_000, "", 27, 1_210_000, 1.31, 1.25, 1.4, "faster", 2.2e-7, 1.0),
        measuring.Variant("onnxsim", 0.9, None, "", 38, 1_220_000, 1.0, 0.98, 1.02, "same", 0.0, None),
        measuring.Variant("onnxslim", 0.4, None, "it said a|b < c"),
    )
    return [measuring.Study("digits_cnn", 40, 1_230_000, 0.2, "", variants, ("a busy machine",))]


def test_the_page_has_every_figure(parts, studies):
    *_, page = parts
    text = page.page(
        studies,
        chart="docs/a.svg",
        command="python -m benchmarks",
        environment={"processor": "P", "memory": 2e9, "other": 1},
        versions={"accelc": "0.1"},
        notes=["gpt2 is left out: to export it, install torch"],
    )
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {10}
    assert (
        "| accelc -O2 | 27 | 1.21 MB | 1.31 [1.25, 1.40] | **faster** | 2.2e-07 | 100.0 % | 1.5 s | 80.00 MB |" in rows
    )
    assert "| onnxsim | 38 | 1.22 MB | 1.00 [0.98, 1.02] | same | 0 |  | 0.9 s |  |" in rows
    assert any(line.startswith("| onnxslim |") and "failed: it said a b < c" in line for line in rows)
    assert "](docs/a.svg)" in text
    assert "gpt2 is left out" in text
    assert "- memory: 2.00 GB" in text


def test_the_chart_shows_every_result_in_its_place(parts, studies):
    chart, *_ = parts
    root = ET.fromstring(chart.chart(studies))
    (dot,) = root.iter(f"{SVG}circle")
    spans = [line for line in root.iter(f"{SVG}line") if line.get("class") in ("accelc", "peer")]
    (one,) = [line for line in root.iter(f"{SVG}line") if line.get("class") == "one"]
    assert float(one.get("x1")) < float(spans[0].get("x1")) < float(dot.get("cx")) < float(spans[0].get("x2"))
    assert float(spans[1].get("x1")) < float(one.get("x1")) < float(spans[1].get("x2"))
    assert float(spans[0].get("y1")) < float(spans[1].get("y1"))
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert {"digits_cnn", "accelc -O2", "onnxsim", "1.31x faster", "1x"} <= set(words)
    assert "onnxslim" not in words


def test_a_command_is_watched(tmp_path):
    """In a process of its own, for a child starts with the memory of its parent on its account."""
    watching = [sys.executable, "-S", str(ROOT / "benchmarks" / "watch.py")]
    hungry = [sys.executable, "-S", "-c", "x = bytearray(90_000_000); raise SystemExit(3)"]
    status, peak = subprocess.check_output([*watching, "60", *hungry], text=True).split()
    assert status == "3"
    assert peak == "None" or 90_000_000 < int(peak) < 200_000_000
    endless = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
    assert subprocess.check_output([*watching, "0.2", *endless], text=True).split()[0] == "None"
