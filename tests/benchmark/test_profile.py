"""Profiles: the runtime's events, whose nodes they are, layers, groups, and two models side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bench_models import HEAD, case, options, write

from accelc import ir, stamps
from accelc.benchmark import profile as module
from accelc.benchmark import recording
from accelc.benchmark.attribution import Attribution
from accelc.benchmark.events import Timed, read, recorded, undisturbed
from accelc.benchmark.profile import NodeTime, Profile, Subject, changes, corrected, profiles
from accelc.benchmark.profiled import Peaks
from accelc.benchmark.results import BenchResult, Row, Setting
from accelc.benchmark.run import bench
from accelc.benchmark.scopes import MOST_LAYERS, TOP, Scopes, layers
from accelc.data import Feed
from accelc.errors import AccelcError, BackendError, UsageError
from accelc.runner import RuntimeFailure

FLAT = Peaks(1e9, 1e9, 1e9, 1e9, 1 << 20)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RUN_S", 0.05)
    monkeypatch.setattr(module, "peaks", lambda backend, threads: FLAT)


# --- events


def run_event(ts: int, dur: int) -> dict[str, Any]:
    """A whole run."""
    return {"cat": "Session", "name": "model_run", "ts": ts, "dur": dur, "tid": 1}


def node_event(name: str, operator: str, ts: int, dur: int, index: int = 0, **more: Any) -> dict[str, Any]:
    """A node of a run."""
    args = {"op_name": operator, "provider": "CPUExecutionProvider", "node_index": str(index), **more}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts, "dur": dur, "tid": 1, "args": args}


def test_times_are_per_run_and_gaps_lie_between_nodes() -> None:
    events = []
    for start in (0, 1000, 2000):
        events += [
            node_event("a", "Relu", start + 10, 30),
            node_event("b", "Exp", start + 45, 50, 1),
            run_event(start, 100),
        ]
    found = recorded(events, [False, True, True])
    assert [(node.name, node.operator, node.ms) for node in found.nodes] == [("a", "Relu", 0.030), ("b", "Exp", 0.050)]
    assert found.wall_ms == 0.1
    assert found.between_ms == pytest.approx(0.020)  # 10 before, 5 between, 5 after


def test_control_flow_does_not_count_its_body_twice() -> None:
    events = [
        run_event(0, 100),
        node_event("loop", "Loop", 10, 80),
        node_event("body", "Add", 20, 15, 3),
        node_event("body", "Add", 40, 25, 3),
        node_event("after", "Relu", 90, 5, 1),
    ]
    found = {node.name: node for node in recorded(events, [True]).nodes}
    assert {name: node.ms for name, node in found.items()} == {"loop": 0.040, "body": 0.040, "after": 0.005}
    assert len(found["body"].calls) == 2
    between = recorded(events, [True]).between_ms
    assert sum(node.ms for node in found.values()) + between == pytest.approx(0.1)


def test_only_runs_that_count_do() -> None:
    events = [run_event(0, 500), node_event("a", "Relu", 1, 400), run_event(600, 20), node_event("a", "Relu", 601, 10)]
    assert recorded(events, [False, True]).nodes[0].ms == 0.010
    assert recorded(events, [True, False]).nodes[0].ms == 0.400


def test_interrupted_runs_do_not_count() -> None:
    runs = np.array([[10.0, 11.0, 10.0, 900.0, 500.0, 11.0, 9000.0, 400.0], [5.0] * 8])
    assert undisturbed(runs).tolist() == [10.0, 5.0]
    assert undisturbed(np.array([7.0])) == 7.0


def test_a_trace_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for text in ("[{", "[", "", json.dumps([run_event(0, 1)])[:-1]):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BackendError, match="no readable profile"):
            read(path, [True])
    with pytest.raises(BackendError, match="holds 1 of 3 runs"):
        recorded([run_event(0, 1)], [True] * 3)


def test_a_trace_is_read_in_whatever_layout(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    events = [node_event("a", "Relu", 1, 8, input_type_shape=[{"float": [2, 3]}]), run_event(0, 10)]
    for indent in (None, 1):
        path.write_text(json.dumps(events, indent=indent), encoding="utf-8")
        (only,) = read(path, [True]).nodes
        assert only.ms == 0.008
        assert only.calls[0].inputs == (("float", (2, 3)),)


def test_times_add_up_to_the_latency_without_a_profile() -> None:
    def ms(latency: float, *times: float) -> list[float]:
        nodes = [Timed(str(at), "Relu", "CPU", each) for at, each in enumerate(times)]
        return [round(node.ms, 6) for node in corrected(nodes, latency)]

    assert ms(7.0, 2.0, 8.0) == [0.5, 6.5]  # writing down is the same for every call
    assert ms(3.0, 2.0, 8.0) == [0.0, 3.0]  # but no more than the quickest takes; the rest by time
    assert ms(15.0, 2.0, 8.0) == [3.0, 12.0]
    assert ms(1.0) == []


# --- whose nodes they are


def proto(text: str, made: dict[str, str] | None = None) -> onnx.ModelProto:
    """A model from text; made: stamps by name of the node."""
    model = onnx.parser.parse_model(f"{HEAD}\n{text}")
    for node in ir.proto_nodes(model):
        if node.name in (made or {}):
            node.metadata_props.add(key=stamps.KEY, value=(made or {})[node.name])
    return model


FILE = """g (float[1, 4] x) => (float[1, 4] y) <float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}> {
    [m] a = MatMul(x, w)  [h] b = Relu(a)  [s] c = Sigmoid(b)  [t] d = Mul(b, c)  [last] y = Neg(d)
}"""


def test_a_node_that_runs_unchanged_is_the_files() -> None:
    stand = Attribution(proto(FILE, {"m": "gemm/some_rule"}), proto(FILE)).of("m", "MatMul")
    assert (stand.name, stand.origin, stand.inputs, stand.outputs) == ("m", "gemm/some_rule", ("x",), ("a",))


def test_a_fused_node_stands_for_all_that_lies_between_its_inputs_and_outputs() -> None:
    ran = proto("g (float[1,4] x, float[4,4] w) => (float[1,4] y) { [f] d = com.acme.All(x, w) [last] y = Neg(d) }")
    attribution = Attribution(proto(FILE, {"h": "act/relu"}), ran)
    stand = attribution.of("f", "All")
    assert stand.origin == "act/relu + runtime"
    assert stand.parts == ("MatMul: original", "Relu: act/relu", "Sigmoid: original", "Mul: original")
    assert stand.name == "m"  # where the work is
    assert Attribution(proto(FILE), ran).of("f", "All").origin == "runtime"


def test_a_node_in_another_layout_is_known_by_its_name_and_takes_what_was_fused_into_it() -> None:
    ran = proto("""g (float[1,4] x, float[4,4] w) => (float[1,4] y) {
        [i] r0 = com.acme.ReorderInput(x)  [a_nchwc] r1 = com.acme.MatMul(r0, w)
        [o] b = com.acme.ReorderOutput(r1)  [s] c = Sigmoid(b)  [t] d = Mul(b, c)  [last] y = Neg(d)
    }""")
    attribution = Attribution(proto(FILE), ran)
    stand = attribution.of("a_nchwc", "MatMul")
    assert (stand.name, stand.origin, stand.parts) == ("m", "runtime", ("MatMul: original", "Relu: original"))
    assert stand.outputs == ("b",)
    assert attribution.of("o", "ReorderOutput").origin == "runtime"
    assert attribution.of("i", "ReorderInput").scope == attribution.of("a_nchwc", "MatMul").scope


def test_values_that_the_runtime_made_up_are_marked() -> None:
    ran = proto("""g (float[1,4] x, float[4,4] w) => (float[1,4] y) {
        [n] new = Cast <to = 1> (x)  [f] d = com.acme.All(new, w)  [last] y = Neg(d) }""")
    attribution = Attribution(proto(FILE), ran)
    assert attribution.of("n", "Cast").outputs == ("~new",)
    assert attribution.of("n", "Cast").origin == "runtime"
    assert attribution.of("f", "All").inputs == ("~new",)


def test_without_the_graph_that_runs_names_tell() -> None:
    attribution = Attribution(proto(FILE, {"h": "act/relu"}), None)
    assert attribution.of("h", "Relu").origin == "act/relu"
    assert attribution.of("nothing", "Relu").origin == "runtime"


# --- layers


def scopes_of(nodes: list[onnx.NodeProto], *weights: str) -> list[tuple[str, ...]]:
    """The scope of each node."""
    scopes = Scopes(set(weights))
    return [scopes.of(node) for node in nodes]


def test_scopes_come_from_names_torch_notes_weights_or_what_comes_before() -> None:
    made = onnx.helper.make_node
    noted = made("Add", ["a"], ["b"], name="node_add")
    noted.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'net', 'net.block.0', 'add_1']")
    nodes = [
        made("Relu", ["x"], ["a"], name="/net/block.0/act/Relu"),
        noted,
        made("Conv", ["b", "net.block.1.weight"], ["c"], name="Conv_7"),
        made("Relu", ["c"], ["d"], name="Relu_8"),
        made("Neg", ["x"], ["e"], name=""),
    ]
    assert scopes_of(nodes, "net.block.1.weight") == [
        ("net", "block.0", "act"),
        ("net", "block.0"),
        ("net", "block.1"),
        ("net", "block.1"),
        (),
    ]


def test_a_node_that_accelc_made_lies_where_the_one_lay_that_it_replaces() -> None:
    node = onnx.helper.make_node("Attention", ["x"], ["a"], name="/net/att/MatMul_1/attention_4")
    node.metadata_props.add(key=stamps.KEY, value="attention/attention_4")
    assert scopes_of([node]) == [("net", "att")]


def test_layers_leave_out_what_all_share_and_stay_few() -> None:
    assert layers([("m", "enc", "0"), ("m", "enc", "1"), ("m", "head"), ()]) == ["enc/0", "enc/1", "head", TOP]
    many = [("net", f"block.{block}", part) for block in range(MOST_LAYERS) for part in ("a", "b")]
    assert set(layers(many)) == {f"block.{block}" for block in range(MOST_LAYERS)}


# --- groups


def time(name: str, ms: float, **more: Any) -> NodeTime:
    """A node of a profile."""
    given: dict[str, Any] = {"operator": "Relu", "provider": "CPU", "layer": "l", "origin": "original", "share": 0.0}
    return NodeTime(name=name, ms=ms, **{**given, **more})


def test_groups_add_up_and_the_limit_counts_only_where_it_is_known() -> None:
    nodes = (
        time("a", 6.0, operator="Conv", flops=100, bytes=10, limit_ms=3.0),
        time("b", 2.0, operator="Conv"),
        time("c", 2.0, operator="Relu", flops=1, bytes=4, limit_ms=0.5),
    )
    found = Profile(nodes, wall_ms=12.0, overhead_ms=1.5, runs=3)
    conv, relu = found.by_operator
    assert (conv.key, conv.ms, conv.share, conv.count, conv.flops) == ("Conv", 8.0, 0.8, 2, 100)
    assert conv.of_limit == 0.5
    assert relu.of_limit == 0.25
    assert found.nodes_ms == sum(each.ms for each in found.by_layer) == 10.0
    assert found.total.of_limit == 3.5 / 8


# --- a real run


def profile(path: Path, *, trace: Path | None = None, latency_ms: float | None = None, **values: Any) -> Profile:
    """Of one model."""
    subject = Subject(case(path), Feed(values, "test"), latency_ms)
    (found,) = profiles([subject], traces=[trace] if trace else [])
    if isinstance(found, AccelcError):
        raise found
    return found


TWO_LAYERS = """g (float[n, 8] x) => (float[n, 8] y) <float[8, 8] w1, float[8, 8] w2> {
    a = MatMul(x, w1)  b = Relu(a)  c = MatMul(b, w2)  y = Relu(c)
}"""


def two_layers(path: Path, *, named: bool = True) -> Path:
    """A model of two layers with weights."""
    model = onnx.parser.parse_model(f"{HEAD}\n{TWO_LAYERS}")
    rng = np.random.default_rng(0)
    del model.graph.initializer[:]
    for name in ("w1", "w2"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(rng.random((8, 8), np.float32), name))
    for info in list(model.graph.input):
        if info.name != "x":
            model.graph.input.remove(info)
    for layer, node in zip(("one", "one", "two", "two"), model.graph.node, strict=True):
        node.name = f"/net/{layer}/{node.op_type}" if named else ""
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("named", [True, False])
def test_a_profile_knows_every_node(tmp_path: Path, named: bool) -> None:
    path = two_layers(tmp_path / "two.onnx", named=named)
    before = path.read_bytes()
    trace = tmp_path / "trace.json"
    found = profile(path, trace=trace, latency_ms=0.5, x=np.ones((2, 8), np.float32))
    assert path.read_bytes() == before
    assert found.runs > 0
    assert sorted(node.operator for node in found.nodes) == ["MatMul", "MatMul", "Relu", "Relu"]
    assert {node.origin for node in found.nodes} == {"original"}
    assert {output for node in found.nodes for output in node.outputs} == {"a", "b", "c", "y"}
    if named:
        assert {each.key for each in found.by_layer} == {"one", "two"}
    product = next(node for node in found.nodes if node.outputs == ("a",))
    assert product.flops == 2 * 2 * 8 * 8
    assert product.bytes == 4 * (2 * 8 + 8 * 8 + 2 * 8)  # the weights too, though the runtime has packed them
    assert product.limit_ms is not None
    assert sum(node.share for node in found.nodes) == pytest.approx(1.0)
    assert found.nodes_ms == pytest.approx(0.5)
    assert found.trace == str(trace)
    assert any(event["name"] == "model_run" for event in json.loads(trace.read_text(encoding="utf-8")))


def test_profiles_of_a_benchmark_add_up_to_its_latencies(tmp_path: Path) -> None:
    models = [two_layers(tmp_path / "a.onnx"), two_layers(tmp_path / "b.onnx", named=False)]
    found = bench(options(*models, duration="0.02s", profile=True, trace=tmp_path / "traces"))
    assert all(row.profile and Path(row.profile.trace).is_file() for row in found.rows)
    first, second = (row.profile.nodes_ms for row in found.rows if row.profile)
    assert found.rows[0].latency is not None
    assert first == pytest.approx(found.rows[0].latency.p50_ms.value)
    assert first / second == pytest.approx(found.rows[1].versus[0].ratio)
    assert sum(each.gain_ms for each in found.changes) == pytest.approx(first - second)
    assert len({row.profile.trace for row in found.rows if row.profile}) == 2


def test_under_load_times_stay_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.benchmark.windows._LEAST_S", 0.02)
    monkeypatch.setattr("accelc.benchmark.scenarios._PILOT_S", 0.02)
    found = bench(options(two_layers(tmp_path / "a.onnx"), duration="0.05s", scenario="offline", profile=True))
    profile = found.rows[0].profile
    assert profile is not None
    assert profile.latency_ms is None
    assert profile.overhead_ms > 0


def test_one_that_fails_leaves_the_others_their_profiles(tmp_path: Path) -> None:
    fine = [case(write(tmp_path / f"{name}.onnx")) for name in "ab"]
    broken = case(write(tmp_path / "c.onnx", "g (float[2, 3] x) => (float[2, 3] y) { y = Relu(x) }"))
    feed = Feed({"x": np.ones((1, 4), np.float32)}, "test")
    first, failed, second = profiles([Subject(each, feed) for each in (fine[0], broken, fine[1])])
    assert isinstance(failed, RuntimeFailure)
    for each in (first, second):
        assert isinstance(each, Profile)
        assert [node.operator for node in each.nodes] == ["Mul"]


def test_a_trace_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="trace cannot be written"):
        profile(path, trace=tmp_path / "none" / "t.json", x=np.ones((1, 4), np.float32))


def test_loops_count_their_calls(tmp_path: Path) -> None:
    path = write(
        tmp_path / "loop.onnx",
        """g (float[4] x, int64 n) => (float[4] y) {
            [loop] y = Loop (n, , x) <body = b (int64 i, bool c, float[4] s) => (bool d, float[4] t) {
                [keep] d = Identity(c)  [step] t = Add(s, s) }>
        }""",
    )
    found = profile(path, x=np.ones(4, np.float32), n=np.array(5, np.int64))
    step = next(node for node in found.nodes if node.name == "step")
    assert (step.calls, step.flops) == (5, 20)
    loop = next(node for node in found.nodes if node.name == "loop")
    assert (loop.flops, loop.limit_ms) == (None, None)


# --- two models


def row(label: str, *nodes: NodeTime) -> Row:
    """A row with a profile."""
    return Row(label, f"{label}.onnx", Setting("cpu"), profile=Profile(nodes, 1.0, 0.0, 1))


def step(operator: str, ms: float, inputs: str, outputs: str, **more: Any) -> NodeTime:
    """A node between values."""
    return time(outputs, ms, operator=operator, inputs=tuple(inputs.split()), outputs=tuple(outputs.split()), **more)


def norm(at: int, layer: str) -> list[NodeTime]:
    """A normalization in parts, from v<at> to v<at + 1>."""
    return [
        step("ReduceMean", 1.0, f"v{at}", f"m{at}", layer=layer),
        step("Sub", 1.0, f"v{at} m{at}", f"s{at}", layer=layer),
        step("Div", 1.0, f"s{at}", f"v{at + 1}", layer=layer),
    ]


def test_parts_that_look_alike_are_taken_together_with_the_reason() -> None:
    before = [*norm(0, "a"), *norm(1, "b"), step("Relu", 1.0, "v2", "y")]
    after = [
        step("LayerNormalization", 1.0, "v0", "v1", layer="a", origin="norm/layer_norm"),
        step("LayerNormalization", 1.0, "v1", "v2", layer="b", origin="norm/layer_norm"),
        step("Relu", 1.5, "v2", "y"),
    ]
    fused, same = changes(row("x", *before), row("y", *after))
    assert (fused.places, fused.before_ms, fused.after_ms, fused.gain_ms) == (2, 6.0, 2.0, 4.0)
    assert fused.before == {"ReduceMean": 2, "Sub": 2, "Div": 2}
    assert fused.after == {"LayerNormalization": 2}
    assert fused.why == ("norm/layer_norm",)
    assert (fused.first, fused.second, fused.setting, fused.region) == ("x", "y", "cpu", "a, b")
    assert (same.before, same.gain_ms, same.why) == ({"Relu": 1}, -0.5, ())


def test_gains_add_up_to_the_difference_of_the_profiles() -> None:
    before = [*norm(0, "a"), step("Relu", 2.0, "v1", "y")]
    after = [step("Relu", 1.0, "v0", "z"), step("Exp", 0.25, "z", "y")]
    first, second = row("x", *before), row("y", *after)
    assert first.profile is not None
    assert second.profile is not None
    total = first.profile.nodes_ms - second.profile.nodes_ms
    assert sum(each.gain_ms for each in changes(first, second)) == pytest.approx(total)


def test_a_value_for_all_layers_does_not_join_them() -> None:
    after = [step("Expand", 1.0, "x", "mask", layer="top")]
    after += [step("Attention", 1.0, f"v{n} mask", f"v{n + 1}", layer=f"l{n}") for n in range(3)]
    before = [step("MatMul", 2.0, f"v{n}", f"v{n + 1}", layer=f"l{n}") for n in range(3)]
    found = changes(row("x", *before), row("y", *after))
    assert [(each.places, each.after) for each in found] == [(3, {"Attention": 3}), (1, {"Expand": 1})]


def test_names_that_the_runtime_made_up_join_nothing() -> None:
    before = [step("Cast", 1.0, "x", "~c"), step("Relu", 1.0, "~c", "y")]
    after = [step("Exp", 1.0, "x", "~c"), step("Relu", 1.0, "~c", "z"), step("Neg", 1.0, "z", "y")]
    (only,) = changes(row("x", *before), row("y", *after))
    assert only.before == {"Cast": 1, "Relu": 1}


def test_models_without_common_values_are_matched_by_layers() -> None:
    before = [step("Conv", 1.0, f"v{n}", f"v{n + 1}", layer=f"net/l{n}/conv") for n in range(4)]
    after = [step("QLinearConv", 0.5, f"q{n}", f"q{n + 1}", layer=f"net/l{n}/bn", origin="quantize") for n in range(4)]
    (only,) = changes(row("x", *before), row("y", *after))
    assert (only.places, only.before, only.after) == (4, {"Conv": 4}, {"QLinearConv": 4})
    assert only.why == ("quantize",)


def test_rows_without_a_profile_have_no_changes_and_results_stay_json() -> None:
    bare = Row("x", "x.onnx", Setting("cpu"))
    full = row("y", step("Relu", 1.0, "x", "y"))
    assert changes(bare, full) == ()
    result = BenchResult([full], {}, {}, changes=changes(full, full))
    data = json.loads(result.to_json())
    assert data["rows"][0]["profile"]["nodes"][0]["operator"] == "Relu"
    assert data["changes"][0]["before"] == {"Relu": 1}
