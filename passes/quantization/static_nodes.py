"""Which operators of a model can compute on integers whose scale is known beforehand, and which of them pay."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np

from accelc import ir
from accelc.calibration import Observe
from accelc.pattern import MICROSOFT
from accelc.target import Target

from .static_operators import OTHERS, PRODUCTS, VENDOR_PRODUCTS, StaticNode, clamp_bounds

_OPSET = 13
"""That of models with scales per channel."""
_FINDERS = {"": {**OTHERS, **PRODUCTS}, MICROSOFT: VENDOR_PRODUCTS}


@dataclass(frozen=True)
class StaticFound:
    """Nodes in the order of the graph; units: positions of products that go to int8 together or stay float together.

    refused: path of a node -> the reason.
    """

    nodes: tuple[StaticNode, ...]
    units: tuple[tuple[int, ...], ...]
    refused: dict[str, str]
    _maker: dict[ir.Value, StaticNode] = field(default_factory=dict, repr=False)
    _users: dict[ir.Value, list[StaticNode]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for each in self.nodes:
            for value in each.outs:
                self._maker[value] = each
            for value in dict.fromkeys(each.reads):
                self._users.setdefault(value, []).append(each)

    def with_glue(self, products: Iterable[int], floats: Collection[int] = ()) -> frozenset[int]:
        """Products, and the glue and movers that then compute in integers too. floats: those that must not."""
        chosen = {index for index in products if index not in floats}
        candidates = [each for each in self.nodes if each.role != "product" and each.index not in floats]
        changed = True
        while changed:
            changed = False
            for each in (*candidates, *reversed(candidates)):
                if each.index not in chosen and self._connects(each, chosen):
                    chosen.add(each.index)
                    changed = True
        for each in reversed(candidates):
            if each.index in chosen and not self._pays(each, chosen):
                chosen.discard(each.index)
        return frozenset(chosen)

    def in_chosen(self, value: ir.Value, chosen: Collection[int]) -> bool:
        """Whether one of the chosen nodes reads a value."""
        return any(user.index in chosen for user in self._users.get(value, ()))

    def _connects(self, each: StaticNode, chosen: set[int]) -> bool:
        """All inputs come in integers; or all results are read in integers, and an input comes so or costs nothing."""
        made = [value in self._maker and self._maker[value].index in chosen for value in each.reads]
        if not made:
            return False
        return all(made) or ((any(made) or each.role == "mover") and self._only_integers(each, chosen))

    def _only_integers(self, each: StaticNode, chosen: set[int]) -> bool:
        return all(
            not value.is_graph_output()
            and len(self._users.get(value, ())) == len({use.node for use in value.uses()})
            and all(user.index in chosen for user in self._users.get(value, ()))
            for value in each.outs
        )

    def _pays(self, each: StaticNode, chosen: set[int]) -> bool:
        """Somebody reads its integers, or its inputs are integers in any case."""
        if any(self.in_chosen(value, chosen) for value in each.outs):
            return True
        makers = [self._maker.get(value) for value in each.reads]
        return each.role != "mover" and all(
            maker is not None and maker.index in chosen and not maker.may_stay_float for maker in makers
        )

    def wanted(self, observe: Observe, chosen: Collection[int] | None = None) -> dict[str, Observe]:
        """The tensors whose ranges are needed, of all nodes or of the chosen ones."""
        nodes = [each for each in self.nodes if chosen is None or each.index in chosen]
        values = dict.fromkeys(value for each in nodes for value in (*each.reads, *each.outs))
        return {str(value.name): observe for value in values}


def find_static(model: ir.Model, *, portable: bool = False, target: Target | None = None) -> StaticFound:
    """All nodes of the main graph that static int8 could serve. target: where given, movers need its kernels.

    portable: makes no difference here, as the runtime forms its own integer operators when it loads a portable model.
    """
    del portable
    search = _Search(target)
    nodes = tuple(replace(each, index=index) for index, each in enumerate(search.run(model.graph)))
    units: dict[ir.Value | ir.Node, list[int]] = {}
    for each in nodes:
        if each.role == "product":
            units.setdefault(each.weight or each.node, []).append(each.index)
    for inner in list(ir.nested(model.graph))[1:]:
        for node in inner:
            if not node.domain and node.op_type in PRODUCTS:
                search.refused[ir.node_path(node)] = "it is inside a subgraph"
    return StaticFound(nodes, tuple(map(tuple, units.values())), search.refused)


class _Search:
    def __init__(self, target: Target | None) -> None:
        self.target = target
        self.refused: dict[str, str] = {}
        self.absorbed: set[ir.Node] = set()

    def run(self, graph: ir.Graph) -> list[StaticNode]:
        found = [each for node in graph if (each := self.look(node)) is not None]
        known = {each.node for each in found}
        kept = []
        for each in found:
            other = (
                next((use.node for use in each.weight.uses() if use.node not in known), None) if each.weight else None
            )
            if other is not None:
                self.refused[each.path] = f"its weight is also used by {ir.node_path(other)}"
            elif each.weight is not None and each.weight.is_graph_output():
                self.refused[each.path] = "its weight is an output of the model"
            else:
                kept.append(each)
        return kept

    def look(self, node: ir.Node) -> StaticNode | None:
        if node.domain not in _FINDERS or node in self.absorbed:
            return None
        finder = _FINDERS[node.domain].get(node.op_type)
        if finder is None:
            return None
        found = self._attributes(node) or finder(node)
        if isinstance(found, StaticNode) and found.role == "mover" and self.target is not None:
            kind = "T1" if node.op_type == "Resize" else "T"
            op_type = "Clip" if node.op_type == "Relu" else node.op_type
            if not self.target.has_kernel("", op_type, _OPSET, {kind: "uint8"}):
                found = f"{self.target.name} has no kernel for {op_type} on uint8"
        if not isinstance(found, StaticNode):
            if found:
                self.refused[ir.node_path(node)] = found
            return None
        return self.absorb(found)

    @staticmethod
    def _attributes(node: ir.Node) -> str:
        return "its attributes are a function's" if any(a.is_ref() for a in node.attributes.values()) else ""

    def absorb(self, each: StaticNode) -> StaticNode:
        """With the bias and the clamp that follow."""
        if each.node.op_type in ("MatMul", "FusedMatMul") and each.weight is not None:
            add = _row_added(each)
            if add is not None:
                self.absorbed.add(add)
                each = replace(each, add=add)
        if each.role == "mover":
            return each
        user = _only_reader(each.out)
        bounds = clamp_bounds(user) if user is not None else None
        if user is None or bounds is None or user.inputs[0] is not each.out:
            return each
        self.absorbed.add(user)
        return replace(each, clamp=user, low=bounds[0], high=bounds[1])


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if node.graph is value.graph and not node.domain else None


def _row_added(each: StaticNode) -> ir.Node | None:
    """An Add of one constant row to every row of a product."""
    add = _only_reader(each.out)
    weight, rank = ir.dims(each.weight), len(ir.dims(each.out) or ())
    if add is None or add.op_type != "Add" or weight is None or not rank:
        return None
    tensor = next((t for value in add.inputs if (t := ir.const_tensor(value)) is not None), None)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or not np.isfinite(tensor.numpy()).all():
        return None
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    columns = weight[0 if ir.attribute(each.node, "transB", 0) else -1]
    fits = len(shape) <= rank and prod(shape[:-1]) == 1 and shape[-1:] in ((), (1,), (columns,))
    return add if fits else None
