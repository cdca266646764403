"""What is to be measured, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_models import options, write

from accelc.backend_base import Backend
from accelc.benchmark import plan
from accelc.benchmark.options import shape_sets, shape_text
from accelc.benchmark.plan import Case, Refused, cases, labels
from accelc.benchmark.results import Setting
from accelc.errors import BackendError, UsageError


def test_every_model_with_every_setting_the_models_innermost(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.onnx"), write(tmp_path / "b.onnx")
    found = cases(options(a, b, threads=(1, 2), batches=(1, 8)))
    assert [(each.label, each.setting.threads, each.setting.shape) for each in found] == [
        ("a", 1, "batch=1"), ("b", 1, "batch=1"), ("a", 2, "batch=1"), ("b", 2, "batch=1"),
        ("a", 1, "batch=8"), ("b", 1, "batch=8"), ("a", 2, "batch=8"), ("b", 2, "batch=8"),
    ]  # fmt: skip
    assert [each.group for each in found] == ["batch=1"] * 4 + ["batch=8"] * 4
    assert all(isinstance(each, Case) and each.batch == int(each.group[-1]) for each in found)


def test_threads_of_a_provider_are_a_part_of_the_setting(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    (found,) = cases(options(path, providers=("cpu:threads=2",)))
    assert found.setting == Setting("cpu", threads=2)
    with pytest.raises(UsageError, match="cpu threads=2 is asked for twice"):
        cases(options(path, providers=("cpu:threads=2", "cpu"), threads=(2,)))


def test_a_provider_with_a_device_is_measured_in_both_memories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelc.plugins import find_backend

    monkeypatch.setattr(find_backend("cpu"), "memories", lambda self: ("host", "device"))
    found = cases(options(write(tmp_path / "a.onnx")))
    assert [each.setting.memory for each in found] == ["host", "device"]


def test_a_model_that_cannot_be_had_is_refused_alone(tmp_path: Path) -> None:
    good, bad, gone = write(tmp_path / "good.onnx"), tmp_path / "bad.onnx", tmp_path / "gone.onnx"
    bad.write_bytes(b"no model")
    found = cases(options(bad, good, gone, threads=(1, 2)))
    assert [type(each) for each in found] == [Refused, Case, Refused] * 2
    codes = [each.error.exit_code for each in found if isinstance(each, Refused)]
    assert codes == [3, 2, 3, 2]
    assert all("\n" not in str(each.error) for each in found if isinstance(each, Refused))


def test_an_unknown_provider_is_refused_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.onnx")
    found = cases(options(path, providers=("cpu", "cdua", "cpu:thread=1")))
    assert [type(each) for each in found] == [Case, Refused, Refused]
    said = [f"{each.error.exit_code} {each.error}" for each in found if isinstance(each, Refused)]
    assert said[0].startswith("2 there is no backend named 'cdua'; did you mean cuda")
    assert "no option 'thread'" in said[1]


def test_an_unknown_provider_alone_ends_it_before_a_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "Source", None)
    with pytest.raises(UsageError, match="there is no backend named 'cdua'"):
        cases(options(tmp_path / "a.onnx", providers=("cdua",)))


def refusing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let some providers not work."""
    real = Backend.require

    def require(self: Backend, *args: Any, **more: Any) -> None:
        if self.name in names:
            raise BackendError(f"backend {self.name} is not usable here", why=f"no {self.name}")
        real(self, *args, **more)

    monkeypatch.setattr(Backend, "require", require)


def test_a_provider_that_does_not_work_is_refused_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, "cuda")
    found = cases(options(write(tmp_path / "a.onnx"), providers=("cuda", "cpu")))
    broken = [each for each in found if isinstance(each, Refused)]
    assert {each.setting.provider for each in broken} == {"cuda"}
    assert all(each.error.exit_code == 2 and "no cuda" in str(each.error) for each in broken)
    assert [each.setting.provider for each in found if isinstance(each, Case)] == ["cpu"]


