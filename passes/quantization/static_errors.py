"""What int8 costs each product by itself: its float form and its integer form side by side in one session."""

from __future__ import annotations

from collections.abc import Collection
from math import sqrt

import numpy as np
import onnx

from accelc import ir

from .static_emit import Emitter, opset_reason, raise_opset
from .static_nodes import StaticFound, find_static
from .static_numbers import Params, StaticScheme
from .static_operators import StaticNode
from .static_ranges import Ranges
from .trial import Trial


def layer_errors(
    trial: Trial, found: StaticFound, ranges: Ranges, scheme: StaticScheme, chosen: Collection[int] | None = None
) -> dict[int, float]:
    """Relative error (root mean square over the samples) that each product's int8 form causes in its own output, given
    float inputs; by position. chosen: the products to look at, else all. Those without ranges are left out.

    Raises RuntimeFailure.
    """
    proto, names = twin_model(trial.copy(), ranges, scheme, chosen)
    if not names:
        return {}
    sums = {index: np.zeros(2) for index in names}
    session = trial.load(proto, optimize=True)
    try:
        for feed in trial.feeds:
            outputs = trial.ctx.runner.run(session, feed, [name for pair in names.values() for name in pair])
            for index, pair in names.items():
                sums[index] += [float(np.asarray(outputs[name]).reshape(())) for name in pair]
    finally:
        trial.ctx.runner.close(session)
    return {index: sqrt(error / size) if size > 0 else float(error > 0) for index, (error, size) in sums.items()}


def twin_model(
    model: ir.Model, ranges: Ranges, scheme: StaticScheme, chosen: Collection[int] | None = None
) -> tuple[onnx.ModelProto, dict[int, tuple[str, str]]]:
    """A model (which is changed) with an integer twin beside every product, and the names of two new outputs for each:
    the sums of squares of what the twin is off, and of the product's output.
    """
    found = find_static(model)
    nodes = [
        each
        for each in found.nodes
        if each.role == "product" and (chosen is None or each.index in chosen) and _known(each, ranges)
    ]
    if not nodes or opset_reason(model, scheme):
        return ir.to_proto(model), {}
    raise_opset(model, scheme)
    twins = _Twins(model, found, nodes, ranges, scheme)
    names = {}
    for each in nodes:
        twins.values.before = each.node
        twins.emit(each)
        names[each.index] = twins.compare(each)
    return ir.to_proto(model), names


def _known(each: StaticNode, ranges: Ranges) -> bool:
    values = [*each.reads, each.out]
    return all(np.isfinite(ranges.get(str(value.name), (np.nan, np.nan))).all() for value in values)


class _Twins(Emitter):
    """Writes integer forms beside the nodes, each for itself."""

    def settle(self, each: StaticNode, made: ir.Value, params: Params | None) -> None:
        if params is not None:
            self.values.params[made] = params
            made = self.values.real(made)
        self.result = made

    def compare(self, each: StaticNode) -> tuple[str, str]:
        """The sums of squares of the last twin's error and of the output itself, as outputs of the graph."""
        values, kind = self.values, ir.DataType.FLOAT
        values.before = None
        off = values.node("Sub", [self.result, each.out], kind, ir.dims(each.out))
        error, size = (values.node("ReduceSumSquare", [value], kind, [], {"keepdims": 0}) for value in (off, each.out))
        self.values.graph.outputs.extend((error, size))
        return str(error.name), str(size.name)
