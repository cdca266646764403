"""Nodes that accelc makes say which pass and rule made them, and a file never grows by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from accelc import api, ir, stamps
from accelc.candidate import Candidates
from accelc.context import Context
from accelc.exporter import write_model
from accelc.inspection import inspect_model
from accelc.pass_base import Pass, PassResult, RulePass
from accelc.passes.inline import Inline
from accelc.pattern import Ops, Var
from accelc.pipeline import Pipeline
from accelc.rules import Law, rule
from accelc.source import Source
from accelc.target import Target

HEAD = '<ir_version: 9, opset_import: ["" : 20]>'
TWO = "g (float[2] x) => (float[2] y) { [one] a = Neg(x) [two] b = Neg(a) [three] y = Exp(b) }"
BRANCHES = """g (float[2] x, bool c) => (float[2] y) {
    [choice] y = If (c) <then_branch = t () => (float[2] p) { [up] p = Neg(x) },
                         else_branch = e () => (float[2] q) { [down] q = Abs(x) }>
}"""
"""The pass below has something to do in one of the branches."""


@rule(exact=True)
def to_sub(op: Ops, x: Var) -> Law:
    """-x == 0 - x"""
    return op.Neg(x), lambda m: m.op.Sub(np.zeros(2, np.float32), m.x)


@dataclass(frozen=True)
class Lower(RulePass):
    """Write Neg as Sub."""

    name = "lower"
    rules = (to_sub,)


@dataclass(frozen=True)
class Double(Pass):
    """Add an Identity at every output, without a rule."""

    name = "double"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        for value in list(model.graph.outputs):
            node = value.producer()
            assert node is not None
            ctx.spend("double", str(node.name))
            kept = str(value.name)
            value.name = ir.names(model).fresh("inner")
            made = ir.new_node("Identity", [value], name=ir.names(model).fresh("extra"))
            made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = kept, value.type, value.shape
            model.graph.append(made)
            model.graph.outputs[0] = made.outputs[0]
        return PassResult(1)


def run(model: ir.Model, *passes: Pass) -> onnx.ModelProto:
    """Run passes and return what would be written."""
    Pipeline(passes).run(model, Context(Target.cpu()))
    return ir.to_proto(model)


def origins(proto: onnx.ModelProto) -> dict[str, str]:
    """The stamps of a file by operator and name of the node."""
    return {f"{node.op_type} {node.name}": stamps.origin(node) for node in ir.proto_nodes(proto)}


def load(text: str) -> ir.Model:
    """A model from text."""
    return ir.parse(f"{HEAD}\n{text}")


def test_new_nodes_carry_pass_and_rule_and_old_ones_nothing() -> None:
    assert origins(run(load(TWO), Lower())) == {"Sub one": "lower/to_sub", "Sub two": "lower/to_sub", "Exp three": ""}


def test_a_pass_without_a_rule_stamps_its_own_name_and_later_passes_leave_it() -> None:
    found = origins(run(load(TWO), Double(), Lower()))
    assert found["Identity extra"] == "double"
    assert found["Sub one"] == "lower/to_sub"


def test_nodes_in_subgraphs_are_stamped() -> None:
    assert origins(run(load(BRANCHES), Lower())) == {"If choice": "", "Sub up": "lower/to_sub", "Abs down": ""}


def test_stamps_of_an_earlier_run_stay() -> None:
    first = run(load(TWO), Lower())
    again = origins(run(ir.from_proto(first), Double()))
    assert again == {
        "Sub one": "lower/to_sub",
        "Sub two": "lower/to_sub",
        "Exp three": "",
        "Identity extra": "double",
    }


def test_the_nodes_of_an_inlined_function_are_the_models_own() -> None:
    text = """<ir_version: 9, opset_import: ["" : 20, "own" : 1]>
        g (float[2] x) => (float[2] y) { [call] y = own.twice(x) }
        <domain: "own", opset_import: ["" : 20]> twice (a) => (b) { b = Add(a, a) }"""
    found = run(ir.from_proto(onnx.parser.parse_model(text)), Inline(), Lower())
    assert [node.op_type for node in found.graph.node] == ["Add"]
    assert stamps.tally(found) == {}


def test_they_reach_the_file_and_are_left_out_on_request(tmp_path: Path) -> None:
    model = load(TWO)
    run(model, Lower())
    with_stamps = write_model(model, tmp_path / "a.onnx")
    without = write_model(model, tmp_path / "b.onnx", stamped=False)
    assert without < with_stamps
    assert stamps.tally(onnx.load(tmp_path / "a.onnx")) == {"lower/to_sub": 2}
    assert stamps.tally(onnx.load(tmp_path / "b.onnx")) == {}
    onnx.checker.check_model(tmp_path / "a.onnx", full_check=True)


@pytest.mark.parametrize(("room", "kept"), [(10_000, 2), (0, 0)])
def test_a_candidate_is_stamped_only_where_the_file_does_not_grow_by_it(tmp_path: Path, room: int, kept: int) -> None:
    model = load(TWO)
    run(model, Lower())
    path = tmp_path / "original.onnx"
    bare = write_model(model, path, stamped=False, value_info=False)
    proto = onnx.load(path)
    proto.doc_string = "x" * room
    onnx.save(proto, path)
    candidates = Candidates(Source.of(path), tmp_path, "made.onnx")
    made = candidates.write(model, changed=True)
    assert made.stamped == bool(kept)
    assert sum(stamps.tally(onnx.load(made.path)).values()) == kept
    if not kept:
        assert made.bytes == bare


def optimized(tmp_path: Path, names: Sequence[str]) -> list[bytes]:
    """A shipped model optimized once for each name."""
    found = []
    for name in names:
        path = tmp_path / name
        api.optimize("models/text_encoder.onnx", level=2, measure=False, verify="off", output=path)
        found.append(path.read_bytes())
    return found


def test_a_shipped_model_is_stamped_the_same_way_twice(tmp_path: Path) -> None:
    first, second = optimized(tmp_path, ["a.onnx", "b.onnx"])
    assert first == second
    made = inspect_model(tmp_path / "a.onnx").made
    assert made["attention/attention_of_projections"] > 0
    assert sum(made.values()) == sum(1 for node in onnx.load(tmp_path / "a.onnx").graph.node if stamps.origin(node))
    assert inspect_model("models/text_encoder.onnx").made == {}
