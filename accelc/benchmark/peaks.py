"""What the machine reaches through the runtime: products of matrices, and bytes from and to memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
_BLOCK_S = 0.02
_BLOCKS = 3
Rate: TypeAlias = float | None


@lru_cache(maxsize=32)
def peaks(backend: Backend, threads: int | None) -> Peaks:
    """Measure, in a few seconds; the second time from memory. Raises RuntimeFailure when nothing runs at all."""
    real = [(*_product(size), 2 * size**3) for size in PRODUCT_SIZES]
    whole = [(*_integer_product(size), 2 * size**3) for size in PRODUCT_SIZES]
    moved = [(*_addition(size // 4), 2 * size) for size in ARRAY_BYTES]
    with Runner() as runner:
        rates = measured_rates(runner, backend, threads, [*real, *whole, *moved])
    floats, integers, bytes_ = rates[: len(real)], rates[len(real) : -len(moved)], rates[-len(moved) :]
    by_size = {2 * size: rate for size, rate in zip(ARRAY_BYTES, bytes_, strict=True) if rate is not None}
    return summary(_best(floats), _best(integers), by_size)


def _best(rates: Sequence[Rate]) -> Rate:
    return max((rate for rate in rates if rate is not None), default=None)


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


def measured_rates(
    runner: Runner, backend: Backend, threads: int | None, probes: Sequence[tuple[onnx.ModelProto, Feed, float]]
) -> list[Rate]:
    """Amount per second of each (model, feed, amount of one run) in its fastest run, in turn; None where the provider
    does not run the model. Raises RuntimeFailure for what goes wrong later.
    """
    # A node without a kernel on the provider must not be measured on the processor.
    config = {} if backend.target().provider == CPU[0][0] else {"session.disable_cpu_ep_fallback": "1"}
    memory = backend.memories()[-1]
    least: dict[int, float] = {}
    with ExitStack() as stack:
        held: dict[int, tuple[Session, int]] = {}
        for at, (model, feed, _) in enumerate(probes):
            try:
                session = backend.load(runner, model.SerializeToString(), config=config, threads=threads)
            except RuntimeFailure as failure:
                if failure.kind != "load":
                    raise
                continue
            (number,) = stack.enter_context(backend.hold(runner, [feed], memory))
            held[at] = session, number
            least[at] = float(backend.measure(runner, session, number, 1, 1)[0])
        for _ in range(_BLOCKS):
            for at, (session, number) in held.items():
                runs = max(1, min(1000, round(_BLOCK_S / max(least[at], 1e-7))))
                times = backend.measure(runner, session, number, runs, 1)
                least[at] = min(least[at], float(times.min()))
    return [amount / least[at] if least.get(at) else None for at, (_, _, amount) in enumerate(probes)]


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
