"""Models for the tests of static int8, ranges by running them, and what the runtime makes of the result."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from quantized_graphs import Array

from accelc import ir, structure
from accelc.calibration import Observe
from accelc.passes.quantization.static import StaticFound, StaticNode, StaticScheme, find_static, quantize_static
from accelc.testing import run

Feeds = Mapping[str, Array]


def ranges_of(model: ir.Model, rows: Sequence[Feeds]) -> dict[str, tuple[float, float]]:
    """The extremes of every float that static int8 may need."""
    wanted = find_static(model).wanted(Observe())
    proto = ir.to_proto(model)
    present = {info.name for info in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
    names = [info.name for info in proto.graph.output]
    seen: dict[str, list[Array]] = {}
    for row in rows:
        for name, array in (*zip(names, run(proto.SerializeToString(), row), strict=True), *row.items()):
            seen.setdefault(name, []).append(array)
    return {name: (float(min(map(np.min, seen[name]))), float(max(map(np.max, seen[name])))) for name in wanted}


def quantized(
    model: ir.Model,
    rows: Sequence[Feeds],
    scheme: StaticScheme | None = None,
    *,
    products: Callable[[StaticFound], Collection[int]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    spend: Callable[[str, str], bool] = lambda rule, node: True,
) -> tuple[list[StaticNode], dict[str, str]]:
    """Quantize in place everything, or what `products` names, with the glue between."""
    found = find_static(model)
    some = [each.index for each in found.nodes if each.role == "product"] if products is None else products(found)
    ranges = ranges_of(model, rows) if ranges is None else ranges
    done = quantize_static(model, found, found.with_glue(some), ranges, scheme or StaticScheme(), spend)
    structure.check(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return done


def optimized(model: ir.Model, folder: Path, feeds: Feeds) -> tuple[list[str], list[Array]]:
    """The operators that the runtime runs under its defaults, and what they compute."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    data = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sorted(node.op_type for node in nodes), session.run(None, dict(feeds))


def conv(x: Array, weight: Array, *, stride: int = 1, pads: Sequence[int] = (0, 0, 0, 0), group: int = 1) -> Array:
    """Convolution by its definition; x: [N, C, H, W], pads: top, left, bottom, right."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, group, axis=1), np.split(weight, group), strict=True)
    return np.concatenate([np.einsum("nchwkl,ockl->nohw", a, w) for a, w in parts], axis=1)


def conv_by_definition(
    x: Array, weight: Array, bias: Array, ranges: Sequence[tuple[float, float]], top: int = 127, **how: Any
) -> Array:
    """A convolution as static int8 defines it: [low, high] of input and output in 255 steps, weights per channel."""
    (x_scale, x_zero), (y_scale, y_zero) = map(steps, ranges)
    x_int = np.clip(np.rint(x / x_scale) + x_zero, 0, 255).astype(np.int64) - x_zero
    w_scale = (np.abs(weight).max(axis=(1, 2, 3)) / top).astype(np.float32)
    w_int = np.rint(weight / w_scale[:, None, None, None]).astype(np.int64)
    b_int = np.rint(bias / (float(x_scale) * w_scale)).astype(np.int64)
    sums = (conv(x_int, w_int, **how) + b_int[:, None, None]) * (x_scale * w_scale / y_scale)[:, None, None]
    return (np.clip(np.rint(sums) + y_zero, 0, 255) - y_zero) * y_scale


def steps(bounds: tuple[float, float]) -> tuple[np.float32, int]:
    low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
    scale = np.float32((high - low) / 255)
    return scale, int(np.rint(-low / float(scale)))
