"""docs/fusions.md is what docs/fusions.py makes of the rules as they are, and no fusion is left out of it."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from accelc.catalog import all_passes, level_names

DOCS = Path(__file__).parents[2] / "docs"
FAMILIES = tomllib.loads((DOCS / "fusions.toml").read_text(encoding="utf-8"))["family"]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fusions", DOCS / "fusions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(generator: ModuleType) -> None:
    written = (DOCS / "fusions.md").read_text(encoding="utf-8")
    assert written == generator.current(), "run `python docs/fusions.py`"


def test_every_fusing_pass_is_in_one_family() -> None:
    named = [name for family in FAMILIES for name in family["passes"]]
    assert len(named) == len(set(named))
    assert level_names(2) - level_names(1) <= set(named)
    assert set(named) <= {each.name for each in all_passes()}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family["title"])
def test_a_family_says_what_it_must(family: dict[str, Any], generator: ModuleType) -> None:
    passes = {each.name: each for each in all_passes()}
    text = generator.section(family, passes)
    for name in family["passes"]:
        for rule in passes[name].rules:
            assert f"| {rule.name} | `" in text
    rows = [re.split(r"(?<!\\)\|", line) for line in text.splitlines() if line.startswith("|")]
    assert all(cell.strip() or column == 3 for row in rows for column, cell in enumerate(row[1:-1]))


def test_links_lead_somewhere() -> None:
    page = (DOCS / "fusions.md").read_text(encoding="utf-8")
    anchors = {line[3:].lower().replace(" ", "-") for line in page.splitlines() if line.startswith("## ")}
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (target[1:] in anchors) if target.startswith("#") else (DOCS / target).exists(), target
