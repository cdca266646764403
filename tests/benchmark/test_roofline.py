"""What nodes must compute and move, and the time that peaks allow for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from bench_models import HEAD

from accelc import ir
from accelc.benchmark.events import Call
from accelc.benchmark.peaks import _addition, _integer_product, _product, measured_rates, summary
from accelc.benchmark.profiled import Peaks
from accelc.benchmark.roofline import Counter, Work, limit_ms
from accelc.plugins import find_backend
from accelc.runner import Runner

PEAKS = Peaks(float_flops=1e9, int8_flops=4e9, bandwidth=1e8, cache_bandwidth=1e9, cache_bytes=1000)


def counter(text: str, **weights: np.ndarray[Any, Any]) -> Counter:
    """Counts in a graph with these weights."""
    model = onnx.parser.parse_model(f"{HEAD}\n{text}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    return Counter(ir.from_proto(model))


def call(inputs: list[tuple[str, tuple[int, ...]]], *outputs: tuple[str, tuple[int, ...]]) -> Call:
    """What a trace says of one execution."""
    return Call(tuple(inputs), tuple(outputs))


PRODUCT = "g (float[n, 8] x) => (float[n, 4] y) { [p] y = MatMul(x, w) }"
WEIGHT = np.ones((8, 4), np.float32)


@pytest.mark.parametrize("listed", [[("float", (3, 8))], [("float", (3, 8)), ("float", (8, 4))]])
def test_weights_count_whether_the_trace_lists_them_or_not(listed: list[tuple[str, tuple[int, ...]]]) -> None:
    found = counter(PRODUCT, w=WEIGHT).work("p", "MatMul", [call(listed, ("float", (3, 4)))])
    assert found == Work(flops=2 * 3 * 8 * 4, bytes=4 * (24 + 32 + 12), weights=4 * 32)


def test_calls_in_a_loop_add_up() -> None:
    one = call([("float", (3, 8))], ("float", (3, 4)))
    two = call([("float", (1, 8))], ("float", (1, 4)))
    found = counter(PRODUCT, w=WEIGHT).work("p", "MatMul", [one, two])
    assert found.flops == 2 * 4 * 8 * 4


def test_a_view_moves_nothing_and_a_lookup_reads_what_it_returns() -> None:
    views = counter("g (float[2, 6] x, int64[2] s) => (float[3, 4] y) { [v] y = Reshape(x, s) }")
    sizes = [("float", (2, 6)), ("int64", (2,))]
    assert views.work("v", "Reshape", [call(sizes, ("float", (3, 4)))]) == Work(0, 0)
    lookups = counter("g (int64[2] i) => (float[2, 4] y) { [l] y = Gather(w, i) }", w=np.ones((1000, 4), np.float32))
    found = lookups.work("l", "Gather", [call([("float", (1000, 4)), ("int64", (2,))], ("float", (2, 4)))])
    assert (found.flops, found.bytes) == (0, 32 + 16 + 32)


def test_what_cannot_be_known_is_unknown() -> None:
    made = counter("g (float[2] x) => (float[2] y) { [a] y = com.acme.Magic(x) }")
    one = call([("float", (2,))], ("float", (2,)))
    assert made.work("a", "Magic", [one]) == Work(None, 16)
    assert made.work("a", "Other", [one]) == Work(None, None)
    assert made.work("a", "Magic", []) == Work(None, None)
    assert made.work("a", "Magic", [call([("float", (2,))] * 2, ("float", (2,)))]) == Work(None, None)
    assert limit_ms(Work(None, 16), PEAKS, 0) is None


def test_the_limit_is_the_longer_of_arithmetic_and_memory() -> None:
    assert limit_ms(Work(10**6, 10), PEAKS, 0) == pytest.approx(1.0)
    assert limit_ms(Work(10, 10**5), PEAKS, 0) == pytest.approx(1.0)
    assert limit_ms(Work(10, 500), PEAKS, 0) == pytest.approx(0.0005)  # within the caches
    assert limit_ms(Work(4 * 10**6, 10, integer=True), PEAKS, 0) == pytest.approx(1.0)


def test_weights_come_from_memory_where_the_model_is_larger_than_the_caches() -> None:
    work = Work(10, 600, weights=500)
    small, large = limit_ms(work, PEAKS, 900), limit_ms(work, PEAKS, 10**6)
    assert small == pytest.approx(0.0006)
    assert large == pytest.approx(0.0001 + 0.005)


def test_a_provider_without_integer_kernels_has_no_limit_for_them() -> None:
    peaks = Peaks(1e9, None, 1e8, 1e9, 1000)
    assert limit_ms(Work(10, 10, integer=True), peaks, 0) is None
    assert limit_ms(Work(10, 10), peaks, 0) is not None


def test_the_caches_end_where_the_rate_falls() -> None:
    found = summary(1e9, None, {1000: 5e9, 2000: 8e9, 8000: 6e9, 64_000: 2e9, 512_000: 1e9})
    assert found == Peaks(1e9, None, 2e9, 8e9, 8000)
    assert summary(1e9, None, {}).bandwidth is None


def test_the_models_that_peaks_are_measured_with_run_here() -> None:
    probes = [(*made, 1000) for made in (_product(16), _integer_product(16), _addition(64))]
    with Runner() as runner:
        assert all(rate for rate in measured_rates(runner, find_backend("cpu")(()), 1, probes))
        session = runner.load(_integer_product(4)[0].SerializeToString())
        x = np.full((4, 4), 255, np.uint8)
        assert runner.run(session, {"x": x})["y"].dtype == np.int32


def test_what_the_provider_cannot_run_has_no_rate() -> None:
    model, feed = _addition(4)
    model.graph.node[0].op_type, model.graph.node[0].domain = "Magic", "com.acme"
    model.opset_import.add(domain="com.acme", version=1)
    probes = [(model, feed, 1), (*_addition(4), 1)]
    with Runner() as runner:
        none, some = measured_rates(runner, find_backend("cpu")(()), 1, probes)
    assert none is None
    assert some
