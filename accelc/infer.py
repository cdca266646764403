"""Types and shapes: of the whole model by onnx's inference, and of single new nodes while rules rewrite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx

from accelc import ir
from accelc.shape_inference import disputed, infer_shapes

_UNARY = frozenset(
    """Abs Acos Acosh Asin Asinh Atan Atanh BiasGelu Ceil Celu Clip Cos Cosh CumSum Dropout Elu Erf Exp
    FastGelu Floor Gelu HardSigmoid HardSwish Hardmax Identity LeakyRelu Log LogSoftmax Mish Neg Not
    QuickGelu Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt
    Swish Tan Tanh ThresholdedRelu Trilu""".split()
)
_LIKE_FIRST = frozenset({"LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"})
"""Operators whose first output is as their first input. The runtime knows them in opsets where onnx does not."""
_BINARY = frozenset("""Add And BitwiseAnd BitwiseOr BitwiseXor Div Mod Mul Or PRelu Pow Sub Xor""".split())
_COMPARE = frozenset("""Equal Greater GreaterOrEqual Less LessOrEqual""".split())
_SMALL = 1024
"""Constants up to this many bytes are shown to onnx's inference, which may read shapes and axes from them."""


def infer_node(node: ir.Node, opset: int) -> None:
    """Fill in the types and shapes of a node's outputs where its inputs decide them. Never overwrites with less."""
    if node.op_type in _UNARY and node.inputs and node.inputs[0] is not None and len(node.outputs) == 1:
        source = node.inputs[0]
        refine(node.outputs[0], source.type, source.shape)
    elif node.op_type in _LIKE_FIRST and node.inputs and node.inputs[0] is not None:
        refine(node.outputs[0], node.inputs[0].type, node.inputs[0].shape)
    elif node.domain == "" and (node.op_type in _BINARY or node.op_type in _COMPARE) and len(node.inputs) == 2:
        left, right = node.inputs
        if left is None or right is None:
            return
        kind = ir.TensorType(ir.DataType.BOOL) if node.op_type in _COMPARE else left.type
        refine(node.outputs[0], kind, broadcast(left, right))
    elif node.domain == "":
        _infer_by_schema(node, opset)


def infer_model(model: ir.Model) -> None:
    """Fill in types and shapes of every value of the main graph and its subgraphs, in place, as far as onnx can tell.

    Weights above a kilobyte are shown by type and shape only, so the cost does not depend on their size.
    """
    proto = stripped_proto(model)
    try:
        inferred = infer_shapes(proto, data_prop=True)
    except Exception:  # onnx raises RuntimeError, InferenceError or ValueError; an uninferable model stays as it is
        return
    complete(model, inferred.graph)


def complete(model: ir.Model, inferred: onnx.GraphProto) -> None:
    """Take over what onnx inferred for a model, and go on where it stopped, as at an operator that it does not know."""
    absorb(model.graph, inferred)
    opset = model.graph.opset_imports.get("", 0)
    for node in ir.nodes(model.graph):
        if any(value.type is None for value in node.outputs):
            infer_node(node, opset)


def stripped_proto(model: ir.Model) -> onnx.ModelProto:
    """The model's proto without large weights; these become inputs of the same type and shape."""
    held: list[tuple[ir.Graph, ir.Value, ir.TensorProtocol]] = []
    for graph in ir.all_graphs(model):
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is not None and tensor.nbytes > _SMALL:
                held.append((graph, value, tensor))
                value.const_value = None
                del graph.initializers[str(value.name)]
    try:
        proto = ir.to_proto(model)
    finally:
        for graph, value, tensor in held:
            value.const_value = tensor
            graph.initializers[str(value.name)] = value
    present = {info.name for info in proto.graph.input}
    for graph, value, tensor in held:
        # A large weight inside a subgraph has no place to be declared, so its users stay uninferred.
        if graph is model.graph and value.name not in present:
            shape = list(tensor.shape.numpy())
            info = onnx.helper.make_tensor_value_info(str(value.name), tensor.dtype.value, shape)
            proto.graph.input.append(info)
    return proto


def broadcast(left: ir.Value, right: ir.Value) -> ir.Shape | None:
    """The shape two values broadcast to, with symbols; None where a rank is unknown."""
    a, b = ir.dims(left), ir.dims(right)
    if a is None or b is None:
        return None
    rank = max(len(a), len(b))
    return ir.Shape(
        [_broadcast_dim(x, y) for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)]
    )


