"""The child process: values of every type, and every way in which the runtime can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from accelc import wire, worker
from accelc.child import resident_bytes
from accelc.errors import AccelcError, UsageError
from accelc.runner import Runner, RuntimeFailure, Session

HEAD = '<ir_version: 10, opset_import: ["" : 21]> '
RELU = "g (float[N] x) => (float[N] y) { y = Relu(x) }"
DIVIDE = "g (int64[N] a, int64[N] b) => (int64[N] y) { y = Div(a, b) }"
LOOP = """g (int64 n) => (float y) {
    c = Constant<value = bool {1}>()
    z = Constant<value = float {0}>()
    y = Loop(n, c, z) <body = b (int64 i, bool ci, float a) => (bool co, float o) { co = Identity(ci) o = Identity(a) }>
}"""
EXTENDED = [np.dtype(getattr(ml_dtypes, name)) for name in wire.EXTENDED_TYPES]
# Casts of the others to and from float have no kernel in the releases supported.
RUNNABLE = [
    d for d in EXTENDED if d.name in ("bfloat16", "int4", "uint4") or d.name.startswith(("float8_e4", "float8_e5"))
]


def model(text: str) -> bytes:
    proto: bytes = onnx.parser.parse_model(HEAD + text).SerializeToString()
    return proto


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text() if Path("/proc/self").exists() else True


def until(condition: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


# --- the ordinary way


def test_parent_never_imports_the_runtime() -> None:
    code = """
        import sys
        import numpy as np
        from accelc.runner import Runner
        with Runner() as runner:
            runner.evaluate(bytes.fromhex(sys.argv[1]), {"x": np.ones(2, np.float32)})
        assert not {"onnxruntime", "onnx", "onnx_ir"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code), model(RELU).hex()], check=True)


def test_session_tells_its_signature(runner: Runner) -> None:
    session = runner.load(model("g (float[N, 2] x, seq(int64[3]) q) => (float[N, 2] y, int64[3] z) {"
                                " i = Constant<value = int64 {0}>() y = Relu(x) z = SequenceAt(q, i) }"))  # fmt: skip
    assert [(v.name, v.type, v.shape) for v in session.inputs] == [
        ("x", "tensor(float)", ("N", 2)),
        ("q", "seq(tensor(int64))", ()),
    ]
    assert [v.name for v in session.outputs] == ["y", "z"]
    assert session.providers == ("CPUExecutionProvider",)


def test_run_all_or_some_outputs(runner: Runner) -> None:
    session = runner.load(model("g (float[N] x) => (float[N] y, float[N] z) { y = Relu(x) z = Neg(x) }"))
    x = np.array([-1, 2], np.float32)
    assert list(runner.run(session, {"x": x})) == ["y", "z"]
    only = runner.run(session, {"x": x}, ["z"])
    assert list(only) == ["z"]
    np.testing.assert_array_equal(only["z"], [1, -2])
    assert runner.run(session, {"x": x}, []) == {}


