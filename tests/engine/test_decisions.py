"""Decisions between equal graphs: what is chosen, what is kept, and that a compile gets each answer once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import accelc
from accelc import decision_store, ir, plugins
from accelc.backends.cpu import CpuBackend
from accelc.backends.cuda import CudaBackend
from accelc.context import Context, Settings
from accelc.decision_store import Decision, Store, file_of
from accelc.decisions import Decisions, difference, environment
from accelc.measure import Comparison, Verdict
from accelc.options import Options
from accelc.runner import Runner, RuntimeFailure
from accelc.target import Target

SIZE = 256
Build = Callable[[], Mapping[str, onnx.ModelProto | ir.Model | bytes]]


def chain(length: int, *, scale: float = 1.0, rows: int | str = 64, operator: str = "MatMul") -> onnx.ModelProto:
    """y = x w^length with w = scale * I: x itself where scale is 1."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = onnx.numpy_helper.from_array(scale * np.eye(SIZE, dtype=np.float32), "w")
    names = ["x", *(f"v{index}" for index in range(1, length)), "y"]
    nodes = [helper.make_node(operator, [names[i], "w"], [names[i + 1]]) for i in range(length)]
    x, y = (helper.make_tensor_value_info(name, kind, [rows, SIZE]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "chain", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_outputs() -> onnx.ModelProto:
    model = chain(1)
    model.graph.output.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, SIZE]))
    return model


def pair() -> dict[str, onnx.ModelProto | ir.Model | bytes]:
    return {"long": chain(64), "short": chain(1)}


def figures(decision: Decision) -> tuple[float, float, float]:
    """The ratio with its interval, which must be there."""
    assert decision.ratio is not None
    assert decision.low is not None
    assert decision.high is not None
    return decision.ratio, decision.low, decision.high


def never() -> Mapping[str, onnx.ModelProto]:
    raise AssertionError("nothing is to be built")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as one:
        yield one


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCELC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decisions"


@pytest.fixture
def service(runner: Runner, cache: Path) -> Callable[..., Decisions]:
    """Makes services that measure on the processor, each as for a new compile."""

    def make(**options: Any) -> Decisions:
        return Decisions(**{"measure": True, "backend": CpuBackend(), "runner": lambda: runner, **options})

    return make


def comparison(ratio: float, verdict: Verdict, spread: float = 0.02) -> Comparison:
    return Comparison(
        ratio, ratio - spread, ratio + spread, verdict, 1.0, 1 / ratio, 1.0, 1 / ratio, rounds=20, spread=0.01
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Comparison]:
    """Timing by decree: what the list holds, for the alternatives in order. Nothing is timed."""
    results: list[Comparison] = []
    monkeypatch.setattr("accelc.decisions.time_alternatives", lambda *_, **__: list(results))
    return results


# --- what is chosen


def test_without_measuring_the_shipped_default_is_taken_and_nothing_is_read(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / file_of(environment(CpuBackend()))).write_text("damaged", encoding="utf-8")
    off = Decisions(backend=CpuBackend())
    decision = off.decide("rule", "case", "short", never)
    assert (decision.choice, decision.how, decision.evidence) == ("short", "default", "shipped default")
    assert off.notes == []


def test_the_faster_graph_is_chosen(service: Callable[..., Decisions]) -> None:
    decision = service().decide("rule", "case", "long", pair)
    assert (decision.choice, decision.how, decision.alternative) == ("short", "measured", "short")
    ratio, low, high = figures(decision)
    assert 1.1 < low <= ratio <= high
    assert decision.names == ("long", "short")
    assert decision.evidence == f"measured {ratio:.2f} [{low:.2f}, {high:.2f}]"


def test_the_graph_stays_as_it_is_when_that_is_faster(service: Callable[..., Decisions]) -> None:
    decision = service().decide("rule", "case", "long", lambda: {"short": chain(1), "long": chain(64)})
    assert decision.choice == "short"
    assert figures(decision)[0] < 1
    assert decision.evidence.startswith("measured, long 0.")


def test_models_may_be_graphs_and_bytes_with_open_dimensions(service: Callable[..., Decisions]) -> None:
    def build() -> dict[str, ir.Model | bytes]:
        return {"long": ir.from_proto(chain(64, rows="N")), "short": chain(1, rows="N").SerializeToString()}

    assert service().decide("rule", "case", "long", build).choice == "short"


