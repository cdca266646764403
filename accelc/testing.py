"""Tests for rules and passes that read like the rules themselves.

    check(add_zero, "(float[2,4] x) => (float[2,4] y) <float z = {0}> { a = Add(x, z)  y = Relu(a) }",
                    "(float[2,4] x) => (float[2,4] y) { y = Relu(x) }")
    unchanged(add_zero, "(float[4] x) => (float[2,4] y) <float[2,1] z = {0, 0}> { y = Add(x, z) }")

Graphs are ONNX text at opset 20; put `<ir_version: 10, opset_import: ["": 13]>` and a name before them for another one.
`check` asserts the structure up to names, that the rule fired once and then no more, and that both graphs compute the
same numbers in ONNX Runtime with its own optimizations off: bit for bit where the rule says exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from accelc import ir, structure
from accelc.context import Context, Settings
from accelc.infer import infer_model
from accelc.pass_base import Pass, run_pass
from accelc.plugins import find_backend
from accelc.rewrite import Driver
from accelc.rules import Rule
from accelc.target import Target
from accelc.why import explain

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Any]


def context(*, portable: bool = False, target: Target | None = None, **settings: Any) -> Context:
    """A context for tests: the CPU of this machine with the kernels of the runtime, unless another target is given."""
    return Context(target or _cpu(), Settings(portable=portable, **settings))


@cache
def _cpu() -> Target:
    return find_backend("cpu")().target()


def check(
    what: Rule | Pass,
    before: str,
    after: str | Sequence[str],
    *,
    fires: int | None = 1,
    ctx: Context | None = None,
    **feeds: Any,
) -> ir.Model:
    """Assert that `what` turns one graph into the other. fires: how often; None is any number.

    after: the graph, or only the operators that are left. feeds: inputs by name, else generated.
    """
    model = ir.parse(before)
    original = ir.to_proto(model).SerializeToString()
    count = _apply(what, model, ctx or context())
    assert count == fires or (fires is None and count), (
        f"fired {count} times, not {fires}:\n{ir.text(model)}\n{_why(what, before)}"
    )
    structure.check(model)
    if isinstance(after, str):
        wanted = ir.parse(after)
        assert shape_of(model) == shape_of(wanted), f"got\n{ir.text(model)}\nwanted\n{ir.text(wanted)}"
    else:
        assert sorted(node.op_type for node in model.graph) == sorted(after), f"got\n{ir.text(model)}"
    assert _apply(what, model, ctx or context()) == 0, f"fires again on its own result:\n{ir.text(model)}"
    exact = what.exact
    for values in [feeds] if feeds else list(inputs(model)):
        same_numbers(original, ir.to_proto(model).SerializeToString(), values, exact=exact)
    return model


def unchanged(what: Rule | Pass, graph: str, *, reason: str = "", ctx: Context | None = None) -> None:
    """Assert that `what` leaves a graph alone. reason: a part of what `--why` must say."""
    model = ir.parse(graph)
    count = _apply(what, model, ctx or context())
    assert count == 0, f"fired {count} times:\n{ir.text(model)}"
    if reason:
        said = _why(what, graph, ctx)
        assert reason in said, f"wanted a reason with {reason!r}, got {said!r}"


def _apply(what: Rule | Pass, model: ir.Model, ctx: Context) -> int:
    infer_model(model)
    if isinstance(what, Rule):
        return Driver([what]).run(model, ctx)
    return run_pass(what, model, ctx).changes


def _why(what: Rule | Pass, graph: str, ctx: Context | None = None) -> str:
    if not isinstance(what, Rule):
        return ""
    found = explain(what, ir.parse(graph), ctx or context())
    return f"{found.where}: {found.reason}"


def shape_of(model: ir.Model) -> Any:
    """The structure of a model up to names: operators, attributes, wiring and constants."""
    return _graph_shape(model.graph, {})


def _graph_shape(graph: ir.Graph, known: dict[ir.Value, Any]) -> Any:
    for index, value in enumerate(graph.inputs):
        known[value] = ("input", index)

    def value_shape(value: ir.Value | None) -> Any:
        if value is None or value in known:
            return known.get(value) if value is not None else None
        tensor = ir.const_tensor(value)
        if tensor is not None:
            array = tensor.numpy()
            return (
                "const",
                str(tensor.dtype),
                array.shape,
                tuple(np.round(array.astype(np.float64).reshape(-1)[:64], 5))
                if array.dtype.kind == "f"
                else tuple(array.reshape(-1)[:64].tolist()),
            )
        producer = value.producer()
        assert producer is not None, f"{value.name} comes from nowhere"
        known[value] = (node_shape(producer), value.index())
        return known[value]

    def node_shape(node: ir.Node) -> Any:
        attrs = []
        for name, attr in sorted(node.attributes.items()):
            if attr.type == ir.AttributeType.GRAPH:
                attrs.append((name, _graph_shape(attr.as_graph(), dict(known))))
            elif attr.type == ir.AttributeType.TENSOR:
                attrs.append((name, tuple(attr.as_tensor().numpy().reshape(-1).tolist())))
            else:
                attrs.append((name, _attribute_shape(attr.value)))
        return (node.domain, node.op_type, tuple(value_shape(v) for v in node.inputs), tuple(attrs))

    return tuple(value_shape(value) for value in graph.outputs)


def _attribute_shape(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_attribute_shape(each) for each in value)
    return float(np.float32(value)) if isinstance(value, float) else value


_SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, -3.0, 65504.0, 1e-7, -1e-7, np.inf, -np.inf, np.nan)


def inputs(model: ir.Model, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Random inputs, then edge values (zeros of both signs, large, tiny, infinite, NaN) for the floating-point ones."""
    rng = np.random.default_rng(seed)
    for edge in (False, True):
        values = {}
        for value in model.graph.inputs:
            if value.is_initializer():
                continue
            shape = tuple(dim if isinstance(dim, int) else 3 for dim in (ir.dims(value) or ()))
            assert value.dtype is not None
            values[str(value.name)] = _array(rng, shape, value.dtype, edge)
        yield values