def test_path_with_external_data(tmp_path: Path, runner: Runner) -> None:
    proto = onnx.parser.parse_model(HEAD + "g (float[N] x) => (float[N] y) <float[2] w = {3, 4}> { y = Mul(x, w) }")
    weight = proto.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.array([3, 4], np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    feeds = {"x": np.ones(2, np.float32)}
    assert (tmp_path / "w.bin").exists()
    from_path = runner.run(runner.load(tmp_path / "m.onnx"), feeds)
    np.testing.assert_array_equal(from_path["y"], [3, 4])
    from_bytes = runner.run(runner.load((tmp_path / "m.onnx").read_bytes(), folder=tmp_path), feeds)
    np.testing.assert_array_equal(from_bytes["y"], [3, 4])


def test_external_initializers_as_arrays(tmp_path: Path, runner: Runner) -> None:
    proto = onnx.parser.parse_model(HEAD + "g (float[2] x) => (float[2] y) <float[2] w = {3, 4}> { y = Mul(x, w) }")
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array([3, 4], np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    session = runner.load((tmp_path / "m.onnx").read_bytes(), external={"w": np.array([5, 6], np.float32)})
    np.testing.assert_array_equal(runner.run(session, {"x": np.ones(2, np.float32)})["y"], [5, 6])


X86_LINUX = sys.platform == "linux" and os.uname().machine == "x86_64"


@pytest.mark.skipif(not X86_LINUX, reason="only x86 traps this division")
def test_optimizations_can_be_switched_off(runner: Runner) -> None:
    # The optimizer folds the constant division while loading and dies of it; without it, loading is harmless.
    constants = "a = Constant<value = int64[1] {-9223372036854775808}>() b = Constant<value = int64[1] {-1}>()"
    proto = model(f"g (int64[1] x) => (int64[1] y) {{ {constants} c = Div(a, b) y = Add(x, c) }}")
    runner.close(runner.load(proto, optimize=False))
    found = failure(lambda: runner.load(proto, optimize=True))
    assert found.kind == "crash"
    assert "loading" in str(found)


def test_closed_session_is_gone_and_comes_back(runner: Runner) -> None:
    session = runner.load(model(RELU))
    runner.close(session)
    runner.close(session)
    np.testing.assert_array_equal(runner.run(session, {"x": np.ones(1, np.float32)})["y"], [1])


# --- values


NUMPY_TYPES = ["f4", "f8", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.mark.parametrize("code", NUMPY_TYPES)
@pytest.mark.parametrize("shape", [(3, 2), (), (0, 4)])
def test_round_trip_of_numpy_types(runner: Runner, code: str, shape: tuple[int, ...]) -> None:
    array = (np.arange(int(np.prod(shape))) % 5).reshape(shape).astype(code)
    proto = identity(helper.np_dtype_to_tensor_dtype(array.dtype))
    result = runner.evaluate(proto, {"x": array})["y"]
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("dtype", RUNNABLE, ids=str)
@pytest.mark.parametrize("shape", [(5,), (3, 3), (), (0, 2), (1,)])
def test_round_trip_of_types_numpy_lacks(runner: Runner, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    values = (np.arange(int(np.prod(shape))) % 7 + 1).reshape(shape).astype(np.float32)
    array = values.astype(dtype)
    number = helper.np_dtype_to_tensor_dtype(dtype)
    forth = runner.evaluate(_cast(number, onnx.TensorProto.FLOAT), {"x": array})["y"]
    np.testing.assert_array_equal(forth, array.astype(np.float32))
    back = runner.evaluate(_cast(onnx.TensorProto.FLOAT, number), {"x": values})["y"]
    assert back.dtype == dtype
    np.testing.assert_array_equal(back.astype(np.float32), array.astype(np.float32))


@pytest.mark.parametrize("dtype", EXTENDED, ids=str)
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_wire_keeps_every_code(dtype: np.dtype[Any], count: int) -> None:
    bits = wire.EXTENDED_TYPES[dtype.name][1]
    codes = np.random.default_rng(0).integers(0, 2**bits, count)
    raw = codes.astype(np.uint16 if bits == 16 else np.uint8)
    array = raw.view(dtype)
    encoded = wire.encode(array)
    assert encoded[3].nbytes == -(-count * bits // 8)
    result = wire.decode(encoded)
    assert result.dtype == dtype
    assert result.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(12, dtype=np.float32)[::-2].reshape(2, 3),
        np.arange(4, dtype=">f4").reshape(2, 2),
        np.broadcast_to(np.float32(3), (2, 5)),
    ],
    ids=["fortran", "strided", "big-endian", "broadcast"],
)
def test_memory_layouts(runner: Runner, array: np.ndarray[Any, Any]) -> None:
    result = runner.evaluate(identity(onnx.TensorProto.FLOAT, rank=2), {"x": array})["y"]
    np.testing.assert_array_equal(result, array)
    # Outputs of a type that numpy lacks take another way through the runtime.
    half = runner.evaluate(_cast(onnx.TensorProto.FLOAT, onnx.TensorProto.BFLOAT16), {"x": array})["y"]
    np.testing.assert_array_equal(half.astype(np.float32), array)


def test_read_only_input_and_writable_result(runner: Runner) -> None:
    array = np.arange(3, dtype=np.float32)
    array.flags.writeable = False
    result = runner.evaluate(model(RELU), {"x": array})["y"]
    result[0] = 7
    assert array[0] == 0


def test_strings(runner: Runner) -> None:
    text = np.array([["a", ""], ["ü漢", "x y"]], object)
    proto = identity(onnx.TensorProto.STRING)
    assert runner.evaluate(proto, {"x": text})["y"].tolist() == text.tolist()
    assert runner.evaluate(proto, {"x": text.astype(str)})["y"].tolist() == text.tolist()


def test_sequences(runner: Runner) -> None:
    proto = model("g (seq(float[N]) q) => (seq(float[N]) r) { r = Identity(q) }")
    items = [np.ones(2, np.float32), np.zeros(0, np.float32)]
    result = runner.evaluate(proto, {"q": items})["r"]
    assert [item.tolist() for item in result] == [[1, 1], []]
    assert runner.evaluate(proto, {"q": []})["r"] == []


def test_sequence_beside_a_type_numpy_lacks(runner: Runner) -> None:
    proto = model("g (float[N] x, bfloat16[N] b) => (seq(float[N]) s, bfloat16[N] c, float[N] y) {"
                  " s = SequenceConstruct(x, x) c = Identity(b) y = Relu(x) }")  # fmt: skip
    b = np.array([1.5, -2], ml_dtypes.bfloat16)
    result = runner.evaluate(proto, {"x": np.ones(2, np.float32), "b": b})
    assert [item.tolist() for item in result["s"]] == [[1, 1], [1, 1]]
    assert result["c"].dtype == b.dtype
    assert result["c"].tolist() == b.tolist()


def test_absent_optional_in_and_out(runner: Runner) -> None:
    tensor = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [None])
    optional = helper.make_optional_type_proto(tensor)
    nodes = [helper.make_node("Identity", ["o"], ["p"]), helper.make_node("OptionalHasElement", ["o"], ["h"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info("o", optional)],
        [helper.make_value_info("p", optional), helper.make_tensor_value_info("h", onnx.TensorProto.BOOL, [])],
    )
    session = runner.load(_serialize(graph))
    absent = runner.run(session, {"o": None})
    assert absent["p"] is None
    assert not absent["h"]
    there = runner.run(session, {"o": np.ones(2, np.float32)})
    np.testing.assert_array_equal(there["p"], [1, 1])


def test_maps(runner: Runner) -> None:
    kind = helper.make_map_type_proto(
        onnx.TensorProto.STRING, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    )
    graph = helper.make_graph(
        [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 2])],
        [helper.make_value_info("y", helper.make_sequence_type_proto(kind))],
    )
    result = runner.evaluate(_serialize(graph), {"x": np.array([[1, 2], [3, 4]], np.float32)})
    assert result["y"] == [{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}]


def test_large_arrays(runner: Runner) -> None:
    array = np.random.default_rng(0).standard_normal(3_000_000).astype(np.float32)
    np.testing.assert_array_equal(runner.evaluate(model(RELU), {"x": array})["y"], np.maximum(array, 0))


# --- failures


def failure(call: Any) -> RuntimeFailure:
    with pytest.raises(RuntimeFailure) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert "onnxruntime_src" not in text
    assert "\x1b" not in text
    return caught.value


@pytest.mark.parametrize("data", [b"", b"hello", model(RELU)[:-9]], ids=["empty", "text", "cut"])
def test_broken_model_is_a_load_failure(runner: Runner, data: bytes) -> None:
    found = failure(lambda: runner.load(data))
    assert (found.kind, found.unsupported) == ("load", False)


def test_missing_file_is_a_load_failure(runner: Runner, tmp_path: Path) -> None:
    assert failure(lambda: runner.load(tmp_path / "none.onnx")).kind == "load"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "g (float[N] x) => (float[N] y) { y = Relux(x) }",
        '<ir_version: 10, opset_import: ["" : 21, "corp" : 1]> g (float[N] x) => (float[N] y) { y = corp.Own(x) }',
        HEAD + "g (bfloat16[N] x) => (bfloat16[N] y) { y = Relu(x) }",
        '<ir_version: 10, opset_import: ["" : 999]> g (float[N] x) => (float[N] y) { y = Relu(x) }',
        '<ir_version: 999, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Relu(x) }',
        '<ir_version: 10, opset_import: ["" : 1]> g (float[N] x) => (float[N] y) { y = Relu(x) }',
        HEAD + "g (complex64[N] x) => (complex64[N] y) { y = Identity(x) }",
    ],
    ids=["operator", "domain", "kernel", "opset", "ir", "old", "type"],
)
def test_what_the_runtime_lacks_is_unsupported(runner: Runner, text: str) -> None:
    found = failure(lambda: runner.load(onnx.parser.parse_model(text).SerializeToString()))
    assert (found.kind, found.unsupported) == ("load", True)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[N] x) => (float[N] y) { y = Relu(missing) }",
        "g (float[N] x) => (int64[N] y) { y = Relu(x) }",
        "g (float[N] x) => (float[N] y) { y = Relu(x, x) }",
    ],
)
def test_what_is_wrong_is_not_unsupported(runner: Runner, text: str) -> None:
    found = failure(lambda: runner.load(model(text)))
    assert (found.kind, found.unsupported) == ("load", False)


