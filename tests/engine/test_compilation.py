"""`accelc.optimize` end to end, with faults put in on purpose: each is caught, named and undone, the rest is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import accelc
from accelc import compilation, gates, ir, pipeline, plugins
from accelc.bisect import find_guilty
from accelc.errors import ModelError, PassError, PluginError, UsageError, VerifyError
from accelc.measure import Comparison
from accelc.runner import Runner
from accelc.targets import Result
from accelc.testing import run
from accelc.verdict import Verdict
from accelc.verify import Verifier

FAULTS = '''
from dataclasses import dataclass
import numpy as np
from accelc import Const, Law, Ops, Pass, PassResult, RulePass, Var, ir, rules_of
from accelc.rules import rule
from accelc.rewrite import replace_value

@rule()
def drop_identity(op: Ops, x: Var) -> Law:
    """Identity(x) == x"""
    return op.Identity(x), x

@rule()
def wrong_mul(op: Ops, x: Var, c: Const) -> Law:
    """x * c == x + c (wrong)"""
    return op.Mul(x, c), op.Add(x, c)

@rule()
def double_neg(op: Ops, x: Var) -> Law:
    """-(-x) == x"""
    return op.Neg(op.Neg(x)), x

@dataclass(frozen=True)
class Mixed(RulePass):
    """Two right rules and a wrong one."""
    name = "mixed"
    rules = (drop_identity, wrong_mul, double_neg)

@dataclass(frozen=True)
class Tidy(RulePass):
    """Only right rules."""
    name = "tidy"
    rules = (drop_identity, double_neg)

@rule()
def to_sin(op: Ops, x: Var) -> Law:
    """Neg(x) == Sub(0, x) (comes back)"""
    return op.Neg(x), lambda m: m.op.Sub(m.op.weight(np.zeros(1, np.float32)), m.x)

@rule()
def from_sin(op: Ops, x: Var) -> Law:
    """Sub(0, x) == Neg(x) (comes back)"""
    return op.Sub(op.any_of(0.0), x), op.Neg(x)

@dataclass(frozen=True)
class Endless(RulePass):
    """Rules that chase each other."""
    name = "endless"
    rules = (to_sin, from_sin)

class OneChange(Pass):
    """A pass that makes one change by hand."""
    def run(self, model, ctx):
        if not ctx.spend(self.name, "the graph"):
            return PassResult()
        self.change(model)
        return PassResult(1)

@dataclass(frozen=True)
class Raises(OneChange):
    """Fail."""
    name = "raises"
    def change(self, model):
        raise KeyError("what was looked for")

@dataclass(frozen=True)
class Dangles(OneChange):
    """Leave a name that nothing defines."""
    name = "dangles"
    def change(self, model):
        model.graph[-1].replace_input_with(0, ir.Value(name="nowhere"))

@dataclass(frozen=True)
class Renames(OneChange):
    """Change the name of an output."""
    name = "renames"
    def change(self, model):
        model.graph.outputs[0].name = "other"

@dataclass(frozen=True)
class LeavesDead(OneChange):
    """Leave a weight that nothing uses."""
    name = "leaves-dead"
    def change(self, model):
        scope = next(ir.scopes(model))
        ir.new_constant(scope, ir.names(model), "dead", ir.array_tensor(np.zeros(4, np.float32)))

@dataclass(frozen=True)
class Grows(OneChange):
    """Add a large weight that is used."""
    name = "grows"
    def change(self, model):
        scope, node = next(ir.scopes(model)), model.graph[-1]
        big = ir.new_constant(scope, ir.names(model), "big", ir.array_tensor(np.zeros((4096, 4), np.float32)))
        index = ir.new_constant(scope, ir.names(model), "row", ir.array_tensor(np.zeros((1,), np.int64)))
        row = ir.new_node("Gather", [big, index], name="take")
        total = ir.new_node("Add", [node.inputs[0], row.outputs[0]], name="plus")
        for made in (row, total):
            made.outputs[0].name = made.name + "_out"
        model.graph.insert_before(node, [row, total])
        node.replace_input_with(0, total.outputs[0])

@dataclass(frozen=True)
class Wrong(OneChange):
    """Change the numbers by hand."""
    name = "wrong"
    def change(self, model):
        node = model.graph[-1]
        extra = ir.new_node("Abs", [node.inputs[0]], name="extra")
        extra.outputs[0].name = "extra_out"
        model.graph.insert_before(node, extra)
        node.replace_input_with(0, extra.outputs[0])

@dataclass(frozen=True)
class Slow(OneChange):
    """Add a node that computes the same and takes time."""
    name = "slow"
    def change(self, model):
        node = model.graph[-1]
        extra = ir.new_node("Identity", [node.inputs[0]], name="waste_of_time")
        extra.outputs[0].name = "waste_out"
        model.graph.insert_before(node, extra)
        node.replace_input_with(0, extra.outputs[0])

@dataclass(frozen=True)
class Forgets(OneChange):
    """Change the numbers and call that the purpose."""
    name = "forgets"
    keeps_function = False
    def change(self, model):
        Wrong.change(self, model)
'''

SOURCE = """<ir_version: 8, opset_import: ["": 17], metadata_props: ["author": "someone"]>
main (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> {
    [first] i = Identity(x)
    [scale] m = Mul(i, w)
    [negate] p = Neg(m)
    [negate_again] q = Neg(p)
    [last] y = Tanh(q)
}"""
X = np.array([[0.5, -0.25, 0.125, -1]], np.float32)


class Shared(Runner):
    """A child process that outlives the compilation it is lent to."""

    def stop(self) -> None: ...


@pytest.fixture(scope="module")
def runners() -> Iterator[list[Shared]]:
    made = [Shared(), Shared()]
    yield made
    for each in made:
        Runner.stop(each)


@pytest.fixture(autouse=True)
def shared_runners(runners: list[Shared], monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting the runtime for every test would take most of the time."""
    turn = cycle(runners)
    monkeypatch.setattr(compilation, "Runner", lambda: next(turn))


@pytest.fixture(autouse=True)
def no_plugins_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(SOURCE).SerializeToString())
    return path


