"""Several targets in one run, and targets that do not work on this machine."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import accelc
from accelc import plugins
from accelc.errors import BackendError, ModelError, UsageError
from accelc.options import Options
from accelc.source import Source
from accelc.targets import TargetsError, labels, named
from accelc.verdict import Reference
from accelc.verify import Verifier

PLUGIN = '''
from dataclasses import dataclass
from accelc import Law, Ops, RulePass, Var, rules_of
from accelc.backends.cpu import CpuBackend
from accelc.backends.cuda import CudaBackend
from accelc.rules import rule

@rule()
def foreign(op: Ops, x: Var) -> Law:
    """Mul(x, x) == ComplexMul(x, x) (nothing here can tell)"""
    return op.Mul(x, x), op.ms.ComplexMul(x, x)

@rule()
def twice(op: Ops, x: Var) -> Law:
    """-(-x) == x"""
    return op.Neg(op.Neg(x)), x

@rule()
def wrong(op: Ops, x: Var) -> Law:
    """Abs(x) == Relu(x) (wrong)"""
    return op.Abs(x), op.Relu(x)

@dataclass(frozen=True)
class Strange(RulePass):
    """Rules of which one writes an operator that the processor has no kernel for."""
    name = "strange"
    rules = rules_of(globals())

@dataclass(frozen=True)
class Absent(CudaBackend):
    """A device that is not there."""
    name = "absent"
    summary = "a device that is not there"
    def missing(self):
        return "no such device here"

@dataclass(frozen=True)
class Broken(CpuBackend):
    """A processor without a runtime."""
    name = "broken"
    summary = "a processor without a runtime"
    def missing(self):
        return "no runtime"
'''
MODEL = """<ir_version: 8, opset_import: ["": 17]>
model (float[2, 4] x) => (float[2, 4] y)
{ a = Neg(x)  b = Neg(a)  c = Abs(b)  d = Sigmoid(c)  e = Mul(d, d)  y = Tanh(e) }"""


@pytest.fixture(autouse=True)
def _plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})
    monkeypatch.setattr(plugins, "_sources", {})
    path = tmp_path / "target_plugin.py"
    path.write_text(PLUGIN, encoding="utf-8")
    plugins.load_plugin(str(path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), str(path))
    return path


def operators(path: Path | None) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def test_each_target_gets_its_file(model: Path) -> None:
    cpu, other = accelc.optimize_each(model, ["cpu", "absent"], passes="strange", disable=["wrong", "foreign"])
    assert cpu.path == model.with_name("m.custom.cpu.onnx")
    assert other.path == model.with_name("m.custom.absent.onnx")
    assert operators(cpu.path) == operators(other.path) == ["Abs", "Sigmoid", "Mul", "Tanh"]
    assert (cpu.target, other.target) == ("cpu", "absent")
    assert cpu.report.unusable == ""
    assert cpu.report.placement is None


def test_the_model_is_read_once_and_run_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    of, prepare = Source.of, Verifier._prepare

    def read(given: Path) -> Source:
        happened.append("read")
        return of(given)

    def ran(verifier: Verifier) -> Reference:
        happened.append("ran")
        return prepare(verifier)

    monkeypatch.setattr(Source, "of", read)
    monkeypatch.setattr(Verifier, "_prepare", ran)
    results = accelc.optimize_each(model, ["cpu", "cpu:threads=1", "absent"], level=1)
    assert happened == ["read", "ran"]
    assert [each.report.verdict is not None and each.report.verdict.samples > 0 for each in results] == [True] * 3


def test_a_target_that_does_not_work_here_is_compiled_and_says_so(model: Path) -> None:
    report = accelc.optimize(model, target="absent", measure=True).report
    assert report.unusable == "no such device here"
    assert report.latency is None
    assert "absent does not work here" in report.latency_note
    assert report.verdict is not None
    assert report.verdict.status == "same"
    assert report.placement is not None
    assert str(report.placement).endswith("nodes on absent")


def test_operators_of_the_target_alone_are_named_and_the_rest_is_checked(model: Path) -> None:
    report = accelc.optimize(model, target="absent", passes="strange").report
    assert operators(model.with_name("m.custom.absent.onnx")) == ["Abs", "Sigmoid", "ComplexMul", "Tanh"]
    assert report.unrun == {"ComplexMul": 1}
    assert any("numbers were checked without foreign" in note for note in report.notes)
    assert [(each.name, each.gate) for each in report.refused] == [("wrong", "numbers")]
    assert report.verdict is not None
    assert (report.verdict.status, report.verdict.samples > 0) == ("same", True)


def test_operators_of_the_target_alone_pass_unchecked_only_where_the_target_is_missing(model: Path) -> None:
    report = accelc.optimize(model, target="cpu", passes="strange").report
    assert {each.name for each in report.refused} == {"foreign", "wrong"}
    assert report.unrun == {}


def test_a_processor_that_does_not_work_is_an_error(model: Path) -> None:
    with pytest.raises(BackendError, match="no runtime"):
        accelc.optimize(model, target="broken")


def test_one_failure_leaves_the_others(model: Path) -> None:
    model.with_name("m.O1.absent.onnx").mkdir()
    with pytest.raises(TargetsError, match=r"absent: .*is a folder") as caught:
        accelc.optimize_each(model, ["absent", "cpu"], level=1)
    assert [each.target for each in caught.value.failures] == ["absent"]
    assert [each.path for each in caught.value.results] == [model.with_name("m.O1.cpu.onnx")]
    assert caught.value.exit_code == UsageError.exit_code
    assert operators(model.with_name("m.O1.cpu.onnx"))


def test_a_model_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ModelError):
        accelc.optimize_each(path, ["cpu", "absent"])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["cpu"], {"cpu": "cpu"}),
        (["cpu", "cuda:device_id=1"], {"cpu": "cpu", "cuda:device_id=1": "cuda"}),
        (["cpu", "cpu:threads=1"], {"cpu": "cpu", "cpu:threads=1": "cpu-threads-1"}),
    ],
)
def test_labels(given: list[str], wanted: dict[str, str]) -> None:
    assert labels(given) == wanted


@pytest.mark.parametrize(("given", "said"), [([], "no target"), (["cpu", "cpu"], "given twice"), ([":"], "no backend")])
def test_targets_that_cannot_be(given: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        labels(given)


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        (None, "m.O2.cuda.onnx"),
        ("out.{ep}.onnx", "out.cuda.onnx"),
        ("there", "there/m.O2.cuda.onnx"),
    ],
)
def test_names_of_outputs(tmp_path: Path, output: str | None, wanted: str) -> None:
    (tmp_path / "there").mkdir()
    options = Options(output=None if output is None else tmp_path / output)
    assert named(options, tmp_path / "m.onnx", "cuda", several=True) == tmp_path / wanted


def test_one_file_for_several_targets_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"name a folder, or a file as out\.\{ep\}\.onnx"):
        named(Options(output=Path("out.onnx")), "m.onnx", "cuda", several=True)
    assert named(Options(output=Path("out.onnx")), "m.onnx", "cuda", several=False) == Path("out.onnx")


def test_a_model_in_memory_needs_no_output() -> None:
    results = accelc.optimize_each(onnx.parser.parse_model(MODEL), ["cpu", "absent"], level=1)
    assert [each.path for each in results] == [None, None]