def test_wrong_feeds_are_run_failures(runner: Runner) -> None:
    session = runner.load(model("g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }"))
    one, two = np.ones(3, np.float32), np.ones(2, np.float32)
    assert "'z'" in str(failure(lambda: runner.run(session, {"x": one})))
    assert failure(lambda: runner.run(session, {"x": one.astype("f8"), "z": one})).kind == "run"
    mismatch = failure(lambda: runner.run(session, {"x": one, "z": two}))
    assert mismatch.kind == "run"
    assert "Add node" in str(mismatch)
    assert "2 by 3" in str(mismatch)
    np.testing.assert_array_equal(runner.run(session, {"x": one, "z": one})["y"], [2, 2, 2])


@pytest.mark.parametrize("code", ["V5", "M8[s]"])
def test_feed_of_a_type_that_onnx_lacks(runner: Runner, code: str) -> None:
    session = runner.load(model(RELU))
    with pytest.raises(UsageError, match="'x'"):
        runner.run(session, {"x": np.zeros(2, code)})
    np.testing.assert_array_equal(runner.run(session, {"x": np.ones(1, np.float32)})["y"], [1])


@pytest.mark.skipif(not X86_LINUX, reason="only x86 traps this division")
def test_crash_is_typed_and_the_sessions_come_back(runner: Runner) -> None:
    divide, relu = runner.load(model(DIVIDE)), runner.load(model(RELU))
    feeds = {"a": np.array([-(2**63)]), "b": np.array([-1])}
    found = failure(lambda: runner.run(divide, feeds))
    assert found.kind == "crash"
    assert "SIGFPE" in str(found)
    assert isinstance(found, AccelcError)
    np.testing.assert_array_equal(runner.run(relu, {"x": np.ones(2, np.float32)})["y"], [1, 1])
    feeds = {"a": np.array([6]), "b": np.array([3])}
    np.testing.assert_array_equal(runner.run(divide, feeds)["y"], [2])


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_child_ignores_ctrl_c(runner: Runner) -> None:
    session = runner.load(model(RELU))
    os.kill(_child_pid(runner), signal.SIGINT)
    np.testing.assert_array_equal(runner.run(session, {"x": np.ones(1, np.float32)})["y"], [1])


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("sent", "kind"), [("SIGSEGV", "crash"), ("SIGABRT", "crash"), ("SIGKILL", "memory")])
def test_child_ended_by_a_signal(runner: Runner, sent: str, kind: str) -> None:
    # The kernel sends SIGKILL when memory runs out, and nothing else does as a rule.
    session = runner.load(model(RELU))
    os.kill(_child_pid(runner), signal.Signals[sent])
    found = failure(lambda: runner.run(session, {"x": np.ones(1, np.float32)}))
    assert found.kind == kind
    assert sent in str(found) or "memory" in str(found)
    np.testing.assert_array_equal(runner.run(session, {"x": np.ones(1, np.float32)})["y"], [1])


