"""What `optimize` may be told about quality, data and time, and what passes see of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import accelc
from accelc import ir
from accelc.budget import Budget
from accelc.context import Context, Settings
from accelc.data import Preprocessing
from accelc.errors import UsageError
from accelc.metrics import Metric
from accelc.options import Options, seconds_of
from accelc.pass_base import Pass, PassResult

MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("90", 90), (2.5, 2.5), ("5min", 300), ("1.5h", 5400), (" 2 m ", 120)]
)
def test_times(text: float | str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "0", "-1", "5d", "nan", True, "1e3"])
def test_what_is_no_time(text: Any) -> None:
    with pytest.raises(UsageError, match="is no time"):
        Options(search_time=text)


def test_options_are_read_once() -> None:
    images = Path("photos")
    options = Options(
        max_drop="0.5%", metric="topk=3", metric_output="y", inputs=images, preprocess="crop=4", search_time="2min"
    )
    assert options.budget == Budget(0.005, True, Metric("topk", 3, "y"))
    assert options.preprocessing == Preprocessing(crop=(4,))
    assert options.search_seconds == 120
    assert Options().budget == Budget(0.01)


def test_settings_carry_the_budget() -> None:
    assert Settings(max_drop=0.2).budget == Budget(0.2)
    metric = Metric("psnr")
    assert Settings(max_drop=3.0, metric=metric, relative_drop=False).budget == Budget(3.0, False, metric)


class Peek(Pass):
    """Keeps the context that it is given."""

    name = "peek"
    seen: list[Context] = []

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        self.seen.append(ctx)
        return PassResult()


def test_passes_see_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peek, "seen", [])
    accelc.optimize(
        onnx.load(MODELS / "digits_mlp.onnx"),
        pipeline=accelc.Pipeline((Peek(),)),
        measure=False,
        calibration=MODELS / "digits_mlp.calibration.npz",
        inputs=MODELS / "digits_mlp.eval.npz",
        calibration_method="percentile=99.9",
        metric="f1",
        max_drop="2%",
        search_time=7,
        isa="avx2",
    )
    (ctx,) = Peek.seen
    assert ctx.settings.budget == Budget(0.02, True, Metric("f1"))
    assert (ctx.settings.search_time, ctx.settings.calibration_method) == (7.0, "percentile=99.9")
    assert "avx2" in ctx.target.isa
    assert not any("avx512" in name for name in ctx.target.isa)
    labels = [sample.labels for sample in ctx.samples if sample.labels is not None]
    assert len(np.concatenate(labels)) == 450
    assert ctx.calibration is not None
    assert ctx.calibration.data is not None
    assert ctx.calibration.data.count == 256
