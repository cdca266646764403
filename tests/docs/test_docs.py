"""The documentation runs: files it shows are written, Python runs, commands run and print what is shown.

A fenced block `python NAME` or `toml NAME` is a file. A `python` block without a name is run. In a `console` block,
lines after `$ command` are what it prints: `...` stands for anything inside a line, and alone for any lines. Numbers,
units of time and spacing may differ. Blocks of any other kind are only shown.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "plugin_example"
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/writing-passes.md",
    "docs/writing-backends.md",
    "docs/decisions.md",
    "docs/quantization.md",
    "docs/bench.md",
)
GOES_ON = {"docs/writing-backends.md": "docs/writing-passes.md"}
"""Documents that start with the files that another one shows."""
PIP = """#!/bin/sh
# Installs the current folder where only this test sees it.
exec "{python}" -m pip install --quiet --no-deps --no-index --no-build-isolation --target "{site}" .
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it shows (or an empty name), its text, and where it starts."""

    kind: str
    name: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    found, lines = [], document.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            kind, _, name = lines[start][3:].partition(" ")
            found.append(Block(kind, name.strip(), "\n".join(lines[start + 1 : number]) + "\n", start + 1))
            start = None
    assert start is None, f"{document.name}:{start}: a block does not end"
    return found


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(command, the lines it must print) of a console block."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.strip():
            found[-1][1].append(line)
    return found


def plain(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\d[\d,]*(\.\d+)?(e[+-]?\d+)?", "#", line)
    line = re.sub(r"# (s|ms|us|min)\b", "# s", line)
    line = re.sub(r"[-+]#", "#", line)
    return re.sub(r"[\s─━]+", " ", line).strip()


def matches(shown: list[str], printed: list[str]) -> bool:
    """Whether what was printed is what is shown."""
    pattern = ""
    for line in shown:
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        elif plain(line):
            pattern += r"[^\n]*?".join(re.escape(plain(part)) for part in line.split("...")) + r"\n"
    text = "".join(f"{plain(line)}\n" for line in printed if plain(line))
    return re.fullmatch(pattern, text) is not None


@pytest.fixture
def workshop(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with the shipped models, and an environment in which `pip install` stays inside it."""
    folder, tools, site = tmp_path / "here", tmp_path / "bin", tmp_path / "site"
    shutil.copytree(ROOT / "models", folder / "models", ignore=shutil.ignore_patterns("recipes"))
    tools.mkdir()
    pip = tools / "pip"
    pip.write_text(PIP.format(python=sys.executable, site=site), encoding="utf-8")
    pip.chmod(pip.stat().st_mode | stat.S_IXUSR)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(site), "COLUMNS": "100", "NO_COLOR": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    return folder, environment


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_runs(document: str, workshop: tuple[Path, dict[str, str]]) -> None:
    folder, environment = workshop
    if document in GOES_ON:
        for name, text in files(GOES_ON[document]).items():
            write(folder / name, text)
    for block in blocks(ROOT / document):
        where = f"{document}:{block.line}"
        if block.name:
            write(folder / block.name, block.text)
        elif block.kind == "python":
            run([sys.executable, "-W", "error", "-c", block.text], folder, environment, where)
        elif block.kind == "console":
            for command, shown in commands(block.text):
                printed = run(["sh", "-c", command], folder, environment, f"{where}: {command}")
                assert matches(shown, printed.splitlines()), (
                    f"{where}: {command}\nprints\n{printed}\nshown is\n" + "\n".join(shown)
                )


def files(document: str) -> dict[str, str]:
    """The files that a document shows, with their text."""
    return {block.name: block.text for block in blocks(ROOT / document) if block.name}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def run(command: list[str], folder: Path, environment: dict[str, str], where: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{where} exits with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def test_the_tutorials_build_the_example_package() -> None:
    shown = files("docs/writing-passes.md") | files("docs/writing-backends.md")
    kept = {
        path.relative_to(EXAMPLE).as_posix(): path.read_text(encoding="utf-8")
        for path in EXAMPLE.rglob("*")
        if path.suffix in (".py", ".toml") and "build" not in path.parts
    }
    assert shown == kept


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md", "models/README.md", "docs/cli.md"])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (path.parent / target).exists(), f"{document} links to {target}"


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (["a", "..."], ["a", "b", "c"], True),
        (["...", "c"], ["a", "b", "c"], True),
        (["a", "c"], ["a", "b", "c"], False),
        (["took 1.5 ms"], ["took   20 s"], True),
        (["a ... z"], ["a b c z"], True),
        (["a ... z"], ["a z"], True),
        (["a ... z"], ["a b"], False),
        (["-12.5 %"], ["+3 %"], True),
        (["fired 1 time"], ["fired one time"], False),
    ],
)
def test_how_output_is_compared(shown: list[str], printed: list[str], same: bool) -> None:
    assert matches(shown, printed) is same
