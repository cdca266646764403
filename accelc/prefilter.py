"""Which rules can match at a node, told by its operator and by what makes its inputs; the others are never tried.

A large graph holds few such combinations. Each is compared with the rules once, so the work for a node does not grow
with the number of rules that cannot match it. Where some rule remains, the makers' own inputs are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from accelc import ir
from accelc.pattern import COMMUTATIVE, AnyOf, Const, Literal, Maybe, Op, Scalar, Term, Var, depth
from accelc.rules import Rule

_PLAIN, _CONSTANT, _SCALAR = ("", "an input"), ("", "a constant"), ("", "a constant of one element")
_MADE = ("", "Constant")
_ABSENT = ("", "absent")

Maker = tuple[Any, ...]
"""What makes an input: domain and operator, or one of the words above; or the look of the node that makes it."""

Look = tuple[str, str, tuple[Maker, ...]]
"""A node at a glance: domain, operator, and the makers of its inputs in order."""


def look_of(node: ir.Node) -> Look:
    """A node at a glance."""
    makers: list[Maker] = []
    for value in node.inputs:
        if value is None:
            makers.append(_ABSENT)
            continue
        producer = value.producer()
        if producer is not None:
            makers.append((producer.domain, producer.op_type))
        elif value.const_value is None:
            makers.append(_PLAIN)
        else:
            shape = value.shape
            alone = shape is None or all(dim == 1 for dim in shape.dims)
            makers.append(_SCALAR if alone else _CONSTANT)
    return node.domain, node.op_type, tuple(makers)


def _closer_look(node: ir.Node, look: Look) -> Look:
    """A node at a glance, its makers with their own makers."""
    makers = tuple(
        maker if value is None or (producer := value.producer()) is None else look_of(producer)
        for value, maker in zip(node.inputs, look[2], strict=True)
    )
    return look[0], look[1], makers


class Looks:
    """The nodes of each graph by their look, with their place in the graph. Holds as long as nothing is changed."""

    def __init__(self, model: ir.Model) -> None:
        self._found: dict[ir.Graph, dict[Look, list[tuple[int, ir.Node]]]] = {}

    def of(self, graph: ir.Graph) -> dict[Look, list[tuple[int, ir.Node]]]:
        """Gathered when first asked for."""
        if graph not in self._found:
            groups: dict[Look, list[tuple[int, ir.Node]]] = {}
            for place, node in enumerate(ir.nodes(graph)):
                groups.setdefault(look_of(node), []).append((place, node))
            self._found[graph] = groups
        return self._found[graph]


class Prefilter:
    """Rules by the looks of the nodes they can match."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._deep: set[Rule] = set()
        self._by_root: dict[tuple[str, str], list[Rule]] = {}
        for rule in rules:
            for key in dict.fromkeys(form.key for form in rule.before):
                self._by_root.setdefault(key, []).append(rule)
            if any(depth(form) > 1 for form in rule.before):
                self._deep.add(rule)
        self._by_look: dict[Look, tuple[Rule, ...]] = {}

    def rules(self, node: ir.Node) -> tuple[Rule, ...]:
        """The rules that can match a node, in their order."""
        look = look_of(node)
        found = self._fitting(look, self._by_root.get(look[:2], ()))
        if self._deep.isdisjoint(found):
            return found
        return self._fitting(_closer_look(node, look), found)

    def _fitting(self, look: Look, among: Sequence[Rule]) -> tuple[Rule, ...]:
        found = self._by_look.get(look)
        if found is None:
            found = self._by_look[look] = tuple(rule for rule in among if _can_match(rule, look))
        return found

    def candidates(self, looks: dict[Look, list[tuple[int, ir.Node]]]) -> list[ir.Node]:
        """The nodes that some rule can match, in the graph's order."""
        groups = [nodes for look, nodes in looks.items() if self._fitting(look, self._by_root.get(look[:2], ()))]
        placed = groups[0] if len(groups) == 1 else sorted((each for group in groups for each in group), key=_place)
        return [node for _, node in placed]


def _place(each: tuple[int, ir.Node]) -> int:
    return each[0]


def _can_match(rule: Rule, look: Look) -> bool:
    makers = look[2]
    if rule.feeder and not any(maker[:2] == ("", rule.feeder) for maker in makers):
        return False
    return any(_fits_form(form, makers) for form in rule.before if form.key == look[:2])


def _fits_form(form: Op, makers: Sequence[Maker]) -> bool:
    wanted = form.inputs
    if not form.open_inputs and any(maker != _ABSENT for maker in makers[len(wanted) :]):
        return False
    given = (*makers[: len(wanted)], *[_ABSENT] * (len(wanted) - len(makers)))
    if _fit(wanted, given):
        return True
    return len(wanted) == 2 and form.op_type in COMMUTATIVE and not form.domain and _fit(wanted, given[::-1])


def _fit(wanted: Sequence[Term | None], given: Sequence[Maker]) -> bool:
    return all(_fits(each, maker) for each, maker in zip(wanted, given, strict=True))


def _fits(wanted: Term | None, maker: Maker) -> bool:
    """Whether a term can stand for what this makes. Maybe wrongly yes, never wrongly no."""
    if wanted is None:
        return maker == _ABSENT
    if isinstance(wanted, AnyOf):
        return any(_fits(option, maker) for option in wanted.options)
    if isinstance(wanted, Op):
        return maker[:2] == wanted.key and (len(maker) == 2 or _fits_form(wanted, maker[2]))
    if isinstance(wanted, Scalar | Literal):
        return maker[:2] in (_SCALAR, _MADE)
    if isinstance(wanted, Const):
        return maker[:2] in (_SCALAR, _CONSTANT, _MADE)
    return isinstance(wanted, Maybe) or (isinstance(wanted, Var) and maker != _ABSENT)
