"""The commands that tell: inspect, passes, rules, diff, doctor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_helpers import LEAN, plugin, run, write

from accelc.pipeline import LEVELS


def facts(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_inspect(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    shown = run("inspect", path)
    assert shown.exit_code == 0, shown.stderr
    for part in ("nodes", "float32", "[batch, 4]", "ai.onnx 17", "batch=1", "producer", "Identity"):
        assert part in shown.stdout
    found = facts("inspect", path)
    assert found["schema"] == "accelc.inspect/1"
    assert found["size"]["operators"] == {"Identity": 1, "Mul": 1, "Add": 1, "Relu": 1}
    assert found["inputs"] == [{"name": "x", "type": "float32", "dims": ["batch", 4], "optional": False}]
    assert found["cost"] == {
        "flops": 12, "by_operator": {"Mul": 4, "Add": 4, "Relu": 4}, "assumed": {"batch": 1}, "uncounted": {},
    }  # fmt: skip
    assert facts("inspect", path, "--size", "batch=10")["cost"]["flops"] == 120


def test_passes_knows_levels_options_and_plugins(tmp_path: Path) -> None:
    every = {each["name"]: each for each in facts("passes")["passes"]}
    assert every["identity"]["levels"] == [1, 2, 3]
    assert every["identity"]["changes"] == "bits"
    assert "times_one" in every["identity"]["rules"]
    assert every["prune"]["levels"] == []
    assert every["prune"]["changes"] == "function"
    assert not any(each["error"] for each in every.values())
    used = {name for name in every if every[name]["levels"]}
    assert all(name in " ".join(LEVELS.values()) for name in used)
    (prune,) = facts("passes", "prune")["passes"]
    assert {"name": "sparsity", "type": "float", "default": "0.5"} in prune["options"]
    assert "sparsity" in run("passes", "prune").stdout
    with_plugin = run("passes", "--plugin", plugin(tmp_path))
    assert "Deliberately wrong." in with_plugin.stdout
    assert "Merge nodes" in run("passes").stdout


def test_a_pass_that_cannot_be_loaded_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelc import catalog
    from accelc.errors import PluginError
    from accelc.plugins import Entry, entries

    def fail() -> None:
        raise PluginError("cannot load the pass odd", why="it is odd")

    known = {**entries("pass"), "odd": Entry("odd", "oddities 1.0", fail)}
    monkeypatch.setattr(catalog, "entries", lambda kind: known)
    found = {each["name"]: each for each in facts("passes")["passes"]}
    assert "it is odd" in found["odd"]["error"]
    assert found["identity"]["rules"]
    assert "it is odd" in run("passes").stdout


def test_rules(tmp_path: Path) -> None:
    found = facts("rules", "identity")["rules"]
    times_one = next(each for each in found if each["name"] == "times_one")
    assert times_one["exact"] is True
    assert times_one["source"].startswith("passes/identity.py:")
    assert {each["pass"] for each in facts("rules")["rules"]} > {"identity", "algebra"}
    assert "x * 1" in run("rules", "identity").stdout
    assert "no rules" in run("rules", "dce").stdout
    assert "dead_node" in run("passes", "dce").stdout


def test_diff_of_models_that_compute_the_same(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx", LEAN)
    found = facts("diff", a, b)
    assert found["schema"] == "accelc.diff/1"
    assert found["same"] is True
    assert found["operators"] == {"Identity": [1, 0], "Mul": [1, 0]}
    assert (found["weights_shared"], found["weights_removed"], found["weights_added"]) == (1, ["one"], [])
    assert "same" in run("diff", a, b, "--exact").stdout


def test_diff_of_models_that_differ(tmp_path: Path) -> None:
    a = write(tmp_path / "a.onnx", LEAN)
    b = write(tmp_path / "b.onnx", LEAN.replace("4.0}", "5.0}"))
    found = facts("diff", a, b, code=1)
    assert found["numbers"]["status"] == "different"
    assert found["weights_removed"] == ["w"]
    assert "different" in run("diff", a, b).stdout
    renamed = write(tmp_path / "c.onnx", LEAN.replace("y)", "z)").replace("y =", "z ="))
    found = facts("diff", a, renamed, code=1)
    assert found["contract"] == ["output y is missing", "output z is new"]
    assert found["numbers"] is None


def test_diff_sees_dimensions_and_metadata(tmp_path: Path) -> None:
    a, b = (
        write(tmp_path / "a.onnx", LEAN),
        write(tmp_path / "b.onnx", LEAN.replace("float[batch, 4] x", "float[2, 4] x")),
    )
    proto = onnx.load(str(a))
    proto.metadata_props.add(key="author", value="me")
    onnx.save(proto, str(a))
    found = facts("diff", a, b, code=1)
    assert "metadata 'author' is missing" in found["contract"]
    assert any(each.startswith("input x is float32[2, 4]") for each in found["contract"])


def test_doctor() -> None:
    found = facts("doctor")
    assert found["schema"] == "accelc.doctor/1"
    assert found["versions"]["onnx"]
    providers = {each["name"]: each for each in found["providers"]}
    assert providers["cpu"]["available"] is True
    assert providers["cuda"]["available"] or providers["cuda"]["reason"]
    shown = run("doctor").stdout
    for part in ("instruction sets", "int8", "provider cpu", "works", "python"):
        assert part in shown


def test_doctor_without_a_provider_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelc import doctor

    monkeypatch.setattr(doctor, "_provider", lambda name, runner: doctor.Provider(name, False, "not today"))
    assert facts("doctor", code=2)["providers"][0]["reason"] == "not today"


def test_rule_names_are_those_that_the_passes_spend_under() -> None:
    """Every name that the source of a pass spends under is declared, and none besides."""
    import inspect
    import re
    import sys

    from accelc.pass_base import RulePass
    from accelc.plugins import find_pass

    for name in ("constants", "control-flow", "cse", "dce", "dedup", "inline"):
        kind = find_pass(name)
        assert not issubclass(kind, RulePass)
        source = inspect.getsource(sys.modules[kind.__module__])
        assert sorted(kind.rule_names()) == sorted(re.findall(r'ctx\.spend\("(\w+)"', source)), name