def test_hang_ends_at_the_limit(runner: Runner) -> None:
    session = runner.load(model(LOOP))
    found = failure(lambda: runner.run(session, {"n": np.array(2**62)}, timeout=0.5))
    assert found.kind == "timeout"
    assert "0.5 s" in str(found)
    assert runner.run(session, {"n": np.array(3)})["y"] == 0


def test_memory_limit() -> None:
    text = "g (int64[1] n) => (float[N] y) { a = ConstantOfShape<value = float[1] {1}>(n) y = Relu(a) }"
    with Runner(memory=2**29) as small:
        session = small.load(model(text), optimize=False)
        assert small.run(session, {"n": np.array([10])})["y"].sum() == 10
        found = failure(lambda: small.run(session, {"n": np.array([2**28])}))
        assert found.kind == "memory"
        assert "0.5 GiB" in str(found)
        assert small.run(session, {"n": np.array([10])})["y"].sum() == 10


def test_allocation_that_is_refused_is_a_memory_failure(runner: Runner) -> None:
    text = "g (int64[1] n) => (float[N] y) { y = ConstantOfShape<value = float[1] {1}>(n) }"
    session = runner.load(model(text), optimize=False)
    assert failure(lambda: runner.run(session, {"n": np.array([2**55])})).kind == "memory"


