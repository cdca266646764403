"""Plans: which form each part of a model takes, and one function that makes it so."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import takewhile
from typing import Literal, TypeVar

from accelc import ir, opsets
from accelc.target import Target

from .curve import tally
from .emit import Rounded, quantize_layers
from .layers import Found, Layer, find_layers
from .numbers import Floats, Scheme
from .smoothing import divide
from .static import StaticFound, StaticScheme, find_static, quantize_static
from .weights import Blocked, BlockScheme, quantize_weights

Form = Literal["dynamic", "static", "weight8", "weight4", "table"]
Spend = Callable[[str, str], bool]
Ranges = Mapping[str, tuple[float, float]]
_OPSET_OF_BLOCKS = 21
BLOCK_FORMS: tuple[Form, ...] = ("weight8", "weight4")


@dataclass(frozen=True)
class Unit:
    """What changes its form as one, for it shares a weight.

    paths: of its nodes. layers: positions among the products and tables found. products: positions among the nodes that
    static int8 could serve. forms: those that it may take besides float. bytes: of its weight.
    """

    index: int
    paths: tuple[str, ...]
    layers: tuple[int, ...]
    products: tuple[int, ...]
    forms: tuple[Form, ...]
    bytes: int = 0

    @property
    def is_table(self) -> bool:
        """Whether it is only gathered from."""
        return self.forms == ("table",)


@dataclass(frozen=True)
class Plan:
    """forms: (unit, form) of all that is not float, by unit. smooth: positions of layers whose activation is smoothed.
    ranges: the calibration method of the static ranges.
    """

    forms: tuple[tuple[int, Form], ...] = ()
    smooth: frozenset[int] = frozenset()
    ranges: str = ""

    @classmethod
    def of(cls, forms: Mapping[int, Form | None], smooth: Iterable[int] = (), ranges: str = "") -> Plan:
        """A plan from {unit: form}; None is float."""
        some = tuple((unit, form) for unit, form in sorted(forms.items()) if form is not None)
        return cls(some, frozenset(smooth), ranges if any(form == "static" for _, form in some) else "")

    @property
    def by_unit(self) -> dict[int, Form]:
        return dict(self.forms)

    def without(self, units: Iterable[int]) -> Plan:
        """The same with units in float."""
        return Plan.of({**self.by_unit, **dict.fromkeys(units)}, self.smooth, self.ranges)


@dataclass(frozen=True)
class Schemes:
    """How numbers are stored in each form."""

    dynamic: Scheme
    static: StaticScheme
    weight8: BlockScheme
    weight4: BlockScheme

    def text(self, form: Form) -> str:
        """A form in words."""
        if form == "table":
            return "tables s8"
        if form in ("dynamic", "static"):
            return str(self.dynamic if form == "dynamic" else self.static)
        return str(self.blocks(form))

    def blocks(self, form: Form) -> BlockScheme:
        return self.weight8 if form == "weight8" else self.weight4


@dataclass
class Parts:
    """What of a model can change, and all that is needed to change it.

    divisors: of activations, by position of a layer. ranges: of activations, by calibration method. known: weights
    rounded before.
    """

    model: ir.Model
    target: Target
    found: Found
    static: StaticFound
    schemes: Schemes
    portable: bool
    tables: bool
    units: tuple[Unit, ...]
    divisors: dict[int, Floats] = field(default_factory=dict)
    ranges: dict[str, Ranges] = field(default_factory=dict)
    known: Rounded = field(default_factory=dict)
    blocks: dict[Form, Blocked] = field(default_factory=dict)

    @cached_property
    def unit_of(self) -> dict[int, Unit]:
        """The unit of each layer, by position."""
        return {i: unit for unit in self.units for i in unit.layers}

    def layers(self, plan: Plan, form: Form) -> list[int]:
        """The positions of layers that a plan gives a form, in the order of the graph."""
        return sorted(i for unit, taken in plan.forms if taken == form for i in self.units[unit].layers)

    def apply(self, model: ir.Model, plan: Plan, spend: Spend) -> Done:
        """Change the model, or a copy of it, in place, as long as spend(rule, node) allows."""
        layers = find_layers(model, embeddings=self.tables, portable=self.portable).layers
        done = Done()
        products = [i for unit, form in plan.forms if form == "static" for i in self.units[unit].products]
        if products:
            found = find_static(model, portable=self.portable, target=self.target)
            chosen = found.with_glue(products)
            ranges = self.ranges[plan.ranges]
            nodes, done.refused = quantize_static(model, found, chosen, ranges, self.schemes.static, spend, self.target)
            done.static = {node.index for node in nodes}
        int8 = sorted(self.layers(plan, "dynamic") + self.layers(plan, "table"))
        fresh: frozenset[int] = frozenset()
        if plan.smooth:
            # Constants change before layers do, so what may be spent must be known.
            int8 = list(takewhile(lambda i: spend("quantize", layers[i].path), int8))
            layers, fresh = self._smoothed(model, layers, [i for i in int8 if i in plan.smooth])
        for layer in quantize_layers(
            model,
            [layers[i] for i in int8],
            self.schemes.dynamic,
            (lambda *_: True) if plan.smooth else spend,
            _without(self.known, fresh),
        ):
            done.layers[layer.index] = "table" if layer.is_gather else "dynamic"
        for form in BLOCK_FORMS:
            wanted = [layers[i] for i in self.layers(plan, form)]
            if wanted:
                lift(model, self.schemes.blocks(form))
                known = _without(self.blocks.setdefault(form, {}), fresh)
                taken = quantize_weights(model, wanted, self.schemes.blocks(form), spend, known)
                done.layers.update((layer.index, form) for layer in taken)
        return done

    def _smoothed(
        self, model: ir.Model, layers: Sequence[Layer], wanted: Iterable[int]
    ) -> tuple[tuple[Layer, ...], frozenset[int]]:
        """All layers once some of them are smoothed, and those whose weights changed with that."""
        before = [ir.const_tensor(layer.weight) for layer in layers]
        divisors = {i: self.divisors[i] for i in wanted}
        divided = divide(model, [replace(layers[i], smooth=found) for i, found in divisors.items()])
        now = find_layers(model, embeddings=self.tables, portable=self.portable).layers if divided else ()
        by_node = {layer.node: layer for layer in now}
        after = tuple(
            replace(
                by_node.get(each.node, each),
                index=each.index,
                smooth=divisors.get(each.index),
                divided=each.node in divided,
            )
            for each in layers
        )
        pairs = zip(after, before, strict=True)
        return after, frozenset(each.index for each, old in pairs if ir.const_tensor(each.weight) is not old)

    def counts(self, plan: Plan) -> dict[str, int]:
        """How many nodes that could change have each form."""
        taken = plan.by_unit
        counts: Counter[str] = Counter()
        for unit in self.units:
            counts[taken.get(unit.index, "float")] += len(unit.paths)
        return tally(counts)

    def label(self, plan: Plan) -> str:
        """A plan in a few words."""
        kinds = {form for _, form in plan.forms} - {"table"}
        name = "float" if not kinds else kinds.pop() if len(kinds) == 1 else "mixed"
        floats = self.counts(plan).get("float", 0)
        parts = [
            name if kinds or name != "float" else "tables only" if plan.forms else "float",
            f"{floats} left in float" if floats and plan.forms else "",
            f"{len(plan.smooth)} smoothed" if plan.smooth else "",
            f"ranges by {plan.ranges}" if plan.ranges else "",
        ]
        return ", ".join(part for part in parts if part)

    def signature(self, plan: Plan) -> str:
        """What tells what a plan makes of this model from all others, for this set of schemes; a short text."""
        said = [f"{form}: {'; '.join(self.units[unit].paths)}: {self.schemes.text(form)}" for unit, form in plan.forms]
        said.append(f"smooth {sorted(plan.smooth)} ranges {plan.ranges}")
        return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


@dataclass
class Done:
    """What was made of a model. layers: form by position; static: positions of nodes, glue among them. refused: path of
    a node that was to be static -> why it is not.
    """

    layers: dict[int, Form] = field(default_factory=dict)
    static: set[int] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def changes(self) -> int:
        return len(self.layers) + len(self.static)


def find_units(
    found: Found, static: StaticFound, forms: Callable[[bool, bool, bool], Iterable[Form]]
) -> tuple[Unit, ...]:
    """Units in the order of the graph. forms: what a unit may take, from: does dynamic int8 serve its products, does
    static int8 serve them, is it gathered from.
    """
    members: dict[ir.Node, tuple[list[int], list[int]]] = {}  # by the first node of a unit
    leader: dict[ir.Node, ir.Node] = {}
    groups = [[found.layers[i].node for i in unit] for unit in found.units]
    groups += [[static.nodes[i].node for i in unit] for unit in static.units]
    for group in groups:
        first = next((leader[node] for node in group if node in leader), group[0])
        for node in group:
            old = leader.get(node)
            leader[node] = first
            if old is not None and old is not first:
                leader.update({other: first for other, one in leader.items() if one is old})
    for layer in found.layers:
        members.setdefault(leader[layer.node], ([], []))[0].append(layer.index)
    for unit in static.units:
        for i in unit:
            members.setdefault(leader[static.nodes[i].node], ([], []))[1].append(i)
    units: list[Unit] = []
    for layers, products in members.values():
        nodes = dict.fromkeys([found.layers[i].node for i in layers] + [static.nodes[i].node for i in products])
        kinds = {found.layers[i].is_gather for i in layers}
        covered = {static.nodes[i].node for i in products}
        dynamic = False in kinds and len(layers) == len(nodes)
        taken = tuple(dict.fromkeys(forms(dynamic, len(covered) == len(nodes), True in kinds)))
        if taken:
            size = _bytes(found.layers[layers[0]].weight) if layers else _bytes(_weight(static.nodes[products[0]].node))
            paths = tuple(ir.node_path(node) for node in nodes)
            units.append(Unit(len(units), paths, tuple(layers), tuple(products), taken, size))
    return tuple(units)


def lift(model: ir.Model, blocks: BlockScheme) -> None:
    """Raise the opset of a trial model to what weights in blocks need."""
    if not blocks.vendor and model.graph.opset_imports.get("", 0) < _OPSET_OF_BLOCKS:
        opsets.raise_to(model.graph, _OPSET_OF_BLOCKS, ir.names(model))
        opsets.settle_ir_version(model)


_Weight = TypeVar("_Weight")


def _without(known: dict[tuple[int, bytes], _Weight], layers: frozenset[int]) -> dict[tuple[int, bytes], _Weight]:
    """What is known of other layers than these: a copy, unless there are none."""
    return {key: weight for key, weight in known.items() if key[0] not in layers} if layers else known


def _weight(node: ir.Node) -> ir.Value | None:
    return next((value for value in node.inputs if ir.const_tensor(value) is not None), None)


def _bytes(weight: ir.Value | None) -> int:
    tensor = ir.const_tensor(weight)
    return 0 if tensor is None else tensor.nbytes