def test_without_any_provider_that_works_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.onnx")
    refusing(monkeypatch, "cuda", "cpu")
    with pytest.raises(BackendError, match=r"^backend cuda is not usable here: no cuda"):
        cases(options(path, providers=("cuda",)))
    with pytest.raises(BackendError, match="none of the providers is usable here: cuda: no cuda; cpu: no cpu"):
        cases(options(path, providers=("cuda", "cpu")))


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["m/a.onnx", "m/b.onnx"], ["a", "b"]),
        (["x/model.onnx", "y/model.onnx"], ["x/model", "y/model"]),
        (["x/q/model.onnx", "y/q/model.onnx", "y/q/other.onnx"], ["x/q/model", "y/q/model", "other"]),
        (["a.onnx", "a.onnx", "a.onnx"], ["a", "a #2", "a #3"]),
        (["a.v1.onnx", "a.onnx"], ["a.v1", "a"]),
    ],
)
def test_labels_are_short_and_unlike_each_other(paths: list[str], wanted: list[str]) -> None:
    assert labels([Path(each) for each in paths]) == wanted


def test_a_name_that_is_given_several_times_makes_several_sets() -> None:
    pairs = [("ids", (1, 128)), ("mask", (1, 128)), ("ids", (1, 512)), ("mask", (1, 512)), ("k", (4,))]
    sets = shape_sets(pairs)
    assert [shape_text(each, None) for each in sets] == ["ids=1x128 mask=1x128 k=4", "ids=1x512 mask=1x512 k=4"]
    assert shape_sets([]) == ({},)
    with pytest.raises(UsageError, match="do not pair up: a 2 times, b 3 times"):
        shape_sets([("a", (1,)), ("a", (2,)), ("b", (1,)), ("b", (2,)), ("b", (3,))])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"threads": (0,)}, "threads cannot be 0"),
        ({"threads": (1, 1)}, "threads 1 is given twice"),
        ({"batches": (-1,)}, "batch cannot be -1"),
        ({"providers": ()}, "there is no provider"),
        ({"providers": ("cpu", "cpu")}, "provider cpu is given twice"),
        ({"providers": ("cpu:threads=2",), "threads": (1,)}, "two numbers of threads: cpu:threads=2 has its own"),
        ({"shapes": ({"ids": (1, -2)},)}, "ids=1x-2 is no shape"),
        ({"duration": "soon"}, "'soon' is no time"),
        ({"scenario": "burst"}, "there is no scenario 'burst'"),
        ({"qps": 5.0}, "qps belongs to the scenario server"),
        ({"bound": "20ms"}, "bound belongs to the scenario server"),
        ({"scenario": "server"}, "a server needs a rate"),
        ({"scenario": "server", "qps": -1.0}, "qps cannot be -1"),
        ({"concurrency": 0}, "concurrency cannot be 0"),
        ({"trace": Path("t.json")}, "a trace comes from a profile"),
        ({"dry_run": True, "profile": True}, "a dry run has no use for profile"),
        ({"dry_run": True, "fail_if": ("p50>5ms",)}, "a dry run has no use for fail_if"),
        ({"inputs": Path("gone.npz")}, "gone.npz: no such file or folder"),
        ({"baseline": Path("gone.json")}, "gone.json: no such file"),
        ({"memory_limit": 0}, "memory_limit is not positive"),
        ({"preprocess": "scale=1/255"}, "--preprocess is for folders of images"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(more: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(**more)
    assert words in str(caught.value)


def test_what_is_asked_of_a_server() -> None:
    demand = options(scenario="server", bound="20ms", duration="2s").demand
    assert demand is not None
    assert demand.bound == pytest.approx(0.02)
    assert demand.seconds == 2
    assert options().demand is None
    streams = options(concurrency=4).demand
    assert streams is not None
    assert streams.scenario == "multi-stream"