def test_memory_limit_needs_a_system_that_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.link.resident_bytes", lambda pid: None)
    with pytest.raises(UsageError, match="memory limit"):
        Runner(memory=1)


def test_resident_bytes_of_this_process() -> None:
    assert (resident_bytes(os.getpid()) or 0) > 2**20


def test_provider_that_is_missing_is_never_replaced_silently(runner: Runner) -> None:
    # No machine has this provider of Windows and this one of Huawei at once.
    name = "DmlExecutionProvider" if sys.platform == "linux" else "CANNExecutionProvider"
    found = failure(lambda: runner.load(model(RELU), providers=[(name, {}), ("CPUExecutionProvider", {})]))
    assert found.kind == "load"
    assert name in str(found)


def test_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libsomething.so.1 is broken')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with Runner() as broken:
        found = failure(lambda: broken.load(model(RELU)))
    assert "libsomething.so.1 is broken" in str(found)
    assert "pip install" in str(found)


def test_names_that_are_not_utf8(runner: Runner) -> None:
    data = model(RELU.replace("y", "yyy")).replace(b"yyy", b"\xffyy")
    assert "UTF-8" in str(failure(lambda: runner.load(data)))


# --- the end of the child


def _child_pid(runner: Runner) -> int:
    child = runner._child
    assert child is not None
    return child.process.pid


def test_child_and_its_folder_are_gone_after_exit() -> None:
    with Runner() as runner:
        runner.load(model(RELU))
        child = runner._child
        assert child is not None
        assert Path(child.folder).is_dir()
        assert alive(child.process.pid)
    assert not alive(child.process.pid)
    assert not Path(child.folder).exists()


def test_child_is_gone_without_context_manager() -> None:
    runner = Runner()
    runner.load(model(RELU))
    pid = _child_pid(runner)
    del runner
    assert until(lambda: not alive(pid))