@pytest.mark.parametrize(
    ("name", "other", "reason"),
    [
        ("wrong", chain(1, scale=1.01), "y: differs by 0.01 of the range"),
        ("broken", b"no model", "cannot load"),
        ("unknown", chain(1, operator="NoSuchOperator"), "cannot load"),
        ("another size", chain(1, rows=32), ""),
        ("two outputs", two_outputs(), "it makes 2 outputs instead of 1"),
    ],
)
def test_what_computes_something_else_or_does_not_run_is_never_chosen(
    service: Callable[..., Decisions], name: str, other: Any, reason: str
) -> None:
    decision = service().decide("rule", "case", name, lambda: {"long": chain(64), name: other})
    assert (decision.choice, decision.ratio) == ("long", None)
    assert reason in decision.out[name]
    assert decision.evidence == f"measured: {name}: {decision.out[name]}"


def test_outputs_are_compared_in_their_order_whatever_their_names(service: Callable[..., Decisions]) -> None:
    renamed = chain(1)
    renamed.graph.node[0].output[0] = renamed.graph.output[0].name = "another_name"
    assert service().decide("rule", "case", "long", lambda: {"long": chain(64), "short": renamed}).choice == "short"


def test_a_small_difference_may_be_allowed(service: Callable[..., Decisions]) -> None:
    build: Build = lambda: {"long": chain(64), "rough": chain(1, scale=1.01)}  # noqa: E731
    assert service().decide("rule", "case", "long", build, tolerance=0.1).choice == "rough"


@pytest.mark.parametrize(
    ("found", "certain", "choice"),
    [
        ([comparison(1.2, "faster"), comparison(1.4, "faster")], True, "two"),
        ([comparison(1.4, "faster"), comparison(1.2, "faster")], True, "one"),
        ([comparison(1.2, "faster"), comparison(1.4, "same", 0.5)], True, "one"),
        ([comparison(1.01, "same"), comparison(0.8, "slower")], True, "first"),
        ([comparison(1.01, "same"), comparison(0.8, "slower")], False, "one"),
        ([comparison(0.99, "same"), comparison(0.8, "slower")], False, "first"),
    ],
)
def test_an_alternative_needs_evidence(
    service: Callable[..., Decisions], clock: list[Comparison], found: list[Comparison], certain: bool, choice: str
) -> None:
    clock.extend(found)
    build: Build = lambda: {name: chain(1) for name in ("first", "one", "two")}  # noqa: E731
    assert service().decide("rule", "case", "first", build, certain=certain).choice == choice


def test_a_default_that_is_not_built_is_an_error(service: Callable[..., Decisions]) -> None:
    with pytest.raises(ValueError, match=r"rule: the default 'other' is none of long, short"):
        service().decide("rule", "case", "other", pair)


def test_where_the_graph_itself_does_not_run_the_default_is_taken(service: Callable[..., Decisions]) -> None:
    build: Build = lambda: {"bad": chain(1, operator="NoSuchOperator"), "short": chain(1)}  # noqa: E731
    decision = service().decide("rule", "case", "short", build)
    assert (decision.choice, decision.how) == ("short", "default")
    assert "bad does not run on cpu" in decision.reason


