"""Ranges: those of ONNX Runtime's calibrators where the method is the same, and the least error where it is not."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accelc import ir
from accelc.calibration import Calibration, Method, Observe, Statistics
from accelc.calibration.histogram import count
from accelc.data import Feed
from accelc.errors import UsageError
from accelc.runner import Runner
from accelc.source import Source

MODEL = Path(__file__).parents[2] / "models" / "digits_cnn.onnx"
SAMPLES = 16


class Samples:
    """The shipped calibration samples, one by one."""

    where, count, index, of = "samples", SAMPLES, 0, 1

    def __iter__(self) -> Iterator[Feed]:
        images = np.load(MODEL.with_suffix(".calibration.npz"))["image"][:SAMPLES]
        return (Feed({"image": image[None]}, f"samples[{i}]") for i, image in enumerate(images))


class Reader:
    def __init__(self) -> None:
        self._rest = iter(Samples())

    def get_next(self) -> Any:
        feed = next(self._rest, None)
        return None if feed is None else dict(feed.values)


@pytest.fixture(scope="module")
def ours() -> dict[str, Statistics]:
    model = Source.of(MODEL).fresh()
    wanted = {str(value.name): Observe(histogram=True) for node in ir.nodes(model.graph) for value in node.outputs}
    with Runner() as runner:  # the calibrators of the runtime run it without optimizations
        return Calibration(Samples(), lambda: runner, optimize=False).statistics(model, wanted)


def theirs(folder: Path, method: str, **options: Any) -> dict[str, tuple[float, float]]:
    """Ranges by a calibrator of the runtime."""
    from onnxruntime.quantization import calibrate

    onnx.save(onnx.load(MODEL), folder / "model.onnx")
    kind = getattr(calibrate, method)
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = kind(str(folder / "model.onnx"), augmented_model_path=str(folder / "augmented.onnx"), **options)
        calibrator.augment_graph()
        calibrator.create_inference_session()
        calibrator.collect_data(Reader())
        found = calibrator.compute_data()
    ends = {name: [float(np.squeeze(end)) for end in data.range_value] for name, data in found.items()}
    return {name: (low, high) for name, (low, high) in ends.items()}


CASES = [
    ("MinMaxCalibrater", {}, Method("minmax"), 0),
    ("MinMaxCalibrater", {"moving_average": True}, Method("average"), 0),
    ("PercentileCalibrater", {"percentile": 99.999}, Method("percentile"), 2048),
    ("PercentileCalibrater", {"percentile": 99.0}, Method("percentile", 99.0), 2048),
    ("EntropyCalibrater", {}, Method("entropy"), 128),
    ("EntropyCalibrater", {"num_bins": 192}, Method("entropy", bins=192), 192),
]


@pytest.mark.parametrize(("kind", "options", "method", "bins"), CASES)
def test_the_runtime_finds_the_same(
    tmp_path: Path, ours: dict[str, Statistics], kind: str, options: dict[str, Any], method: Method, bins: int
) -> None:
    expected = theirs(tmp_path, kind, **options)
    common = expected.keys() & ours.keys()
    assert len(common) > 30
    exact = 0
    for name in common:
        found, reach = ours[name].range(method), max(map(abs, (ours[name].low, ours[name].high)))
        near = 1e-6 * reach  # the runtime computes in float32
        wide = 2 * reach / bins + near if bins else near
        distance = max(abs(found[end] - expected[name][end]) for end in (0, 1))
        assert distance <= wide, f"{name}: {found} and {expected[name]}"
        exact += distance <= near
    assert exact >= 0.95 * len(common)


def statistics(array: np.ndarray) -> Statistics:
    low, high = float(array.min()), float(array.max())
    return Statistics(low, high, low, high, array.size, 1, count(array))


def error(array: np.ndarray, low: float, high: float, *, symmetric: bool = False) -> float:
    """Mean squared error of quantizing to 8 bits, element by element."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / (254 if symmetric else 255)
    levels = np.clip(np.rint(array / step), np.rint(low / step), np.rint(low / step) + (254 if symmetric else 255))
    return float(np.mean((array - levels * step) ** 2))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", ["normal", "outliers", "relu", "uniform"])
def test_mse_finds_the_clipping_with_the_least_error(shape: str, symmetric: bool) -> None:
    random = np.random.default_rng(0)
    array = random.standard_normal(40_000).astype(np.float32)
    if shape == "outliers":
        array[:4] *= 30
    elif shape == "relu":
        array = np.maximum(array, 0)
    elif shape == "uniform":
        array = random.uniform(-1, 3, 40_000).astype(np.float32)
    low, high = statistics(array).range(Method("mse", symmetric=symmetric))
    assert array.min() <= low or symmetric
    found = error(array, low, high, symmetric=symmetric)
    reach = float(np.abs(array).max())
    ends = (-reach, reach) if symmetric else (float(array.min()), float(array.max()))
    best = min(error(array, s * ends[0], s * ends[1], symmetric=symmetric) for s in np.linspace(0.02, 1, 99))
    assert found <= 1.01 * best
    if shape == "outliers":
        assert found < 0.95 * error(array, *ends, symmetric=symmetric)


@pytest.mark.parametrize("name", ["minmax", "average", "percentile", "entropy", "mse"])
def test_constants_and_symmetry(name: Any) -> None:
    assert statistics(np.full(9, 2.5, np.float32)).range(Method(name)) == (2.5, 2.5)
    assert statistics(np.zeros(9, np.float32)).range(Method(name)) == (0, 0)
    low, high = statistics(np.linspace(-1, 3, 999, dtype=np.float32)).range(Method(name, symmetric=True))
    assert -low == high
    assert 0.1 < high <= 3


def test_a_missing_histogram_is_said() -> None:
    known = Statistics(0, 1, 0, 1, 4, 1)
    assert known.range(Method("average")) == (0, 1)
    with pytest.raises(ValueError, match="entropy needs a histogram"):
        known.range(Method("entropy"))


@pytest.mark.parametrize(
    "text",
    [
        "minmax",
        "average",
        "mse",
        "entropy",
        "entropy=2048",
        "percentile=99.99",
        "mse+symmetric",
        "percentile=99+symmetric",
    ],
)
def test_methods_are_text(text: str) -> None:
    method = Method.parse(text)
    assert str(method) == text
    assert Method.parse(str(method)) == method
    assert method.needs_histogram == (method.name in ("percentile", "entropy", "mse"))


def test_other_spellings() -> None:
    assert Method.parse("percentile:99.9%") == Method("percentile", 99.9)
    assert Method.parse("percentile") == Method("percentile", 99.999)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("median", "no calibration method 'median'"),
        ("percentile=much", "'much' is not a number"),
        ("percentile=0", "out of range"),
        ("percentile=101", "out of range"),
        ("entropy=100", "100 bins are out of range"),
        ("minmax=3", "minmax takes no number"),
    ],
)
def test_methods_that_are_none(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Method.parse(text)
