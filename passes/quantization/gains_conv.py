"""Convolutions to be timed alone: small models with the shapes of one that a larger model has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx

from accelc import ir
from accelc.infer import infer_model

from .static import StaticNode

_DEFAULTS = {"auto_pad": "NOTSET", "dilations": 1, "group": 1, "pads": 0, "strides": 1}
_COPIES = 3
"""Convolutions that share one input, so that what it costs to quantize that counts as little as in a larger model."""
_POOL = 4


@dataclass(frozen=True)
class ConvCase:
    """x, w: shapes of the input and the weight. attributes: those that are not the default. relu: one follows."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    relu: bool = False

    @classmethod
    def of(cls, found: StaticNode, x: Sequence[int]) -> ConvCase | None:
        """The case of a Conv with an input of this shape; None for other products and inputs."""
        tensor = ir.const_tensor(found.weight)
        if found.node.op_type != "Conv" or found.node.domain or tensor is None or len(x) != len(tensor.shape):
            return None
        given = {name: ir.attribute(found.node, name) for name in _DEFAULTS}
        attributes = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in given.items()
            if value is not None and set(value if isinstance(value, list | tuple) else [value]) != {_DEFAULTS[name]}
        )
        weight = tuple(int(dim) for dim in tensor.shape)  # type: ignore[arg-type]
        return cls(tuple(int(dim) for dim in x), weight, attributes, found.clamp is not None)

    @property
    def k(self) -> int:
        """How many products are in a sum."""
        return prod(self.w[1:])

    @property
    def cost(self) -> int:
        """About how many products, strides aside."""
        return self.x[0] * prod(self.x[2:]) * prod(self.w)

    def model(self) -> ir.Model:
        """Three such convolutions of one input with different weights, each pooled so that its results are few."""
        helper, kind, rng = onnx.helper, onnx.TensorProto.FLOAT, np.random.default_rng(0)
        nodes, weights, results = [], {}, []
        rank = len(self.x) - 2
        attributes: dict[str, Any] = dict(self.attributes)
        for copy in map(str, range(_COPIES)):
            weights["w" + copy] = rng.standard_normal(self.w, np.float32)
            weights["b" + copy] = rng.standard_normal(self.w[0], np.float32)
            inputs = ["x", "w" + copy, "b" + copy]
            nodes.append(helper.make_node("Conv", inputs, ["c" + copy], "conv" + copy, **attributes))
            if self.relu:
                nodes.append(helper.make_node("Relu", ["c" + copy], ["r" + copy], "relu" + copy))
            before = ("r" if self.relu else "c") + copy
            pooling: dict[str, Any] = {"kernel_shape": [_POOL] * rank, "strides": [_POOL] * rank, "ceil_mode": 1}
            nodes.append(helper.make_node("MaxPool", [before], ["y" + copy], "pool" + copy, **pooling))
            results.append(helper.make_tensor_value_info("y" + copy, kind, None))
        graph = helper.make_graph(
            nodes,
            "alone",
            [helper.make_tensor_value_info("x", kind, self.x)],
            results,
            [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
        infer_model(model)
        return model

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.attributes)
        return f"Conv {list(self.x)} * {list(self.w)}{f', {settings}' if settings else ''}{', Relu' * self.relu}"