def test_when_timing_fails_the_graph_stays_as_it_is(
    service: Callable[..., Decisions], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> list[Comparison]:
        raise RuntimeFailure("crash", "the runtime crashed")

    monkeypatch.setattr("accelc.decisions.time_alternatives", crash)
    decision = service().decide("rule", "case", "short", pair)
    assert (decision.choice, decision.reason) == ("long", "timing failed: the runtime crashed")
    assert not cache.exists()


@dataclass(frozen=True)
class Missing(CpuBackend):
    name = "missing"

    def missing(self) -> str:
        return "no such device"


def test_a_backend_that_does_not_work_here_leaves_the_defaults(service: Callable[..., Decisions]) -> None:
    there = service(backend=Missing())
    for case in ("a", "b"):
        assert there.decide("rule", case, "short", never).reason == "missing is not usable here"
    assert there.notes == ["decisions are shipped defaults: missing is not usable here: no such device"]


def test_the_time_is_limited(service: Callable[..., Decisions], clock: list[Comparison]) -> None:
    clock.append(comparison(1.5, "faster"))
    short = service(seconds=1e-6)
    assert short.decide("rule", "a", "long", pair).how == "measured"
    for case in ("b", "c"):
        assert short.decide("rule", case, "long", never).reason == "the time for measuring is spent"
    assert len(short.notes) == 1
    assert "the rest are shipped defaults" in short.notes[0]
    assert service().decide("rule", "d", "long", never, seconds=0).how == "default"


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        (np.array([1, -2], np.float32), np.array([1.001, -2], np.float32), True),
        (np.array([1, -2], np.float32), np.array([1.01, -2], np.float32), False),
        (np.array([1, np.nan], np.float32), np.array([1, np.nan], np.float32), True),
        (np.array([1, np.nan], np.float32), np.array([1, 2], np.float32), False),
        (np.array([1, 2], np.float16), np.array([1, 2.004], np.float16), True),
        (np.array([1, 2], np.float16), np.array([1, 2.05], np.float16), False),
        (np.array([1, 2], np.int64), np.array([1, 3], np.int64), False),
        (np.array([True], np.bool_), np.array([True], np.bool_), True),
        (np.array([1], np.float32), np.array([1], np.float64), False),
        (np.array([1], np.float32), np.array([[1]], np.float32), False),
        (np.array([], np.float32), np.array([], np.float32), True),
        ([1], [1], False),
    ],
)
def test_what_counts_as_the_same(expected: Any, actual: Any, same: bool) -> None:
    assert (difference(expected, actual, 1e-3) == "") is same


# --- what is kept


