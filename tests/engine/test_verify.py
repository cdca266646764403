"""What results are judged on, and how they are run for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accelc.runner import Runner
from accelc.source import Source
from accelc.verdict import Judge
from accelc.verify import Verifier

SOFTMAX = "(float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Softmax(x)  z = Relu(x) }"


def saved(folder: Path, graph: str = SOFTMAX) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> main {graph}'), path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32))
    return path


def test_latency_is_measured_on_single_samples_and_numbers_on_all(tmp_path: Path, data: Path) -> None:
    with Runner() as runner:
        reference = Verifier(Source.of(saved(tmp_path)), runner, data).reference
    assert [feed.values["x"].shape for feed in reference.measuring] == [(1, 4)] * 3
    assert sum(len(sample.feed.values["x"]) for sample in reference.samples) == 40


def test_outputs_whose_rows_are_probabilities_are_known_on_the_users_data_only(tmp_path: Path, data: Path) -> None:
    source = Source.of(saved(tmp_path))
    with Runner() as runner:
        given = Verifier(source, runner, data).reference
        made = Verifier(source, runner).reference
    assert {sample.decided for sample in given.samples} == {frozenset({"y"})}
    assert {sample.decided for sample in made.samples} == {frozenset[str]()}


@pytest.mark.parametrize("lossy", [True, False])
def test_only_lossy_results_are_judged_under_the_runtimes_own_optimizations(
    tmp_path: Path, data: Path, lossy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    load = Runner.load

    def spy(self: Runner, model: Any, **options: Any) -> Any:
        asked.append(options.get("optimize", True))
        return load(self, model, **options)

    monkeypatch.setattr(Runner, "load", spy)
    path = saved(tmp_path)
    with Runner() as runner:
        verifier = Verifier(Source.of(path), runner, data)
        assert verifier.judge(path, Judge(lossy=lossy)).passed
    assert asked == [False, lossy]
