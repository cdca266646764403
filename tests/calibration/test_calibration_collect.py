"""Collecting: the model runs once over the data, in one child, and bad data is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from accelc import ir
from accelc.calibration import Calibration, Observe
from accelc.calibration.graph import cut, fingerprint, observable
from accelc.data import Feed
from accelc.errors import UsageError
from accelc.runner import Runner, RuntimeFailure

MODEL = """
<ir_version: 10, opset_import: ["": 20]>
g (float[N, 4] x, bool c) => (float[N, 3] y, float[N, 3] other)
<float[4, 3] w = {1, 0, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}, float[3] b = {1, 2, 3}, float[3] unused_by_p = {1, 1, 1}> {
    p = MatMul(x, w)
    s = If (c) <then_branch = t () => (float[N, 3] a) { inner = Add(p, b)  a = Neg(inner) },
                else_branch = e () => (float[N, 3] z) { z = Identity(p) }>
    r = Relu(s)
    n = Shape(r)
    y = Add(r, b)
    other = Mul(r, unused_by_p)
}
"""


class Samples:
    """A list of feed sets as calibration data."""

    where = "samples"

    def __init__(self, feeds: Sequence[Mapping[str, Any]], index: int = 0, of: int = 1) -> None:
        self.feeds, self.index, self.of = feeds, index, of
        self.passes = 0

    @property
    def count(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Feed]:
        self.passes += 1
        return (Feed(values, f"samples[{i}]") for i, values in enumerate(self.feeds))


def feeds(count: int = 5, condition: bool = False) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    return [
        {"x": random.standard_normal((1 + i % 3, 4)).astype(np.float32), "c": np.array(condition)} for i in range(count)
    ]


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return ir.parse(MODEL)


ALL = Observe(histogram=True, channels=1, rows=4, gram=True)


def test_statistics_of_inputs_inner_values_and_outputs(runner: Runner, model: ir.Model) -> None:
    data = Samples(feeds())
    calibration = Calibration(data, lambda: runner)
    found = calibration.statistics(model, dict.fromkeys(["x", "p", "r", "y"], ALL))
    x = [each["x"] for each in data.feeds]
    whole = np.concatenate(x)
    assert list(found) == ["x", "p", "r", "y"]
    assert (found["x"].low, found["x"].high) == (whole.min(), whole.max())
    assert found["x"].average_low == pytest.approx(np.mean([each.min() for each in x]))
    assert (found["x"].count, found["x"].samples) == (whole.size, 5)
    w = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], np.float32)
    p = whole @ w
    seen = found["p"]
    assert seen.gram is not None
    assert seen.rows is not None
    assert seen.histogram is not None
    assert seen.channel_mean is not None
    assert seen.channel_low is not None
    assert np.allclose(seen.channel_mean, p.mean(axis=0), atol=1e-5)
    assert np.allclose(seen.channel_low, p.min(axis=0), atol=1e-5)
    assert np.allclose(seen.gram, p.T @ p, rtol=1e-4)
    assert seen.gram_rows == len(p)
    assert seen.histogram.total == p.size
    # Rows come from the same places of all tensors.
    assert found["x"].rows is not None
    assert np.allclose(found["x"].rows @ w, seen.rows, atol=1e-5)


def test_asking_again_costs_nothing_and_asking_for_more_does(runner: Runner, model: ir.Model) -> None:
    data = Samples(feeds())
    calibration = Calibration(data, lambda: runner)
    first = calibration.statistics(model, {"p": ALL, "r": Observe()})
    passes = data.passes
    again = calibration.statistics(model, {"p": Observe(rows=2), "r": Observe()})
    assert data.passes == passes
    assert again["p"].rows is not None
    assert again["p"].rows.tolist() == first["p"].rows[:2].tolist()  # type: ignore[index]
    calibration.statistics(model, {"r": Observe(histogram=True)})
    assert data.passes > passes
    passes = data.passes
    calibration.statistics(ir.parse(MODEL), {"p": ALL})
    assert data.passes == passes
    calibration.statistics(ir.parse(MODEL.replace("b = {1, 2, 3}", "b = {1, 2, 4}")), {"p": ALL})
    assert data.passes > passes


def test_what_cannot_be_observed_is_left_out(runner: Runner, model: ir.Model) -> None:
    names = ["inner", "n", "w", "c", "nothing", "r"]
    found = Calibration(Samples(feeds()), lambda: runner).statistics(model, dict.fromkeys(names, Observe()))
    assert list(found) == ["r"]
    reasons = observable(model, names)
    assert reasons["inner"] == reasons["nothing"] == "it is no value of the main graph"
    assert (reasons["n"], reasons["c"], reasons["w"], reasons["r"]) == (
        "it is not float",
        "it is not float",
        "it is a constant",
        "",
    )


def test_only_what_is_needed_is_run(model: ir.Model) -> None:
    part = cut(model, ["p"])
    assert [node.op_type for node in part.graph] == ["MatMul"]
    assert list(part.graph.initializers) == ["w"]
    assert [each.name for each in part.graph.inputs] == ["x", "c"]
    whole = cut(model, ["r"])
    assert [node.op_type for node in whole.graph] == ["MatMul", "If", "Relu"]
    assert set(whole.graph.initializers) == {"w", "b"}
    assert [each.name for each in model.graph.outputs] == ["y", "other"]
    assert len(list(model.graph)) == 6


def test_fingerprints_tell_graphs_apart(model: ir.Model) -> None:
    same = fingerprint(ir.parse(MODEL))
    assert fingerprint(model) == same
    changes = [("{1, 2, 3}", "{1, 2, 4}"), ("Neg(inner)", "Abs(inner)"), ("Relu(s)", "Tanh(s)"), ('"": 20', '"": 21')]
    others = {fingerprint(ir.parse(MODEL.replace(*change))) for change in changes}
    assert len(others | {same}) == 5


def test_memory_is_said_before_and_does_not_grow_with_the_samples(runner: Runner, model: ir.Model) -> None:
    told: list[str] = []
    for count in (3, 30):
        calibration = Calibration(Samples(feeds(count)), lambda: runner, progress=told.append)
        calibration.statistics(model, {"p": ALL, "r": ALL})
    plans = [text for text in told if "sample" not in text]
    assert len(plans) == 2
    assert plans[0] == plans[1]
    assert plans[0].startswith("calibrating 2 tensors: at most ")
    assert plans[0].endswith(" MB besides the model")


def test_more_than_the_limit_is_done_in_rounds(runner: Runner, model: ir.Model) -> None:
    told: list[str] = []
    data = Samples(feeds())
    small = Calibration(data, lambda: runner, progress=told.append, max_bytes=600_000)
    large = Calibration(data, lambda: runner)
    wanted = dict.fromkeys(["x", "p", "r"], ALL)
    found, expected = small.statistics(model, wanted), large.statistics(model, wanted)
    assert any("3 tensors in 3 rounds" in text for text in told)
    for name in wanted:
        assert np.array_equal(found[name].histogram.counts, expected[name].histogram.counts)  # type: ignore[union-attr]
        assert np.array_equal(found[name].rows, expected[name].rows)  # type: ignore[arg-type]


def changed(index: int, **values: Any) -> list[dict[str, Any]]:
    made = feeds()
    made[index] |= values
    return made


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([], "samples: there are no samples to calibrate on"),
        (changed(2, x=np.full((1, 4), np.nan, np.float32)), r"samples\[2\]: x holds NaN in sample 2"),
        (changed(3, x=np.zeros((1, 5), np.float32)), r"samples\[3\]: the model does not run on sample 3"),
        (changed(0, x=np.zeros((1, 4), np.int64)), r"samples\[0\]: the model does not run on sample 0"),
        (changed(4, x=np.full((1, 4), 3e38, np.float32)), r"samples\[4\]: p holds Inf in sample 4.*output"),
    ],
)
def test_bad_samples_are_named(runner: Runner, model: ir.Model, samples: list[dict[str, Any]], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Calibration(Samples(samples), lambda: runner).statistics(model, {"p": Observe(histogram=True)})


def test_numbers_that_a_model_masks_are_left_out_and_said(runner: Runner) -> None:
    masked = ir.parse("(float[N] x) => (float[N] y) { l = Log(x) y = Exp(l) r = Relu(x) z = Add(y, r) }")
    data = Samples([{"x": np.array([1, 2], np.float32)}, {"x": np.array([0, 3], np.float32)}])
    calibration = Calibration(data, lambda: runner)
    found = calibration.statistics(masked, {"l": Observe(), "r": Observe()})
    assert list(found) == ["r"]
    assert calibration.notes == ["l holds Inf in sample 1 and has no range"]


def test_constants_and_a_single_sample_are_noted(runner: Runner, model: ir.Model) -> None:
    zeros = Samples([{"x": np.zeros((2, 4), np.float32), "c": np.array(False)}])
    calibration = Calibration(zeros, lambda: runner)
    found = calibration.statistics(model, {"p": ALL, "y": ALL})
    assert (found["p"].low, found["p"].high) == (0, 0)
    assert calibration.notes[0] == "p always held one number"
    assert "one sample" in calibration.notes[1]


def test_observers_live_in_the_child(runner: Runner, model: ir.Model) -> None:
    part = ir.to_proto(cut(model, ["p", "r"])).SerializeToString()
    session = runner.load(part)
    wanted: dict[str, dict[str, Any]] = {"x": {"histogram": True}, "p": {"rows": 2}}
    for sample, feed in enumerate(feeds(2)):
        found = runner.observe(session, feed, wanted, sample)
        assert found["x"] == (feed["x"].shape, "")
        assert set(found) == {"x", "p"}
    states = runner.observed(session)
    assert set(states) == {"x", "p"}
    assert states["p"]["kept"].shape == (2, 3)
    runner.forget(session)
    assert runner.observed(session) == {}
    with pytest.raises(RuntimeFailure, match="there is no axis 7"):
        runner.observe(session, feeds(1)[0], {"p": {"channels": 7}}, 0)
    runner.close(session)