@pytest.fixture
def compiled(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Optimize the model with passes of the faults file. as_level: as if a level asked for them, not the user."""
    plugin = tmp_path / "faults.py"
    plugin.write_text(FAULTS, encoding="utf-8")

    def optimize(passes: str, *, as_level: bool = False, source: Any = None, **options: Any) -> Result:
        options = {"plugins": [str(plugin)], "measure": False, **options}
        if as_level:
            monkeypatch.setitem(pipeline.LEVELS, 2, passes)  # type: ignore[arg-type]
        else:
            options["passes"] = passes
        return accelc.optimize(model if source is None else source, **options)

    return optimize


def operators(result: Result) -> list[str]:
    assert result.path is not None
    return [node.op_type for node in onnx.load(result.path).graph.node]


def refusals(result: Result) -> list[tuple[str, str, str]]:
    return [(each.kind, each.name, each.gate) for each in result.report.refused]


def same_numbers(result: Result, original: Path) -> None:
    assert result.path is not None
    np.testing.assert_array_equal(run(result.path.read_bytes(), {"x": X})[0], run(original.read_bytes(), {"x": X})[0])


def status(result: Result) -> str:
    assert result.report.verdict is not None
    return result.report.verdict.status


# --- nothing wrong


def test_right_rules_are_kept_and_reported(compiled: Callable[..., Result], model: Path) -> None:
    result = compiled("tidy")
    assert operators(result) == ["Mul", "Tanh"]
    assert result.path == model.with_name("model.custom.cpu.onnx")
    report = result.report
    assert (report.before.nodes, report.after.nodes, report.patches) == (5, 2, 2)
    assert report.after.bytes == result.path.stat().st_size < report.before.bytes
    assert (status(result), refusals(result), report.pipeline) == ("same", [], "tidy")
    assert {stats.rule: stats.fired for stats in report.passes[0].rules} == {"drop_identity": 1, "double_neg": 1}
    same_numbers(result, model)


@pytest.mark.parametrize("as_level", [False, True])
def test_a_wrong_rule_is_found_named_and_switched_off(
    compiled: Callable[..., Result], model: Path, as_level: bool
) -> None:
    result = compiled("mixed", as_level=as_level)
    assert refusals(result) == [("rule", "wrong_mul", "numbers")]
    (refusal,) = result.report.refused
    assert "mixed >> wrong_mul at node" in refusal.reason
    assert "(Mul)" in refusal.reason
    assert operators(result) == ["Mul", "Tanh"], "the right rules of the same pass stay"
    assert status(result) == "same"
    same_numbers(result, model)


def test_a_wrong_pass_without_rules_is_switched_off(compiled: Callable[..., Result], model: Path) -> None:
    result = compiled("tidy, wrong", as_level=True)
    assert refusals(result) == [("pass", "wrong", "numbers")]
    assert operators(result) == ["Mul", "Tanh"]
    same_numbers(result, model)


def test_two_faults_are_found_one_after_the_other(compiled: Callable[..., Result], model: Path) -> None:
    result = compiled("mixed, wrong, raises", as_level=True)
    assert {each[1] for each in refusals(result)} >= {"wrong_mul", "raises"}
    assert operators(result) == ["Mul", "Tanh"]
    same_numbers(result, model)


def test_verify_each_names_the_pass(compiled: Callable[..., Result], model: Path) -> None:
    with pytest.raises(PassError, match=r"^pass mixed: "):
        compiled("tidy, mixed", verify="each")
    result = compiled("tidy, mixed, dce", as_level=True, verify="each")
    assert [each[:2] for each in refusals(result)] == [("pass", "mixed")]
    assert operators(result) == ["Mul", "Tanh"]
    same_numbers(result, model)


def test_without_verification_nothing_is_compared(compiled: Callable[..., Result]) -> None:
    result = compiled("mixed", verify="off")
    assert operators(result) == ["Add", "Tanh"]
    assert status(result) == "skipped"
    assert result.report.verdict is not None
    assert result.report.verdict.reason == "verification is off"


def test_a_pass_that_changes_the_function_is_judged_by_quality(compiled: Callable[..., Result]) -> None:
    result = compiled("forgets")
    assert operators(result)[-2:] == ["Abs", "Tanh"]
    assert status(result) == "reported"
    assert result.report.verdict is not None
    assert result.report.verdict.quality is not None


def test_the_users_data_decides(compiled: Callable[..., Result], tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.ones((8, 4), np.float32))
    result = compiled("wrong", inputs=str(data))
    assert status(result) == "same", "without negative inputs Abs changes nothing"
    np.savez(data, x=-np.ones((8, 4), np.float32))
    result = compiled("wrong", inputs=str(data))
    assert operators(result)[-1] == "Tanh"
    assert "Abs" not in operators(result)
    with pytest.raises(UsageError):
        compiled("tidy", inputs=str(tmp_path / "missing.npz"))


def test_bisect_limit_stops_after_that_many_changes(compiled: Callable[..., Result]) -> None:
    assert [compiled("tidy", bisect_limit=limit).report.patches for limit in (0, 1, 9)] == [0, 1, 2]


def test_rules_and_passes_can_be_left_out(compiled: Callable[..., Result]) -> None:
    assert operators(compiled("tidy", disable=["double_neg"])) == ["Mul", "Neg", "Neg", "Tanh"]
    assert compiled("tidy", disable=["tidy"]).report.patches == 0


@pytest.mark.parametrize("guilty", [1, 2, 7, 8, 100])
def test_bisection_finds_the_change_with_few_questions(guilty: int) -> None:
    asked: list[int] = []

    def good(limit: int) -> bool:
        asked.append(limit)
        return limit < guilty

    assert find_guilty(100, good) == guilty
    assert len(asked) <= 7


# --- sound structure


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "what was looked for"),
        ("dangles", "uses nowhere before anything defines it"),
        ("renames", r"changed the outputs from \(y\) to \(other\)"),
        ("leaves-dead", "left the weight dead, which nothing uses"),
        ("endless", "does not terminate"),
    ],
)
def test_a_pass_that_fails(compiled: Callable[..., Result], model: Path, name: str, said: str) -> None:
    """Asked for by name, it is an error that leaves nothing behind; in a level it is switched off and reported."""
    before = sorted(model.parent.iterdir())
    with pytest.raises(PassError, match=rf"^pass {name}.*{said}"):
        compiled(f"{name}, tidy")
    assert sorted(path for path in model.parent.iterdir() if path.name != "__pycache__") == before
    result = compiled(f"{name}, tidy", as_level=True)
    assert [each[:2] for each in refusals(result)] == [("pass", name)]
    assert operators(result) == ["Mul", "Tanh"]


# --- nothing bigger


def test_a_pass_that_grows_the_file_is_switched_off(compiled: Callable[..., Result], model: Path) -> None:
    result = compiled("grows, tidy", as_level=True)
    assert refusals(result) == [("pass", "grows", "size")]
    assert "the file would grow by" in result.report.refused[0].reason
    assert operators(result) == ["Mul", "Tanh"]
    assert result.report.after.bytes <= result.report.before.bytes


def test_growth_that_was_asked_for_is_said(compiled: Callable[..., Result]) -> None:
    result = compiled("grows")
    assert refusals(result) == []
    assert any("bytes larger than the original, by grows, which was asked for" in note for note in result.report.notes)


# --- nothing slower


def comparison(ratio: float) -> Comparison:
    verdict: Any = "slower" if ratio < 0.98 else "faster" if ratio > 1.02 else "same"
    return Comparison(ratio, ratio - 0.01, ratio + 0.01, verdict, 1.0, 1 / ratio, 1.0, 1 / ratio, 20, 0.01)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Latency by decree: nodes named waste_of_time halve the speed. The list collects what was measured."""
    measured: list[list[str]] = []

    def compare(self: gates.Timing, results: Sequence[Path], seconds: float) -> list[Comparison]:
        found = [[node.name for node in onnx.load(path).graph.node] for path in results]
        measured.extend(found)
        return [comparison(0.5 if "waste_of_time" in names else 1.2) for names in found]

    monkeypatch.setattr(gates.Timing, "compare", compare)
    return measured


def test_a_faster_result_is_kept(compiled: Callable[..., Result], clock: list[list[str]]) -> None:
    result = compiled("tidy", measure=True)
    assert result.report.latency is not None
    assert (result.report.latency.ratio, result.report.latency.verdict) == (1.2, "faster")
    assert len(clock) == 1


def test_a_pass_that_slows_the_model_is_undone(compiled: Callable[..., Result], clock: list[list[str]]) -> None:
    result = compiled("tidy, slow", measure=True, as_level=True)
    assert refusals(result) == [("pass", "slow", "latency")]
    assert "ran at 0.500 of the original's speed [0.490, 0.510]" in result.report.refused[0].reason
    assert operators(result) == ["Mul", "Tanh"]
    assert result.report.latency is not None
    assert result.report.latency.ratio == 1.2


def test_when_every_choice_is_slower_the_original_is_kept(
    compiled: Callable[..., Result], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates.Timing, "compare", lambda self, results, seconds: [comparison(0.5) for _ in results])
    result = compiled("tidy", measure=True)
    assert result.report.latency is None
    assert "the original is kept" in result.report.latency_note
    assert result.path is not None
    assert result.path.read_bytes() == model.read_bytes()


# --- nothing silent, and files


def test_a_failure_leaves_a_reproducer_when_asked(compiled: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "reproducer"
    compiled("mixed", reproducer=str(folder))
    assert (folder / "reproducer.json").exists()


def test_no_change_is_the_same_bytes(compiled: Callable[..., Result], tmp_path: Path) -> None:
    source = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> main (float[2] x) => (float[2] y) { [n] y = Tanh(x) }'
    )
    source.producer_name, source.doc_string = "someone", "a model"
    path = tmp_path / "plain.onnx"
    fields = source.SerializeToString()
    path.write_bytes(fields[2:] + fields[:2])  # the IR version at the end, where no writer would put it
    for passes in ("tidy", ""):
        result = compiled(passes, source=path)
        assert result.report.patches == 0
        assert result.path is not None
        assert result.path.read_bytes() == path.read_bytes()


def test_the_same_input_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{index}.onnx" for index in range(2)]
    for output in outputs:
        accelc.optimize(model, level=2, measure=False, output=output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_types_of_inner_values_are_written_where_the_original_had_them(
    compiled: Callable[..., Result], tmp_path: Path, model: Path
) -> None:
    without = onnx.load(compiled("tidy").path)
    assert len(without.graph.value_info) == 0
    typed = tmp_path / "typed.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(onnx.load(model)), typed)
    with_types = onnx.load(compiled("tidy", source=typed).path)
    assert {info.name for info in with_types.graph.value_info} == {"m"} or len(with_types.graph.value_info) == 1


def test_models_in_memory(compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)
    proto = onnx.parser.parse_model(SOURCE)
    unchanged = proto.SerializeToString()
    for source in (proto, ir.from_proto(onnx.parser.parse_model(SOURCE))):
        result = compiled("tidy", source=source)
        assert result.path is None
        assert [node.op_type for node in ir.walk(result.model)] == ["Mul", "Tanh"]
        assert result.report.source == "a model in memory"
    assert proto.SerializeToString() == unchanged, "the caller's model is not changed"
    assert list(empty.iterdir()) == []
    written = compiled("tidy", source=proto, output=tmp_path / "out.onnx")
    assert operators(written) == ["Mul", "Tanh"]


def test_the_contract_is_kept(compiled: Callable[..., Result], model: Path) -> None:
    before, after = onnx.load(model), onnx.load(compiled("tidy").path)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert list(before.metadata_props) == list(after.metadata_props)


@pytest.mark.parametrize("output", ["missing/out.onnx", "model.onnx/out.onnx"])
def test_an_output_that_cannot_be_written(compiled: Callable[..., Result], model: Path, output: str) -> None:
    (model.parent / "folder").mkdir()
    before = sorted(model.parent.rglob("*"))
    with pytest.raises(UsageError):
        compiled("tidy", output=model.parent / output)
    assert [path for path in sorted(model.parent.rglob("*")) if "__pycache__" not in str(path)] == before


def test_an_existing_result_is_replaced_and_the_input_may_be_the_output(
    compiled: Callable[..., Result], model: Path
) -> None:
    original = model.read_bytes()
    result = compiled("tidy", output=model)
    assert result.path == model
    assert operators(result) == ["Mul", "Tanh"]
    np.testing.assert_array_equal(run(model.read_bytes(), {"x": X})[0], run(original, {"x": X})[0])


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"passes": "no-such-pass"}, UsageError, "there is no pass named 'no-such-pass'"),
        ({"target": "abacus"}, UsageError, "there is no backend named 'abacus'"),
        ({"plugins": ["no_such_module"]}, PluginError, "no_such_module: cannot be imported"),
    ],
)
def test_requests_that_cannot_start(model: Path, options: dict[str, Any], kind: type[Exception], said: str) -> None:
    before = sorted(model.parent.iterdir())
    with pytest.raises(kind, match=said):
        accelc.optimize(model, measure=False, **options)
    assert sorted(model.parent.iterdir()) == before


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot optimize a int"):
        accelc.optimize(3)  # type: ignore[arg-type]
    with pytest.raises((ModelError, UsageError)):
        accelc.optimize(tmp_path / "missing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"this is no model")
    with pytest.raises(ModelError):
        accelc.optimize(broken)


def test_a_model_that_reading_and_writing_changes_is_not_accepted(
    compiled: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((8, 4), np.float32))
    monkeypatch.setattr(Verifier, "judge", lambda self, result, judge, on=None: Verdict("different", "y differs"))
    with pytest.raises(VerifyError, match="changes its results by being read and written: y differs"):
        compiled("", inputs=tmp_path / "data.npz")


def test_progress_and_phases_are_reported(compiled: Callable[..., Result]) -> None:
    said: list[str] = []
    result = compiled("tidy", progress=said.append)
    assert said[0] == "reading"
    assert {"optimizing", "verifying", "writing"} <= set(said)
    assert {"import", "passes", "verify", "write"} <= set(result.report.seconds)
