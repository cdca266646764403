"""Which tensors share a scale, and what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accelc import ir

from .static_numbers import Params, StaticScheme, params_of
from .static_operators import StaticNode

Ranges = Mapping[str, tuple[float, float]]

_LEAST_SHARE = 0.5
"""Of a common range: what each part of a Concat must fill, or its integers would lose more than one bit."""

_LEAST_PART = 1 / 8
"""Of the range of what a Concat makes: what each part must fill, or the result cannot hold it in one scale."""


_BOUNDED: Mapping[str, tuple[float, float]] = {
    "Sigmoid": (0.0, 1.0),
    "HardSigmoid": (0.0, 1.0),
    "Softmax": (0.0, 1.0),
    "Tanh": (-1.0, 1.0),
}
"""What these operators can make: calibration data without any clear case shows less of it."""


class Scales:
    """Scales of the activations around nodes that compute in integers.

    What movers move keeps its scale. The parts of a Concat get a common one where that costs little.
    """

    def __init__(self, nodes: Sequence[StaticNode], ranges: Ranges, scheme: StaticScheme) -> None:
        self.ranges, self.scheme = ranges, scheme
        self._maker = {value: each for each in nodes for value in each.outs}
        self._moves = {each.node: each.role == "mover" or each.node.op_type == "Concat" for each in nodes}
        self._parent: dict[ir.Value, ir.Value] = {}
        self._range: dict[ir.Value, tuple[float, float]] = {}
        self._clamped: dict[ir.Value, list[StaticNode]] = {}
        self.joined: set[StaticNode] = set()
        for each in nodes:
            if each.role == "mover":
                for value in each.outs:
                    self._parent[value] = self._root(each.reads[0])
        for each in nodes:
            if each.node.op_type == "Concat":
                self._join(each)

    def params(self, value: ir.Value) -> Params:
        """Scale and zero point of a tensor. Raises ValueError when its range is not known or not finite."""
        return params_of(*self.range(value), self.scheme)

    def range(self, value: ir.Value) -> tuple[float, float]:
        """What the integers of a tensor must cover. Raises ValueError when it is not known."""
        root = self._root(value)
        return self._range[root] if root in self._range else self._seen(root)

    def _seen(self, value: ir.Value) -> tuple[float, float]:
        found = self.ranges.get(str(value.name))
        if found is None:
            raise ValueError(f"no range is known for {value.name}")
        maker = self._maker.get(value)
        if maker is None or maker.out is not value:
            return min(found[0], 0.0), max(found[1], 0.0)
        if maker.node.op_type in _BOUNDED and self._leaves(value):
            return _BOUNDED[maker.node.op_type]
        return max(min(found[0], 0.0), maker.low), min(max(found[1], 0.0), maker.high)

    def mixture(self, each: StaticNode) -> str:
        """Why no one scale serves what a Concat makes; empty where one does. Raises ValueError for unknown ranges."""
        if each.node.op_type != "Concat":
            return ""
        spans = [high - low for low, high in map(self.range, each.reads)]
        least, most = min(spans), max(spans)
        return "" if least >= _LEAST_PART * most else f"it joins values of ranges {least:.3g} and {most:.3g} wide"

    def _leaves(self, value: ir.Value) -> bool:
        """Whether a value goes on as it is, perhaps out of the model, instead of into arithmetic on integers."""
        moved = any(self._moves.get(use.node, True) for use in value.uses())
        return moved or value.is_graph_output()

    def _root(self, value: ir.Value) -> ir.Value:
        while value in self._parent:
            value = self._parent[value]
        return value

    def _join(self, each: StaticNode) -> None:
        roots = dict.fromkeys(self._root(value) for value in each.reads)
        try:
            parts = [self.range(root) for root in roots]
        except ValueError:
            return
        low, high = min(part[0] for part in parts), max(part[1] for part in parts)
        narrow = any(part[1] - part[0] < _LEAST_SHARE * (high - low) for part in parts)
        clamped = [each, *(maker for root in roots for maker in self._makers(root))]
        held = all(maker.low <= low and high <= maker.high for maker in clamped)
        if narrow or not held or any(map(ir.is_constant, each.node.inputs)):
            return
        out = self._root(each.out)
        first, *others = roots
        for value in (*others, out):
            if value is not first:
                self._parent[value] = first
        self._range[first] = (low, high)
        self._clamped[first] = clamped
        self.joined.add(each)

    def _makers(self, root: ir.Value) -> list[StaticNode]:
        """The nodes whose clamps the range of a tensor stands for."""
        maker = self._maker.get(root)
        return self._clamped.get(root) or ([maker] if maker is not None else [])
