"""From the nodes that the runtime runs back to those of the file.

The runtime fuses, renames and inserts nodes, but the values that it computes mostly keep their names. So a node that
runs stands for what computes its outputs in the file, back to values that other nodes compute.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import onnx

from accelc import ir, stamps
from accelc.benchmark.scopes import Scope, Scopes
from accelc.cost import is_product

RUNTIME, ORIGINAL = "runtime", "original"
OWN = "~"
"""Names that the runtime made up for values begin with this."""

_BLOCKED = "_nchwc"
"""What the runtime appends to the name of a value to name the node that computes it in blocks of channels."""
_NUMBERED = re.compile(r"_token_\d+$")
"""What the runtime appends to names that it makes unique."""
_MOVING = frozenset({"ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"})
_APPENDED = frozenset(
    "Add Sum Relu Clip Sigmoid Tanh LeakyRelu HardSigmoid HardSwish Mul BatchNormalization QuantizeLinear".split()
)
_SHOWN_ORIGINS = 3

Key = tuple[str, ...]
"""Tells nodes that run apart, also those without names."""


@dataclass(frozen=True)
class Stand:
    """What a node that runs stands for; see NodeTime."""

    name: str
    scope: Scope
    origin: str
    parts: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class Attribution:
    """file: the model. ran: the graph that the runtime made of it; None where it could not be had, then only names
    tell. generated: names that stand for none; such nodes are called by what they compute.
    """

    def __init__(
        self, file: onnx.ModelProto, ran: onnx.ModelProto | None, generated: Collection[str] = frozenset()
    ) -> None:
        self._generated = generated
        self._nodes = list(ir.proto_nodes(file))
        weights = {tensor.name for graph in ir.proto_graphs(file.graph) for tensor in graph.initializer}
        weights.update(name for node in self._nodes if node.op_type == "Constant" for name in node.output)
        scopes = Scopes(weights)
        self._scopes = [scopes.of(node) for node in self._nodes]
        self._maker = {name: place for place, node in enumerate(self._nodes) for name in node.output if name}
        self._by_name = {node.name: place for place, node in enumerate(self._nodes) if node.name}
        self._functions = {(each.domain, each.name) for each in file.functions}
        self._users: dict[str, list[int]] = {}
        for place, node in enumerate(self._nodes):
            for name in node.input:
                self._users.setdefault(name, []).append(place)
        self._given = {info.name for graph in ir.proto_graphs(file.graph) for info in graph.input} - weights
        self._varying = self._find_varying(file)
        ran_nodes = [] if ran is None else list(ir.proto_nodes(ran))
        self._ran = {(node.name, node.op_type): node for node in ran_nodes}
        self._made = {name for node in ran_nodes for name in node.output if name}
        self._own: dict[str, str] = {}
        self._rearranged: set[Key] = set()
        self._parts = self._divide(ran_nodes)
        self._following = self._find_following(ran_nodes)

    def of(self, name: str, operator: str) -> Stand:
        """What a node stands for, by what the profile calls it."""
        node = self._ran.get((name, operator))
        if node is None:
            place = self._by_name.get(name)
            return Stand(name, (), RUNTIME) if place is None else self._as((place,), operator)
        places = self._parts.get(_key(node), ())
        inputs = tuple(self._known(each) for each in node.input if self._is_computed(each))
        outputs = tuple(self._known(each) for each in node.output if each)
        if not places:
            return replace(self._made_up(node), inputs=inputs, outputs=outputs)
        stand = self._as(places, operator, rearranged=_key(node) in self._rearranged)
        return replace(stand, inputs=inputs, outputs=outputs)

    # --- which nodes of the file a node stands for

    def _divide(self, ran: Sequence[onnx.NodeProto]) -> dict[Key, tuple[int, ...]]:
        """Places of the file's nodes by node that runs, the one that makes its output first; each is given once."""
        ends = [self._ends(node) for node in ran]
        bounds = {name for each in ends for name in each}
        taken: set[int] = set()
        found: dict[Key, tuple[int, ...]] = {}
        for node, names in zip(ran, ends, strict=True):
            places = [place for name in names for place in self._back(name, bounds, taken)]
            if names and names[0] not in node.output:  # computed in another layout
                last, more = self._forth(names[0], bounds, taken)
                places += more
                self._own[node.output[0]] = last
                self._rearranged.add(_key(node))
            if places:
                found[_key(node)] = tuple(dict.fromkeys(places))
        return found

    def _ends(self, node: onnx.NodeProto) -> list[str]:
        """The file's values that a node computes."""
        if node.op_type in _MOVING:
            return []
        names = [name for name in node.output if name in self._maker]
        if names:
            return names
        if node.name.endswith(_BLOCKED):
            value = node.name.removesuffix(_BLOCKED)
            return [value] if value in self._maker else []
        place = self._by_name.get(_NUMBERED.sub("", node.name))
        return [] if place is None else list(self._nodes[place].output[:1])

    def _back(self, end: str, bounds: Collection[str], taken: set[int]) -> Iterator[int]:
        stack = [end]
        while stack:
            place = self._maker.get(stack.pop())
            if place is None or place in taken or not (place in self._varying or place == self._maker[end]):
                continue
            taken.add(place)
            yield place
            stack += [name for name in self._nodes[place].input if name not in bounds]

    def _forth(self, end: str, bounds: Collection[str], taken: set[int]) -> tuple[str, list[int]]:
        """What follows a node and was fused into it without a trace: additions and activations."""
        found: list[int] = []
        while True:
            users = [place for place in self._users.get(end, ()) if place not in taken]
            after = [p for p in users if self._nodes[p].op_type in _APPENDED and self._nodes[p].output[0] not in bounds]
            if len(after) != 1 or len(self._users[end]) != 1:
                return end, found
            taken.add(after[0])
            found.append(after[0])
            end = self._nodes[after[0]].output[0]

    # --- what to say of it

    def _as(self, places: Sequence[int], operator: str, *, rearranged: bool = False) -> Stand:
        anchor = self._nodes[places[0]]
        main = next((place for place in places if is_product(self._nodes[place].op_type)), places[0])
        if len(places) == 1 or anchor.op_type == operator:
            origins: list[str] = [stamps.origin(anchor) or ORIGINAL]
            fused = len(places) > 1 and rearranged
        else:
            made = Counter(filter(None, (stamps.origin(self._nodes[place]) for place in places)))
            origins, fused = [key for key, _ in made.most_common(_SHOWN_ORIGINS)], True
        parts = [f"{self._nodes[p].op_type}: {stamps.origin(self._nodes[p]) or ORIGINAL}" for p in sorted(places)]
        if fused:
            origins = [each for each in origins if each != ORIGINAL]
            origin = f"{', '.join(origins)} + {RUNTIME}" if origins else RUNTIME
        else:
            origin = origins[0]
        shown = self._nodes[main]
        shown_name = shown.output[0] if shown.name in self._generated or not shown.name else shown.name
        return Stand(shown_name, self._scopes[main], origin, tuple(parts) if fused else ())

    def _made_up(self, node: onnx.NodeProto) -> Stand:
        """A node without counterpart lies where the first one after it lies that has one; inside a call of a function
        it is the function's.
        """
        place = self._following.get(_key(node))
        if place is None:
            return Stand(node.name, (), RUNTIME)
        target = self._nodes[place]
        called = (target.domain, target.op_type) in self._functions
        return Stand(node.name, self._scopes[place], (stamps.origin(target) or ORIGINAL) if called else RUNTIME)

    def _find_following(self, ran: Sequence[onnx.NodeProto]) -> dict[Key, int]:
        """For nodes without counterpart, the place of the first one after them that has one."""
        below: dict[str, int] = {}
        found: dict[Key, int] = {}
        for node in reversed(ran):
            places = self._parts.get(_key(node), ())
            place = places[0] if places else next((below[name] for name in node.output if name in below), None)
            if place is not None:
                below.update(dict.fromkeys(node.input, place))
                if not places:
                    found[_key(node)] = place
        return found

    def _find_varying(self, file: onnx.ModelProto) -> set[int]:
        """Places of nodes whose results depend on the inputs, or on chance."""
        values = set(self._given)
        values.update(name for function in file.functions for name in function.input)
        found: set[int] = set()
        for place, node in enumerate(self._nodes):
            holds = any(attr.HasField("g") or attr.graphs for attr in node.attribute)
            if holds or node.op_type.startswith("Random") or not values.isdisjoint(node.input):
                found.add(place)
                values.update(node.output)
        return found

    def _is_computed(self, name: str) -> bool:
        return bool(name) and (name in self._maker or name in self._given or name in self._made)

    def _known(self, name: str) -> str:
        if name in self._own:
            return self._own[name]
        return name if name in self._maker or name in self._given else OWN + name


def _key(node: onnx.NodeProto) -> Key:
    return (node.name, node.op_type, *node.output)