def _array(rng: np.random.Generator, shape: tuple[int, ...], dtype: ir.DataType, edge: bool) -> Array:
    kind = dtype.numpy()
    if dtype == ir.DataType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype == ir.DataType.STRING:
        return rng.choice(np.array(["a", "b", ""], object), shape)
    if np.issubdtype(kind, np.integer):
        low, high = (0 if np.issubdtype(kind, np.unsignedinteger) else -4), 5
        return rng.integers(low, high, shape).astype(kind)
    array = np.asarray(rng.standard_normal(shape) * 2, kind)
    if edge and array.size:
        flat = array.reshape(-1)
        count = min(flat.size, len(_SPECIAL))
        flat[rng.permutation(flat.size)[:count]] = np.array(_SPECIAL[:count]).astype(kind)
    return array


def run(model: bytes, feeds: Feeds) -> list[Any]:
    """Run a model in this process with the runtime's optimizations off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs: list[Any] = session.run(None, dict(feeds))
    return outputs


def same_numbers(before: bytes, after: bytes, feeds: Feeds, *, exact: bool) -> None:
    """Assert that two models agree on some inputs: bit for bit when exact, else to rounding. NaN equals NaN."""
    for index, (old, new) in enumerate(zip(run(before, feeds), run(after, feeds), strict=True)):
        same_arrays(old, new, exact=exact, what=f"output {index}")


def same_arrays(old: Any, new: Any, *, exact: bool, what: str = "the value") -> None:
    """`same_numbers` for two values: arrays, or sequences of them."""
    if isinstance(old, Sequence) and not isinstance(old, str):
        assert len(old) == len(new)
        for a, b in zip(old, new, strict=True):
            same_arrays(a, b, exact=exact, what=what)
        return
    assert old.dtype == new.dtype, f"{what} is {new.dtype}, was {old.dtype}"
    assert old.shape == new.shape, f"{what} has shape {new.shape}, had {old.shape}"
    if exact or old.dtype.kind not in "fc":
        np.testing.assert_array_equal(old, new, err_msg=what)
        if old.dtype.kind == "f":
            zeros = old == 0
            assert (np.signbit(old[zeros]) == np.signbit(new[zeros])).all(), f"{what}: a zero changed its sign"
        return
    finite = np.isfinite(old)
    scale = float(np.abs(old[finite]).max()) if finite.any() else 1.0
    tolerance = {2: 4e-3, 4: 2e-6, 8: 1e-12}[old.dtype.itemsize]
    np.testing.assert_allclose(
        new, old, rtol=tolerance * 10, atol=tolerance * max(scale, 1e-30), equal_nan=True, err_msg=what
    )
