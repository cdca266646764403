"""Small models for the importer's tests, and the two questions every test asks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accelc.errors import ModelError
from accelc.importer import Imported, import_proto

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
WITH_FUNCTIONS = '<ir_version: 8, opset_import: ["": 17, "own": 1]> '


def parse(text: str) -> onnx.ModelProto:
    """A model in ONNX text; the head is added when it is missing. Nodes get names, so that clean models stay clean."""
    model = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEAD + text)
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"node{index}"
    for function in model.functions:
        for index, node in enumerate(function.node):
            node.name = node.name or f"node{index}"
    return model


def relu() -> onnx.ModelProto:
    return parse("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) }")


def value(name: str, kind: int = TensorProto.FLOAT, shape: Any = (2, 4)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str = "w", shape: tuple[int, ...] = (2, 4)) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: tuple[onnx.TensorProto, ...] = (),
    ir: int = 8,
    opsets: tuple[tuple[str, int], ...] = (("", 17),),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    for index, node in enumerate(nodes):
        graph.node[index].name = node.name or f"node{index}"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets])
    model.ir_version = ir
    return model


def add(tensor: onnx.TensorProto) -> onnx.ModelProto:
    """x + w with w as given; its type and shape decide those of the model."""
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    return model_of(nodes, [], [value("y", tensor.data_type, None)], (tensor,))


def branch(body: str, output: str, after: str = "") -> onnx.ModelProto:
    """A model with `If (c) {body} else {e = Abs(x)}` that makes z, and then other nodes."""
    return parse(
        f"g (bool c, float[2,4] x) => (float[2,4] z) <float[2,4] w = {{1,1,1,1,1,1,1,1}}> {{ p = Neg(x) "
        f"z = If (c) <then_branch = t () => (float[2,4] {output}) {{ {body} }}, "
        f"else_branch = e () => (float[2,4] e) {{ e = Abs(x) }}> {after} }}"
    )


def refused(model: onnx.ModelProto, *words: str) -> str:
    """The one line with which a model is refused; it must hold the words."""
    with pytest.raises(ModelError) as caught:
        import_proto(model)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


def repaired(model: onnx.ModelProto, *words: str) -> Imported:
    """The repaired model. One repair must hold all words, the caller's model stays as it was, and repairs last."""
    before = model.SerializeToString()
    result = import_proto(model)
    assert model.SerializeToString() == before
    assert any(all(word in line for word in words) for line in result.repairs), result.repairs
    assert import_proto(result.proto).repairs == ()
    return result


def clean(model: onnx.ModelProto) -> Imported:
    """The model as imported; it must need no repair, and is then the very object that was given."""
    result = import_proto(model)
    assert result.repairs == ()
    assert result.proto is model
    return result


def loads(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime loads a model with its optimizations off."""
    return session(model) is not None


def session(model: onnx.ModelProto) -> Any:
    """An ONNX Runtime session with its optimizations off, or None when the model does not load."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return None
