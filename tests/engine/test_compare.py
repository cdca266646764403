"""Equality by type, and quality."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto as T

from accelc.compare import (
    DEFAULT,
    EXACT,
    Tolerance,
    compare_outputs,
    compare_values,
    contradicted_outputs,
    is_deterministic,
    measure_quality,
    random_outputs,
)
from accelc.data import InputSpec
from accelc.errors import VerifyError

FLOATS = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]


def same(expected: Any, actual: Any, tolerance: Tolerance = DEFAULT) -> bool:
    return compare_values("y", expected, actual, tolerance=tolerance) is None


@pytest.mark.parametrize("dtype", FLOATS)
def test_rounding_passes_and_errors_do_not(dtype: Any) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    rounded = (values.astype(np.float64) * (1 + eps / 2)).astype(dtype)
    assert same(values, values, EXACT)
    assert same(values, rounded)
    wrong = values.copy()
    wrong[17] = wrong[17] + dtype(0.5)
    found = compare_values("y", values, wrong)
    assert found is not None
    assert found.index == (17,)
    assert found.max_abs == pytest.approx(0.5, rel=0.05)
    assert found.count == 1
    if dtype != np.float64:
        assert not same(values, (values.astype(np.float64) * 1.1).astype(dtype))


def test_limits_follow_the_range_of_the_output() -> None:
    big = np.array([1000.0, 1.0], np.float32)
    assert same(big, big + np.float32(0.01))
    small = np.array([1e-3, 1e-6], np.float32)
    assert not same(small, small + np.float32(1e-5))
    assert same(np.zeros(3, np.float32), np.full(3, 1e-7, np.float32)), "zero up to rounding"


def test_rare_drift_passes_and_common_drift_does_not() -> None:
    expected = np.zeros(100_000, np.float32)
    expected[0] = 1.0
    drifted = expected.copy()
    drifted[5] = 4e-4
    assert same(expected, drifted)
    assert not same(expected[:100], drifted[:100]), "one of a hundred is not rare"
    drifted[5] = 1e-3
    assert not same(expected, drifted), "too far"


def test_nan_and_inf_are_values() -> None:
    expected = np.array([1.0, np.nan, np.inf, -np.inf], np.float32)
    assert same(expected, expected.copy())
    for place, value in [(0, np.nan), (0, np.inf), (1, 0.0), (2, -np.inf), (2, 3e38), (1, np.inf)]:
        actual = expected.copy()
        actual[place] = value
        found = compare_values("y", expected, actual)
        assert found is not None
        assert found.index == (place,)
        assert "NaN or Inf" in found.reason
        assert not same(expected, actual, EXACT)
    assert not same(np.array([1 + 1j, np.nan + 0j]), np.array([1 + 1j, 1 + 0j]))


def test_finite_only_asks_nothing_where_the_original_overflowed() -> None:
    expected = np.array([1.0, np.nan, np.inf], np.float32)
    edge = Tolerance(finite_only=True)
    assert same(expected, np.array([1.0, 7.0, np.nan], np.float32), edge)
    assert not same(expected, np.array([np.nan, np.nan, np.inf], np.float32), edge)
    assert not same(expected, np.array([1.1, np.nan, np.inf], np.float32), edge)


def test_exact_means_the_same_bits() -> None:
    zero, negative = np.array([0.0], np.float32), np.array([-0.0], np.float32)
    assert same(zero, negative)
    found = compare_values("y", zero, negative, tolerance=EXACT)
    assert found is not None
    assert "bits" in found.reason
    one = np.array([1.0], np.float32)
    assert not same(one, np.nextafter(one, np.float32(2)), EXACT)
    other_nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert same(np.array([np.nan], np.float32), other_nan, EXACT)
    assert not same(np.array([0j]), np.array([complex(0.0, -0.0)]), EXACT)
    half = np.array([0.0], ml_dtypes.bfloat16)
    assert not same(half, -half, EXACT)


def test_type_shape_kind_and_presence_are_strict() -> None:
    array = np.zeros((2, 3), np.float32)
    for other, word in [
        (array.astype(np.float64), "type"),
        (array.reshape(3, 2), "shape"),
        (array.reshape(6), "shape"),
        ([array], "kind"),
        (None, "presence"),
        ({0: 1.0}, "kind"),
    ]:
        found = compare_values("y", array, other)
        assert found is not None
        assert word in found.reason
    assert same(None, None)
    assert same(np.zeros((0, 3)), np.zeros((0, 3)))
    assert not same(np.zeros((0, 3)), np.zeros((0, 4)))
    assert same(np.array(["a"], object), np.array(["a"], "U1"))


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([2**60]), np.array([2**60 + 1])),
        (np.array([True]), np.array([False])),
        (np.array(["a", "b"], object), np.array(["a", "B"], object)),
        (np.array([3], np.uint8), np.array([4], np.uint8)),
        (np.array([3], ml_dtypes.int4), np.array([4], ml_dtypes.int4)),
        (np.array([1.0], ml_dtypes.float8_e4m3fn), np.array([1.125], ml_dtypes.float8_e4m3fn)),
    ],
)
def test_integers_booleans_strings_and_float8_are_equal_or_not(expected: Any, actual: Any) -> None:
    assert same(expected, expected.copy())
    found = compare_values("y", expected, actual)
    assert found is not None
    assert found.index == (int(np.argmax(expected != actual)),)


def test_float8_compares_by_value() -> None:
    zero = np.array([0.0, np.nan], ml_dtypes.float8_e4m3fn)
    assert same(zero, -zero)
    assert not same(zero, -zero, EXACT)


def test_integer_ties_only_when_asked() -> None:
    expected, actual = np.zeros(100, np.int64), np.zeros(100, np.int64)
    actual[3] = 40
    assert not same(expected, actual)
    assert same(expected, actual, Tolerance(integer_ties=0.01))
    assert not same(expected, actual, Tolerance(integer_ties=0.001))
    assert not same(expected, actual, Tolerance(integer_ties=0.01, exact=True))
    assert not same(expected.astype(np.int8), actual.astype(np.int8), Tolerance(integer_ties=0.01)), "more than a step"
    actual[3] = 1
    assert same(expected.astype(np.int8), actual.astype(np.int8), Tolerance(integer_ties=0.01))


def test_sequences_and_maps_are_searched() -> None:
    expected = [np.zeros(2), {"a": 1.0, "b": np.ones(2)}]
    assert same(expected, [np.zeros(2), {"a": 1.0 + 1e-9, "b": np.ones(2)}])
    found = compare_values("y", expected, [np.zeros(2), {"a": 1.0, "b": np.array([1.0, 2.0])}])
    assert found is not None
    assert found.output == "y[1]['b']"
    assert not same(expected, expected[:1])
    assert not same(expected[1], {"a": 1.0})
    assert not same({"a": 1}, {"a": 2})


def test_outputs_by_name_and_the_text() -> None:
    array = np.zeros((2, 2), np.float32)
    wrong = array.copy()
    wrong[1, 0] = 3.0
    found = compare_outputs({"a": array, "b": array}, {"a": wrong, "c": array})
    assert [item.output for item in found] == ["a", "b", "c"]
    text = str(found[0])
    assert (
        text
        == "a: values differ: expected 0, got 3 at [1, 0], largest error 3 (inf of the range), 1 of 4 elements differ"
    )
    assert not any("\n" in str(item) for item in found)
    assert "shape differs: expected [2, 2], got [4]" in str(compare_values("y", array, array.reshape(4)))


def test_large_outputs_are_compared_in_pieces() -> None:
    expected = np.zeros((3, 1 << 20), np.float32)
    expected[0, 0] = 1.0
    actual = expected.copy()
    actual[2, 5] = 0.25
    found = compare_values("y", expected, actual)
    assert found is not None
    assert (found.index, found.max_relative) == ((2, 5), 0.25)


_JUDGE = {"float64": (1e-6, 1e-8), "float32": (1e-3, 2e-5), "float16": (2e-2, 2e-3), "bfloat16": (6e-2, 1e-2)}


def judged_same(expected: Any, actual: Any) -> bool:
    """A looser public yardstick: elementwise limits with an absolute part of 1 + range, and 1 in 10,000 may drift."""
    rtol, atol = _JUDGE[expected.dtype.name]
    x, y = expected.astype(np.float64), actual.astype(np.float64)
    scale = np.abs(x).max()
    error = np.abs(x - y)
    bad = error > atol * (1 + scale) + rtol * np.abs(x)
    return not bad.any() or (bad.mean() <= 1e-4 and error.max() <= 1e-3 * scale)


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(FLOATS),
    size=st.sampled_from([1, 50, 40_000]),
    scale=st.sampled_from([1e-4, 1.0, 300.0]),
    noise=st.floats(-8, -0.3),
    share=st.sampled_from([2e-5, 1e-3, 1.0]),
)
def test_what_passes_here_passes_the_looser_yardstick(
    seed: int, dtype: Any, size: int, scale: float, noise: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    expected = (rng.standard_normal(size) * scale).astype(dtype)
    error = rng.standard_normal(size) * 10**noise * scale * (rng.random(size) < share)
    actual = (expected.astype(np.float64) + error).astype(dtype)
    if same(expected, actual):
        assert judged_same(expected, actual)


def test_random_outputs_are_found() -> None:
    counter = itertools.count()

    def run(feeds: Any) -> Any:
        return {"fixed": np.ones(3), "noise": np.full(3, float(next(counter))), "parts": [np.zeros(1)]}

    assert random_outputs(run, {}) == {"noise"}
    assert not is_deterministic(run, {})
    assert is_deterministic(lambda feeds: {"y": np.array([np.nan])}, {})


def test_models_that_contradict_their_declaration() -> None:
    declared = (
        InputSpec("a", "tensor", T.FLOAT, (2, "n")),
        InputSpec("b", "tensor", T.FLOAT, None),
        InputSpec("c", "tensor", T.FLOAT, (None,)),
    )
    assert not contradicted_outputs(declared, {"a": np.zeros((2, 9)), "b": np.zeros(1), "c": np.zeros(4)})
    found = contradicted_outputs(declared, {"a": np.zeros((3, 9)), "b": np.zeros(1), "c": np.zeros((4, 1))})
    assert [item.output for item in found] == ["a", "c"]


# Quality -------------------------------------------------------------------------------------------------------------


def test_quality_of_equal_and_of_opposite_outputs() -> None:
    values = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    equal = measure_quality([{"y": values}], [{"y": values.copy()}])
    assert equal.cosine == pytest.approx(1.0)
    assert (equal.relative_error, equal.rmse_relative, equal.top1) == (0.0, 0.0, 1.0)
    opposite = measure_quality([{"y": values}], [{"y": -values}])
    assert opposite.cosine == pytest.approx(-1.0)
    assert opposite.rmse_relative == pytest.approx(2.0)
    assert opposite.relative_error == pytest.approx(2.0)


def test_quality_takes_the_worst_set_and_output() -> None:
    good, bad = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    quality = measure_quality([{"y": good, "z": good}] * 2, [{"y": bad, "z": good}, {"y": good, "z": good}])
    assert [output.name for output in quality.outputs] == ["y", "z"]
    assert quality.cosine == pytest.approx(1 / math.sqrt(2))
    assert quality.outputs[1].cosine == pytest.approx(1.0)
    assert quality.outputs[0].rmse_relative == pytest.approx(math.sqrt(1 / 2))
    assert quality.top1 is None


def test_top1_agreement_counts_rows() -> None:
    expected = np.array([[0.0, 1.0], [1.0, 0.0], [0.2, 0.3], [0.5, 0.1]])
    actual = np.array([[0.0, 1.0], [0.0, 1.0], [0.2, 0.3], [0.5, 0.1]])
    assert measure_quality([{"y": expected}], [{"y": actual}]).top1 == 0.75
    assert measure_quality([{"y": np.array([1, 2])}], [{"y": np.array([1, 3])}]).top1 == 0.5
    assert measure_quality([{"y": np.array(["a"], object)}], [{"y": np.array(["b"], object)}]).top1 == 0.0
    low = expected.astype(ml_dtypes.bfloat16)
    assert measure_quality([{"y": low}], [{"y": low}]).top1 == 1.0


def test_quality_is_aware_of_nan_and_zero() -> None:
    expected = np.array([1.0, np.nan, np.inf])
    assert measure_quality([{"y": expected}], [{"y": expected.copy()}]).cosine == pytest.approx(1.0)
    broken = measure_quality([{"y": expected}], [{"y": np.array([1.0, 0.0, np.inf])}])
    assert (broken.cosine, broken.relative_error) == (-1.0, math.inf)
    zero = np.zeros(3)
    assert measure_quality([{"y": zero}], [{"y": zero}]).cosine == 1.0
    assert measure_quality([{"y": zero}], [{"y": zero + 1}]).relative_error == math.inf
    assert measure_quality([{"y": zero + 1}], [{"y": zero}]).cosine == 0.0
    huge = np.full(4, 3e38, np.float32)
    assert measure_quality([{"y": huge}], [{"y": huge}]).cosine == pytest.approx(1.0)


def test_quality_refuses_what_does_not_belong_together() -> None:
    pairs: list[tuple[list[dict[str, Any]], list[dict[str, Any]]]] = [
        ([{"y": np.zeros(2)}], [{"y": np.zeros(3)}]),
        ([{"y": np.zeros(2)}], [{"z": np.zeros(2)}]),
        ([{"y": np.zeros(2)}], []),
        ([{"y": [np.zeros(2)]}], [{"y": []}]),
        ([{"y": None}], [{"y": np.zeros(2)}]),
    ]
    for expected, actual in pairs:
        with pytest.raises(VerifyError):
            measure_quality(expected, actual)
    nested = [{"y": [{"a": 1.0}, {"a": 2.0}]}]
    assert measure_quality(nested, nested).cosine == pytest.approx(1.0)
