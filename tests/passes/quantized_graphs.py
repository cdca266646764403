"""Graphs with weights, inputs, and data for the tests of lower precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from accelc import ir
from accelc.data import Feed
from accelc.infer import infer_model
from accelc.testing import run

Array = NDArray[Any]


def model_of(graph: str, weights: Mapping[str, Array], opset: int = 17) -> ir.Model:
    """A model from ONNX text, with the weights that the text only names; nodes are named operator and position."""
    vendor = ', "com.microsoft": 1' if "com.microsoft" in graph else ""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{vendor}]> main {graph}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{index}"
    model = ir.from_proto(proto)
    infer_model(model)
    return model


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outputs(model: ir.Model, feeds: Mapping[str, Any]) -> dict[str, Array]:
    """What a model computes with the runtime's optimizations off, by name."""
    names = [str(value.name) for value in model.graph.outputs]
    return dict(zip(names, run(ir.to_proto(model).SerializeToString(), feeds), strict=True))


def output(model: ir.Model, feeds: Mapping[str, Any]) -> Array:
    """The first of them."""
    return next(iter(outputs(model, feeds).values()))


def operators(model: ir.Model) -> list[str]:
    return sorted(node.op_type for node in ir.walk(model))


class Samples:
    """Feed sets as calibration data."""

    where, index, of = "samples", 0, 1

    def __init__(self, feeds: Sequence[Mapping[str, Any]]) -> None:
        self.feeds = feeds

    @property
    def count(self) -> int:
        return len(self.feeds)

    def __iter__(self) -> Iterator[Feed]:
        return (Feed(values, f"samples[{index}]") for index, values in enumerate(self.feeds))
