import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelc.passes.quantization.grid import on_grid
from accelc.passes.quantization.numbers import Scheme, quantize_weight


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(8, 400),
    columns=st.integers(1, 9),
    bits=st.integers(2, 8),
    zeros=st.floats(0, 0.8),
)
def test_columns_on_a_grid_are_recognized(seed: int, rows: int, columns: int, bits: int, zeros: float) -> None:
    rng, top = np.random.default_rng(seed), 2 ** (bits - 1) - 1
    integers = rng.integers(-top, top + 1, (rows, columns)) * (rng.random((rows, columns)) >= zeros)
    steps = np.exp(rng.uniform(-12, 8, columns)).astype(np.float32)
    weights = (integers * steps).astype(np.float32)
    scales = on_grid(weights, 127)
    assert not np.isnan(scales).any()
    found = np.rint(weights / scales)
    assert np.abs(found).max() <= 127
    np.testing.assert_allclose(found * scales, weights, rtol=2e-6)
    common = np.gcd.reduce(integers, axis=0)
    coarsest = np.where(common > 0, common * steps, 1)
    np.testing.assert_allclose(scales, coarsest, rtol=1e-5)


@given(seed=st.integers(0, 10_000), rows=st.integers(16, 300))
def test_columns_on_no_grid_are_not(seed: int, rows: int) -> None:
    weights = np.random.default_rng(seed).standard_normal((rows, 5)).astype(np.float32)
    assert np.isnan(on_grid(weights, 127)).all()


def test_one_weight_off_the_grid_is_seen() -> None:
    weights = np.random.default_rng(0).integers(-127, 128, (900, 3)).astype(np.float32)
    weights[0] = 127
    weights[517, 1] += 0.01
    assert np.isnan(on_grid(weights, 127)).tolist() == [False, True, False]


def test_bounds_of_the_integers_are_kept() -> None:
    weights = np.random.default_rng(0).integers(-7, 8, (64, 2)).astype(np.float32)
    weights[0] = (8, -8)
    assert np.isnan(on_grid(weights, 7)).all()
    assert np.isnan(on_grid(weights, 7, -8)).tolist() == [True, False]


def test_odd_columns() -> None:
    weights = np.zeros((40, 4), np.float32)
    weights[:, 1] = np.inf
    weights[:, 2] = 1e-42
    weights[:, 3] = 3.5
    scales = on_grid(weights, 127)
    assert scales[0] == 1
    assert np.isnan(scales[1:3]).all()
    assert scales[3] == 3.5
    assert on_grid(np.zeros((0, 3), np.float32), 127).shape == (3,)
    assert np.isnan(on_grid(np.array([[1.0], [0.3]], np.float32), 127)).all()


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_quantize_stores_the_integers_of_snapped_weights(per_channel: bool, bits: int) -> None:
    rng, top = np.random.default_rng(bits), 2 ** (bits - 1) - 1
    integers = rng.integers(-top, top + 1, (96, 16))
    integers[0] = 1
    steps = np.exp(rng.uniform(-6, 2, 16)) if per_channel else np.full(16, 0.0123)
    weights = (integers * steps).astype(np.float32)
    int8 = quantize_weight(weights, Scheme(per_channel=per_channel))
    np.testing.assert_array_equal(int8.values, integers)
    np.testing.assert_allclose(int8.floats(), weights, rtol=1e-6)
