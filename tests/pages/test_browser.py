"""Pages in a real browser: everything is drawn, nothing sticks out, nothing is complained about, at any width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from page_markup import read
from test_pages import PAGES

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")

WIDTHS = (400, 1600)
_POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
_PROBE = """
const size = (each) => { const box = each.getBoundingClientRect(); return [box.left, box.top, box.width, box.height] }
const all = (what) => [...document.querySelectorAll(what)]
addEventListener("load", () => {
  all("details").forEach((each) => { each.open = true })
  parent.postMessage({
    name: NAME,
    wide: [document.documentElement.scrollWidth, innerWidth],
    figures: all("figure").map(size),
    drawings: all(".chart, .plot .box").map(size),
    points: all(".point").map(size),
    bars: all(".track > .bar, .track > .part, .track > .dot").map(size),
    tables: all("figure .scroll").map(size),
    parts: all(".chart .name, .chart .figure, .tick, .label, figcaption, h1, h2, h3, .tiles dd").map((each) => {
      const box = each.getBoundingClientRect()
      return [each.className, each.textContent, box.left, box.right]
    }),
    texts: [...new Set(all(".tick, .label").map((each) => getComputedStyle(each).fontSize))],
    scripts: document.scripts.length,
    colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
  }, "*")
})
"""
_FRAME = """<!DOCTYPE html><html style="color-scheme: light dark"><body><pre id="found"></pre><script>
const found = []
addEventListener("message", (each) => {
  found.push(each.data)
  document.getElementById("found").textContent = JSON.stringify(found)
})
</script>"""


@pytest.fixture(scope="module", params=["light", "dark"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the browser made of every page at every width, all in one window."""
    folder = tmp_path_factory.mktemp(request.param)
    frames = [_FRAME]
    for name, make in PAGES.items():
        for width in WIDTHS:
            probe = _PROBE.replace("NAME", json.dumps(f"{name} {width}"))
            page = _POLICY.sub("", make()).replace("</body>", f"<script>{probe}</script></body>")
            (folder / f"{name}{width}.html").write_text(page, encoding="utf-8")
            frames.append(f'<iframe src="{name}{width}.html" style="width:{width}px;height:900px;border:0"></iframe>')
    start = folder / "start.html"
    start.write_text("\n".join(frames), encoding="utf-8")
    dumped = _browse(start, request.param, "--dump-dom").stdout
    (found,) = [each.text for each in read(dumped.partition("<body>")[2].partition("<script>")[0]).iter("pre")]
    measured: list[dict[str, Any]] = json.loads(found or "[]")
    assert len(measured) == len(PAGES) * len(WIDTHS)
    for each in measured:
        each["scheme"] = request.param
    return measured


def _browse(page: Path, scheme: str, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        f"--user-data-dir={page.parent / 'browser'}",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
        "--window-size=1700,1000",
        "--virtual-time-budget=20000",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done


def test_everything_is_drawn(seen: list[dict[str, Any]]) -> None:
    for page in seen:
        assert page["figures"], page["name"]
        for kind in ("figures", "drawings", "points", "tables"):
            for left, top, width, height in page[kind]:
                assert left >= -10, (page["name"], kind)
                assert top >= 0
                assert width >= 8, (page["name"], kind)
                assert height >= 8, (page["name"], kind)
        assert all(width >= 1 and height >= 8 for _, _, width, height in page["bars"]), page["name"]
        assert all(width >= 250 for _, _, width, _ in page["drawings"]), page["name"]


def test_nothing_sticks_out(seen: list[dict[str, Any]]) -> None:
    for page in seen:
        inside, window = page["wide"]
        assert inside <= window, page["name"]
        for kind, text, left, right in page["parts"]:
            assert left >= 0, (page["name"], kind, text)
            assert right <= window, (page["name"], kind, text)


def test_texts_of_charts_have_one_size_at_every_width(seen: list[dict[str, Any]]) -> None:
    sizes = {size for page in seen for size in page["texts"]}
    assert sizes <= {"12.8px", "13.6px"}


def test_names_start_no_scripts(seen: list[dict[str, Any]]) -> None:
    assert {page["scripts"] for page in seen} == {1}, "only the one that measures"


def test_both_schemes_are_there(seen: list[dict[str, Any]]) -> None:
    for page in seen:
        ground, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in page["colours"])
        assert (ground > ink) == (page["scheme"] == "light"), page["name"]


def test_pages_as_they_are_raise_no_complaint(tmp_path: Path) -> None:
    """With their policy, which the copies that are measured lack."""
    start = tmp_path / "start.html"
    for name, make in PAGES.items():
        (tmp_path / f"{name}.html").write_text(make(), encoding="utf-8")
    start.write_text("".join(f'<iframe src="{name}.html"></iframe>' for name in PAGES), encoding="utf-8")
    shot = tmp_path / "shot.png"
    _browse(start, "light", f"--screenshot={shot}")
    assert shot.stat().st_size > 1000
