"""Instruments see every pass and patch, and change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from accelc import ir
from accelc.context import Context, Fuel, PatchRecord
from accelc.errors import PassError
from accelc.instrument import Dump, Instrument, PrintAfter, Timer
from accelc.pass_base import Pass, PassResult, RulePass, run_pass
from accelc.pattern import Ops, Var
from accelc.pipeline import Fixpoint, Pipeline, execute
from accelc.rules import Law, rule
from accelc.target import Target

SOURCE = "(float[2] a) => (float[2] r) { p = Identity(a) q = Identity(p) s = Neg(q) r = Abs(s) }"


@rule()
def drop(op: Ops, x: Var) -> Law:
    """Identity(x) == x"""
    return op.Identity(x), x


@dataclass(frozen=True)
class Tidy(RulePass):
    """Remove Identity."""

    name = "tidy"
    rules = (drop,)


@dataclass(frozen=True)
class Quiet(Pass):
    """Do nothing."""

    name = "quiet"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult()


@dataclass(frozen=True)
class Broken(Pass):
    """Fail."""

    name = "broken"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        raise ValueError("it broke")


class Diary(Instrument):
    def __init__(self, allowed: bool = True) -> None:
        self.lines: list[str] = []
        self.allowed = allowed

    def should_run(self, each: Pass, model: ir.Model, ctx: Context) -> bool:
        self.lines.append(f"ask {each.name}")
        return self.allowed

    def before(self, each: Pass, model: ir.Model, ctx: Context) -> None:
        self.lines.append(f"before {each.name}")

    def after(self, each: Pass, result: PassResult, model: ir.Model, ctx: Context) -> None:
        self.lines.append(f"after {each.name}: {result.changes}")

    def failed(self, each: Pass, error: Exception, model: ir.Model, ctx: Context) -> None:
        self.lines.append(f"failed {each.name}: {error}")

    def on_patch(self, record: PatchRecord) -> None:
        self.lines.append(f"patch {record.index} {record.pass_name} {record.rule}")


def context(*instruments: Instrument, fuel: int | None = None) -> Context:
    return Context(Target.cpu(), instruments=instruments, fuel=Fuel(fuel))


def test_callbacks_in_order() -> None:
    diary = Diary()
    Pipeline((Tidy(), Quiet())).run(ir.parse(SOURCE), context(diary))
    assert diary.lines == [
        "ask tidy",
        "before tidy",
        "patch 1 tidy drop",
        "patch 2 tidy drop",
        "after tidy: 2",
        "ask quiet",
        "before quiet",
        "after quiet: 0",
    ]


def test_an_instrument_may_hold_a_pass_back() -> None:
    diary, model = Diary(allowed=False), ir.parse(SOURCE)
    result = run_pass(Tidy(), model, context(diary))
    assert (result.changes, result.skipped) == (0, "held back by an instrument")
    assert diary.lines == ["ask tidy"]
    assert len(model.graph) == 4


def test_a_failure_is_seen_and_names_the_pass() -> None:
    diary = Diary()
    with pytest.raises(PassError, match=r"^pass broken: ValueError: it broke$"):
        run_pass(Broken(), ir.parse(SOURCE), context(diary))
    assert diary.lines == ["ask broken", "before broken", "failed broken: it broke"]


def test_spent_fuel_skips_what_follows() -> None:
    diary = Diary()
    records = Pipeline((Tidy(), Quiet())).run(ir.parse(SOURCE), context(diary, fuel=1))
    assert [(record.name, record.changes, record.skipped) for record in records] == [
        ("tidy", 1, ""),
        ("quiet", 0, "out of fuel"),
    ]
    assert "before quiet" not in diary.lines


def test_the_timer_nests_as_the_pipeline_does() -> None:
    timer = Timer()
    Pipeline((Quiet(), Fixpoint((Tidy(), Quiet())))).run(ir.parse(SOURCE), context(timer))
    assert list(timer.root.children) == ["quiet", "fixpoint"]
    inner = timer.root.children["fixpoint"].children
    assert list(inner) == ["tidy", "quiet"]
    runs = timer.root.children["quiet"].runs, inner["tidy"].runs, inner["quiet"].runs
    assert runs == (1, 2, 1), "a pass runs until it changes nothing"
    assert timer.root.seconds == pytest.approx(sum(each.seconds for each in timer.root.children.values()), rel=0.5)
    assert timer.root.children["fixpoint"].seconds >= sum(each.seconds for each in inner.values())


def test_the_timer_survives_a_failure() -> None:
    timer = Timer()
    with pytest.raises(PassError):
        execute(Fixpoint((Broken(),)), ir.parse(SOURCE), context(timer))
    execute(Quiet(), ir.parse(SOURCE), context(timer))
    assert list(timer.root.children) == ["fixpoint", "quiet"]


@pytest.mark.parametrize(
    ("which", "shown"),
    [
        ("all", ["// after tidy: 2 changes", "// after quiet: 0 changes"]),
        ("change", ["// after tidy: 2 changes"]),
        ("quiet", ["// after quiet: 0 changes"]),
        ("other", []),
    ],
)
def test_print_after(which: str, shown: list[str]) -> None:
    written: list[str] = []
    Pipeline((Tidy(), Quiet())).run(ir.parse(SOURCE), context(PrintAfter(which, written.append)))
    assert [text.splitlines()[0] for text in written] == shown
    for text in written:
        model = onnx.parser.parse_model(text.partition("\n")[2])
        assert [node.op_type for node in model.graph.node] == ["Neg", "Abs"]


def test_dump_writes_numbered_models_that_load(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "dump"
    Pipeline((Quiet(), Tidy(), Quiet())).run(ir.parse(SOURCE), context(Dump(folder)))
    assert sorted(path.name for path in folder.iterdir()) == ["000_input.onnx", "001_tidy.onnx"]
    sizes = [len(onnx.load(path).graph.node) for path in sorted(folder.iterdir())]
    assert sizes == [4, 2]
