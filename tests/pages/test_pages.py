"""Pages as text: whole, safe with any names, and with the same numbers in tables as in drawings."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest
from page_markup import place, read, texts, with_class
from page_reports import compiled
from page_results import HOSTILE, many, row, served, two

from accelc.benchmark.results import BenchResult, Setting
from accelc.pages.charts import Mark, Stack, keys, ratios, stacks
from accelc.pages.pareto import page as pareto_page
from accelc.pages.report import page as report_page
from accelc.pages.scales import decades, linear, logarithmic, roots
from accelc.pareto import curve

PAGES: dict[str, Callable[[], str]] = {
    "two": lambda: two(profile=True).to_html(),
    "many": lambda: many().to_html(),
    "served": lambda: served().to_html(),
    "optimize": lambda: compiled().to_html(),
    "targets": lambda: report_page([compiled(), compiled(target="cuda (sm90)")], {"coreml": f"no {HOSTILE}"}),
    "pareto": lambda: pareto_page([curve(compiled(), 0.01)]),
}
SHOWN = HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")


@pytest.fixture(scope="module", params=list(PAGES))
def page(request: pytest.FixtureRequest) -> str:
    return PAGES[request.param]()


def test_pages_are_whole_and_need_nothing_else(page: str) -> None:
    root = read(page)
    assert root.find("html/head/title") is not None
    assert root.find("html").get("lang") == "en"  # type: ignore[union-attr]
    assert not re.search(r"https?:|@import|url\(", page)
    assert not {"script", "iframe", "object", "link", "img"} & {each.tag for each in root.iter()}
    assert not [name for each in root.iter() for name in each.attrib if name.startswith("on") or name == "src"]
    assert all(each.get("href", "").startswith("#") for each in root.iter("a"))
    policy = [each.get("content") for each in root.iter("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_headings_are_in_order_and_links_lead_somewhere(page: str) -> None:
    root = read(page)
    levels = [int(each.tag[1]) for each in root.iter() if re.fullmatch(r"h[1-6]", each.tag)]
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert {each.get("href", "")[1:] for each in root.iter("a")} <= set(ids)


def test_every_figure_has_a_title_and_the_same_in_numbers(page: str) -> None:
    figures = list(read(page).iter("figure"))
    assert figures
    for each in figures:
        names = [title for title in each.iter() if title.get("id") == each.get("aria-labelledby")]
        assert len(names) == 1
        assert each.findall("details//tbody/tr"), "".join(names[0].itertext())


def test_tables_name_their_rows_and_columns(page: str) -> None:
    for made in read(page).iter("table"):
        assert made.get("aria-label")
        columns = len(made.findall("thead/tr/th[@scope='col']"))
        for line in made.iterfind("tbody/tr"):
            assert len(line) == columns
            assert line[0].tag == "th"
            assert line[0].get("scope") == "row"


@pytest.mark.parametrize("name", ["many", "optimize", "targets", "pareto"])
def test_hostile_names_are_text(name: str) -> None:
    root = read(PAGES[name]())
    assert not list(root.iter("script"))
    assert SHOWN in "".join(root.itertext())


# --- bench -----------------------------------------------------------------------------------------------------------


def test_two_models_are_summed_up_in_the_title() -> None:
    root = read(two().to_html())
    assert texts(root, ".//h1") == ["text_encoder.O2 is 1.47 times as fast as text_encoder [1.43, 1.51]"]
    assert "2.052 → 1.396 ms" in "".join(root.itertext())
    assert "other processes used 38 %" in "".join(root.itertext())


@pytest.mark.parametrize(
    ("ratio", "width", "said"),
    [
        (1.3, 0.01, "b is 1.30 times as fast as a [1.29, 1.31]"),
        (0.8, 0.01, "b is slower than a: 0.80 times as fast [0.79, 0.81]"),
        (1.0, 0.01, "b is as fast as a: no difference beyond 2 %, 1.00 times [0.99, 1.01]"),
        (1.0, 0.05, "b may be as fast as a: no difference that is certain, 1.00 times [0.95, 1.05]"),
    ],
)
def test_verdicts_in_words(ratio: float, width: float, said: str) -> None:
    setting = Setting("cpu")
    rows = [row("a", setting, 1.0, 0), row("b", setting, 1.0 / ratio, 1, ratio)]
    (found,) = rows[1].versus
    rows[1].versus = (replace(found, low=ratio - width, high=ratio + width),)
    assert texts(read(BenchResult(rows, {}, {}).to_html()), ".//h1") == [said]


def test_failures_fallbacks_and_notes_are_told() -> None:
    result = many()
    root = read(result.to_html())
    said = "".join(root.itertext())
    assert "no kernel for float16" in said
    assert "no kernel for int64 on CUDA" in said
    assert "not captured: nodes on the processor" in said
    assert "loads differ by 6 % from each other" in said
    (rows,) = [each for each in root.iter("table") if each.get("aria-label", "").startswith("Times in milli")]
    assert len(rows.findall("tbody/tr")) == len(result.rows)


def test_percentiles_that_runs_do_not_support_say_what_they_need() -> None:
    said = texts(read(two().to_html()), ".//td")
    assert "needs 23,886 runs" in said
    assert said.count("needs 262,742 runs") == 2


def test_a_result_without_figures_is_a_page() -> None:
    result = many()
    result.rows = result.failures
    root = read(result.to_html())
    assert texts(root, ".//h1") == ["text_encoder.fp16: nothing could be measured"]
    assert not list(root.iter("figure"))


def test_one_model_and_one_that_was_only_placed_have_titles() -> None:
    result = two()
    result.rows = result.rows[:1]
    assert texts(read(result.to_html()), ".//h1") == ["Latency of text_encoder"]
    result.rows[0].latency = None
    assert texts(read(result.to_html()), ".//h1") == ["Where text_encoder would run"]


def test_conditions_say_what_became_of_them() -> None:
    made = next(each for each in read(many().to_html()).iter("table") if "fail" in each.get("aria-label", ""))
    assert texts(made, "tbody/tr/td[2]") == ["✗ holds", "✓ does not hold", "! not compared"]


def test_profiles_show_parts_roof_and_reasons() -> None:
    root = read(two(profile=True).to_html())
    titles = texts(root, ".//figcaption/h3")
    assert {"By operator", "By what made the nodes", "What got faster and why", "How far from the limit"} <= set(titles)
    roof = _figure(root, "How far from the limit")
    assert len(with_class(roof, "point")) == 14
    assert len(list(roof.iter("path"))) == 4
    changes = texts(_figure(root, "What got faster and why"), ".//tbody/tr/td")
    assert "attention/attention_of_projections" in changes


def test_load_shows_rates_and_windows() -> None:
    root = read(served().to_html())
    points = with_class(_figure(root, "Latency under load"), "point")
    assert len(points) == 20
    assert any("hollow" in each.get("class", "") for each in points)


# --- optimize --------------------------------------------------------------------------------------------------------


def test_a_report_tells_what_happened() -> None:
    root = read(compiled().to_html())
    said = "".join(root.itertext())
    assert texts(root, ".//h1")[0].endswith(".onnx is 1.41 times as fast")
    for wanted in ("348 → 52", "rule gelu_erf", "an unused input was named twice", "no calibration data", "2 left out"):
        assert wanted.replace("2 left out", "inline: no functions") in said
    timeline = _figure(root, "Timeline")
    assert [text.partition(" ")[0] for text in texts(timeline, ".//tbody/tr/th")][:3] == ["inline", "constants", "fold"]
    bars = with_class(timeline, "bar")
    starts = [place(each, "left") for each in bars]
    assert starts == sorted(starts)
    assert place(bars[-1], "left") + place(bars[-1], "width") == pytest.approx(100, abs=0.1)


def test_operators_before_and_after_are_paired() -> None:
    figure = _figure(read(compiled().to_html()), "Operators")
    rows = {line[0].text: [cell.text for cell in line[1:]] for line in figure.iterfind("details//tbody/tr")}
    assert rows["Constant"] == ["98", "0"]
    assert rows["com.microsoft.Attention"] == ["0", "3"]
    widths = [place(each, "width") for each in with_class(figure, "was") if each.tag == "span" and each.get("style")]
    assert widths[0] == max(widths)


def test_nothing_done_is_said() -> None:
    report = compiled(patches=0, latency=None, passes=[], decisions=[], blocks={}, refused=[], verdict=None)
    said = "".join(read(report.to_html()).itertext())
    assert "is left as it was" in said
    assert "-O3 finds nothing to change in this model" in said


def test_several_targets_have_a_part_each() -> None:
    root = read(PAGES["targets"]())
    assert texts(root, ".//main/section/h2") == ["Targets", "For cpu", "For cuda"]
    assert f"coreml: no {SHOWN}" in "".join(root.itertext())


# --- charts and scales -----------------------------------------------------------------------------------------------


def test_bars_of_parts_put_the_smallest_together() -> None:
    parts = {name: float(size) for size, name in enumerate("abcdefgh", 1)}
    assert keys([parts]) == ["h", "g", "f", "e", "d", "c", "other"]
    drawn = with_class(stacks([Stack("row", parts, "36")], str), "part")
    assert sum(place(each, "width") for each in drawn) == pytest.approx(100, abs=0.1)
    assert place(drawn[-1], "width") == pytest.approx(100 * 3 / 36, abs=0.01)


def test_ratios_stand_on_their_side_of_the_line() -> None:
    chart = ratios([Mark("faster", 1.3, "", 1.2, 1.4), Mark("slower", 0.8, "", 0.7, 0.9)], 0.02)
    ones = {place(each, "left") for each in with_class(chart, "one")}
    assert len(ones) == 1
    faster, slower = (place(each, "left") for each in with_class(chart, "dot"))
    assert slower < min(ones) < faster


@pytest.mark.parametrize(
    "scale",
    [
        linear([0.3, 7.2]),
        linear([0.0]),
        linear([1.0, 1.02], low=None),
        logarithmic([0.97, 1.03]),
        logarithmic([1e-3, 1e4]),
        logarithmic([]),
        decades([3e-7, 1.0]),
        decades([1e-9, 1e9]),
        decades([1.0]),
        roots([-0.01, 0.2], (0.0, 0.01, 0.1)),
    ],
)
def test_scales_have_a_few_round_ticks_inside(scale: object) -> None:
    ticks = scale.ticks  # type: ignore[attr-defined]
    places = [scale.at(tick) for tick in ticks]  # type: ignore[attr-defined]
    assert 1 <= len(ticks) <= 8
    assert places == sorted(set(places))
    assert all(0 <= each <= 100 for each in places)
    assert all(float(f"{tick:.4g}") == pytest.approx(tick) for tick in ticks)


def test_colours_can_be_told_from_their_ground() -> None:
    style = (Path(__file__).parents[2] / "accelc/pages/style.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{([^}]*)\}", style)
    assert len(blocks) == 3, "light, dark and print"
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for name in ("ink", "quiet", "accent", "good", "bad", "caution"):
            assert _contrast(colours[name], colours["paper"]) >= 4.5, name
            assert _contrast(colours[name], colours["raised"]) >= 4.5, name
        for name in ("s1", "s2", "s3", "s4", "s5", "s6", "rest"):
            assert _contrast(colours[name], colours.get("on-series", "#ffffff")) >= 4.5, name
            assert _contrast(colours[name], colours["raised"]) >= 3, name


def _contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear_parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear_parts, strict=True))


def _figure(root: Element, title: str) -> Element:
    return next(each for each in root.iter("figure") if title in texts(each, "figcaption/*"))
