"""Small models that a decision is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ._folding import Array

Step = tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]
"""(operator, inputs, outputs, attributes)"""


def model(
    steps: Sequence[Step],
    inputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, Array],
    outputs: Sequence[str],
    opset: int,
) -> onnx.ModelProto:
    """A model of float32 inputs with these shapes; the shapes of its outputs are left to inference."""
    nodes = [onnx.helper.make_node(op_type, ins, outs, **attrs) for op_type, ins, outs, attrs in steps]
    graph = onnx.helper.make_graph(
        nodes,
        "trial",
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=version)
