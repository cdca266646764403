"""The whole benchmark on tiny models: real runs, and rows that fail while the others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from bench_models import write

import accelc
from accelc.benchmark.lanes import CaseLane
from accelc.benchmark.results import BenchResult, Row

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
MLP = ROOT / "models" / "digits_mlp.onnx"
CNN = ROOT / "models" / "digits_cnn.onnx"
EVAL = ROOT / "models" / "digits_mlp.eval.npz"
REFUSED = "bf (bfloat16[batch, 4] x) => (bfloat16[batch, 4] y) { y = Relu(x) }"
HUGE = """huge (float[batch, 4] x) => (float[n] y) <int64[1] s = {40000000000}>
    { y = Expand(z, s)  z = ReduceMean<keepdims = 0>(x) }"""


def run(*models: Path, **more: Any) -> BenchResult:
    return accelc.bench(list(models), **{"duration": 0.1, **more})


def failure(row: Row) -> tuple[int, str]:
    assert row.latency is None
    assert "\n" not in row.failure
    return row.exit_code, row.failure


def test_two_models_side_by_side() -> None:
    said: list[str] = []
    found = run(MLP, CNN, progress=said.append)
    mlp, cnn = found.rows
    assert [row.label for row in found.rows] == ["digits_mlp", "digits_cnn"]
    assert found.failures == []
    for row in found.rows:
        assert row.latency is not None
        assert row.latency.runs > 0
        assert row.latency.items == 1
        assert row.latency.p50_ms.low <= row.latency.p50_ms.value <= row.latency.p50_ms.high
        assert row.load_ms
        assert row.first_run_ms
        assert row.peak_bytes is not None
        assert row.placed is not None
        assert set(row.placed.nodes) == {"CPUExecutionProvider"}
    assert (mlp.bytes, mlp.nodes) == (MLP.stat().st_size, 8)
    assert mlp.versus == ()
    assert mlp.error is None
    (versus,) = cnn.versus
    assert (versus.against, versus.kind) == (0, "model")
    assert versus.low <= versus.ratio <= versus.high
    assert cnn.error is not None
    assert cnn.error.against == 0
    assert cnn.error.relative is not None
    assert found.environment["cores"] >= 1
    assert found.options["seed"] == 0
    assert found.scenario == "single-stream"
    assert "inputs: generated, image 1x1x8x8" in found.notes
    assert any(text.startswith("measuring 2 cases, about 200 ms") for text in said)


def test_a_copy_of_a_model_computes_the_same_and_threads_are_compared() -> None:
    found = run(MLP, MLP, threads=[1, 2], batch=4)
    assert [(row.label, row.setting.threads) for row in found.rows] == [
        ("digits_mlp", 1), ("digits_mlp #2", 1), ("digits_mlp", 2), ("digits_mlp #2", 2),
    ]  # fmt: skip
    assert [[(each.against, each.kind) for each in row.versus] for row in found.rows] == [
        [], [(0, "model")], [(0, "provider")], [(2, "model"), (1, "provider")],
    ]  # fmt: skip
    for row in found.rows[1:]:
        assert row.error is not None
        assert row.error.relative is not None
        assert row.error.relative < 1e-5
    assert all(row.latency is not None and row.latency.items == 4 for row in found.rows)
    assert {row.setting.shape for row in found.rows} == {"batch=4"}


def test_rows_fail_one_by_one_and_the_others_are_measured(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    refused = write(tmp_path / "refused.onnx", REFUSED)
    good, other = write(tmp_path / "good.onnx"), write(tmp_path / "other.onnx")
    unlike = write(tmp_path / "unlike.onnx", "u (float[n] z) => (float[n] y) { y = Relu(z) }")
    huge = write(tmp_path / "huge.onnx", HUGE)
    found = run(broken, refused, good, unlike, tmp_path / "gone.onnx", other, huge)
    codes = [row.exit_code for row in found.rows]
    assert codes == [3, 3, 0, 2, 2, 0, 2]
    for row, words in zip(
        [found.rows[at] for at in (0, 1, 3, 4, 6)],
        ["broken.onnx", "the runtime cannot load the model", "unlike.onnx: has other inputs", "no such file", "memory"],
        strict=True,
    ):
        assert words in failure(row)[1]
    assert found.rows[2].latency is not None
    assert found.rows[5].latency is not None
    assert [each.against for each in found.rows[5].versus] == [2]
    assert found.rows[5].error is not None
    assert found.rows[5].error.against == 2


def test_a_model_that_is_killed_while_it_is_timed_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = write(tmp_path / "one.onnx"), write(tmp_path / "two.onnx")
    block, calls = CaseLane._block, []

    def killing(self: CaseLane, *arguments: int) -> Any:
        child = self.process.runner._child
        if self.case.label == "one" and child is not None:
            calls.append(arguments)
            if len(calls) == 2:
                child.process.kill()
        return block(self, *arguments)

    monkeypatch.setattr(CaseLane, "_block", killing)
    found = run(one, two)
    code, words = failure(found.rows[0])
    assert code == 2
    assert words.startswith("the runtime was killed while running the model")
    assert found.rows[0].load_ms is not None
    assert found.rows[1].latency is not None
    assert found.rows[1].versus == ()


def test_shapes_are_swept_and_one_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    found = run(path, shapes=[{"x": (2, 4)}, {"x": (2, 5)}])
    assert found.rows[0].latency is not None
    assert found.rows[0].setting.shape == "x=2x4"
    assert failure(found.rows[1]) == (
        2,
        f"{path}: dimension 1 of input x is 4, 5 is asked for; ask for one size that the model takes",
    )


def test_random_outputs_are_not_compared(tmp_path: Path) -> None:
    text = "r (float[batch, 4] x) => (float[batch, 4] y, float[batch, 4] r) { y = Mul(x, x)  r = RandomNormalLike(x) }"
    one, two = write(tmp_path / "a.onnx", text), write(tmp_path / "b.onnx", text)
    found = run(one, two)
    assert "random, so not compared: r" in found.notes
    assert found.rows[1].error is not None
    assert found.rows[1].error.relative == 0


def test_the_users_data_and_conditions() -> None:
    found = run(MLP, inputs=EVAL, batch=8, fail_if=["size<1kB", "size>1kB", "p50>1000s"])
    assert found.failures == []
    assert found.rows[0].latency is not None
    assert found.rows[0].latency.items == 8
    assert f"inputs: {EVAL}, image 8x1x8x8" in found.notes
    assert [each.holds for each in found.conditions[:2]] == ["no", "yes"]
    assert found.conditions[2].holds in ("no", "undecided")  # one round alone has no interval


def test_a_dry_run_measures_nothing_and_its_json_names_its_schema(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    found = run(path, dry_run=True)
    data = found.to_dict()
    assert data["schema"] == "accelc.bench/1"
    assert data["rows"][0]["setting"]["provider"] == "cpu"
    assert data["options"]["models"] == [str(path)]
    assert "1 of input x is 4, 5 is asked for" in run(path, dry_run=True, shapes=[{"x": (2, 5)}]).rows[0].failure
    (row,) = found.rows
    assert row.placed is not None
    assert row.placed.nodes == {"CPUExecutionProvider": 1}
    assert row.latency is None
    assert row.first_run_ms is None
    assert not row.failure


def test_models_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelc.benchmark.windows._LEAST_S", 0.02)
    monkeypatch.setattr("accelc.benchmark.scenarios._PILOT_S", 0.02)
    one, two = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx")
    found = run(one, two, scenario="offline", concurrency=2, duration=0.1)
    assert found.scenario == "offline"
    assert found.failures == []
    for row in found.rows:
        assert row.load is not None
        assert row.load.concurrency == 2
        assert row.latency is not None
    assert [each.kind for each in found.rows[1].versus] == ["model"]


def test_a_profile_that_fails_leaves_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = accelc.UsageError("the trace cannot be written")
    monkeypatch.setattr("accelc.benchmark.profile.profiles", lambda *given, **more: [gone])
    (row,) = run(MLP, profile=True, duration=0.1).rows
    assert row.latency is not None
    assert (row.failure, row.profile_failure, row.exit_code) == ("", "the trace cannot be written", 2)


def test_ctrl_c_ends_the_children(tmp_path: Path) -> None:
    program = f"import accelc; accelc.bench({str(MLP)!r}, duration=60, progress=lambda text: print(text, flush=True))"
    work = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert work.stdout is not None
    for line in work.stdout:
        if "load 1" in line:
            break
    children = Path(f"/proc/{work.pid}/task/{work.pid}/children")
    if not children.exists():
        work.kill()
        pytest.skip("this system does not list the children of a process")
    found = until(lambda: [int(each) for each in children.read_text().split()])
    work.send_signal(signal.SIGINT)
    _, errors = work.communicate(timeout=30)
    assert "KeyboardInterrupt" in errors
    assert until(lambda: not any(os.path.exists(f"/proc/{each}") for each in found))


def until(holds: Callable[[], T]) -> T:
    """What holds, which may take a while on a busy machine."""
    for _ in range(600):
        if value := holds():
            return value
        time.sleep(0.05)
    pytest.fail("nothing happened in 30 s")


def test_names_are_found_without_loading_anything_heavy() -> None:
    program = "import sys, accelc; accelc.bench, accelc.BenchResult; print('onnxruntime' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_fields_of_the_environment_are_plain_data() -> None:
    from accelc.benchmark.fingerprint import environment
    from accelc.plain import plain
    from accelc.plugins import find_backend
    from accelc.runner import Runner

    with Runner() as runner:
        facts = environment([find_backend("cpu")(())], runner)
    assert plain(facts) == facts
    assert {"processor", "cores", "features", "system", "python", "accelc", "onnxruntime", "build"} <= set(facts)
    assert facts["onnxruntime"] in facts["packages"].values()


def test_limits_of_control_groups(tmp_path: Path) -> None:
    from accelc.benchmark.fingerprint import limits

    if sys.platform != "linux":
        pytest.skip("control groups are Linux's")
    inner = tmp_path / "groups" / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (inner / "memory.max").write_text("4096\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    (inner.parent / "memory.max").write_text("max\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/a/b\n")
    assert limits(tmp_path / "groups", own) == {"cores": 1.5, "memory": 4096.0}
    assert limits(tmp_path / "nowhere", own) == {}


def test_errors_of_outputs() -> None:
    from accelc.benchmark.agreement import error_of

    one, two = [{"y": np.ones((2, 4)), "r": np.ones(1)}], [{"y": np.full((2, 4), 1.5), "r": np.zeros(1)}]
    found = error_of(one, two, 3, frozenset({"r"}))
    assert (found.against, found.relative) == (3, 0.5)
    assert found.cosine == pytest.approx(1)
    assert error_of(one, two, 0, frozenset({"r", "y"})).text == "every output is random"
    assert error_of(one, [{"z": np.ones(1)}], 0, frozenset()).text == "outputs ['r', 'y'] against ['z']"
