"""Histograms: right counts, and the same ones whatever the order in which parts are added."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelc.calibration.histogram import MOST_BINS, WAITING, Histogram, Tally, count

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SIZES_AND_SCALES = [(5, 1), (WAITING - 7, 1), (3, 1), (2 * WAITING + 3, 0.1), (9, 40), (WAITING, 1e-3), (4, 1e6)]
ARRAYS = st.lists(NUMBERS, min_size=1, max_size=20).map(lambda values: np.array(values, np.float32))


def same(one: Histogram, two: Histogram) -> bool:
    return (one.exponent, one.first) == (two.exponent, two.first) and np.array_equal(one.counts, two.counts)


def slowly(array: np.ndarray) -> dict[int, int]:
    """Bins and counts, in exact arithmetic, element by element."""
    reach = max(abs(float(each)) for each in array)
    exponent = max(math.frexp(reach)[1] - 14, -114) if reach else -114
    found: dict[int, int] = {}
    for each in array:
        top, bottom = float(each).as_integer_ratio()
        place = top // (bottom << exponent) if exponent >= 0 else (top << -exponent) // bottom
        found[place] = found.get(place, 0) + 1
    return found


@settings(max_examples=60)
@given(ARRAYS)
def test_bins_are_exact(array: np.ndarray) -> None:
    found = count(array)
    bins = {found.first + i: int(n) for i, n in enumerate(found.counts) if n}
    assert bins == slowly(array)
    assert len(found.counts) <= MOST_BINS
    assert found.counts[0]
    assert found.counts[-1]


@settings(max_examples=40)
@given(st.lists(ARRAYS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_parts_add_up_in_any_order(arrays: list[np.ndarray], random: object) -> None:
    whole = count(np.concatenate(arrays))
    random.shuffle(arrays)  # type: ignore[attr-defined]
    assert same(reduce(add, map(count, arrays)), whole)
    assert same(reduce(lambda one, two: two + one, map(count, arrays)), whole)
    tally = Tally()
    for array in arrays:
        tally.add(array, float(array.min()), float(array.max()))
    assert same(tally.histogram(), whole)


def test_bins_that_wait_survive_growing_ranges_and_looks_in_between() -> None:
    random = np.random.default_rng(2)
    arrays = [(random.standard_normal(size) * scale).astype(np.float32) for size, scale in SIZES_AND_SCALES]
    arrays[2] = np.abs(arrays[2])
    tally = Tally()
    for i, array in enumerate(arrays):
        tally.add(array, float(array.min()), float(array.max()))
        if i % 2:
            assert same(tally.histogram(), count(np.concatenate(arrays[: i + 1])))
    assert same(tally.histogram(), reduce(add, map(count, arrays)))
    ends = np.array([-1.0, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    assert count(ends).counts.sum() == 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
def test_many_elements_agree_with_numpy(dtype: type, scale: float) -> None:
    random = np.random.default_rng(0)
    array: np.ndarray = (random.standard_normal(200_000) * scale).astype(dtype)
    array[:1000] = 0.0
    found = count(array)
    expected, _ = np.histogram(array.astype(np.float64), found.edges)
    assert np.array_equal(found.counts, expected)
    assert found.total == array.size


def test_zeros_count_to_the_right() -> None:
    found = count(np.array([-1.0, -0.0, 0.0, 0.0, 1e-30, -1e-30, 1.0], np.float32))
    assert found.counts[-found.first] == 4
    assert found.counts[-found.first - 1] == 1


@settings(max_examples=50)
@given(ARRAYS, st.integers(2, 300))
def test_other_bins_hold_every_element(array: np.ndarray, bins: int) -> None:
    low, high = float(array.min()), float(array.max())
    reach = max(abs(low), abs(high))
    counts = count(array).rebinned(np.linspace(-reach, reach, bins + 1), low, high)
    assert counts.sum() == array.size
    assert (counts >= 0).all()


def test_zeros_alone_do_not_widen_bins() -> None:
    zeros, some = np.zeros(3, np.float32), np.array([0.25, 0.1], np.float32)
    assert same(count(zeros) + count(some), count(np.concatenate([some, zeros])))


def test_a_bin_across_an_edge_is_split_in_proportion() -> None:
    histogram = Histogram(0, 0, np.array([0, 100, 0, 20], np.int64))
    assert histogram.rebinned(np.array([0.0, 1.25, 3.5, 4.0]), 1.0, 4.0).tolist() == [25, 85, 10]
    assert histogram.edges.tolist() == [0, 1, 2, 3, 4]
    assert histogram.coarser(1).counts.tolist() == [100, 20]
