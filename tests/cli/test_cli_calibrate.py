"""`accelc calibrate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import one_line_error, run

from accelc.calibration import collect, job
from accelc.calibration.state import State

MODELS = Path(__file__).parents[2] / "models"
MODEL = MODELS / "digits_mlp.onnx"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "some.npz"
    with np.load(MODEL.with_suffix(".calibration.npz")) as arrays:
        np.savez(path, **{name: arrays[name][:12] for name in arrays.files})
    return path


def calibrate(data: Path, output: Path, *more: object) -> Any:
    return run("calibrate", MODEL, "--calibration", data, "--no-measure", "-o", output, *more)


def facts(path: Path, *more: str) -> dict[str, Any]:
    result = run("calibrate", "--show", path, "--json", *more)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_shards_merge_to_what_one_run_finds(tmp_path: Path, data: Path) -> None:
    whole = calibrate(data, tmp_path / "whole.cal")
    assert whole.exit_code == 0, whole.stderr
    assert "12 samples of" in whole.stdout
    assert f"written to {tmp_path / 'whole.cal'}" in "".join(whole.stdout.splitlines())
    parts = [tmp_path / f"{i}.cal" for i in (1, 2)]
    for i, part in enumerate(parts, 1):
        assert calibrate(data, part, "--shard", f"{i}/2", "-q").exit_code == 0
    assert run("calibrate", "--merge", *parts, "-o", tmp_path / "all.cal").exit_code == 0
    one, two = (
        facts(tmp_path / "whole.cal", "--method", "entropy=256"),
        facts(tmp_path / "all.cal", "--method", "entropy=256"),
    )
    assert one["schema"] == "accelc.calibration/1"
    assert one["method"] == "entropy=256"
    assert [each["range"] for each in one["tensors"]] == [each["range"] for each in two["tensors"]]
    assert [each["samples"] for each in two["tensors"]] == [12] * len(two["tensors"])
    table = run("calibrate", "--show", tmp_path / "all.cal", "--method", "percentile=99").stdout
    assert "percentile=99" in table
    assert "lowest" in table


def test_optimize_takes_the_ranges(tmp_path: Path, data: Path) -> None:
    options = ("--no-measure", "--report", "-", "--passes", "O1, quantize{scheme=static}", "--max-drop", "50%")
    given = run("calibrate", MODEL, "--calibration", data, "--passes", "O1, quantize", "-o", tmp_path / "b.cal")
    assert given.exit_code == 0, given.stderr
    done = run("optimize", MODEL, "-o", tmp_path / "a.onnx", "--ranges", tmp_path / "b.cal", *options)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert [each["changes"] > 0 for each in report["passes"] if each["name"] == "quantize"] == [True]
    assert not any("ranges" in note for note in report["notes"])
    other = run(
        "optimize", MODELS / "digits_cnn.onnx", "-o", tmp_path / "b.onnx", "--ranges", tmp_path / "b.cal", *options
    )
    assert "the ranges were made for another graph" in one_line_error(other, 2)
    assert not (tmp_path / "b.onnx").exists()


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.cal"
    add = collect.Collector.add
    seen: list[int] = []

    def stopping(self: Any, feed: Any, sample: int, wanted: Any = None) -> None:
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(sample)
        add(self, feed, sample, wanted)

    monkeypatch.setattr(job, "CHECKPOINT_S", -1.0)
    monkeypatch.setattr(collect.Collector, "add", stopping)
    assert calibrate(data, path).exit_code == 130
    assert State.load(path).shards[0].done == 5
    assert not State.load(path).shards[0].complete
    assert "not complete" in run("calibrate", "--show", path).stdout
    taken = run("optimize", MODEL, "-O3", "--no-measure", "--ranges", path, "-o", tmp_path / "o.onnx", "--report", "-")
    assert taken.exit_code == 0, taken.stderr
    assert any(f"{path} holds 5 samples" in note for note in json.loads(taken.stdout)["notes"])
    assert "made with another --seed" in one_line_error(calibrate(data, path, "--seed", 7), 2)
    assert State.load(path).shards[0].done == 5

    def counting(self: Any, feed: Any, sample: int, wanted: Any = None) -> None:
        seen.append(sample)
        add(self, feed, sample, wanted)

    monkeypatch.setattr(collect.Collector, "add", counting)
    again = calibrate(data, path)
    assert again.exit_code == 0, again.stderr
    assert seen == list(range(12))
    assert calibrate(data, tmp_path / "b.cal").exit_code == 0
    assert [each["range"] for each in facts(path)["tensors"]] == [
        each["range"] for each in facts(tmp_path / "b.cal")["tensors"]
    ]
    assert "is complete" in calibrate(data, path).stderr
    assert "holds ranges of other data" in one_line_error(calibrate(data, path, "--shard", "1/2"), 2)


def test_data_that_became_less(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrate(data, tmp_path / "a.cal", "-q").exit_code == 0
    state = State.load(tmp_path / "a.cal")
    state.shards = [replace(state.shards[0], done=40, complete=False)]
    state.save(tmp_path / "a.cal")
    said = one_line_error(calibrate(data, tmp_path / "a.cal", "-q"), 2)
    assert "a.cal: 40 samples were looked at" in said
    assert "some.npz holds 12 now" in said
    state.shards = []
    state.save(tmp_path / "a.cal")
    assert "holds ranges of other data" in one_line_error(calibrate(data, tmp_path / "a.cal"), 2)


def test_two_processes_and_one_file(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.cal"
    assert calibrate(data, tmp_path / "b.cal", "--shard", "1/2", "-q").exit_code == 0
    other = (tmp_path / "b.cal").read_bytes()
    add = collect.Collector.add

    def beside(self: Any, feed: Any, sample: int, wanted: Any = None) -> None:
        path.write_bytes(other)
        add(self, feed, sample, wanted)

    monkeypatch.setattr(collect.Collector, "add", beside)
    said = one_line_error(calibrate(data, path, "--shard", "2/2", "-q"), 2)
    assert "a.cal: was changed meanwhile: another process writes it" in said
    assert "--merge" in said
    assert path.read_bytes() == other


def test_what_to_know_of_the_data_is_said(tmp_path: Path, data: Path) -> None:
    one = tmp_path / "one.npz"
    with np.load(data) as arrays:
        np.savez(one, **{name: np.zeros_like(arrays[name][:1]) for name in arrays.files})
    done = calibrate(one, tmp_path / "a.cal")
    assert done.exit_code == 0, done.stderr
    assert "tensors: at most" in done.stderr.splitlines()[0]
    assert "always held one number" in done.stderr
    assert "there is one sample to calibrate on" in done.stderr


def test_some_tensors_only(tmp_path: Path, data: Path) -> None:
    assert calibrate(data, tmp_path / "all.cal", "-q").exit_code == 0
    names = [each["name"] for each in facts(tmp_path / "all.cal")["tensors"]]
    assert calibrate(data, tmp_path / "one.cal", "-q", "--tensors", names[0]).exit_code == 0
    assert [each["name"] for each in facts(tmp_path / "one.cal")["tensors"]] == names[:1]
    assert "no tensor is named zzz" in one_line_error(calibrate(data, tmp_path / "no.cal", "--tensors", "zzz"), 2)
    assert not (tmp_path / "no.cal").exists()


def test_wrong_requests(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "x.cal"
    broken = tmp_path / "nan.npz"
    with np.load(data) as arrays:
        np.savez(broken, **{name: np.full_like(arrays[name], np.nan) for name in arrays.files})
    cases: list[tuple[tuple[object, ...], str]] = [
        (("calibrate", MODEL, "-o", out), "there is no data"),
        (("calibrate", MODEL, "--calibration", data), "nowhere to put the ranges"),
        (("calibrate", MODEL, "--calibration", tmp_path / "none.npz", "-o", out), "no such file"),
        (("calibrate", MODEL, "--calibration", broken, "-o", out), "NaN"),
        (("calibrate", MODEL, MODEL, "--calibration", data, "-o", out), "2 files are given"),
        (("calibrate", tmp_path / "none.onnx", "--calibration", data, "-o", out), "no such file"),
        (("calibrate", MODEL, "--calibration", data, "-o", out, "--method", "median"), "no calibration method"),
        (("calibrate", MODEL, "--calibration", data, "-o", out, "--shard", "3/2"), "is no shard"),
        (("calibrate", MODEL, "--calibration", data, "-o", out, "--passes", "O1"), "nothing asks for ranges"),
        (("calibrate", "--show", MODEL), "is no calibration file"),
        (("calibrate", "--show", "--merge", MODEL), "exclude each other"),
        (("calibrate", "--show", MODEL, "--calibration", data), "--calibration goes with a model"),
        (("calibrate", MODEL, "--calibration", data, "-o", tmp_path), "the ranges cannot be written"),
        (("calibrate", MODEL, "--calibration", data, "-o", tmp_path / "no" / "x.cal"), "a folder that exists"),
        (("calibrate", MODEL, "--calibration", data, "-o", broken / "x.cal"), "the ranges cannot be written"),
        (("calibrate", MODEL, "--calibration", data, "-o", out, "--preprocess", "crop=4"), "is for folders of images"),
        (("calibrate", MODEL, "--calibration", data, "-o", out, *("--shape", "x=1x64") * 2), "is given twice"),
        (("calibrate", "--merge", data, "-o", out), "is no calibration file"),
    ]
    for arguments, reason in cases:
        assert reason in one_line_error(run(*arguments), 2), arguments
    assert not out.exists()
