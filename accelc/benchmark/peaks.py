"""What the machine reaches through the runtime: products of matrices, and bytes from and to memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accelc.backend_base import Backend
from accelc.benchmark.profiled import Peaks
from accelc.runner import CPU, Runner, RuntimeFailure, Session

Feed: TypeAlias = Mapping[str, NDArray[Any]]

PRODUCT_SIZES = (256, 512, 1024)
"""Rows and columns of the products: small enough for the caches, large enough to be bound by arithmetic."""
ARRAY_BYTES = (256 << 10, 512 << 10, 1 << 20, 4 << 20, 16 << 20, 96 << 20)
"""Of the array that an addition reads and of the one that it writes; the last two are to be larger than any cache."""
_BLOCK_S = 0.03
_BLOCKS = 3


@lru_cache(maxsize=32)
def peaks(backend: Backend, threads: int | None) -> Peaks:
    """Measure, in about two seconds; the second time from memory. Raises RuntimeFailure when nothing runs at all."""
    with Runner() as runner:
        meter = _Meter(runner, backend, threads)
        real, whole = meter.best(_product, PRODUCT_SIZES), meter.best(_integer_product, PRODUCT_SIZES)
        rates = {2 * size: meter.rate(*_addition(size // 4), 2 * size) for size in ARRAY_BYTES}
    return summary(real, whole, {size: rate for size, rate in rates.items() if rate is not None})


def summary(float_flops: float | None, int8_flops: float | None, rates: dict[int, float]) -> Peaks:
    """The peaks from what was measured. rates: bytes per second by bytes moved.

    The caches end after the last size that is nearer to their rate than to that of memory, which is the largest size's.
    """
    if not rates:
        return Peaks(float_flops, int8_flops, None, None)
    memory, cache = rates[max(rates)], max(rates.values())
    between = (memory * cache) ** 0.5
    end = max((size for size, rate in rates.items() if rate > between), default=0)
    beyond = max((rate for size, rate in rates.items() if size > end), default=memory)
    return Peaks(float_flops, int8_flops, beyond, cache, end)


class _Meter:
    """Times small models on a backend."""

    def __init__(self, runner: Runner, backend: Backend, threads: int | None) -> None:
        self._runner, self._backend, self._threads = runner, backend, threads
        self._memory = backend.memories()[-1]
        # A node without a kernel on the provider must not be measured on the processor.
        own = backend.target().provider
        self._config = {} if own == CPU[0][0] else {"session.disable_cpu_ep_fallback": "1"}

    def best(self, make: Callable[[int], tuple[onnx.ModelProto, Feed]], sizes: Sequence[int]) -> float | None:
        """Operations per second of products of these sizes."""
        rates = [self.rate(*make(size), 2 * size**3) for size in sizes]
        return max((rate for rate in rates if rate is not None), default=None)

    def rate(self, model: onnx.ModelProto, feed: Feed, amount: float) -> float | None:
        """Amount per second in the fastest run; None where the provider does not run the model."""
        try:
            with self._session(model) as session, self._backend.hold(self._runner, [feed], self._memory) as (held,):
                first = float(self._block(session, held, 1, 2)[0])
                runs = max(3, min(1000, round(_BLOCK_S / max(first, 1e-7))))
                least = min(float(self._block(session, held, runs, 1).min()) for _ in range(_BLOCKS))
        except RuntimeFailure as failure:
            if failure.kind != "load":
                raise
            return None
        return amount / least if least > 0 else None

    def _block(self, session: Session, held: int, runs: int, warm: int) -> NDArray[np.float64]:
        return self._backend.measure(self._runner, session, held, runs, warm)

    @contextmanager
    def _session(self, model: onnx.ModelProto) -> Iterator[Session]:
        data = model.SerializeToString()
        session = self._backend.load(self._runner, data, config=self._config, threads=self._threads)
        try:
            yield session
        finally:
            self._runner.close(session)


def _product(size: int) -> tuple[onnx.ModelProto, Feed]:
    """x times a weight, as models have it: the runtime may lay the weight out for its kernel."""
    random = np.random.default_rng(0)
    x, weight = (random.random((size, size), np.float32) for _ in range(2))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return _model(nodes, {"x": x}, TensorProto.FLOAT, {"w": weight}), {"x": x}


def _integer_product(size: int) -> tuple[onnx.ModelProto, Feed]:
    """The same of unsigned by signed 8-bit integers."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (size, size), np.uint8)
    weight = random.integers(-64, 64, (size, size), np.int8)
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return _model(nodes, {"x": x}, TensorProto.INT32, {"w": weight}), {"x": x}


def _addition(size: int) -> tuple[onnx.ModelProto, Feed]:
    x = np.ones(size, np.float32)
    return _model([helper.make_node("Add", ["x", "x"], ["y"])], {"x": x}, TensorProto.FLOAT), {"x": x}


def _model(
    nodes: Sequence[onnx.NodeProto], feed: Feed, result: int, weights: Mapping[str, NDArray[Any]] | None = None
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feed.items()
    ]
    shape = next(iter(feed.values())).shape
    outputs = [helper.make_tensor_value_info("y", result, shape)]
    held = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "peak", inputs, outputs, held)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