PARENT = """
    import sys
    import numpy as np
    from accelc.runner import Runner
    with Runner() as runner:
        session = runner.load(bytes.fromhex(sys.argv[1]))
        print(runner._child.process.pid, runner._child.folder, flush=True)
        runner.run(session, {"n": np.array(2**62)}, timeout=100)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_nothing_is_left_when_the_parent_is_stopped_amid_a_hang(sent: signal.Signals) -> None:
    # Both ends: the parent cleans up on Ctrl-C, and the child ends itself when the parent could not.
    command = [sys.executable, "-c", textwrap.dedent(PARENT), model(LOOP).hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        assert alive(int(pid))
        time.sleep(0.2)
        parent.send_signal(sent)
        assert until(lambda: not alive(int(pid)))
        assert until(lambda: not Path(folder).exists())
        assert parent.stderr is not None
        error = parent.stderr.read()
    assert ("KeyboardInterrupt" in error) == (sent == signal.SIGINT)


def test_interrupt_leaves_a_usable_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner() as runner:
        session = runner.load(model(RELU))

        def interrupted(stream: Any) -> Any:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(worker, "receive", interrupted)
            with pytest.raises(KeyboardInterrupt):
                runner.run(session, {"x": np.ones(1, np.float32)})
        np.testing.assert_array_equal(runner.run(session, {"x": np.full(1, 5, np.float32)})["y"], [5])


def test_start_is_optional_and_harmless_when_repeated() -> None:
    with Runner() as runner:
        runner.start()
        runner.start()
        assert runner.evaluate(model(RELU), {"x": np.ones(1, np.float32)})["y"].tolist() == [1]


# --- timing


def test_time_gives_one_figure_per_session_and_round(runner: Runner) -> None:
    sessions = [runner.load(model(RELU)) for _ in range(2)]
    feeds = [{"x": np.ones(4, np.float32)}, {"x": np.ones(9, np.float32)}]
    seen: list[int] = []

    def progress(times: list[list[float]]) -> bool:
        seen.append(len(times[0]))
        return len(times[0]) == 3

    times = runner.time(sessions, feeds, budget_s=30, min_rounds=2, block_ms=2, progress=progress)
    assert [len(row) for row in times] == [3, 3]
    assert seen == [1, 2, 3]
    assert all(value > 0 for row in times for value in row)


def test_time_takes_values_of_every_kind(runner: Runner) -> None:
    sequence = runner.load(model("g (seq(float[N]) q) => (seq(float[N]) r) { r = Identity(q) }"))
    half = runner.load(model("g (bfloat16[N] b) => (bfloat16[N] c) { c = Identity(b) }"))
    text = runner.load(identity(onnx.TensorProto.STRING))
    plane = runner.load(identity(onnx.TensorProto.FLOAT, rank=2))
    cases: list[tuple[Session, dict[str, Any]]] = [
        (sequence, {"q": [np.ones(2, np.float32)]}),
        (half, {"b": np.ones(2, ml_dtypes.bfloat16)}),
        (text, {"x": np.array(["a", "b"], object)}),
        (plane, {"x": np.ones((2, 3), np.float32).T}),
    ]
    for session, feeds in cases:
        assert len(runner.time([session], [feeds], budget_s=0.01, min_rounds=1, block_ms=1)[0]) >= 1


def test_time_reports_a_failure(runner: Runner) -> None:
    session = runner.load(model(RELU))
    assert failure(lambda: runner.time([session], [{}], budget_s=1, min_rounds=1)).kind == "run"


# --- helpers


def _serialize(graph: onnx.GraphProto) -> bytes:
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
    proto: bytes = helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
    return proto


def identity(number: int, rank: int | None = None) -> bytes:
    shape = None if rank is None else [None] * rank
    x, y = (helper.make_tensor_value_info(name, number, shape) for name in "xy")
    return _serialize(helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y]))


def _cast(source: int, to: int) -> bytes:
    x, y = helper.make_tensor_value_info("x", source, None), helper.make_tensor_value_info("y", to, None)
    return _serialize(helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=to)], "g", [x], [y]))
