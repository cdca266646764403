"""Finding passes and backends: entry points, files, modules, and every way in which that fails."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from accelc import plugins
from accelc.context import fold
from accelc.errors import PluginError, UsageError
from accelc.pass_base import Pass
from accelc.plugins import entries, find_backend, find_pass, load_plugin


@dataclass(frozen=True)
class Distribution:
    name: str
    version: str


class Point:
    """An entry point of a package that need not exist."""

    def __init__(self, name: str, value: Any, package: str | None = "acme") -> None:
        self.name, self._value = name, value
        self.value = f"{package}.module:Thing"
        self.dist = Distribution(package, "1.0") if package else None

    def load(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


@dataclass(frozen=True)
class Blur(Pass):
    """Blur."""

    name = "blur"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretend that these entry points are what is installed."""
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})

    def pretend(*points: Point, group: str = "accelc.passes") -> None:
        monkeypatch.setattr(
            importlib.metadata, "entry_points", lambda **asked: points if asked["group"] == group else ()
        )

    return pretend


def test_the_built_in_ones_come_through_entry_points() -> None:
    assert {"fold", "dce", "gelu", "control-flow"} <= set(entries("pass"))
    assert {"cpu", "cuda"} <= set(entries("backend"))
    assert entries("pass")["fold"].origin.startswith("accelc ")
    assert list(entries("pass")) == sorted(entries("pass"))


def test_every_built_in_loads_under_its_own_name() -> None:
    for name, entry in entries("pass").items():
        assert fold(entry.load().name) == name
    for name, entry in entries("backend").items():
        assert fold(entry.load().name) == name


@pytest.mark.parametrize("name", ["control-flow", "control_flow", "Control-Flow", " CONTROL_FLOW "])
def test_names_are_folded(name: str) -> None:
    assert find_pass(name).name == "control-flow"


def test_unknown_names_suggest_what_was_meant() -> None:
    with pytest.raises(UsageError, match=r"there is no pass named 'flod'; did you mean fold\?"):
        find_pass("flod")
    with pytest.raises(UsageError, match="named 'gpu'; known are coreml, cpu, cuda, directml, openvino, tensorrt"):
        find_backend("gpu")


def test_a_third_party_pass_is_found(install: Any) -> None:
    install(Point("blur", Blur))
    assert find_pass("blur") is Blur
    assert entries("pass")["blur"].origin == "acme 1.0"


def test_nothing_is_loaded_before_it_is_asked_for(install: Any) -> None:
    install(Point("blur", Blur), Point("broken", ImportError("no module named missing")))
    assert set(entries("pass")) == {"blur", "broken"}
    assert find_pass("blur") is Blur
    with pytest.raises(
        PluginError, match=r"^acme 1.0: cannot load the pass broken: no module named missing$"
    ) as raised:
        find_pass("broken")
    assert raised.value.exit_code == 6


@pytest.mark.parametrize("names", [("blur", "blur"), ("blur", "Blur"), ("a-b", "a_b")])
def test_a_name_claimed_twice_names_both_owners(install: Any, names: tuple[str, str]) -> None:
    install(Point(names[0], Blur, "acme"), Point(names[1], Blur, "blurs-r-us"))
    with pytest.raises(PluginError, match=r"both acme 1.0 and blurs-r-us 1.0 bring a pass named") as raised:
        entries("pass")
    assert "uninstall its package" in raised.value.hint


def test_clashing_backends(install: Any) -> None:
    install(Point("tpu", Blur, "acme"), Point("tpu", Blur, None), group="accelc.backends")
    with pytest.raises(PluginError, match=r"both acme 1.0 and None.module:Thing bring a backend named tpu"):
        entries("backend")


@pytest.mark.parametrize(("value", "said"), [(Blur(), "is not a Pass"), (int, "is not a Pass"), (len, "is not a Pass")])
def test_what_is_no_pass(install: Any, value: Any, said: str) -> None:
    install(Point("blur", value))
    with pytest.raises(PluginError, match=f"acme 1.0: blur {said}; derive it from accelc.Pass"):
        find_pass("blur")


def test_a_pass_under_another_name(install: Any) -> None:
    install(Point("smear", Blur))
    with pytest.raises(PluginError, match="smear names itself 'blur'"):
        find_pass("smear")


# --- files and modules

FILE = '''
"""A plugin."""
from dataclasses import dataclass
from accelc import Pass, RulePass

@dataclass(frozen=True)
class Smear(Pass):
    """Smear."""
    name = "smear"

class Base(Pass):
    """Has no name, so it is no pass to run."""
'''


def test_a_file_adds_its_passes(install: Any, tmp_path: Path) -> None:
    install(Point("blur", Blur))
    path = tmp_path / "plugin.py"
    path.write_text(FILE, encoding="utf-8")
    assert load_plugin(str(path)) == ["smear"]
    assert find_pass("smear").summary() == "Smear."
    assert entries("pass")["smear"].origin == str(path)
    assert load_plugin(str(path)) == ["smear"], "loading it again changes nothing"


def test_a_module_adds_its_passes(install: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install()
    (tmp_path / "acme_smears.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert load_plugin("acme_smears") == ["smear"]
    finally:
        sys.modules.pop("acme_smears", None)


def test_a_file_must_not_take_an_installed_name(install: Any, tmp_path: Path) -> None:
    install(Point("smear", Blur))
    path = tmp_path / "plugin.py"
    path.write_text(FILE, encoding="utf-8")
    with pytest.raises(PluginError, match=rf"both acme 1.0 and {path} bring a pass named smear"):
        load_plugin(str(path))
    assert find_pass_origin("smear") == "acme 1.0"


def find_pass_origin(name: str) -> str:
    return entries("pass")[name].origin


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1", "defines no pass and no backend"),
        ("from accelc import Pass", "defines no pass and no backend"),
        ("raise RuntimeError('at import')", "cannot be imported: RuntimeError: at import"),
        ("def (:", "cannot be imported: SyntaxError"),
        ("import no_such_module_anywhere", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_files_that_cannot_be_used(install: Any, tmp_path: Path, content: str, said: str) -> None:
    install()
    path = tmp_path / "plugin.py"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(PluginError, match=said) as raised:
        load_plugin(str(path))
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_missing_files_and_modules(install: Any, tmp_path: Path) -> None:
    install()
    with pytest.raises(PluginError, match="there is no such file"):
        load_plugin(str(tmp_path / "none.py"))
    with pytest.raises(PluginError, match="no_such_module_anywhere: cannot be imported"):
        load_plugin("no_such_module_anywhere")