def test_what_was_measured_is_not_measured_again(
    service: Callable[..., Decisions], clock: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.append(comparison(1.5, "faster"))
    first = service().decide("rule", "case", "long", pair)
    monkeypatch.setattr(Runner, "load", never)
    again = service().decide("rule", "case", "long", never)
    assert again == replace(first, how="cached")
    assert again.evidence == "cached 1.50 [1.48, 1.52]"


@pytest.mark.parametrize(("rule", "case", "default"), [("other", "case", "long"), ("rule", "other", "long")])
def test_another_question_is_measured(
    service: Callable[..., Decisions], clock: list[Comparison], rule: str, case: str, default: str
) -> None:
    clock.append(comparison(1.5, "faster"))
    service().decide("rule", "case", "long", pair)
    assert service().decide(rule, case, default, pair).how == "measured"


def test_answers_of_a_rule_that_has_changed_are_not_used(
    service: Callable[..., Decisions], clock: list[Comparison]
) -> None:
    clock.append(comparison(1.5, "faster"))
    service().decide("rule", "case", "long", pair)
    build: Build = lambda: {"long": chain(64), "new": chain(1)}  # noqa: E731
    assert service().decide("rule", "case", "new", build).choice == "new"


def test_what_a_busy_machine_could_not_tell_is_not_kept(
    service: Callable[..., Decisions], clock: list[Comparison], cache: Path
) -> None:
    clock.append(comparison(1.2, "same", 0.3))
    assert service().decide("rule", "case", "long", pair).choice == "long"
    clock[:] = [replace(comparison(1.5, "faster"), rounds=3)]
    assert service().decide("rule", "case", "long", pair).choice == "short"
    assert not cache.exists()
    clock[:] = [comparison(1.0, "same")]
    service().decide("rule", "case", "long", pair)
    assert len(list(cache.glob("*.json"))) == 1


def test_decisions_belong_to_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    backends = [CpuBackend(), CpuBackend((("threads", "1"),)), CpuBackend((("threads", "3"),)), CudaBackend()]
    assert len({file_of(environment(each)) for each in backends}) == 4
    here = file_of(environment(CpuBackend()))
    assert here == file_of(environment(CpuBackend()))
    monkeypatch.setattr("accelc.doctor.processor_name", lambda: "another processor")
    assert file_of(environment(CpuBackend())) != here
    monkeypatch.undo()
    monkeypatch.setattr("accelc.doctor.runtimes", lambda: {"onnxruntime": "99.0"})
    assert file_of(environment(CpuBackend())) != here


DAMAGED = {
    "nothing": b"",
    "half": b'{"schema": "accelc.decisions/1", "environment": {}, "decisions": {"ru',
    "list": b"[1, 2]",
    "deep": b"[" * 200_000,
    "no text": b"\xff\xfe\x00",
    "other schema": b'{"schema": "accelc.decisions/9", "environment": {}, "decisions": {}}',
    "wrong parts": b'{"schema": "accelc.decisions/1", "environment": {}, "decisions": {"rule": 3}}',
    "wrong entry": b'{"schema": "accelc.decisions/1", "environment": {}, "decisions": {"rule": {"case": {"low": 1}}}}',
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_told_once_and_replaced(
    service: Callable[..., Decisions], clock: list[Comparison], cache: Path, damage: str
) -> None:
    clock.append(comparison(1.5, "faster"))
    path = cache / file_of(environment(CpuBackend()))
    cache.mkdir(parents=True)
    path.write_bytes(DAMAGED[damage])
    here = service()
    assert here.decide("rule", "a", "long", pair).how == "measured"
    assert here.decide("rule", "b", "long", pair).how == "measured"
    (note,) = here.notes
    assert "damaged" in note
    assert "measured afresh" in note
    after = service()
    assert [after.decide("rule", case, "long", never).how for case in ("a", "b")] == ["cached", "cached"]
    assert after.notes == []


def test_a_folder_that_cannot_be_written_is_told_once(
    service: Callable[..., Decisions], clock: list[Comparison], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("ACCELC_CACHE", str(tmp_path / "file"))
    clock.append(comparison(1.5, "faster"))
    here = service()
    assert [here.decide("rule", case, "long", pair).choice for case in ("a", "b")] == ["short", "short"]
    assert len([note for note in here.notes if "cannot be kept" in note]) == 1


def test_without_a_home_nothing_is_kept(
    service: Callable[..., Decisions], clock: list[Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelc.decisions.folder", lambda: None)
    clock.append(comparison(1.5, "faster"))
    here = service()
    assert here.decide("rule", "a", "long", pair).choice == "short"
    assert here.notes == ["decisions are not kept: this user has no home folder; set ACCELC_CACHE to a folder"]


def test_where_decisions_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELC_CACHE", "here")
    assert decision_store.folder() == Path("here/decisions")
    monkeypatch.setenv("ACCELC_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert decision_store.folder() == tmp_path / "accelc" / "decisions"
    for given in ("relative/path", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        for system, place in (("linux", ".cache"), ("darwin", "Library/Caches"), ("win32", "AppData/Local")):
            monkeypatch.setattr(sys, "platform", system)
            monkeypatch.delenv("LOCALAPPDATA", raising=False)
            assert decision_store.folder() == tmp_path / place / "accelc" / "decisions"
        monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
        assert decision_store.folder() == tmp_path / "local" / "accelc" / "decisions"


def kept(rule: str, case: str) -> Decision:
    return Decision(rule, case, "b", "measured", "b", 1.5, 1.4, 1.6, 20, "2026-01-01T00:00:00Z", ("a", "b"))


WRITER = """
import sys
from pathlib import Path
from accelc.decision_store import Decision, Store
store = Store(Path(sys.argv[1]), {"backend": "cpu"}, print)
for number in range(25):
    store.put(Decision(sys.argv[2], f"case {number}", "b", "measured", "b", 1.5, 1.4, 1.6, 20, "now", ("a", "b")))
"""


def test_processes_that_write_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, f"rule {n}"], stdout=subprocess.PIPE, text=True) for n in range(3)]
    assert [(each.communicate(timeout=60)[0], each.returncode) for each in writers] == [("", 0)] * 3
    path = tmp_path / file_of({"backend": "cpu"})
    found = {(each.rule, each.case) for each in decision_store.read(path)[1]}
    if sys.platform == "win32":  # without locks the last writer wins
        assert found
    else:
        assert found == {(f"rule {n}", f"case {number}") for n in range(3) for number in range(25)}
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".part"] == []


def test_listing_and_clearing(tmp_path: Path) -> None:
    notes: list[str] = []
    for threads in (1, 2):
        store = Store(tmp_path, {"backend": "cpu", "threads": threads}, notes.append)
        for rule in ("one", "two"):
            store.put(kept(rule, "case"))
    (tmp_path / "damaged.json").write_text("{", encoding="utf-8")
    (tmp_path / "other.txt").write_text("mine", encoding="utf-8")
    listed = decision_store.listing(tmp_path)
    assert sorted(bool(each.problem) for each in listed) == [False, False, True]
    assert {one for each in listed for one in each.decisions} == {
        replace(kept(rule, "case"), how="cached") for rule in ("one", "two")
    }
    assert decision_store.clear(tmp_path, "one") == 2
    assert decision_store.clear(tmp_path, "one") == 0
    assert {one.rule for each in decision_store.listing(tmp_path) for one in each.decisions} == {"two"}
    assert decision_store.clear(tmp_path) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["other.txt"]
    assert decision_store.listing(tmp_path / "none") == []
    assert notes == []


# --- one compile


def test_a_compile_gets_each_answer_once(service: Callable[..., Decisions], clock: list[Comparison]) -> None:
    clock.append(comparison(1.5, "faster"))
    shared = service()
    target = Target.cpu()
    choices = []
    for result in (comparison(1.5, "faster"), comparison(0.5, "slower")):
        clock[:] = [result]
        ctx = Context(target, Settings(measure=True), decisions=shared)
        choices.append(ctx.decide("rule", "case", "long", pair))
        assert [(each.rule, each.choice, each.places) for each in ctx.decided] == [("rule", "short", 1)]
    assert choices == ["short", "short"]


def test_a_context_by_itself_gives_shipped_defaults() -> None:
    ctx = Context(Target.cpu(), Settings(measure=True))
    assert ctx.decide("rule", "case", "default", never) == "default"
    assert ctx.decided[0].reason == "there is no backend to measure on"


def test_known_decisions_hold_without_measuring() -> None:
    again = Decisions(known=[kept("rule", "case")])
    assert again.decide("rule", "case", "a", never).choice == "b"
    assert again.decide("rule", "other", "a", never).choice == "a"


def test_something_is_computed_once_for_a_key() -> None:
    decisions, made = Decisions(), iter([1, 2])
    assert [decisions.once(key, lambda: next(made)) for key in ("a", "a", "b")] == [1, 1, 2]


PLUGIN = '''
from dataclasses import dataclass
import onnx
from accelc import Law, Ops, Pass, PassResult, RulePass, Var, ir
from accelc.rewrite import remove_dead, replace_value
from accelc.rules import rule

BUILT = []


@rule()
def wrong(op: Ops, x: Var) -> Law:
    """Tanh(x) == Sin(x) (wrong)"""
    return op.Tanh(x), op.Sin(x)


@dataclass(frozen=True)
class Wrong(RulePass):
    """Wrong."""
    name = "wrong"
    rules = (wrong,)


@dataclass(frozen=True)
class Shorter(Pass):
    """Drop Identity where that is measured faster."""
    name = "shorter"

    def run(self, model, ctx):
        def build():
            BUILT.append(1)
            text = '<ir_version: 8, opset_import: ["": 17]> m (float[8] x) => (float[8] y) { y = %s(x) }'
            return {name: onnx.parser.parse_model(text % kind) for name, kind in (("as is", "Abs"), ("short", "Abs"))}

        changes = 0
        for node in [each for each in ir.walk(model) if each.op_type == "Identity"]:
            choice = ctx.decide("shorter", "float[8]", "as is", build)
            if choice == "short" and ctx.spend("shorter", ir.node_path(node)):
                replace_value(node.outputs[0], node.inputs[0])
                remove_dead([node])
                changes += 1
        return PassResult(changes)
'''
SOURCE = """<ir_version: 8, opset_import: ["": 17]> m (float[8] x) => (float[8] y) {
    a = Identity(x) b = Tanh(a) c = Identity(b) y = Relu(c) }"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(plugins, "_loaded", {"pass": {}, "backend": {}})
    path = tmp_path / "shorter_plugin.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("measure", "nodes", "how"), [(None, 4, "default"), (False, 4, "default"), (True, 2, "measured")]
)
def test_decisions_reach_the_result_and_the_report(
    plugin: str, clock: list[Comparison], cache: Path, measure: bool | None, nodes: int, how: str
) -> None:
    clock.append(comparison(1.5, "faster"))
    model = onnx.parser.parse_model(SOURCE)
    report = accelc.optimize(model, passes="shorter", plugins=[plugin], measure=measure).report
    assert report.after.nodes == nodes
    (decision,) = report.decisions
    assert (decision.rule, decision.case, decision.how, decision.places) == ("shorter", "float[8]", how, 2)
    body = json.loads(report.to_json())["decisions"]
    assert [(each["choice"], each["how"], each["ratio"]) for each in body] == [
        ("short", "measured", 1.5) if measure else ("as is", "default", None)
    ]
    assert cache.exists() is bool(measure)


def test_attempts_agree(plugin: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong rule makes bisection run the pipeline several times; the clock says something else each time."""
    answers = iter([comparison(1.5, "faster"), *[comparison(0.5, "slower")] * 50])
    asked: list[int] = []

    def compare(*_: Any, **__: Any) -> Sequence[Comparison]:
        asked.append(1)
        return [next(answers)]

    monkeypatch.setattr("accelc.decisions.time_alternatives", compare)
    model = onnx.parser.parse_model(SOURCE)
    options: dict[str, Any] = {"passes": "shorter, wrong", "plugins": [plugin]}
    monkeypatch.setattr("accelc.compilation.latency.gate", _no_gate)
    report = accelc.optimize(model, measure=True, **options).report
    assert [each.name for each in report.refused] == ["wrong"]
    assert report.after.nodes == 2
    assert len(asked) == 1


def _no_gate(compilation: Any, attempt: Any, verdict: Any, seconds: float) -> Any:
    from accelc.latency import Outcome

    return Outcome(attempt, verdict, None, "")


QUANTIZED = """<ir_version: 8, opset_import: ["": 17]> m (float[32, 256] x) => (float[32, 256] y)
{ a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) d = Tanh(c) e = Tanh(d)
  f = MatMul(e, v) g = Identity(f) y = Tanh(g) }"""


def test_quantize_searches_once(plugin: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelc.passes.quantization.trial import Trial

    alone: list[int] = []
    whole: list[int] = []

    def time_alone(*_: Any, **__: Any) -> list[Comparison]:
        alone.append(1)
        return [comparison(2.0, "faster")]

    def time_whole(self: Trial, candidates: Sequence[ir.Model], seconds: float) -> list[Comparison]:
        whole.append(1)
        return [comparison(1.5, "faster") for _ in candidates]

    monkeypatch.setattr("accelc.decisions.time_alternatives", time_alone)
    monkeypatch.setattr(Trial, "compare", time_whole)
    monkeypatch.setattr("accelc.compilation.latency.gate", _no_gate)
    model = onnx.parser.parse_model(QUANTIZED)
    rng = np.random.default_rng(0)
    for name in ("w", "v"):
        array = rng.standard_normal((256, 256), np.float32) / 8
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    report = accelc.optimize(model, passes="quantize, wrong, identity", plugins=[plugin]).report
    assert [each.name for each in report.refused] == ["wrong"]
    assert any(record.name == "quantize" and record.changes == 3 for record in report.passes)
    assert (len(alone), len(whole)) == (1, 1), "one shape, one candidate"
    (decision,) = report.decisions
    assert (decision.rule, decision.choice, decision.places) == ("quantize", "int8", 3)


@pytest.mark.parametrize(
    ("options", "measured"),
    [
        ({"level": 1}, False),
        ({"level": 2}, False),
        ({"level": 3}, True),
        ({"level": 2, "measure": True}, True),
        ({"level": 3, "measure": False}, False),
        ({"passes": "identity, dce"}, False),
        ({"passes": "identity, dce", "measure": True}, True),
        ({"passes": "identity, quantize"}, True),
        ({"passes": "fixpoint(identity, quantize)", "measure": False}, False),
        ({"passes": "fixpoint(identity, quantize)"}, True),
    ],
)
def test_when_latency_is_measured(options: dict[str, Any], measured: bool) -> None:
    chosen = Options(**options)
    assert chosen.measures(chosen.chosen_pipeline()) is measured


@pytest.mark.parametrize(("measure", "note"), [(None, "; --measure does"), (False, ""), (True, None)])
def test_the_gate_and_its_note(
    cache: Path, monkeypatch: pytest.MonkeyPatch, measure: bool | None, note: str | None
) -> None:
    gated: list[int] = []

    def gate(*arguments: Any) -> Any:
        gated.append(1)
        return _no_gate(*arguments)

    monkeypatch.setattr("accelc.compilation.latency.gate", gate)
    report = accelc.optimize(onnx.parser.parse_model(SOURCE), passes="identity", measure=measure).report
    assert len(gated) == (measure is True)
    assert report.latency_note == ("" if note is None else f"latency was not measured{note}")
