"""What is kept of a tensor: right, and the same for one pass and for parts that are merged in any order."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accelc.calibration.observers import Seen
from accelc.calibration.statistics import Observe, Statistics

ALL = {"histogram": True, "channels": 1, "rows": 7, "gram": True}


def arrays(count: int, *, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        (random.standard_normal((2, 3, 5)) * 4.0 ** random.integers(-3, 3)).astype(np.float32) for _ in range(count)
    ]


def seen(samples: dict[int, np.ndarray], **wishes: object) -> Seen:
    found = Seen(**{**ALL, **wishes})  # type: ignore[arg-type]
    for sample, array in samples.items():
        found.add(array, sample)
    return found


def test_everything_is_kept() -> None:
    data = arrays(4)
    found, whole = seen(dict(enumerate(data))), np.stack(data)
    assert (found.low, found.high) == (whole.min(), whole.max())
    assert found.low_sum == pytest.approx(sum(float(each.min()) for each in data))
    assert (found.count, found.feeds) == (whole.size, 4)
    assert found.histogram is not None
    assert found.histogram.total == whole.size
    assert found.channel_sum is not None
    assert found.rows is not None
    assert found.gram is not None
    assert np.array_equal(found.channel_low, whole.min(axis=(0, 1, 3)))  # type: ignore[arg-type]
    assert np.array_equal(found.channel_high, whole.max(axis=(0, 1, 3)))  # type: ignore[arg-type]
    assert np.allclose(found.channel_sum / found.channel_count, whole.mean(axis=(0, 1, 3)), atol=1e-6)
    rows = whole.reshape(-1, 5)
    assert np.allclose(found.gram, rows.astype(np.float64).T @ rows, rtol=1e-5)
    assert found.gram_rows == len(rows)
    assert found.rows.shape == (7, 5)
    for row, (_, sample, place) in zip(found.rows, found.keys, strict=True):
        assert np.array_equal(row, data[sample].reshape(-1, 5)[place])


@settings(max_examples=25)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=6), st.permutations(range(3)))
def test_merged_parts_are_the_whole(owner: list[int], order: list[int]) -> None:
    data = dict(enumerate(arrays(6)))
    whole = seen(data).state()
    parts = [seen({i: each for i, each in data.items() if owner[i] == part}) for part in order]
    for part in parts[1:]:
        parts[0].merge(part)
    merged = parts[0].state()
    assert merged.keys() == whole.keys()
    for name, value in whole.items():
        if name in ("low_sum", "high_sum", "channel_sum", "matrix"):
            assert np.allclose(merged[name], value, rtol=1e-6), name
        else:
            assert np.array_equal(merged[name], value), name


def test_rows_depend_on_the_seed_and_are_spread() -> None:
    data = {i: np.full((10, 2), i, np.float32) for i in range(40)}
    one, other = (Seen(rows=50, seed=seed) for seed in (0, 1))
    for sample, array in data.items():
        one.add(array, sample)
        other.add(array, sample)
    assert not np.array_equal(one.keys, other.keys)
    assert len(set(one.keys[:, 1].tolist())) > 20
    few = Seen(rows=5)
    few.add(data[3], 3)
    assert few.rows is not None
    assert len(few.rows) == 5


def test_a_state_comes_back_from_text_and_arrays() -> None:
    before = seen(dict(enumerate(arrays(2)))).state()
    numbers = json.loads(json.dumps({k: v for k, v in before.items() if not isinstance(v, np.ndarray)}))
    again = Seen.of({**numbers, **{k: v for k, v in before.items() if isinstance(v, np.ndarray)}}).state()
    assert all(np.array_equal(again[name], before[name]) for name in before)


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (-np.inf, "Inf")])
def test_what_is_not_finite_is_named(value: float, name: str) -> None:
    found = Seen(histogram=True)
    found.add(np.ones(3, np.float32), 0)
    found.add(np.array([1, value], np.float32), 7)
    found.add(np.ones(3, np.float32), 8)
    assert found.broken == (7, name)
    assert found.feeds == 1
    other = Seen(histogram=True)
    other.add(np.array([np.nan], np.float32), 2)
    found.merge(other)
    assert found.broken == (2, "NaN")


def test_large_and_small_arrays_and_other_types_are_counted() -> None:
    sizes = (3, 70_000, 20_000, 40_000, 1, 30_000)
    random = np.random.default_rng(1)
    data = [random.standard_normal(size).astype(dtype) for size, dtype in zip(sizes, "fffdef", strict=True)]
    found = Seen(histogram=True)
    for sample, array in enumerate(data):
        found.add(array, sample)
    assert found.histogram is not None
    whole = np.concatenate(data)
    assert np.array_equal(found.histogram.counts, np.histogram(whole, found.histogram.edges)[0])


@pytest.mark.parametrize(
    ("wishes", "second", "reason"),
    [
        ({"channels": 0}, np.ones((2, 2), np.float32), "3 channels in one sample and 2 in another"),
        ({"channels": 2}, np.ones((2, 2), np.float32), "no axis 2"),
        ({"rows": 9}, np.ones((2, 3), np.float32), "rows of 2 elements"),
        ({"gram": True}, np.ones((2, 3), np.float32), "rows of 2 elements"),
    ],
)
def test_sizes_that_change_are_refused(wishes: dict[str, object], second: np.ndarray, reason: str) -> None:
    found = Seen(**wishes)  # type: ignore[arg-type]
    first = np.ones((3, 2) if wishes.get("channels") == 0 else (2, 2), np.float32)

    def add_both() -> None:
        found.add(first, 0)
        found.add(second, 1)

    with pytest.raises(ValueError, match=reason):
        add_both()


def test_empty_arrays_and_scalars() -> None:
    found = Seen(histogram=True, rows=3, gram=True)
    found.add(np.zeros((0, 4), np.float32), 0)
    assert (found.count, found.feeds, found.histogram) == (0, 0, None)
    found.add(np.array(2.5, np.float32), 1)
    assert (found.low, found.high, found.count) == (2.5, 2.5, 1)


def test_wishes_add_up_and_cover_each_other() -> None:
    both = Observe(histogram=True, rows=3) | Observe(channels=1, rows=9)
    assert both == Observe(True, 1, 9, False)
    assert both.covers(Observe(histogram=True))
    assert not both.covers(Observe(gram=True))
    assert not both.covers(Observe(channels=0))
    with pytest.raises(ValueError, match="axis 1 and along axis 0"):
        both | Observe(channels=0)
    few = Statistics(0, 1, 0, 1, 4, 1, rows=np.ones((9, 2), np.float32)).only(Observe(rows=4))
    assert few.rows is not None
    assert few.rows.shape == (4, 2)