def _broadcast_dim(a: ir.Dim, b: ir.Dim) -> ir.Dim:
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else None


def _infer_by_schema(node: ir.Node, opset: int) -> None:
    if node.op_type == "Slice" and (_has_negative(node.inputs[0]) or is_disputed(node)):
        return  # onnx's inference ends the process for the first, and tells what the runtime does not do for the second
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain, name=node.name or "")
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for index, value in enumerate(node.inputs):
        name = "" if value is None else f"i{index}"
        proto.input.append(name)
        if value is None:
            continue
        if value.type is None:
            return
        types[name] = type_proto(value)
        tensor = ir.const_tensor(value)
        if tensor is not None and tensor.nbytes <= _SMALL and tensor.dtype != ir.DataType.STRING:
            data[name] = onnx.helper.make_tensor(
                name,
                tensor.dtype.value,
                list(tensor.shape.numpy()),
                tensor.tobytes(),
                raw=True,
            )
    proto.output.extend(f"o{index}" for index in range(len(node.outputs)))
    for attr in node.attributes.values():
        if attr.is_ref() or attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return
        proto.attribute.append(ir.attr_proto(attr))
    imports = [onnx.helper.make_opsetid("", opset)]
    try:
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=imports)
    except Exception:  # the schema's own inference refuses, by several types of error: nothing is known
        return
    for index, value in enumerate(node.outputs):
        inferred = found.get(f"o{index}")
        if inferred is not None:
            kind, shape = ir.type_of_proto(inferred)
            refine(value, kind, shape)


def _has_negative(value: ir.Value | None) -> bool:
    """Whether an axis has a negative length, as after a window larger than its input."""
    return any(isinstance(dim, int) and dim < 0 for dim in ir.dims(value) or ())


def is_disputed(node: ir.Node) -> bool:
    """Whether this is a Slice with constant bounds that onnx and the runtime read differently."""
    if node.op_type != "Slice" or node.domain or len(node.inputs) < 5:
        return False
    ends, steps = (ir.const(node.inputs[index]) for index in (2, 4))
    if ends is None or steps is None:
        return False
    return disputed(ends.reshape(-1).tolist(), steps.reshape(-1).tolist())


def type_proto(value: ir.Value) -> onnx.TypeProto:
    """The TypeProto of a value with a known type."""
    return ir.value_info(value).type


def absorb(graph: ir.Graph, proto: onnx.GraphProto) -> None:
    """Take over the types and shapes that a proto of the same graph has for its inner values."""
    infos = {info.name: info.type for info in proto.value_info}
    parsed: dict[bytes, tuple[Any, ir.Shape | None]] = {}  # few types are different in a large graph
    outputs = {value.name for value in graph.outputs}
    bodies = {node.name: node for node in proto.node if any(a.HasField("g") for a in node.attribute)}
    for node in ir.nodes(graph):
        for value in node.outputs:
            found = infos.get(value.name or "")
            if found is None or value.name in outputs:
                continue
            key = found.SerializeToString()
            if key not in parsed:
                parsed[key] = ir.type_of_proto(found)
            refine(value, *parsed[key])
        if node.name in bodies:
            protos = [a.g for a in bodies[node.name].attribute if a.HasField("g")]
            for sub, sub_proto in zip(ir.subgraphs(node), protos, strict=False):
                absorb(sub, sub_proto)


def refine(value: ir.Value, kind: Any, shape: ir.Shape | None) -> None:
    """Take over what is newly known: a missing type, a missing shape, and dimensions more precise than before."""
    if value.type is None and kind is not None:
        value.type = kind
    if shape is None:
        return
    if value.shape is None:
        value.shape = ir.Shape(list(shape))
        return
    if len(value.shape) != len(shape):
        return
    merged = [
        _more_precise(old, new) for old, new in zip(ir.shape_dims(value.shape), ir.shape_dims(shape), strict=True)
    ]
    if merged != ir.shape_dims(value.shape):
        value.shape = ir.Shape(merged)


def _more_precise(old: ir.Dim, new: ir.Dim) -> ir.Dim:
    if isinstance(old, int) or new is None:
        return old
    return new if old is None or isinstance(new, int) else old


def infer_nodes(nodes: Iterable[ir.Node], opset: int) -> None:
    """`infer_node` for nodes in topological order."""
    for node in nodes:
        infer_node(node, opset)
